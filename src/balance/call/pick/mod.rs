//! A server for a call: picked at once if one has room, or waited for in the queue. `tiers.rs` decides when a call
//! leaves its zone, and takes the slot that a call was woken for; `wait.rs` is the wait; `room.rs` finds room for the calls that wait.

mod room;
mod tiers;
mod wait;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{Extensions, HeaderMap};
use tokio::time::Instant;
use tonic::Status;

use crate::balance::call::deadline::Deadline;
use crate::balance::call::pick::tiers::Asked;
use crate::balance::partition::Partition;
use crate::balance::policy::{Call, IsAvailable, Pick, Picker};
use crate::balance::pool::ready::{Published, PublishedServer, ReadySubchannel, Tier};
use crate::balance::pool::room::MAX_PROBES;
use crate::balance::queue::order::Turn;
use crate::balance::subchannel::Subchannel;
use crate::connection::StreamPermit;

/// How often a picker may refuse its own choice of a moment ago.
const CONFIRMED_LOOKS: u8 = 3;
/// A picker that is to avoid servers which refuse calls is told of so many, and then takes any: one scan over all
/// servers ends the search.
const MOST_REFUSING_ASKED: u8 = 16;

/// An attempt that needs a server.
#[derive(Clone, Copy)]
pub(crate) struct PickRequest<'a> {
    pub(crate) path: &'a str,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) extensions: &'a Extensions,
    /// The number of the attempt, from 1.
    pub(crate) attempt: u32,
    /// Servers that have failed the call.
    pub(crate) failed_servers: &'a [Arc<Subchannel>],
    /// A server that has refused a call since it last took one does not get it.
    pub(crate) avoids_refusing: bool,
}

/// A server for an attempt, with the permit for one stream on one of its connections.
pub(crate) struct PickedServer {
    pub(crate) subchannel: Arc<ReadySubchannel>,
    pub(crate) permit: StreamPermit,
    /// Gets the end of the attempt.
    pub(crate) picker: Arc<dyn Picker>,
}

/// The result of one look at the ready servers.
pub(crate) enum PickOutcome {
    Picked(PickedServer),
    /// Each ready server has failed this call already, or the call has to pause before it is sent again.
    AllFailed,
    /// Each ready server is at its limit of streams, or other calls wait already.
    Full,
    NoneReady,
    /// The picker has no server for the call now.
    Wait,
    /// The picker fails the call.
    Fail(Status),
}

/// The servers of one look, as the picker may ask about them.
struct Availability<'a> {
    servers: &'a [PublishedServer],
    failed_servers: &'a [Arc<Subchannel>],
    /// How many servers that refuse calls the picker is still told of.
    refusing_left: Cell<u8>,
    /// How many servers this look has sent a PING to.
    probes: &'a Cell<usize>,
}

impl<'a> Availability<'a> {
    fn new(servers: &'a [PublishedServer], request: &PickRequest<'a>, probes: &'a Cell<usize>) -> Self {
        let refusing_left = Cell::new(if request.avoids_refusing { MOST_REFUSING_ASKED } else { 0 });
        Self { servers, failed_servers: request.failed_servers, refusing_left, probes }
    }

    /// Whether the picker is to look for another server than this one, because it refuses calls.
    #[inline]
    fn is_refusing(&self, server: &PublishedServer) -> bool {
        let left = self.refusing_left.get();
        if left == 0 || !server.refuses() {
            return false;
        }
        self.refusing_left.set(left - 1);
        true
    }

    fn has_failed(&self, server: &PublishedServer) -> bool {
        server.is_among(self.failed_servers)
    }

    /// Sends a PING to a server without room: it may be an idle one that takes no call before it has answered.
    fn probe(&self, server: &PublishedServer) {
        if self.probes.get() < MAX_PROBES {
            self.probes.set(self.probes.get() + usize::from(server.probe()));
        }
    }
}

impl IsAvailable for Availability<'_> {
    fn is_available(&self, server: usize) -> bool {
        let Some(server) = self.servers.get(server) else { return false };
        if server.has_capacity() {
            return !self.has_failed(server) && !self.is_refusing(server);
        }
        self.probe(server);
        false
    }
}

/// How long a call may wait for a server.
#[derive(Clone, Copy)]
pub(crate) struct WaitLimits {
    pub(crate) deadline: Option<Deadline>,
    /// Waits until the deadline, whatever the state of the servers. Otherwise the channel's wait limit holds too.
    pub(crate) wait_for_ready: bool,
    /// The time from which the wait limit counts. It moves on by the time that the call spends with servers.
    pub(crate) started: Instant,
}

impl Partition {
    /// Whether servers are ready and none of them has room: a call has to wait in the queue then.
    pub(crate) fn all_full(&self) -> bool {
        let ready = self.ready.load();
        !ready.servers.is_empty() && !ready.has_room()
    }

