//! All connections of a server, and which of them have nothing to wait for.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep};

use crate::serve::connections::calls::{Calls, Pair};
use crate::serve::connections::seen::Seen;
use crate::serve::connections::socket::{Accepting, Socket};

/// How long a connection without a call in flight is kept after GOAWAY, after its last call, or over TLS after what was last written to it. Its client may have sent
/// a call before it saw GOAWAY, and takes one round trip to answer the PING that comes with it: then it ends by itself.
const GRACE: Duration = Duration::from_millis(750);
/// How often they are looked through.
const LOOK: Duration = Duration::from_millis(50);

/// All sockets that were accepted: they end when it is dropped.
pub(crate) struct Sockets {
    open: Arc<Open>,
    accepting: watch::Receiver<Accepting>,
}

/// What sockets share.
pub(crate) struct Open {
    /// None once all sockets are to end.
    ends: Mutex<Option<Ends>>,
    calls: Arc<Calls>,
}

/// The open sockets.
#[derive(Default)]
struct Ends {
    all: Vec<End>,
    /// At that length those of sockets that have gone are forgotten: when there may be as many of them as of others.
    full: usize,
}

/// Ends a socket when it is dropped.
struct End {
    socket: oneshot::Sender<Infallible>,
    seen: Arc<Seen>,
    /// So often it was heard before GOAWAY.
    heard: usize,
    idle: Option<Idle>,
}

/// A connection that has had no call for some time.
struct Idle {
    /// So long, as far as its task had turns: no more than two looks' time counts between two of them, for where the runtime stood
    /// still, what its client has sent lies unread.
    time: Duration,
    looked: Instant,
    changes: usize,
}

impl End {
    /// Whether it has had no call for so long that there is nothing to wait for.
    fn is_over(&mut self, now: Instant) -> bool {
        let changes = self.seen.changes();
        if !self.seen.is_idle(self.heard) {
            self.idle = None;
            return false;
        }
        match &mut self.idle {
            Some(idle) if idle.changes == changes => {
                idle.time += now.saturating_duration_since(idle.looked).min(2 * LOOK);
                idle.looked = now;
                idle.time >= GRACE
            }
            idle => {
                *idle = Some(Idle { time: Duration::ZERO, looked: now, changes });
                false
            }
        }
    }
}

impl Ends {
    fn push(&mut self, end: End) {
        if self.all.len() >= self.full {
            self.all.retain(|end| !end.socket.is_closed());
            self.full = 2 * self.all.len() + 16;
        }
        self.all.push(end);
    }
}

impl Open {
    pub(crate) fn new(calls: Arc<Calls>) -> Arc<Self> {
        Arc::new(Self { ends: Mutex::new(Some(Ends::default())), calls })
    }

    /// Whether calls are counted around the router.
    pub(crate) fn counts(&self) -> bool {
        self.calls.are_counted()
    }

    pub(crate) fn admit<IO>(&self, io: IO, pair: Option<Pair>) -> Socket<IO> {
        let (end, ended) = oneshot::channel();
        let connected = self.counts().then(|| self.calls.connect(pair));
        let counted = connected.as_ref().map(|connected| connected.count().clone());
        let seen = Arc::new(Seen::new(counted));
        if let Some(ends) = &mut *self.ends() {
            ends.push(End { socket: end, seen: seen.clone(), heard: 0, idle: None });
        }
        Socket::new(io, ended, seen, connected)
    }

