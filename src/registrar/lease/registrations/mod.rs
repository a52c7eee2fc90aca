//! All registrations of the machine, and what is derived of them.
//!
//! A registrar may have thousands of registrations, and most inputs concern one. So the machine works on what has
//! changed: a registration that is borrowed mutably is *touched*, and whatever is derived of it is derived again,
//! of that one alone, before the machine decides anything.
//!
//! ```text
//!   RegistrationSet::get_mut ──▶ touched ──▶ KeyIndex    (who has a key; which keys are to be watched)
//!                                   ├──────▶ counters    (who stays; which leases are needed, or must end)
//!                                   ├──────▶ DueWork     (who has a request to send, the most urgent first)
//!                                   └──────▶ changed     (whose status is to be published)
//! ```
//!
//! - `registration`: [`TrackedRegistration`], its keys and the next request for it.
//! - `set`: [`RegistrationSet`], all of them, who was touched, and the counters.
//! - `key_index`: [`KeyIndex`], from a key to the registrations that have it.
//! - `due`: [`DueWork`], the registrations that have a request to send.

mod due;
mod key_index;
mod registration;
mod set;

pub(super) use self::due::DueWork;
pub(super) use self::registration::{Priority, TrackedRegistration};
pub(super) use self::set::RegistrationSet;
