//! Which members of etcd are known, and the order in which they are tried.
//!
//! Members come from three sources:
//!
//! | source | file | changes |
//! |---|---|---|
//! | the options | `endpoint.rs` parses them | never |
//! | SRV records | `srv/` | with each lookup |
//! | etcd itself | `learn.rs` | with each answer |
//!
//! [`MembersState::rebuild`] merges them into one list: the options first, then SRV records, then
//! what etcd named. A member that two sources name is one member. Members are identified by
//! numbers, which stay valid when the list changes, so that links, failures and the member in use
//! can refer to them.
//!
//! This file holds the part of [`MembersState`] that is about the list and its order.

pub(crate) mod endpoint;
pub(crate) mod learn;
#[cfg(feature = "srv")]
pub(crate) mod srv;

use crate::etcd::failure::{Class, Failure, Fault};
use crate::etcd::link::links::{AVOID_FOR, Member, MembersState};
use crate::etcd::members::endpoint::Endpoint;

impl MembersState {
    /// Takes the members of the SRV records. Whether they differ from the last ones.
    #[cfg(feature = "srv")]
    pub(super) fn set_found(&mut self, found: Vec<Endpoint>) -> bool {
        let changed = self.found != found;
        self.found = found;
        self.rebuild();
        changed
    }

    /// Takes the members that etcd has named. Whether they differ from the last ones.
    pub(super) fn set_learned(&mut self, learned: Vec<Endpoint>) -> bool {
        let changed = self.learned != learned;
        self.learned = learned;
        self.rebuild();
        changed
    }

    /// The members of the options and of the SRV records. They are never forgotten for what etcd
    /// names.
    pub(super) fn configured_and_found(&self) -> Vec<Endpoint> {
        self.configured.iter().chain(&self.found).cloned().collect()
    }

    /// Rebuilds the list of members that are tried from the three sources. A member that is in no
    /// source any more is not tried, and its connection stays for what still runs over it.
    ///
    /// Where the member in use has left the list, a connected one takes its place, or the first.
    pub(super) fn rebuild(&mut self) {
        let mut present = Vec::new();
        for endpoint in self.configured.iter().chain(&self.found).chain(&self.learned) {
            let is = |member: &Member| member.endpoint.as_ref().is_some_and(|known| known.is_same(endpoint));
            let number = self.members.iter().position(is).unwrap_or_else(|| {
                self.members.push(Member::default());
                self.members.len() - 1
            });
            if !present.contains(&number) {
                self.members[number].endpoint = Some(endpoint.clone());
                present.push(number);
            }
        }
        self.present = present;
        if !self.present.contains(&self.current) {
            let connected =
                |number: &&usize| self.members[**number].link.as_ref().is_some_and(|link| !link.has_ended());
            self.current = self.present.iter().find(connected).or(self.present.first()).copied().unwrap_or(0);
        }
    }

    /// The members that are tried, in order: starting with the one in use, or by the priorities of
    /// the SRV records. With priorities, members that failed lately come last.
    pub(super) fn order(&self) -> Vec<usize> {
        let mut order = self.order_from(self.current);
        if self.has_priorities() {
            let has_failed = |member: &Member| member.failed.is_some_and(|failed| failed.elapsed() < AVOID_FOR);
            let priority = |member: &Member| member.endpoint.as_ref().map(|endpoint| endpoint.priority);
            // Cached, because a failure may age while the list is sorted, and a key that changes is
            // not allowed.
            order.sort_by_cached_key(|number| (has_failed(&self.members[*number]), priority(&self.members[*number])));
        }
        order
    }

    /// The members beside this one, in the order in which they are tried.
    pub(super) fn others(&self, member: usize) -> Vec<usize> {
        self.order_from(member).into_iter().filter(|number| *number != member).collect()
    }

    /// The members in their order, starting with this one.
    fn order_from(&self, member: usize) -> Vec<usize> {
        let mut order = self.present.clone();
        let begin = order.iter().position(|number| *number == member).unwrap_or(0);
        order.rotate_left(begin);
        order
    }

    /// The member after the one in use.
    pub(super) fn next(&self) -> usize {
        self.others(self.current).first().copied().unwrap_or(self.current)
    }

    /// Whether SRV records give members different priorities.
    pub(super) fn has_priorities(&self) -> bool {
        self.found.iter().any(|endpoint| endpoint.priority != self.found[0].priority)
    }

    /// How many members are tried.
    pub(super) fn count(&self) -> usize {
        self.present.len()
    }

    /// The endpoint of a member, for logs.
    pub(super) fn text(&self, number: usize) -> String {
        self.members[number].endpoint.as_ref().map_or_else(String::new, |known| known.text.clone())
    }

    /// The endpoint of the member in use, for errors.
    pub(super) fn name(&self) -> String {
        let member = self.members.get(self.current);
        member.and_then(|member| member.endpoint.as_ref()).map_or_else(|| "etcd".into(), |known| known.text.clone())
    }

    /// The failure of a request while no member is known.
    pub(super) fn no_member_failure(&self) -> Failure {
        let none = || Failure::new(Class::Transient, "no member of etcd is known yet").with_fault(Fault::Connection);
        self.no_members.clone().unwrap_or_else(none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::link::links::MemberLinks;
    use crate::etcd::{EtcdOptions, Source};

    fn endpoints(texts: &[&str]) -> Vec<Endpoint> {
        texts.iter().map(|text| Endpoint::parse(text, false).unwrap()).collect()
    }

    fn links(texts: &[&str]) -> MemberLinks {
        MemberLinks::new(Source::Options(std::sync::Arc::new(EtcdOptions::new(texts.to_vec()))))
    }

    fn order(state: &MembersState) -> Vec<String> {
        state.order().into_iter().map(|number| state.text(number)).collect()
    }

    /// F20: what was given stays, whatever etcd names; a member's number stays its own.
    #[test]
    fn members_come_and_go_beside_those_that_were_given() {
        let links = links(&["h1", "h2"]);
        let mut state = links.state();
        assert!(state.set_learned(endpoints(&["http://h2", "http://h3", "http://h4"])));
        assert_eq!(order(&state), ["h1", "h2", "http://h3", "http://h4"]);
        state.current = state.next();
        state.current = state.next();
        assert_eq!(order(&state), ["http://h3", "http://h4", "h1", "h2"]);
        assert!(state.set_learned(endpoints(&["http://h4"])));
        assert_eq!((state.count(), state.name()), (3, "h1".to_owned()));
        assert!(!state.set_learned(endpoints(&["http://h4"])));
        assert!(state.set_learned(endpoints(&["http://h3"])));
        assert_eq!(state.members.len(), 4);
        assert_eq!(state.others(2), [0, 1]);
        assert!(state.set_learned(Vec::new()) && state.count() == 2);
    }

    /// F20: there may be no member at all.
    #[test]
    fn no_member_is_a_state_too() {
        let links = links(&[]);
        let mut state = links.state();
        assert!(state.current().is_none() && state.order().is_empty());
        assert_eq!((state.next(), state.name()), (0, "etcd".to_owned()));
        assert!(state.no_member_failure().to_string().contains("no member"));
        state.set_learned(endpoints(&["http://h1"]));
        assert_eq!(order(&state), ["http://h1"]);
    }
}
