//! The factors of servers that warm up, beside the shares of those that are warm. PURE.

use std::time::Duration;

use crate::balance::policy::set::weights::Weights;
use crate::balance::pool::select::slow_start::next_step;
use crate::balance::pool::select::zones::Member;
use crate::balance::pool::select::{CandidateState, Partition, SlowStart};

impl Partition<'_> {
    /// Gives the ready servers that warm up their factors. Returns when to do so again, if one warms up.
    pub(super) fn warm_up(&mut self, slow_start: Option<SlowStart>, now: Duration) -> Option<Duration> {
        let slow_start = slow_start?;
        let mut is_warming = false;
        for tier in self.members.chunk_by(|one, other| one.distance == other.distance) {
            let mut in_tier = false;
            for member in tier {
                let since = self.candidates[member.index].warmth.since().filter(|_| self.is_used(member));
                if let Some(factor) = since.and_then(|since| slow_start.factor(since, now)) {
                    self.verdicts[member.index].factor = factor;
                    in_tier = true;
                }
            }
            if in_tier {
                self.raise(tier);
                is_warming = true;
            }
        }
        is_warming.then(|| next_step(now))
    }

    /// Raises the factors of a tier as far as all of them together take less than half of the weight: all by the
    /// same part of what they lack. So no server that is warm has more than twice its share without slow start.
    fn raise(&mut self, tier: &[Member]) {
        let used = || tier.iter().filter(|member| self.is_used(member));
        // Those that are ejected get no calls, unless all are.
        let all_are_ejected = used().all(|member| self.state(member) == CandidateState::Ejected);
        let called = || used().filter(|member| all_are_ejected || self.state(member) == CandidateState::Ready);
        let said = |member: &Member| self.candidates[member.index].instance.weight();
        let weights = Weights::of(called().map(said));
        let (mut sum, mut warmed) = (0.0, 0.0);
        for member in called() {
            let weight = weights.effective(said(member)) as f64;
            sum += weight;
            warmed += weight * self.verdicts[member.index].factor;
        }
        if warmed >= sum / 2.0 {
            return;
        }
        let part = (sum / 2.0 - warmed) / (sum - warmed); // `warmed` is less than half of `sum`
        for member in tier {
            let factor = &mut self.verdicts[member.index].factor;
            *factor = (*factor + part * (1.0 - *factor)).min(1.0);
        }
    }

    /// Whether a member is chosen and connected.
    fn is_used(&self, member: &Member) -> bool {
        self.verdicts[member.index].reason.is_connected() && self.state(member).is_connected()
    }
}
