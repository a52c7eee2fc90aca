//! [`Split`]: a share of the calls that ask for nothing. PURE.

use std::sync::Arc;

/// A share of the calls without a route goes to the servers that carry a value, such as a canary's version.
///
/// ```
/// use tonic_etcd::{BalancedChannel, Split};
///
/// let builder = BalancedChannel::builder()
///     .route_key("version")
///     .split(Split::new("version").to("v2", 5).to("v3", 0.5)); // 94.5 % go to servers without a version
/// ```
///
/// The draw is made once for each call, and holds for all its attempts. Each call is drawn for itself: a user whose calls are to stay
/// on one side needs a [`Route`](crate::Route).
///
/// - Calls with a [`Route`](crate::Route), and those that name the value of any key in a header, are not drawn.
/// - A call that is drawn goes to the default servers while no server with that value is ready, as with
///   [`Route::or_default`](crate::Route::or_default): a canary that is taken away costs no call.
/// - Several splits of a channel share one draw: each call is drawn by one of them at most, and all shares together are at most
///   100 %.
#[derive(Clone, Debug)]
#[must_use = "a split does nothing until a channel has it"]
pub struct Split {
    pub(super) key: Arc<str>,
    pub(super) shares: Vec<Share>,
}

/// A part of the calls, and the value that they are sent to.
#[derive(Clone, Debug)]
pub(super) struct Share {
    pub(super) value: Arc<str>,
    pub(super) percent: f64,
}

impl Split {
    /// A split by the values of a route key, without a share yet: all calls go to the default servers.
    pub fn new(key: impl Into<Arc<str>>) -> Self {
        Self { key: key.into(), shares: Vec::new() }
    }

    /// Sends a share of the calls to the servers that carry `value`. `percent` is from 0 to 100; 5 stands for 5 %, 0.5 for one
    /// call of 200. A value that is named twice gets both shares.
    ///
    /// A value that is empty, a percentage outside of this range, or a sum above 100 is refused when the channel is built.
    pub fn to(mut self, value: impl Into<Arc<str>>, percent: impl Into<f64>) -> Self {
        self.shares.push(Share { value: value.into(), percent: percent.into() });
        self
    }
}

/// Draws the share that a call belongs to, with the key of its split. `None`: to none of them. `random` is a number from the whole
/// range, each as likely as any other.
pub(super) fn draw(splits: &[Split], random: u64) -> Option<(&Arc<str>, &Arc<str>)> {
    // The 53 bits that an f64 holds: from 0 to below 100.
    let mut point = (random >> 11) as f64 * (100.0 / (1_u64 << 53) as f64);
    let shares = splits.iter().flat_map(|split| split.shares.iter().map(move |share| (&split.key, share)));
    for (key, share) in shares {
        if point < share.percent {
            return Some((key, &share.value));
        }
        point -= share.percent;
    }
    None
}