    fn ends(&self) -> MutexGuard<'_, Option<Ends>> {
        // Nothing panics while it is held, and every state of it is whole.
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sockets {
    pub(crate) fn new(open: Arc<Open>, accepting: watch::Receiver<Accepting>) -> Self {
        Self { open, accepting }
    }

    /// How many are open.
    pub(crate) fn count(&self) -> usize {
        self.count_of(|_| true)
    }

    /// Of how many nobody knows whether they have calls in flight.
    pub(crate) fn uncounted(&self) -> usize {
        self.count_of(Seen::is_uncounted)
    }

    fn count_of(&self, is: impl Fn(&Seen) -> bool) -> usize {
        let ends = self.open.ends();
        ends.iter().flat_map(|ends| &ends.all).filter(|end| !end.socket.is_closed() && is(&end.seen)).count()
    }

    /// Waits until connections are accepted.
    pub(crate) async fn accepting(&self) {
        self.reach(Accepting::Runs).await;
    }

    /// Waits until there are no more to accept.
    pub(crate) async fn exhausted(&self) {
        self.reach(Accepting::Over).await;
    }

    async fn reach(&self, stage: Accepting) {
        // The stream may go before it came so far: then its server's future tells.
        if self.accepting.clone().wait_for(|accepting| *accepting >= stage).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// GOAWAY comes next: who is heard after it is there.
    pub(crate) fn before_goaway(&self) {
        for end in self.open.ends().iter_mut().flat_map(|ends| &mut ends.all) {
            end.heard = end.seen.heard();
        }
    }

    /// After GOAWAY: ends those that have no call in flight and do not end by themselves.
    pub(crate) async fn end_idle(&self) -> Infallible {
        loop {
            let (now, mut over) = (Instant::now(), 0_usize);
            if let Some(ends) = &mut *self.open.ends() {
                ends.all.retain_mut(|end| {
                    let ends = !end.socket.is_closed() && end.is_over(now);
                    over += usize::from(ends);
                    !ends
                });
            }
            if over > 0 {
                tracing::info!(connections = over, "closed connections without a call in flight");
            }
            sleep(LOOK).await;
        }
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        let ends = self.open.ends().take();
        drop(ends); // after the lock: whoever is woken may be anybody's
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, timeout};

    use super::*;
    use crate::serve::connections::wire::InFlight;

    fn sockets(calls: &Arc<Calls>) -> Sockets {
        Sockets::new(Open::new(calls.clone()), watch::channel(Accepting::Runs).1)
    }

    /// Those that are left a second after GOAWAY, by their number.
    async fn left(sockets: &Sockets, all: &mut [Socket<()>]) -> Vec<usize> {
        drop(timeout(Duration::from_millis(900), sockets.end_idle()).await);
        (0..all.len()).filter(|n| !all[*n].is_ended()).collect()
    }

    #[tokio::test]
    async fn thousands_that_have_gone_are_forgotten() {
        let sockets = sockets(&Arc::default());
        let stays: Vec<_> = (0..10).map(|_| sockets.open.admit((), None)).collect();
        for _ in 0..10_000 {
            drop(sockets.open.admit((), None));
        }
        let kept = sockets.open.ends().as_ref().map_or(0, |ends| ends.all.len());
        assert!((10..100).contains(&kept), "{kept}");
        assert_eq!(sockets.count(), stays.len());
    }

    /// What a client has sent lies unread where the runtime stood still.
    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_stood_still_ends_nobody() {
        let sockets = sockets(&Arc::default());
        let mut all = vec![sockets.open.admit((), None)];
        sockets.before_goaway();
        drop(timeout(Duration::ZERO, sockets.end_idle()).await);
        advance(Duration::from_secs(5)).await;
        drop(timeout(Duration::ZERO, sockets.end_idle()).await);
        assert!(!all[0].is_ended());
        assert!(left(&sockets, &mut all).await.is_empty());
    }

    /// The end of an answer may be on its way when its call has ended.
    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_written_to_stays() {
        let sockets = sockets(&Arc::default());
        let mut all = vec![sockets.open.admit((), None)];
        sockets.before_goaway();
        for _ in 0..5 {
            drop(timeout(Duration::from_millis(600), sockets.end_idle()).await);
            all[0].seen().write();
        }
        assert!(!all[0].is_ended());
        assert!(left(&sockets, &mut all).await.is_empty());
    }

    /// F23: what has no call in flight ends, and what has one stays until that has ended.
    #[tokio::test(start_paused = true)]
    async fn connections_without_a_call_end() {
        let sockets = sockets(&Arc::default());
        let mut all: Vec<_> = (0..4).map(|_| sockets.open.admit((), None)).collect();
        all[1].seen().tell(InFlight::Calls(1));
        all[2].seen().tell(InFlight::Unknown);
        all[3].seen().tell(InFlight::Unknown);
        all[2].seen().hand();
        all[3].seen().hand();
        all[3].seen().greet(true);
        sockets.before_goaway();
        assert_eq!(left(&sockets, &mut all).await, [1, 2], "busy, and unknown");
        assert_eq!(sockets.uncounted(), 1);
        advance(Duration::from_secs(5)).await;
        assert_eq!(left(&sockets, &mut all).await, [1, 2]);
        // A call that ends and one that begins between two looks leave it its time.
        all[1].seen().tell(InFlight::Calls(0));
        drop(timeout(Duration::from_millis(600), sockets.end_idle()).await);
        all[1].seen().tell(InFlight::Calls(1));
        all[1].seen().tell(InFlight::Calls(0));
        drop(timeout(Duration::from_millis(600), sockets.end_idle()).await);
        assert!(!all[1].is_ended());
        assert_eq!(left(&sockets, &mut all).await, [2]);
    }

    /// F23: over TLS calls are counted around the router.
    #[tokio::test(start_paused = true)]
    async fn over_tls_the_count_tells() {
        let calls = Arc::<Calls>::default();
        let _layer = calls.layer();
        let sockets = sockets(&calls);
        let pair = |port| {
            let info = tonic::transport::server::TcpConnectInfo {
                local_addr: Some(([127, 0, 0, 1], 1).into()),
                remote_addr: Some(([127, 0, 0, 1], port).into()),
            };
            Pair::of(&info)
        };
        let mut all: Vec<_> = (1..=3).map(|port| sockets.open.admit((), pair(port))).collect();
        for socket in &all {
            socket.seen().tell(InFlight::Unknown);
            socket.seen().hand();
            socket.seen().hear();
        }
        let call = calls.begin(pair(1));
        sockets.before_goaway();
        all[2].seen().hear();
        assert_eq!(left(&sockets, &mut all).await, [0, 2], "a call in flight, and one that was heard");
        drop(call);
        assert_eq!(left(&sockets, &mut all).await, [2]);
        assert_eq!(sockets.uncounted(), 0);
    }
}
