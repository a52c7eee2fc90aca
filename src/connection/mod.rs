//! One server's HTTP/2 connection, straight on h2: made, driven, watched for silence, and used for exchanges.
//!
//! Knows http, h2, tokio and rustls, and nobody of ours. A unary exchange needs no queue, no oneshot and no task of its
//! own: the caller's task writes the request into h2 and reads the answer out of it.

mod answer;
mod cancelled;
mod connect;
mod driver;
mod excerpt;
mod exchange;
mod failure;
mod frames;
mod guarded;
mod headers;
mod idle;
mod keepalive;
mod options;
mod pace;
mod panics;
mod pings;
mod pump;
mod room;
mod socket;
mod timers;
#[cfg(feature = "_tls")]
mod tls;

mod watched;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

pub(crate) use answer::Answer;
#[cfg(feature = "_tls")]
pub(crate) use connect::Tls;
pub(crate) use connect::{Connector, Destination, Io, Place, Transport};
pub(crate) use excerpt::read_some;
pub(crate) use exchange::Exchange;
pub(crate) use failure::{Failure, Kind};
pub(crate) use h2::Reason;
/// What is still to come of an answer whose head is there.
pub(crate) use h2::RecvStream as Incoming;
pub(crate) use headers::RequestLimit;
pub use options::KeepAlive;
pub(crate) use options::{Options, TcpKeepalive};
pub(crate) use panics::caught;
pub(crate) use room::Room;
#[cfg(feature = "_tls")]
pub use tls::ClientTls;
#[cfg(feature = "_tls")]
pub(crate) use tls::Invalid;

use self::cancelled::Cancelled;
use self::driver::Driver;
use self::headers::{HeaderSizes, Scanned};
use self::watched::{LastRead, Watched};

/// h2 charges 256 bytes less its own size for each small DATA frame until it is read, and ends the connection when that is
/// used up. The streams' windows bound what is unread, so none of it is refused here: 64 streams with a window of 2 MiB full
/// of frames of one byte would need 32 GiB.
const DATA_FRAME_BUDGET: usize = usize::MAX;
/// Streams that were cancelled here, remembered so that what the server still sends of them is known.
const REMEMBERED_RESETS: usize = 1024;

/// A connection that the server has accepted. Cheap to clone; it closes when the last clone is gone and the last exchange
/// has ended, or when the server wants it to.
#[derive(Clone)]
pub(crate) struct Connection(Arc<Handle>);

struct Handle {
    send: SendRequest<Bytes>,
    shared: Arc<Shared>,
    last_read: Arc<LastRead>,
    /// After so many the connection takes no more exchanges.
    most_exchanges: u32,
    /// Dropped after `send`, so that h2 sees the last `SendRequest` go before the driver is told that nobody holds the
    /// connection.
    commands: UnboundedSender<Command>,
}

/// What a holder of the connection asks of its driver.
enum Command {
    /// Send a PING, unless one was sent a moment ago.
    Ping,
    /// Find out whether the connection is alive, which was silent for long.
    Prove,
    /// Close the connection now, with all its exchanges.
    Close(String),
}

/// What the driver tells, and what it needs to know.
struct Shared {
    /// How many exchanges the server takes at once: copied here after each poll, so that nobody else takes h2's lock. 0
    /// while the connection is unproven, so that picks need to look at nothing else.
    limit: AtomicUsize,
    /// It was silent for long, and nobody has wanted it since.
    unproven: AtomicBool,
    in_flight: AtomicUsize,
    /// An exchange has begun since keep-alive last looked.
    used: AtomicBool,
    /// An answer has come on since keep-alive last pinged.
    progress: AtomicBool,
    /// The server will take no more exchanges, or the connection is gone.
    over: AtomicBool,
    cancelled: Cancelled,
    stage: watch::Sender<Stage>,
    headers: Arc<HeaderSizes>,
    /// Where those wait who found no room.
    room: Arc<dyn Room>,
}

/// How far a connection has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The server's SETTINGS have not come: whoever accepted may be frozen.
    Greeting,
    Ready,
    /// The server takes no more exchanges; those in flight may finish.
    Draining(End),
    Closed(End),
}

