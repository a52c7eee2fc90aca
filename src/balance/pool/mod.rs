//! The background task of a channel: from changes of instances to the set of ready servers.

pub(super) mod address_index;
pub(super) mod connect_order;
pub(super) mod connect_permits;
pub(super) mod source;

use std::collections::BTreeMap;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use http::uri::Scheme;
use tokio::task::coop::consume_budget;
use tokio::task::{AbortHandle, yield_now};
use tokio::time::{Instant, sleep_until};
use tokio_stream::Stream;
use tower::discover::Change;

use crate::address::{Address, Authority};
use crate::balance::channel::Inner;
use crate::balance::connectivity::{ChannelStatus, Connectivity, Directory};
use crate::balance::policy::ready::{Ready, ReadyServer, ReadySubchannel};
use crate::balance::pool::address_index::{AddressChange, AddressIndex};
use crate::balance::subchannel::outlier::{CallCounts, OutlierDetector};
use crate::balance::subchannel::supervisor::{Link, supervise};
use crate::balance::subchannel::{LinkState, Server};
use crate::connection::{Destination, Place};
use crate::instance::Instance;

/// What a source of servers tells.
pub(crate) struct Update<K> {
    pub(crate) changes: Vec<Change<K, Instance>>,
    /// What it says of itself, where that has changed.
    pub(crate) directory: Option<Directory>,
}

/// Updates that are taken in one go, so that a large set comes in one step.
const AT_ONCE: usize = 1024;
/// Servers that begin to fail within so long are told of together: no call can use them before or after.
const FAILING_TOGETHER: Duration = Duration::from_millis(10);

/// Runs until it is aborted, which is when the channel's last clone is dropped.
pub(crate) async fn run<K, S>(inner: Arc<Inner>, _end: End, source: S)
where
    K: Hash + Eq + Clone,
    S: Stream<Item = Update<K>>,
{
    let mut source = std::pin::pin!(source);
    let queue = inner.queue.clone();
    let mut turns = std::pin::pin!(queue.watch());
    let mut pool = Pool::new(inner);
    let mut roster = AddressIndex::new();
    let mut open = true;
    loop {
        let judgement = pool.judge.as_ref().map(|judge| pool.began + judge.next());
        let mut is_full = false;
        tokio::select! {
            update = next(source.as_mut()), if open => match update {
                None => open = false, // the last set stays
                Some(update) => {
                    pool.take(update, &mut roster);
                    let mut taken = 0;
                    while taken < AT_ONCE
                        && let Some(more) = at_once(source.as_mut()).await
                    {
                        pool.take(more, &mut roster);
                        taken += 1;
                    }
                    is_full = taken == AT_ONCE;
                    for entry in roster.changed() {
                        pool.enter(entry);
                    }
                    pool.draining = roster.draining();
                }
            },
            () = pool.inner.ground.changed.notified() => {}
            () = pool.failing() => {}
            never = turns.as_mut() => match never {},
            () = sleep_until(judgement.unwrap_or_else(Instant::now)), if judgement.is_some() => {}
        }
        pool.judge();
        pool.publish();
        // A source that always has something to say leaves others their turns.
        if is_full {
            yield_now().await;
        }
        consume_budget().await;
    }
}

/// However it ends: calls that wait must know.
pub(crate) struct End(pub(crate) Arc<Inner>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.ready.store(Arc::default());
        self.0.lanes.store(Arc::default()); // with the connections that they hold
        self.0.outlook.send_modify(|outlook| {
            outlook.connectivity = Connectivity::Shutdown;
            outlook.number += 1;
        });
        self.0.queue.wake_in_vain(true);
    }
}

async fn next<S: Stream>(mut source: Pin<&mut S>) -> Option<S::Item> {
    std::future::poll_fn(|cx| source.as_mut().poll_next(cx)).await
}

/// What is there already.
async fn at_once<S: Stream>(mut source: Pin<&mut S>) -> Option<S::Item> {
    let look = std::future::poll_fn(|cx| {
        Poll::Ready(match source.as_mut().poll_next(cx) {
            Poll::Ready(item) => item,
            Poll::Pending => None,
        })
    });
    look.await
}

