//! All open connections of a server, and which of them have nothing to wait for.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep};

use crate::serve::connections::activity::ConnectionActivity;
use crate::serve::connections::calls::{CallCounter, SocketPair};
use crate::serve::connections::socket::Socket;
use crate::serve::series::ServerSeries;

/// How long a connection without a call in flight stays open after GOAWAY, its last call, or over
/// TLS its last write.
///
/// Its client may have sent a call before it saw GOAWAY, and takes one round trip to answer the
/// PING that comes with it; then the connection ends by itself. 0.75 s is more than any round trip
/// between hosts, and keeps a stop under a second.
const GRACE: Duration = Duration::from_millis(750);
/// How often the connections are looked through.
const INTERVAL: Duration = Duration::from_millis(50);

/// How far the accept loop has come. Ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum AcceptState {
    /// tonic has not polled the listener.
    NotStarted,
    Running,
    /// There will be no more connections.
    Finished,
}

/// All accepted connections, as the lifecycle sees them. They are closed when it is dropped.
pub(crate) struct OpenConnections {
    registry: Arc<Registry>,
    accept_state: watch::Receiver<AcceptState>,
}

/// The accepted connections, as the accept loop sees them.
pub(super) struct Registry {
    /// `None` once all connections are closed: later ones are closed when they are accepted.
    handles: Mutex<Option<Handles>>,
    /// Counts calls around the router, if the layer is used.
    calls: Arc<CallCounter>,
    /// Count the open connections.
    series: Arc<ServerSeries>,
}

/// The handles of all open connections, and of some that have ended: an ended connection does not
/// report itself, so its handle is removed later.
#[derive(Default)]
struct Handles {
    all: Vec<Handle>,
    /// At this length, those that have ended are removed. It doubles with the open ones, so adding
    /// takes constant time.
    clean_up_at: usize,
}

/// Closes a connection when it is dropped.
struct Handle {
    /// Closes the connection when it is dropped; it is closed itself once the connection has ended.
    socket: oneshot::Sender<Infallible>,
    /// What the connection reports.
    activity: Arc<ConnectionActivity>,
    /// Its reads before GOAWAY.
    reads_before: usize,
    /// Since when it is idle, if it is.
    idle: Option<Idle>,
}

/// A connection that has had no call in flight for some time.
struct Idle {
    /// For how long, as far as the runtime ran: at most two intervals count between two looks.
    /// While the runtime stood still, what the client sent was not read.
    time: Duration,
    looked_at: Instant,
    /// The changes at the last look: any later one starts the time again.
    changes: usize,
}

impl Handle {
    /// Whether the connection has been idle for the whole grace period.
    fn is_over(&mut self, now: Instant) -> bool {
        let changes = self.activity.changes();
        if !self.activity.is_idle(self.reads_before) {
            self.idle = None;
            return false;
        }
        match &mut self.idle {
            Some(idle) if idle.changes == changes => {
                idle.time += now.saturating_duration_since(idle.looked_at).min(2 * INTERVAL);
                idle.looked_at = now;
                idle.time >= GRACE
            }
            idle => {
                *idle = Some(Idle { time: Duration::ZERO, looked_at: now, changes });
                false
            }
        }
    }
}

impl Handles {
    /// Adds a handle, and removes those of ended connections once they may be half of all.
    fn push(&mut self, handle: Handle) {
        if self.all.len() >= self.clean_up_at {
            self.all.retain(|handle| !handle.socket.is_closed());
            self.clean_up_at = 2 * self.all.len() + 16;
        }
        self.all.push(handle);
    }
}

impl Registry {
    pub(super) fn new(calls: Arc<CallCounter>, series: Arc<ServerSeries>) -> Arc<Self> {
        Arc::new(Self { handles: Mutex::new(Some(Handles::default())), calls, series })
    }

    /// Whether calls are counted around the router.
    pub(super) fn counts_calls(&self) -> bool {
        self.calls.is_used()
    }

