//! The watches that are open, on the streams that carry them.

use std::collections::BTreeMap;

use etcd_client::proto::{PbResponseHeader, PbWatchResponse};
use tokio::sync::mpsc::UnboundedSender;
use tonic::Status;

use super::message::{canceled, compacted, created, created_by_proxy, events, header, progress, refused};
use super::script::Watched;
use super::{Reply, Store};

pub(super) type Said = Result<PbWatchResponse, Status>;

#[derive(Default)]
pub(super) struct Watches {
    /// In the order in which they were opened.
    open: Vec<Watch>,
    streams: BTreeMap<usize, Stream>,
    /// How many streams were opened so far.
    opened: usize,
    /// Whether they are served as etcd's grpc-proxy does it.
    pub(super) proxy: bool,
}

struct Stream {
    to: UnboundedSender<Said>,
    /// The first id that is tried for a watch that chooses none: etcd counts up, and gives none twice.
    next_id: i64,
}

struct Watch {
    /// The id that it has, whatever was asked for.
    id: i64,
    watched: Watched,
    /// The first revision that it is to be told.
    from: i64,
    course: Course,
    /// The header of what it was told last.
    told: Option<PbResponseHeader>,
    to: UnboundedSender<Said>,
}

enum Course {
    /// By the truth; with the first revision that it was not told.
    Honest(i64),
    /// By the script, which lets it say nothing more.
    Silent,
    /// Ended by a compaction. Its id stays in use until the client cancels it, and it never comes up with the store.
    Compacted,
    /// Canceled by the script: nothing of it is left.
    Over,
}

impl Watches {
    /// Takes in a stream, and gives it its number.
    pub(super) fn begin(&mut self, to: UnboundedSender<Said>) -> usize {
        self.opened += 1;
        self.streams.insert(self.opened, Stream { to, next_id: 0 });
        self.opened
    }

    /// Forgets a stream and what it carries.
    pub(super) fn end(&mut self, stream: usize) {
        self.streams.remove(&stream);
        self.open.retain(|watch| watch.watched.stream != stream);
    }

    fn fail(&mut self, stream: usize, status: Status) {
        if let Some(stream) = self.streams.get(&stream) {
            drop(stream.to.send(Err(status)));
        }
        self.end(stream);
    }

    /// Breaks all streams, after what was said on them.
    pub(super) fn cut(&mut self) {
        let streams: Vec<usize> = self.streams.keys().copied().collect();
        for stream in streams {
            self.fail(stream, Status::unavailable("the fake cuts its streams"));
        }
    }

    pub(super) fn streams(&self) -> usize {
        self.opened
    }

    pub(super) fn open_streams(&self) -> usize {
        self.streams.values().filter(|stream| !stream.to.is_closed()).count()
    }

    pub(super) fn is_open(&self, stream: usize) -> bool {
        self.streams.contains_key(&stream)
    }

    pub(super) fn open(&mut self, store: &Store, watched: Watched, reply: Reply<Vec<PbWatchResponse>>) {
        let (number, start) = (watched.stream, watched.start);
        let Some(stream) = self.streams.get_mut(&number) else { return };
        let taken = |id| self.open.iter().any(|watch| watch.is(number, id));
        let chosen = watched.id != 0 && !self.proxy;
        let mut id = if chosen { watched.id } else { stream.next_id };
        while !chosen && taken(id) {
            id += 1;
        }
        let refusal = if start < 0 {
            Some("etcdserver: mvcc: required revision has been compacted")
        } else {
            taken(id).then_some("mvcc: duplicate watch ID provided on the WatchStream")
        };
        let mut watch = Watch::new(id, watched, store, stream.to.clone());
        let exists = match reply {
            Reply::Honest => {
                if let Some(reason) = refusal {
                    watch.say(refused(store.revision(), reason));
                } else {
                    watch.begin(store, self.proxy);
                }
                refusal.is_none()
            }
            Reply::Say(messages) => {
                let refused = messages.iter().any(|message| message.created && message.canceled);
                messages.into_iter().for_each(|message| watch.say(message));
                !refused && !taken(id) && !watch.is_over()
            }
            Reply::Fail(status) => return self.fail(number, status),
            Reply::Never => !taken(id),
        };
        if exists {
            if !chosen {
                stream.next_id = id + 1;
            }
            self.open.push(watch);
        }
    }

