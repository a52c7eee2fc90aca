//! [`MassLoss`]: which losses of instances are doubtful. PURE.

use std::time::Duration;

/// The longest of all times: a day. A loss that is older says nothing about what lives now.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Which losses of instances are doubtful, and for how long.
///
/// An etcd that was wiped, restored from an old snapshot, or lost a whole prefix by mistake no longer
/// lists servers that still answer. The snapshot is always what etcd holds. But a loss that looks
/// like that is *doubtful*: the lost instances stand beside the snapshot for a time
/// ([`Snapshot::doubtful`](crate::Snapshot::doubtful), [`ResolutionState::Doubtful`](crate::ResolutionState::Doubtful)),
/// and a [`BalancedChannel`](crate::BalancedChannel) keeps the connections to their servers. It does
/// so only for a server that proves that it lives, see [`ServerState::Held`](crate::ServerState::Held).
///
/// A loss is doubtful if fewer than half of the instances are left, of three or more, and
///
/// | kind | what etcd said | calls go to the servers that are held |
/// |---|---|---|
/// | sudden | a read of the prefix found the loss after the watch broke, or of another etcd (a lower revision, another cluster id); or one revision deleted keys of two or more leases, or two or more keys without a lease | as before |
/// | gradual | keys went one after the other within 30 s, each in a revision of its own: by deletions, or because leases ended | only while no server that etcd lists is connected |
///
/// New instances count as left. A gradual loss may be a clean leave of all servers. Only the keys
/// that go once fewer than half are left are then doubtful: those before them have gone as usual.
/// The loss of an instance that was draining is never doubtful: it was about to leave.
///
/// Believed at once, therefore, are the loss of half of the instances or fewer, that of one or two in all, that of instances that
/// are draining, and that of an instance which is deleted within 60 s of its return.
///
/// A doubtful instance is an ordinary one again when its key is put. If the key is deleted within
/// 60 s after that, the deletion is believed. A server whose address another key names, or comes to
/// name, is what that key says. Instances that a cache file names are never doubtful. While any
/// instance is doubtful, the cache file stays as it was.
///
/// Nacos, Eureka and Envoy decide by a share of the instances alone. Here two witnesses must agree:
/// the loss must look wrong, and the server must answer.
///
/// [`ResolverBuilder::mass_loss`](crate::ResolverBuilder::mass_loss) takes it, and refuses values
/// outside of the bounds that each method names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MassLoss {
    pub(crate) min_instances: usize,
    pub(crate) percent_left: u32,
    pub(crate) within: Duration,
    pub(crate) doubtful_for: Duration,
    pub(crate) delay_removals: Duration,
}

impl Default for MassLoss {
    /// Three instances, half of them, within 30 s; doubtful for 60 s. Changes for tower's balancers
    /// are not delayed.
    fn default() -> Self {
        Self {
            min_instances: 3,
            percent_left: 50,
            within: Duration::from_secs(30),
            doubtful_for: Duration::from_secs(60),
            delay_removals: Duration::ZERO,
        }
    }
}

impl MassLoss {
    /// No loss is doubtful: every server goes as soon as etcd says so.
    #[must_use]
    pub fn never_doubtful() -> Self {
        Self { min_instances: 0, ..Self::default() }
    }

    /// How many instances there must have been, for their loss to be doubtful. 3 by default: of two
    /// servers one leaves every day. 0: no loss is doubtful.
    #[must_use]
    pub fn min_instances(mut self, instances: usize) -> Self {
        self.min_instances = instances;
        self
    }

    /// A loss is doubtful if less than this percentage of the instances is left, from 0 to 100. 50
    /// by default: deployments replace servers, and scale down step by step. 0: no loss is doubtful.
    #[must_use]
    pub fn percent_left(mut self, percent: u32) -> Self {
        self.percent_left = percent;
        self
    }

