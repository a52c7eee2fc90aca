//! etcd as the directory of a tonic fleet.

mod backoff;
pub mod codec;
mod error;
mod etcd;
mod instance;
mod registrar;
mod resolver;
mod target;

pub use error::Error;
pub use etcd::EtcdOptions;
pub use instance::{Address, Instance};
pub use registrar::{Registrar, RegistrarBuilder, Registration, RegistrationState};
pub use resolver::{Discover, Entry, Resolution, Resolver, ResolverBuilder, ServerKey, Snapshot, State};
pub use target::Target;