struct Pool {
    inner: Arc<Inner>,
    lanes: BTreeMap<Authority, PoolEntry>,
    directory: Arc<Directory>,
    draining: usize,
    judge: Option<OutlierDetector<Authority>>,
    began: Instant,
    published: Instant,
    /// Servers came or went since then.
    entered: bool,
}

/// One server, its supervisor, and how it was last published.
struct PoolEntry {
    server: Arc<Server>,
    instance: Arc<Instance>,
    link: Arc<Link>,
    supervisor: AbortHandle,
    published: Option<ReadyServer>,
}

impl Drop for PoolEntry {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

impl Pool {
    fn new(inner: Arc<Inner>) -> Self {
        let directory = inner.outlook.borrow().directory.clone();
        let judge = inner.settings.ejection.map(|options| OutlierDetector::new(options, Duration::ZERO));
        let now = Instant::now();
        Self {
            inner,
            lanes: BTreeMap::new(),
            directory,
            draining: 0,
            judge,
            began: now,
            published: now,
            entered: false,
        }
    }

    fn take<K: Hash + Eq + Clone>(&mut self, update: Update<K>, roster: &mut AddressIndex<K>) {
        update.changes.into_iter().for_each(|change| roster.apply(change));
        if let Some(directory) = update.directory {
            self.directory = Arc::new(directory);
        }
    }

    /// Waits until servers have begun to fail, and for others that do so at the same time. Dropping it loses nothing, if
    /// what comes next is to publish.
    async fn failing(&self) {
        self.inner.ground.failing.notified().await;
        sleep_until(self.published + FAILING_TOGETHER).await;
    }

    fn enter(&mut self, entry: AddressChange) {
        match entry {
            AddressChange::Gone(authority) => {
                self.entered = true;
                let service = &*self.directory.service;
                tracing::debug!(parent: None, service, server = authority.as_str(), "server removed");
                self.lanes.remove(&authority);
            }
            AddressChange::Named(address, instance) => {
                let authority = address.parsed_authority().clone();
                match self.lanes.get_mut(&authority) {
                    Some(lane) if *lane.server.address() == address => lane.instance = instance,
                    _ => {
                        let service = &*self.directory.service;
                        tracing::debug!(parent: None, service, server = %address, "server added");
                        self.entered = true;
                        self.lanes.insert(authority, self.lane(address, instance));
                    }
                }
            }
        }
    }

    fn lane(&self, address: Address, instance: Arc<Instance>) -> PoolEntry {
        let to = destination(&address);
        let server = Arc::new(Server::new(address, self.inner.epoch));
        let link = Arc::new(Link::default());
        let ground = self.inner.ground.clone();
        let supervisor = tokio::spawn(supervise(ground, server.clone(), to, link.clone())).abort_handle();
        PoolEntry { server, instance, link, supervisor, published: None }
    }