    /// For gradual losses: the number of instances that are left is compared with the most that
    /// there were within this time. 30 s by default: leases that are no longer renewed end within
    /// their TTL. At most a day. 0: no gradual loss is doubtful.
    #[must_use]
    pub fn within(mut self, time: Duration) -> Self {
        self.within = time;
        self
    }

    /// How long a lost instance is doubtful. 60 s by default: registrars put a lost key again within
    /// seconds, and other programs within half a minute. At most a day. 0: no loss is doubtful.
    #[must_use]
    pub fn doubtful_for(mut self, time: Duration) -> Self {
        self.doubtful_for = time;
        self
    }

    /// How much later [`Resolution::discover`](crate::Resolution::discover) and tonic's channel
    /// ([`Resolution::balance_channel`](crate::Resolution::balance_channel)) learn of a sudden
    /// doubtful loss. They have no second witness: nothing shows them whether the server still
    /// answers. 0 by default: no later. At most [`MassLoss::doubtful_for`].
    #[must_use]
    pub fn delay_removals(mut self, time: Duration) -> Self {
        self.delay_removals = time;
        self
    }

    /// The first value that is out of bounds: its name, the value, and the bound.
    pub(crate) fn invalid(&self) -> Option<(&'static str, String, &'static str)> {
        let seconds = |time: Duration| format!("{} s", time.as_secs_f64());
        let checks = [
            ("percent_left", self.percent_left.to_string(), "from 0 to 100", self.percent_left <= 100),
            ("within", seconds(self.within), "at most a day", self.within <= LONGEST),
            ("doubtful_for", seconds(self.doubtful_for), "at most a day", self.doubtful_for <= LONGEST),
            (
                "delay_removals",
                seconds(self.delay_removals),
                "at most doubtful_for",
                self.delay_removals <= self.doubtful_for,
            ),
        ];
        let failed = checks.into_iter().find(|(.., holds)| !holds);
        failed.map(|(name, value, bound, _)| (name, value, bound))
    }

    /// Whether `left` instances of `known` are so few that the loss is doubtful.
    pub(crate) fn is_doubtful(&self, known: usize, left: usize) -> bool {
        // In u128: no number of instances overflows.
        let is_below = (left as u128) * 100 < (known as u128) * u128::from(self.percent_left);
        self.min_instances > 0 && !self.doubtful_for.is_zero() && known >= self.min_instances && is_below
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_than_half_of_three_or_more_is_doubtful() {
        let default = MassLoss::default();
        for (known, left, doubtful) in [
            (3, 1, true),
            (3, 2, false),
            (2, 0, false),
            (4, 2, false),
            (4, 1, true),
            (0, 0, false),
            (usize::MAX, 1, true),
        ] {
            assert_eq!(default.is_doubtful(known, left), doubtful, "{left} of {known}");
        }
        for off in [
            MassLoss::never_doubtful(),
            default.min_instances(0),
            default.percent_left(0),
            default.doubtful_for(Duration::ZERO),
        ] {
            assert!(!off.is_doubtful(100, 0), "{off:?}");
        }
        assert!(default.min_instances(1).percent_left(100).is_doubtful(1, 0));
    }

    #[test]
    fn values_out_of_bounds_are_named() {
        let (default, day) = (MassLoss::default(), LONGEST);
        let invalid = |options: MassLoss| options.invalid().map(|(name, ..)| name);
        assert_eq!(invalid(default), None);
        assert_eq!(invalid(default.percent_left(101)), Some("percent_left"));
        assert_eq!(invalid(default.within(day + Duration::from_nanos(1))), Some("within"));
        assert_eq!(invalid(default.doubtful_for(day * 2)), Some("doubtful_for"));
        assert_eq!(invalid(default.delay_removals(Duration::from_secs(61))), Some("delay_removals"));
        assert_eq!(invalid(default.doubtful_for(day).delay_removals(day).within(day).percent_left(100)), None);
    }
}
