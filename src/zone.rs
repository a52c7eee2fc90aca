//! The zone of this process, as its environment names it.

/// The variable of the environment that names the zone of a process.
const VARIABLE: &str = "TONIC_ETCD_ZONE";

/// The zone that the environment names now. `None` if it names none, or not as text.
pub(crate) fn from_env() -> Option<String> {
    std::env::var(VARIABLE).ok().filter(|zone| !zone.is_empty())
}
