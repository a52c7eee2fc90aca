//! The task that drives a connection: reads and writes frames, and tells how far it has come.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Sleep, sleep};

use super::failure::is_of_pings;
use super::keepalive::Silence;
use super::options::KeepAlive;
use super::watched::{LastRead, Watched};
use super::{Command, End, Shared, Stage};

/// Ends with the connection.
pub(super) struct Driver<T> {
    connection: Connection<Watched<T>, Bytes>,
    /// Asks h2 whether it would still send. Dropped with the connection's last handle, which lets h2 close it.
    probe: Option<SendRequest<Bytes>>,
    /// Ends when nobody holds the connection any more.
    commands: UnboundedReceiver<Command>,
    shared: Arc<Shared>,
    ready: bool,
    silence: Option<Silence>,
    /// Runs while nobody wants the connection any more, and it has yet to close.
    linger: Option<Pin<Box<Sleep>>>,
    /// Whoever was about to send has had a turn.
    gathered: bool,
}

/// How long a connection that nobody wants may take to say so to a server that does not listen.
const LINGER: Duration = Duration::from_secs(10);

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    pub(super) fn new(
        mut connection: Connection<Watched<T>, Bytes>,
        probe: SendRequest<Bytes>,
        shared: Arc<Shared>,
        last_read: Arc<LastRead>,
        commands: UnboundedReceiver<Command>,
        keep_alive: Option<KeepAlive>,
    ) -> Self {
        let pings = connection.ping_pong();
        let silence = keep_alive.zip(pings).map(|(options, pings)| Silence::new(options, pings, last_read));
        let (linger, gathered) = (None, false);
        Self { connection, probe: Some(probe), commands, shared, ready: false, silence, linger, gathered }
    }

    fn tell(&mut self, stage: Stage) {
        self.shared.over.store(!matches!(stage, Stage::Ready), Ordering::Release);
        self.shared.stage.send_replace(stage);
    }

    /// Copies the server's limit to where picks read it.
    fn copy_limit(&mut self) {
        let limit = self.connection.max_concurrent_send_streams();
        if limit != self.shared.limit.load(Ordering::Relaxed) {
            let before = self.shared.limit.swap(limit, Ordering::SeqCst);
            let taken = before.max(self.shared.in_flight.load(Ordering::Relaxed));
            if limit > taken {
                self.shared.room.freed(limit - taken);
            }
        }
        if limit > 0 && !self.ready {
            self.ready = true;
            self.tell(Stage::Ready);
        }
    }

    /// Ready when a connection that nobody wants has had its time.
    fn linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.probe.is_some() {
            return Poll::Pending;
        }
        let linger = self.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        while linger.as_mut().poll(cx).is_ready() {
            if self.shared.in_flight.load(Ordering::Relaxed) == 0 {
                return Poll::Ready(());
            }
            linger.set(sleep(LINGER));
        }
        Poll::Pending
    }

    /// Whether the server still takes exchanges, as long as anyone could want one.
    fn ask(&mut self, cx: &mut Context<'_>) {
        let Some(probe) = &mut self.probe else { return };
        if let Poll::Ready(Err(error)) = probe.poll_ready(cx) {
            self.probe = None;
            self.tell(Stage::Draining(End::of(&error)));
        }
    }

    /// Does what holders of the connection ask for; why it is to be closed, if they ask for that.
    fn obey(&mut self, cx: &mut Context<'_>) -> Option<String> {
        while let Poll::Ready(command) = self.commands.poll_recv(cx) {
            match command {
                Some(Command::Ping) => self.silence.iter_mut().for_each(|silence| silence.ping(cx)),
                Some(Command::Close(why)) => return Some(why),
                None => {
                    self.probe = None; // h2 wakes this task when that was the last
                    break;
                }
            }
        }
        None
    }
}

impl End {
    fn of(error: &h2::Error) -> Self {
        // What else is told to calm down has nothing to do with pings.
        let too_many_pings = error.is_go_away() && error.is_remote() && is_of_pings(error);
        Self { why: error.to_string(), too_many_pings, silent: false }
    }

    fn because(why: impl Into<String>) -> Self {
        Self { why: why.into(), too_many_pings: false, silent: false }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Driver<T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        // Where several send, the first of them wakes this task, which would run at once and write what that one has sent:
        // one turn later the others have sent too, and all of it leaves in one write.
        if !this.gathered && this.shared.in_flight.load(Ordering::Relaxed) > 1 {
            this.gathered = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.gathered = false;
        if let Poll::Ready(result) = Pin::new(&mut this.connection).poll(cx) {
            let end =
                result.map_or_else(|error| End::of(&error), |()| End::because("the server closed the connection"));
            // A GOAWAY that was seen before says more than the end that follows it.
            let known = match &*this.shared.stage.borrow() {
                Stage::Draining(end) => Some(end.clone()),
                _ => None,
            };
            this.tell(Stage::Closed(known.unwrap_or(end)));
            return Poll::Ready(());
        }
        this.copy_limit();
        this.ask(cx);
        if let Some(why) = this.obey(cx) {
            this.tell(Stage::Closed(End { silent: true, ..End::because(why) }));
            return Poll::Ready(()); // the streams end as the connection is dropped
        }
        if let Some(silence) = &mut this.silence
            && let Poll::Ready(why) = silence.poll(&this.shared, cx)
        {
            this.tell(Stage::Closed(End { silent: true, ..End::because(why) }));
            return Poll::Ready(()); // the streams end as the connection is dropped
        }
        this.linger(cx)
    }
}

/// However it ends, also by a panic of h2's: whoever holds the connection must know.
impl<T> Drop for Driver<T> {
    fn drop(&mut self) {
        if !matches!(&*self.shared.stage.borrow(), Stage::Closed(_)) {
            self.shared.over.store(true, Ordering::Release);
            self.shared.stage.send_replace(Stage::Closed(End::because("the connection's task has ended")));
        }
    }
}
