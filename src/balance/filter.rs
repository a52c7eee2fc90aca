//! [`Filter`]: which instances a channel may call at all.

use std::fmt;
use std::sync::Arc;

use crate::instance::Instance;
use crate::panics::catch;

/// The instances that a channel may call, by what they say of themselves.
/// [`BalancedChannelBuilder::filter`](crate::BalancedChannelBuilder::filter) sets it.
///
/// ```
/// use tonic_etcd::{BalancedChannel, Filter};
///
/// let builder = BalancedChannel::builder()
///     .filter(Filter::version("2"))
///     .filter(Filter::new(|instance| instance.zone() != Some("lab")));
/// ```
#[derive(Clone)]
#[must_use = "a filter does nothing until a channel has it"]
pub struct Filter {
    /// For logs and texts.
    name: Arc<str>,
    matches: Arc<dyn Fn(&Instance) -> bool + Send + Sync>,
}

impl Filter {
    /// Instances for which this returns `true`. It runs in the channel's background task, once for each instance that comes or
    /// changes, and must return quickly.
    ///
    /// # Panics
    /// A panic is logged at ERROR, and the instance does not match: who filters does so to keep calls away from something.
    pub fn new(matches: impl Fn(&Instance) -> bool + Send + Sync + 'static) -> Self {
        Self { name: "closure".into(), matches: Arc::new(matches) }
    }

    /// Instances with this [version](Instance::version).
    pub fn version(version: impl Into<String>) -> Self {
        let version = version.into();
        let name = format!("version={version:?}");
        Self { name: name.into(), matches: Arc::new(move |instance| instance.version() == Some(&*version)) }
    }

    /// Instances in this [zone](Instance::zone). Unlike
    /// [`BalancedChannelBuilder::zone`](crate::BalancedChannelBuilder::zone), which prefers the own zone, it never lets a call leave
    /// that zone.
    pub fn zone(zone: impl Into<String>) -> Self {
        let zone = zone.into();
        let name = format!("zone={zone:?}");
        Self { name: name.into(), matches: Arc::new(move |instance| instance.zone() == Some(&*zone)) }
    }

    /// Instances whose [metadata](Instance::metadata) have this value under this name.
    pub fn metadata(name: impl Into<String>, value: impl Into<String>) -> Self {
        let (key, value) = (name.into(), value.into());
        let name = format!("{key}={value:?}");
        Self { name: name.into(), matches: Arc::new(move |instance| instance.metadata().get(&key) == Some(&value)) }
    }

    /// Whether an instance passes.
    pub(crate) fn matches(&self, instance: &Instance) -> bool {
        catch(|| (self.matches)(instance)).unwrap_or_else(|panic| {
            let (filter, server) = (&*self.name, &instance.addresses()[0]); // an instance has at least one
            tracing::error!(parent: None, filter, %server, panic, "filter panicked, leaving the server out");
            false
        })
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Filter").field(&self.name).finish()
    }
}