/// Why a connection is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) why: String,
    /// The server complained of too many pings.
    pub(crate) too_many_pings: bool,
    /// Keep-alive took the server for dead.
    pub(crate) silent: bool,
    /// The server has said GOAWAY.
    pub(crate) goaway: bool,
}

/// A place among the exchanges that the server takes at once, held until the answer has ended.
pub(crate) struct Slot(Arc<Shared>);

impl Shared {
    /// Whether anyone waits for the server, or did since this was last asked.
    fn is_waited_for(&self) -> bool {
        let used = self.used.swap(false, Ordering::Relaxed);
        used || self.in_flight.load(Ordering::Relaxed) > 0
    }
}

impl Slot {
    /// How the connection was ended, if it was.
    fn ended(&self) -> Option<End> {
        match &*self.0.stage.borrow() {
            Stage::Draining(end) | Stage::Closed(end) => Some(end.clone()),
            Stage::Greeting | Stage::Ready => None,
        }
    }

    /// The answer has come on.
    fn progress(&self) {
        self.0.progress.store(true, Ordering::Relaxed);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // In one order with the look of whoever begins to wait, see `Room::freed`.
        let before = self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
        if before <= self.0.limit.load(Ordering::Relaxed) && !self.0.over.load(Ordering::Relaxed) {
            self.0.room.freed(1);
        }
    }
}

