//! One key of a registration: what is known of it in etcd, and what requests and observations
//! change.
//!
//! - `state`: [`KeyState`], its facts and the questions that the machine asks of it.
//! - `requests`: what changes when a request for the key begins or ends.
//! - `observation`: what changes when the key is read or a watch event comes, and who owns the key
//!   then.

mod observation;
mod requests;
mod state;

pub(super) use self::observation::{Observation, Reaction};
pub(super) use self::state::{KeyState, KeyStatus};
