//! What users hold of a registrar.
//!
//! - `registrar`: [`Registrar`]: registers instances.
//! - `builder`: [`RegistrarBuilder`], and the constructors of [`Registrar`].
//! - `options`: [`RegistrationOptions`]: the choices of a registration.
//! - `registration`: [`Registration`]: the handle of one registered instance.
//! - `state`: [`RegistrationState`] and the stream of its changes.
//! - `waiter`: waits for a state without holding the handle.
//! - `health`: [`RegistrarHealth`]: all registrations together.
//! - `close`: [`Registrar::close`].
//!
//! [`Registrar`]: crate::Registrar
//! [`Registrar::close`]: crate::Registrar::close
//! [`RegistrarBuilder`]: crate::RegistrarBuilder
//! [`RegistrationOptions`]: crate::RegistrationOptions
//! [`Registration`]: crate::Registration
//! [`RegistrationState`]: crate::RegistrationState
//! [`RegistrarHealth`]: crate::RegistrarHealth

pub(super) mod builder;
pub(super) mod close;
pub(super) mod health;
pub(super) mod options;
pub(super) mod registrar;
pub(super) mod registration;
pub(super) mod state;
pub(super) mod waiter;