    /// Ends a watch as its client wants it, if there is such a one.
    pub(super) fn cancel(&mut self, store: &Store, stream: usize, id: i64) {
        if let Some(index) = self.open.iter().position(|watch| watch.is(stream, id)) {
            let mut watch = self.open.remove(index);
            let header = match watch.told.take() {
                // The proxy repeats what header it has.
                told if self.proxy => Some(told.unwrap_or_default()),
                _ => header(store.revision()),
            };
            watch.say(PbWatchResponse { header, ..canceled(store.revision()) });
        }
    }

    /// What becomes of a request for progress. Etcd answers it only once every watch of the stream has what it was
    /// opened for, and its proxy does not know it.
    pub(super) fn progress(&mut self, store: &Store, number: usize, reply: Reply<PbWatchResponse>) {
        let Some(stream) = self.streams.get(&number) else { return };
        let mut watches = self.open.iter().filter(|watch| watch.watched.stream == number);
        match reply {
            Reply::Honest if self.proxy || !watches.all(|watch| watch.is_synced(store)) => {}
            Reply::Honest => drop(stream.to.send(Ok(progress(-1, store.revision())))),
            Reply::Say(message) => drop(stream.to.send(Ok(message))),
            Reply::Fail(status) => self.fail(number, status),
            Reply::Never => {}
        }
    }

    /// Tells all honest watches what is new, and forgets those that nobody listens to.
    pub(super) fn tell(&mut self, store: &Store) {
        self.open.retain_mut(|watch| watch.tell(store));
    }

    /// Lets the watch that was opened last say it.
    pub(super) fn say(&mut self, message: PbWatchResponse) {
        self.open.last_mut().expect("a watch is open").say(message);
        self.open.retain(|watch| !watch.is_over());
    }

    /// Makes the watch that was opened last honest.
    pub(super) fn speak(&mut self) {
        self.open.last_mut().expect("a watch is open").speak();
    }
}

impl Watch {
    fn new(id: i64, watched: Watched, store: &Store, to: UnboundedSender<Said>) -> Self {
        let from = if watched.start == 0 { store.revision() + 1 } else { watched.start };
        Self { id, watched, from, course: Course::Silent, told: None, to }
    }

    fn is(&self, stream: usize, id: i64) -> bool {
        self.watched.stream == stream && self.id == id
    }

    fn is_over(&self) -> bool {
        matches!(self.course, Course::Over)
    }

    /// A watch that a script made silent passes for one that has come up: whether it has, the script alone can say.
    fn is_synced(&self, store: &Store) -> bool {
        !matches!(self.course, Course::Compacted) && self.watched.start <= store.revision()
    }

    fn begin(&mut self, store: &Store, proxy: bool) {
        let start = self.watched.start;
        self.say(if proxy { created_by_proxy(start) } else { created(store.revision()) });
        if start != 0 && start < store.compacted() {
            // Etcd gives no revision with it.
            self.say(compacted(0, store.compacted()));
        } else {
            self.speak();
        }
    }

    fn speak(&mut self) {
        self.course = Course::Honest(self.from);
    }

    /// Under its id, if the message has none. The client may be gone: then nobody hears it.
    fn say(&mut self, mut message: PbWatchResponse) {
        if message.watch_id == 0 {
            message.watch_id = self.id;
        }
        if message.watch_id == self.id {
            if message.compact_revision != 0 {
                self.course = Course::Compacted;
            } else if message.canceled {
                self.course = Course::Over;
            }
            if !message.created {
                self.told.clone_from(&message.header);
            }
        }
        drop(self.to.send(Ok(message)));
    }

    /// Says what is new; whether anyone listens.
    fn tell(&mut self, store: &Store) -> bool {
        if let Course::Honest(next) = self.course {
            let news = store.events(next, &self.watched.key, &self.watched.end);
            if !news.is_empty() {
                self.say(events(store.revision(), news));
            }
            self.course = Course::Honest(next.max(store.revision() + 1));
        }
        !self.to.is_closed()
    }
}
