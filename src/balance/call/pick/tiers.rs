//! When a call leaves the first tier of servers: the zone of the client.

use std::cell::Cell;

use crate::balance::call::pick::{Availability, PickOutcome, PickRequest};
use crate::balance::partition::Partition;
use crate::balance::pool::ready::{Published, Tier};

/// A server that would take the call, of one tier.
struct Candidate<'a> {
    tier: &'a Tier,
    /// Among all published servers.
    index: usize,
    /// Its calls in flight, as if it had the mean weight of its tier.
    load: f64,
}

/// What the picker has said of tiers beyond the first one, in one look.
#[derive(Default)]
pub(super) struct Asked {
    /// The end of the last tier that was asked: all are asked in their order.
    end: usize,
    /// Where the tiers begin for which it has no server.
    refused: Vec<usize>,
    /// What it has said of the nearest of them: [`PickOutcome::Wait`] or [`PickOutcome::Fail`].
    pub(super) refusal: Option<PickOutcome>,
}

impl Partition {
    /// Asks the picker of a further tier. Returns the server that it picks, if it picks one.
    fn ask(
        &self,
        ready: &Published,
        tier: &Tier,
        request: &PickRequest<'_>,
        probes: &Cell<usize>,
        asked: &mut Asked,
    ) -> Option<usize> {
        asked.end = tier.range.end;
        match self.pick_in(ready, tier, request, probes) {
            Ok(picked) => Some(picked),
            Err(refusal) => {
                asked.refused.push(tier.range.start);
                asked.refusal.get_or_insert(refusal);
                None
            }
        }
    }

    /// The server of a tier with which to begin, when the one that was chosen took no call. `None` if the picker has none there.
    pub(super) fn start_in(
        &self,
        ready: &Published,
        tier: &Tier,
        request: &PickRequest<'_>,
        probes: &Cell<usize>,
        asked: &mut Asked,
    ) -> Option<usize> {
        let start = tier.range.start;
        if start > 0 && tier.range.end > asked.end {
            return self.ask(ready, tier, request, probes, asked);
        }
        (!asked.refused.contains(&start)).then_some(start)
    }

    /// The slot that a call was woken for, if it takes that: its tier and its server, among all that are published. The
    /// policy's choice goes before, if that has room too: several slots may have become free. `None` if the slot is
    /// gone or not for this call.
    ///
    /// All servers were full a moment ago: a slot beyond the first tier is taken if the first one's choice is full, and
    /// its own picker does not refuse.
    pub(super) fn slot_of<'a>(
        &self,
        ready: &'a Published,
        at_home: usize,
        slot: usize,
        request: &PickRequest<'_>,
        probes: &Cell<usize>,
    ) -> Option<(&'a Tier, usize)> {
        let availability = Availability::new(&ready.servers, request, probes);
        let takes_call = |index: usize| {
            let server = ready.servers.get(index);
            server.is_some_and(|server| {
                server.has_capacity()
                    && !availability.has_failed(server)
                    && !(request.avoids_refusing && server.refuses())
            })
        };
        if takes_call(at_home) || !takes_call(slot) {
            return None;
        }
        let tier = ready.tiers.iter().find(|tier| tier.range.contains(&slot))?;
        if tier.range.contains(&at_home) {
            return Some((tier, slot));
        }
        let picked = self.pick_in(ready, tier, request, probes).ok()?;
        Some((tier, if takes_call(picked) { picked } else { slot }))
    }

    /// Looks at further tiers if the server that was picked in the first one is busy or takes no call. Returns the server for the call,
    /// with its tier.
    ///
    /// A call stays while its server has fewer calls in flight than [`zone_busy`]; else the one of the next tier gets it if that
    /// carries less than half as much. Without the threshold a zone with room gives away a quarter of its calls, since loads differ
    /// by chance; without the half, calls go to and fro between zones that are busy alike.
    ///
    /// [`zone_busy`]: crate::BalancedChannelBuilder::zone_busy
    pub(super) fn pick_across<'a>(
        &self,
        ready: &'a Published,
        picked: usize,
        request: &PickRequest<'_>,
        probes: &Cell<usize>,
        asked: &mut Asked,
    ) -> (&'a Tier, usize) {
        let home = &ready.tiers[0]; // there are several
        let availability = Availability::new(&ready.servers, request, probes);
        let busy = self.settings.selection.busy as f64;
        let mut best = availability.candidate(ready, home, picked);
        let mut last_is_busy = best.as_ref().is_none_or(|home| home.load >= busy);
        for tier in &ready.tiers[1..] {
            // The order of zones holds under load too: the next one is asked when this one is busy as well.
            if !last_is_busy {
                break;
            }
            let Some(picked) = self.ask(ready, tier, request, probes, asked) else { continue };
            let other = availability.candidate(ready, tier, picked);
            last_is_busy = other.as_ref().is_none_or(|other| other.load >= busy);
            let is_better = |other: &Candidate<'_>| best.as_ref().is_none_or(|best| other.load * 2.0 < best.load);
            if other.as_ref().is_some_and(is_better) {
                best = other;
            }
        }
        best.map_or((home, picked), |best| (best.tier, best.index))
    }
}

impl Availability<'_> {
    /// The first server from the picked one on that would take the call, within its tier.
    fn candidate<'a>(&self, ready: &Published, tier: &'a Tier, picked: usize) -> Option<Candidate<'a>> {
        let mut order = (picked..tier.range.end).chain(tier.range.start..picked);
        let takes_call = |index: &usize| {
            let server = &ready.servers[*index];
            server.has_capacity() && !self.has_failed(server)
        };
        let index = order.find(takes_call)?;
        let load = tier.load(index - tier.range.start, &ready.servers[index]);
        Some(Candidate { tier, index, load })
    }
}