impl Connection {
    /// Greets the server over a stream that is connected, and waits for its SETTINGS, all `within` so much time. `room` is told
    /// of each slot that becomes free.
    pub(crate) async fn greet<T>(
        io: T,
        options: &Options,
        within: Duration,
        room: Arc<dyn Room>,
    ) -> Result<Self, Failure>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let headers = Arc::new(HeaderSizes::new(options));
        match timeout(within, Self::handshake(io, options, headers.clone(), room)).await {
            Ok(result) => result,
            Err(_) if headers.are_settings_here() => {
                let why = format!("accepted, but its SETTINGS admit no stream within {} ms", within.as_millis());
                Err(Failure::new(Kind::NotSent, why))
            }
            Err(_) => Err(Failure::new(Kind::NotSent, silence(within))),
        }
    }

    async fn handshake<T>(
        io: T,
        options: &Options,
        headers: Arc<HeaderSizes>,
        room: Arc<dyn Room>,
    ) -> Result<Self, Failure>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (io, last_read) = Watched::new(Scanned::new(io, headers.clone()));
        let (send, connection) = h2::client::Builder::new()
            .initial_window_size(options.stream_window)
            .initial_connection_window_size(options.connection_window)
            .max_frame_size(options.max_frame_size)
            .max_header_list_size(options.h2_header_limit())
            .enable_push(false)
            // Until its SETTINGS have come the server takes nothing; this is also how their coming is seen.
            .initial_max_send_streams(0)
            // h2 takes many small frames that nobody reads, and frames of calls that were cancelled long ago, for attacks, and
            // ends the connection with all its calls. What comes late for a cancelled call counts for the life of the connection
            // (0.4.20, `proto/streams/streams.rs`, `recv_data`). Servers of a fleet are trusted; the windows bound what they can
            // send.
            .data_frame_budget(DATA_FRAME_BUDGET)
            .max_local_error_reset_streams(None)
            .max_concurrent_reset_streams(REMEMBERED_RESETS)
            .handshake(io)
            .await
            .map_err(|error| Failure::not_sent(&error))?;
        let (stage, mut stages) = watch::channel(Stage::Greeting);
        let (commands, commanded) = unbounded_channel();
        let shared = Arc::new(Shared {
            limit: AtomicUsize::new(0),
            unproven: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            used: AtomicBool::new(false),
            progress: AtomicBool::new(false),
            over: AtomicBool::new(false),
            cancelled: Cancelled::new(),
            stage,
            headers,
            room,
        });
        let heard = last_read.clone();
        let driver = Driver::new(connection, send.clone(), shared.clone(), heard, commanded, options);
        let connection =
            Self(Arc::new(Handle { send, shared, last_read, most_exchanges: options.most_exchanges, commands }));
        // Should the wait below be dropped, the driver ends with its handle.
        tokio::spawn(driver);
        let greeted = stages.wait_for(|stage| *stage != Stage::Greeting).await.map(|stage| stage.clone());
        match greeted {
            Ok(Stage::Ready) => Ok(connection),
            Ok(Stage::Draining(end) | Stage::Closed(end)) => Err(Failure::new(Kind::NotSent, end.why)),
            Ok(Stage::Greeting) | Err(_) => Err(Failure::new(Kind::NotSent, "the connection was dropped")),
        }
    }

    /// Takes a place for one exchange, if the server takes a further one now.
    pub(crate) fn reserve(&self) -> Option<Slot> {
        if self.is_over() {
            return None;
        }
        let shared = &self.0.shared;
        let limit = shared.limit.load(Ordering::Relaxed);
        let further = |count: usize| (count < limit).then_some(count + 1);
        let reserved = shared.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, further);
        if reserved.is_err() {
            return None;
        }
        shared.used.store(true, Ordering::Relaxed);
        Some(Slot(shared.clone()))
    }

    /// Whether the two are one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether a further exchange would be taken at once.
    pub(crate) fn has_room(&self) -> bool {
        self.in_flight() < self.0.shared.limit.load(Ordering::Relaxed) && !self.is_over()
    }

    /// How many further exchanges would be taken at once.
    pub(crate) fn free_slots(&self) -> usize {
        if self.is_over() { 0 } else { self.stream_limit().saturating_sub(self.in_flight()) }
    }

    /// Exchanges from their start to the end of their answers.
    pub(crate) fn in_flight(&self) -> usize {
        self.0.shared.in_flight.load(Ordering::Relaxed)
    }

    /// Whether the server takes no more exchanges.
    pub(crate) fn is_over(&self) -> bool {
        self.0.shared.over.load(Ordering::Acquire)
    }

    /// When anything was last read from the server.
    pub(crate) fn heard(&self) -> Instant {
        self.0.last_read.at()
    }

    /// How many exchanges the server takes at once, as its SETTINGS say; a very large number where they do not.
    pub(crate) fn stream_limit(&self) -> usize {
        self.0.shared.limit.load(Ordering::Relaxed)
    }

    /// How many bytes of headers the server takes with a request.
    pub(crate) fn request_limit(&self) -> RequestLimit {
        self.0.shared.headers.request_limit()
    }

    /// When a PING was last sent.
    pub(crate) fn pinged(&self) -> Option<Instant> {
        self.0.last_read.pinged()
    }

    /// Sends a PING soon, whose answer shows in [`Connection::heard`]; none where keep-alive is off, and none where one was
    /// sent less than 5.5 s ago, because servers end connections that are pinged more often than every 5 s (etcd's default).
    pub(crate) fn ping(&self) {
        // The driver is gone only with the connection.
        let _ = self.0.commands.send(Command::Ping);
    }

    /// Takes no more exchanges, before h2 refuses them: those in flight may finish.
    fn retire(&self) {
        self.0.shared.over.store(true, Ordering::Release);
        self.0.shared.stage.send_if_modified(|stage| {
            let ready = *stage == Stage::Ready;
            if ready {
                *stage = Stage::Draining(End::because("its stream ids are nearly used up"));
            }
            ready
        });
    }

    /// Lets a connection that was silent for long, and takes no exchange for that, find out whether it is alive; whether it
    /// was this that began it. Costs a look where there is nothing to find out.
    pub(crate) fn prove(&self) -> bool {
        let unproven = &self.0.shared.unproven;
        let begins = unproven.load(Ordering::Relaxed) && unproven.swap(false, Ordering::Relaxed);
        if begins {
            // The driver is gone only with the connection.
            let _ = self.0.commands.send(Command::Prove);
        }
        begins
    }

    /// Closes the connection at once: its exchanges fail.
    pub(crate) fn close(&self, why: impl Into<String>) {
        self.0.shared.over.store(true, Ordering::Release);
        let _ = self.0.commands.send(Command::Close(why.into()));
    }

    /// The stages of the connection, the present one first.
    pub(crate) fn stages(&self) -> watch::Receiver<Stage> {
        self.0.shared.stage.subscribe()
    }
}

fn silence(after: Duration) -> String {
    format!("accepted, but no HTTP/2 SETTINGS within {} ms", after.as_millis())
}

#[cfg(test)]
mod idle_tests;
#[cfg(test)]
mod keepalive_tests;
#[cfg(test)]
mod proof;
#[cfg(test)]
mod tests;
