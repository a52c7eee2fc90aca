//! The keys that operators write, apart from those of services.

use crate::error::Error;
use crate::target::Target;

/// The default of [`ResolverBuilder::control_prefix`](crate::ResolverBuilder::control_prefix).
pub(crate) const CONTROL_PREFIX: &str = "tonic-etcd";

/// Refuses a service whose keys would stand among those of operators: one with the control prefix as its name, or as the
/// beginning of its name.
pub(crate) fn check_service(service: &Target, control: &str) -> Result<(), Error> {
    let rest = service.name().strip_prefix(control);
    match rest.filter(|rest| rest.is_empty() || rest.starts_with('/')) {
        Some(_) => Err(Error::invalid("target", service.name(), format!("keys below {control:?} are no service's"))),
        None => Ok(()),
    }
}