    /// Wraps an accepted connection and remembers it.
    pub(super) fn admit<IO>(&self, io: IO, pair: Option<SocketPair>) -> Socket<IO> {
        let (socket, closed) = oneshot::channel();
        let counted = self.counts_calls().then(|| self.calls.add_connection(pair));
        let count = counted.as_ref().map(|connection| connection.count().clone());
        let activity = Arc::new(ConnectionActivity::new(count));
        if let Some(handles) = &mut *self.lock() {
            handles.push(Handle { socket, activity: activity.clone(), reads_before: 0, idle: None });
        }
        Socket::new(io, closed, activity, counted, self.series.connected())
    }

    /// Locks the handles for a moment. Handles are not dropped under it: that wakes tasks.
    fn lock(&self) -> MutexGuard<'_, Option<Handles>> {
        // Nothing panics while it is held, and every state of it is whole.
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenConnections {
    pub(super) fn new(registry: Arc<Registry>, accept_state: watch::Receiver<AcceptState>) -> Self {
        Self { registry, accept_state }
    }

    /// How many connections are open.
    pub(crate) fn count(&self) -> usize {
        self.count_if(|_| true)
    }

    /// How many open connections do not tell whether they have calls in flight.
    pub(crate) fn uncounted(&self) -> usize {
        self.count_if(ConnectionActivity::is_uncounted)
    }

    /// Counts the open connections with this activity.
    fn count_if(&self, condition: impl Fn(&ConnectionActivity) -> bool) -> usize {
        let handles = self.registry.lock();
        let open = handles.iter().flat_map(|handles| &handles.all).filter(|handle| !handle.socket.is_closed());
        open.filter(|handle| condition(&handle.activity)).count()
    }

    /// Waits until connections are accepted.
    pub(crate) async fn accepting(&self) {
        self.reached(AcceptState::Running).await;
    }

    /// Waits until no more can be accepted.
    pub(crate) async fn exhausted(&self) {
        self.reached(AcceptState::Finished).await;
    }

    /// Waits until the accept loop has come so far.
    async fn reached(&self, state: AcceptState) {
        // If the accept loop goes before, the server's own future tells its end, so this one must not.
        if self.accept_state.clone().wait_for(|reached| *reached >= state).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// To be called before GOAWAY is sent: remembers the reads of each connection, so that a client
    /// that answers is seen.
    pub(crate) fn before_goaway(&self) {
        for handle in self.registry.lock().iter_mut().flat_map(|handles| &mut handles.all) {
            handle.reads_before = handle.activity.reads();
        }
    }

    /// After GOAWAY: closes connections that have no call in flight and do not end by themselves.
    /// Never ends.
    pub(crate) async fn close_idle(&self) -> Infallible {
        loop {
            let now = Instant::now();
            let is_over = |handle: &mut Handle| !handle.socket.is_closed() && handle.is_over(now);
            let closed = match &mut *self.registry.lock() {
                Some(handles) => handles.all.extract_if(.., is_over).collect(),
                None => Vec::new(),
            };
            if !closed.is_empty() {
                tracing::info!(connections = closed.len(), "idle connections closed");
            }
            drop(closed); // after the lock: it wakes tasks, whose wakers may be anybody's
            sleep(INTERVAL).await;
        }
    }
}

impl Drop for OpenConnections {
    fn drop(&mut self) {
        let handles = self.registry.lock().take();
        drop(handles); // after the lock: it wakes tasks, whose wakers may be anybody's
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, timeout};

    use super::*;
    use crate::serve::connections::wire::InFlightCalls;

    fn sockets(calls: &Arc<CallCounter>) -> OpenConnections {
        let series = Arc::new(ServerSeries::new(None, std::iter::empty()));
        OpenConnections::new(Registry::new(calls.clone(), series), watch::channel(AcceptState::Running).1)
    }

    /// Those that are left a second after GOAWAY, by their number.
    async fn left(sockets: &OpenConnections, all: &mut [Socket<()>]) -> Vec<usize> {
        drop(timeout(Duration::from_millis(900), sockets.close_idle()).await);
        (0..all.len()).filter(|n| !all[*n].is_closed()).collect()
    }

    #[tokio::test]
    async fn thousands_that_have_gone_are_forgotten() {
        let sockets = sockets(&Arc::default());
        let stays: Vec<_> = (0..10).map(|_| sockets.registry.admit((), None)).collect();
        for _ in 0..10_000 {
            drop(sockets.registry.admit((), None));
        }
        let kept = sockets.registry.lock().as_ref().map_or(0, |handles| handles.all.len());
        assert!((10..100).contains(&kept), "{kept}");
        assert_eq!(sockets.count(), stays.len());
    }

    /// What a client has sent lies unread where the runtime stood still.
    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_stood_still_ends_nobody() {
        let sockets = sockets(&Arc::default());
        let mut all = vec![sockets.registry.admit((), None)];
        sockets.before_goaway();
        drop(timeout(Duration::ZERO, sockets.close_idle()).await);
        advance(Duration::from_secs(5)).await;
        drop(timeout(Duration::ZERO, sockets.close_idle()).await);
        assert!(!all[0].is_closed());
        assert!(left(&sockets, &mut all).await.is_empty());
    }

    /// The end of an answer may be on its way when its call has ended.
    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_written_to_stays() {
        let sockets = sockets(&Arc::default());
        let mut all = vec![sockets.registry.admit((), None)];
        sockets.before_goaway();
        for _ in 0..5 {
            drop(timeout(Duration::from_millis(600), sockets.close_idle()).await);
            all[0].activity().count_write();
        }
        assert!(!all[0].is_closed());
        assert!(left(&sockets, &mut all).await.is_empty());
    }

    /// F23: what has no call in flight ends, and what has one stays until that has ended.
    #[tokio::test(start_paused = true)]
    async fn connections_without_a_call_end() {
        let sockets = sockets(&Arc::default());
        let mut all: Vec<_> = (0..4).map(|_| sockets.registry.admit((), None)).collect();
        all[1].activity().set_in_flight(InFlightCalls::Known(1));
        all[2].activity().set_in_flight(InFlightCalls::Unknown);
        all[3].activity().set_in_flight(InFlightCalls::Unknown);
        all[2].activity().mark_handed_over();
        all[3].activity().mark_handed_over();
        all[3].activity().set_only_settings_sent(true);
        sockets.before_goaway();
        assert_eq!(left(&sockets, &mut all).await, [1, 2], "busy, and unknown");
        assert_eq!(sockets.uncounted(), 1);
        advance(Duration::from_secs(5)).await;
        assert_eq!(left(&sockets, &mut all).await, [1, 2]);
        // A call that ends and one that begins between two looks leave it its time.
        all[1].activity().set_in_flight(InFlightCalls::Known(0));
        drop(timeout(Duration::from_millis(600), sockets.close_idle()).await);
        all[1].activity().set_in_flight(InFlightCalls::Known(1));
        all[1].activity().set_in_flight(InFlightCalls::Known(0));
        drop(timeout(Duration::from_millis(600), sockets.close_idle()).await);
        assert!(!all[1].is_closed());
        assert_eq!(left(&sockets, &mut all).await, [2]);
    }

    /// F23: over TLS calls are counted around the router.
    #[tokio::test(start_paused = true)]
    async fn over_tls_the_count_tells() {
        let calls = Arc::<CallCounter>::default();
        let _layer = calls.layer();
        let sockets = sockets(&calls);
        let pair = |port| {
            let info = tonic::transport::server::TcpConnectInfo {
                local_addr: Some(([127, 0, 0, 1], 1).into()),
                remote_addr: Some(([127, 0, 0, 1], port).into()),
            };
            SocketPair::of(&info)
        };
        let mut all: Vec<_> = (1..=3).map(|port| sockets.registry.admit((), pair(port))).collect();
        for socket in &all {
            socket.activity().set_in_flight(InFlightCalls::Unknown);
            socket.activity().mark_handed_over();
            socket.activity().count_read();
        }
        let call = calls.begin(pair(1));
        sockets.before_goaway();
        all[2].activity().count_read();
        assert_eq!(left(&sockets, &mut all).await, [0, 2], "a call in flight, and one that was heard");
        drop(call);
        assert_eq!(left(&sockets, &mut all).await, [2]);
        assert_eq!(sockets.uncounted(), 0);
    }
}
