//! The keys that operators write, apart from those of services.

use crate::error::Error;
use crate::target::Target;

/// The default of [`ResolverBuilder::control_prefix`](crate::ResolverBuilder::control_prefix).
pub(crate) const CONTROL_PREFIX: &str = "tonic-etcd";

/// Refuses a service whose keys would stand among those of operators, or these among its own: one with the control prefix as its
/// name or as the beginning of its name, or with a name that the control prefix begins with.
pub(crate) fn check_service(service: &Target, control: &str) -> Result<(), Error> {
    let name = service.name();
    let is_below = |upper: &str, lower: &str| {
        lower.strip_prefix(upper).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if is_below(control, name) {
        return Err(Error::invalid("target", name, format!("keys below {control:?} are no service's")));
    }
    if is_below(name, control) {
        let reason = format!(
            "the control prefix {control:?} is below it, so that what operators write there would be its servers"
        );
        return Err(Error::invalid("target", name, reason));
    }
    Ok(())
}