    /// Picks a server for an attempt. It uses atomics only, and allocates nothing, unless a picker refuses a tier.
    ///
    /// `turn` tells that the call comes from the queue, and which server has a slot for it. Any other call goes behind
    /// those that wait there.
    #[inline]
    pub(crate) fn pick(&self, request: &PickRequest<'_>, turn: Option<Turn>) -> PickOutcome {
        // The last look is not confirmed: the call is to go somewhere.
        let mut looks = (0..=CONFIRMED_LOOKS).filter_map(|look| self.look(request, turn, look < CONFIRMED_LOOKS));
        looks.next().unwrap_or(PickOutcome::NoneReady)
    }

    /// Looks for a server once. `None` if the picker does not confirm its choice.
    fn look(&self, request: &PickRequest<'_>, turn: Option<Turn>, asks_to_confirm: bool) -> Option<PickOutcome> {
        let ready = self.ready.load();
        let Some((home, others)) = ready.tiers.split_first() else { return Some(PickOutcome::NoneReady) };
        if turn.is_none() && self.queue.has_waiters() {
            return Some(PickOutcome::Full);
        }
        let probes = Cell::new(0);
        let at_home = match self.pick_in(&ready, home, request, &probes) {
            Ok(index) => index,
            Err(outcome) => return Some(outcome),
        };
        let mut asked = Asked::default();
        let slot = turn.and_then(|turn| turn.server);
        let (tier, chosen) = match slot.and_then(|slot| self.slot_of(&ready, at_home, slot, request, &probes)) {
            Some(slot) => slot,
            None if others.is_empty() => (home, at_home),
            None => self.pick_across(&ready, at_home, request, &probes, &mut asked),
        };
        let availability = Availability::new(&ready.servers, request, &probes);
        let (mut any_failed, mut any_full) = (false, false);
        // The picker's choice may be full: the next one in order takes the call, and then one of another tier.
        let rest = others.iter().chain([home]).filter(|other| other.range != tier.range);
        let rest = rest.map(|tier| (tier, None));
        for (tier, start) in std::iter::once((tier, Some(chosen))).chain(rest) {
            let Some(start) = start.or_else(|| self.start_in(&ready, tier, request, &probes, &mut asked)) else {
                continue; // the picker has no server there
            };
            for index in (start..tier.range.end).chain(tier.range.start..start) {
                let server = &ready.servers[index];
                if request.avoids_refusing && server.refuses() {
                    any_failed = true;
                    continue;
                }
                if server.is_closing() {
                    continue;
                }
                if availability.has_failed(server) {
                    any_failed = true;
                } else if let Some((subchannel, permit)) = server.reserve() {
                    if asks_to_confirm && !tier.picker.confirms(index - tier.range.start) {
                        return None; // the permit is given back
                    }
                    let (subchannel, picker) = (subchannel.clone(), tier.picker.clone());
                    return Some(PickOutcome::Picked(PickedServer { subchannel, permit, picker }));
                } else {
                    availability.probe(server);
                    any_full = true;
                }
            }
        }
        let outcome = match (asked.refusal, any_full, any_failed) {
            // The picker keeps the call from servers that may have room: in the queue it would be woken for them again and again.
            (Some(refusal), _, false) => refusal,
            (None, true, _) => PickOutcome::Full,
            (_, _, true) => PickOutcome::AllFailed,
            (None, false, false) => PickOutcome::NoneReady,
        };
        Some(outcome)
    }

    /// Asks the picker of a tier. Returns the index of the server among all that are published.
    #[inline]
    fn pick_in(
        &self,
        ready: &Published,
        tier: &Tier,
        request: &PickRequest<'_>,
        probes: &Cell<usize>,
    ) -> Result<usize, PickOutcome> {
        let PickRequest { path, headers, extensions, attempt, .. } = *request;
        let servers = &ready.servers[tier.range.clone()];
        let availability = Availability::new(servers, request, probes);
        match tier.picker.pick(&Call { path, headers, extensions, attempt, servers: &availability }) {
            Pick::Server(server) if server < servers.len() => Ok(tier.range.start + server),
            Pick::Server(index) => {
                self.warn_out_of_range(index, servers.len());
                Ok(tier.range.start)
            }
            Pick::Wait => Err(PickOutcome::Wait),
            Pick::Fail(status) => Err(PickOutcome::Fail(status)),
        }
    }

    /// Tells once in the channel's life that its policy has a fault.
    #[cold]
    fn warn_out_of_range(&self, index: usize, servers: usize) {
        if !self.out_of_range_logged.swap(true, Ordering::Relaxed) {
            let service = &*self.connect_context.service;
            tracing::warn!(parent: None, service, index, servers, "policy picked an index out of range, taking the next server");
        }
    }
}