    /// Who is ejected from now on.
    fn judge(&mut self) {
        let Some(judge) = &mut self.judge else { return };
        let now = self.began.elapsed();
        let over = judge.interval_is_over(now);
        let tally = |lane: &PoolEntry| {
            let record = &lane.server.record;
            let count = |counter: &std::sync::atomic::AtomicU64| {
                if over { counter.swap(0, Ordering::Relaxed) } else { counter.load(Ordering::Relaxed) }
            };
            let in_a_row = record.in_a_row.load(Ordering::Relaxed);
            CallCounts { successes: count(&record.successes), failures: count(&record.failures), in_a_row }
        };
        let tallies = self.lanes.iter().map(|(authority, lane)| (authority.clone(), tally(lane))).collect();
        let out = judge.judge(&tallies, now);
        for (authority, lane) in &self.lanes {
            lane.server.set_on_probation(judge.is_on_probation(authority));
            let ejected = out.binary_search(authority).is_ok();
            if ejected != lane.server.is_ejected() {
                let service = &*self.directory.service;
                tracing::info!(parent: None, service, server = %lane.server.address(), ejected, "outlier ejection");
                // From here on what it does counts for nothing, until it is back; then what it did before does not.
                lane.server.set_ejected(ejected);
                lane.server.record.in_a_row.store(0, Ordering::Relaxed);
                lane.server.record.successes.store(0, Ordering::Relaxed);
                lane.server.record.failures.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Makes what is true now what callers see, and wakes those calls that can do something with it.
    fn publish(&mut self) {
        let mut outlook = ChannelStatus::new(self.directory.clone());
        outlook.draining = self.draining;
        let (mut ready, mut ejected) = (Vec::new(), Vec::new());
        for lane in self.lanes.values_mut() {
            if let Some(server) = lane.current(&self.inner) {
                if lane.server.is_ejected() {
                    ejected.push(server);
                } else {
                    ready.push(server);
                }
                continue;
            }
            match lane.server.link_state() {
                LinkState::Failing => outlook.failing += 1,
                LinkState::Connecting | LinkState::Ready => outlook.connecting += 1,
            }
        }
        (outlook.ready, outlook.ejected) = (ready.len(), ejected.len());
        // Better a server that fails some calls than none.
        let mut servers = if ready.is_empty() { ejected } else { ready };
        self.inner.memory.arrange(&self.inner.settings.policy, &mut servers);
        outlook.connectivity = if !servers.is_empty() {
            Connectivity::Ready
        } else if !self.directory.known || outlook.connecting > 0 {
            Connectivity::Connecting
        } else {
            Connectivity::TransientFailure
        };
        self.published = Instant::now();
        self.show(servers);
        self.tell(outlook);
    }

    /// For picks and for views, where anything is new.
    fn show(&mut self, servers: Vec<ReadyServer>) {
        let same = |known: &[ReadyServer]| {
            let same = |(a, b): (&ReadyServer, &ReadyServer)| Arc::ptr_eq(&a.0, &b.0);
            known.len() == servers.len() && known.iter().zip(&servers).all(same)
        };
        if !same(&self.inner.ready.load().servers) {
            self.inner.ready.store(Arc::new(Ready::new(servers)));
        }
        if std::mem::take(&mut self.entered) {
            let lanes = self.lanes.values().map(|lane| (lane.server.clone(), lane.link.clone())).collect();
            self.inner.lanes.store(Arc::new(lanes));
        }
    }

    /// For those who wait. After what they will find is there.
    fn tell(&self, mut outlook: ChannelStatus) {
        let in_vain = outlook.is_in_vain(false);
        let mut news = false;
        self.inner.outlook.send_if_modified(|known| {
            news = known.connectivity != outlook.connectivity;
            outlook.number = known.number + 1;
            std::mem::swap(known, &mut outlook);
            news
        });
        if news && in_vain {
            self.inner.queue.wake_in_vain(false);
        }
        let ready = &self.inner.ready;
        self.inner
            .queue
            .fill(|| ready.load().servers.iter().map(ReadyServer::free_slots).fold(0, usize::saturating_add));
        // Those that were asked before may be gone.
        self.inner.prove_for_waiting();
    }
}

fn destination(address: &Address) -> Destination {
    let place = match address.unix_path() {
        Some(path) => Place::Unix(path.into()),
        None => Place::Host(address.host().to_owned(), address.port()),
    };
    Destination { place, secure: address.is_secure() }
}

impl PoolEntry {
    /// The server as callers see it, while it is connected; the same one until something about it changes.
    fn current(&mut self, inner: &Inner) -> Option<ReadyServer> {
        let connection = self.link.get().filter(|connection| !connection.is_over());
        let Some(connection) = connection else {
            self.published = None;
            return None;
        };
        if let Some(known) = &self.published
            && known.0.connection.is(&connection)
            && Arc::ptr_eq(&known.0.instance, &self.instance)
        {
            return Some(known.clone());
        }
        let address = self.server.address();
        let member = ReadySubchannel {
            server: self.server.clone(),
            connection,
            instance: self.instance.clone(),
            authority: inner.settings.authority_of(address)?,
            scheme: if address.is_secure() { Scheme::HTTPS } else { Scheme::HTTP },
            loss_paid: AtomicBool::new(false),
        };
        self.published = Some(ReadyServer(Arc::new(member)));
        self.published.clone()
    }
}
