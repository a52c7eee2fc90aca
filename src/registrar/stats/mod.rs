//! The numbers of a registrar: [`RegistrarStats`], and the series of a recorder.
//!
//! - `mod.rs`: what users pull. It is read under the lock of the registrar's state, so that all of it is of one moment.
//! - `series.rs`: the series. A registration moves from one to another with each change of its state, after that lock: nobody goes
//!   over all registrations.

mod series;

use std::collections::BTreeMap;

use crate::metrics::{ByState, Distribution};
use crate::registrar::RegistrationState;

pub(super) use self::series::{Counted, Move, RegistrarSeries, ServiceSeries};

/// The states of [`RegistrarStats::registered`], by their position in [`position`].
const STATES: [&str; 7] = ["registering", "registered", "updating", "renewing", "lost", "held_by_other", "paused"];

/// Where a state stands in [`STATES`]. `None` if nothing is registered any more.
pub(super) fn position(state: &RegistrationState) -> Option<usize> {
    Some(match state {
        RegistrationState::Registering { .. } => 0,
        RegistrationState::Registered => 1,
        RegistrationState::Updating { .. } => 2,
        RegistrationState::Renewing { .. } => 3,
        RegistrationState::Lost { .. } => 4,
        RegistrationState::HeldByOther { .. } => 5,
        RegistrationState::Paused { .. } => 6,
        RegistrationState::Closed => return None,
    })
}

/// What a registrar has counted since it was made.
#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    /// See [`RegistrarStats::leases_lost`].
    pub(super) leases_lost: u64,
    /// See [`RegistrarStats::keys_repaired`].
    pub(super) keys_repaired: u64,
}

/// The numbers of a registrar at one moment: those of the instruments `tonic_etcd.registrar.*` of [`metrics`](crate::metrics),
/// without a recorder. From [`Registrar::stats`](crate::Registrar::stats).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RegistrarStats {
    /// By service.
    registered: BTreeMap<Box<str>, ByState<{ STATES.len() }>>,
    leases_lost: u64,
    keys_repaired: u64,
    renewal_duration: Distribution,
}

impl RegistrarStats {
    /// Of these registrations, each with its service and its state.
    pub(super) fn new<'a>(
        registrations: impl Iterator<Item = (&'a str, &'a RegistrationState)>,
        counts: Counts,
        renewal_duration: Distribution,
    ) -> Self {
        let mut registered = BTreeMap::<Box<str>, ByState<_>>::new();
        for (service, state) in registrations {
            let Some(position) = position(state) else { continue };
            if let Some(states) = registered.get_mut(service) {
                states.counts[position] += 1;
            } else {
                let states = registered.entry(service.into()).or_insert_with(|| ByState::none(STATES));
                states.counts[position] += 1;
            }
        }
        let Counts { leases_lost, keys_repaired } = counts;
        Self { registered, leases_lost, keys_repaired, renewal_duration }
    }

    /// Returns the number of registrations of each service in each state: the service, the state by the name that the label `state`
    /// has (`registering`, `registered`, `updating`, `renewing`, `lost`, `held_by_other` or `paused`: see [`RegistrationState`]), and
    /// how many. States without a registration are left out. Registrations that have left are not counted.
    pub fn registered(&self) -> impl Iterator<Item = (&str, &'static str, usize)> {
        self.registered.iter().flat_map(|(service, states)| {
            let present = states.iter().filter(|(_, count)| *count > 0);
            present.map(|(state, count)| (&**service, state, count))
        })
    }

    /// Returns how many leases have ended while registrations needed them: etcd did not hear a renewal in time, or someone has revoked
    /// them. Another one takes their place, and all keys are put again.
    pub fn leases_lost(&self) -> u64 {
        self.leases_lost
    }

    /// Returns how many keys were put again because someone had deleted or overwritten them. Keys whose lease has ended do not count,
    /// nor those that the role may neither watch nor read: what happens to them is not seen.
    pub fn keys_repaired(&self) -> u64 {
        self.keys_repaired
    }

    /// Returns how long the renewals of leases have taken that have succeeded, in seconds: from sending one to the response, attempts
    /// at further members of etcd included.
    pub fn renewal_duration(&self) -> &Distribution {
        &self.renewal_duration
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_the_names_of_the_public_enum() {
        let why = || crate::error::Error::closed("it");
        let states = [
            RegistrationState::Registering { why: None },
            RegistrationState::Registered,
            RegistrationState::Updating { why: None },
            RegistrationState::Renewing { why: why() },
            RegistrationState::Lost { why: why() },
            RegistrationState::HeldByOther { why: why() },
            RegistrationState::Paused { why: why() },
        ];
        for state in &states {
            let name: String = format!("{state:?}").chars().take_while(char::is_ascii_alphabetic).collect();
            let snake = name.chars().enumerate().fold(String::new(), |mut snake, (index, letter)| {
                if index > 0 && letter.is_ascii_uppercase() {
                    snake.push('_');
                }
                snake.push(letter.to_ascii_lowercase());
                snake
            });
            assert_eq!(position(state).map(|position| STATES[position]), Some(&*snake));
        }
        assert_eq!(position(&RegistrationState::Closed), None);
    }

    #[test]
    fn debug_names_the_states() {
        let renewals = Distribution::empty(&crate::metrics::own::REGISTRAR_RENEWAL_DURATION);
        let registrations = [("a", &RegistrationState::Registered), ("a", &RegistrationState::Registered)];
        let stats = RegistrarStats::new(registrations.into_iter(), Counts::default(), renewals);
        let shown = format!("{stats:?}");
        assert!(shown.contains(r#"{"a": {"registered": 2}}"#), "{shown}");
    }
}
