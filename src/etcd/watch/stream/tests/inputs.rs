//! The machine of a stream against a peer that says anything at any time.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Attach,
    /// One of the watches that are wanted is not any more.
    Detach(prop::sample::Index),
    /// A message for one of the ids that were sent, answering its creation or ending it.
    Message(prop::sample::Index, bool, bool),
    /// A message with any id, as of another peer.
    Foreign(i64, bool, bool),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => Just(Step::Attach),
        1 => index().prop_map(Step::Detach),
        6 => (index(), any::<bool>(), prop::bool::weighted(0.2)).prop_map(|(at, created, canceled)| Step::Message(at, created, canceled)),
        1 => (prop_oneof![-1_i64..4, any::<i64>()], any::<bool>(), any::<bool>())
            .prop_map(|(id, created, canceled)| Step::Foreign(id, created, canceled)),
        3 => (0_u64..6_000).prop_map(Step::Pass),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(step(), 0..150)
}

/// What is known beside the machine.
struct Model {
    machine: StreamMachine,
    now: Duration,
    heard: Duration,
    next: WatchId,
    /// Watches that are the stream's to create or to serve.
    wanted: BTreeSet<WatchId>,
    /// The ids that were sent, and the watch of each creation.
    sent: BTreeMap<i64, Option<WatchId>>,
    /// The stream must be replaced.
    is_over: bool,
}

impl Model {
    /// Does what there is to do.
    fn act(&mut self) {
        for round in 0.. {
            assert!(round < 1_000, "without end: {:?}", self.machine);
            match self.machine.action(self.now) {
                Action::Send(Request::Create { watch, id }) => {
                    assert!(self.wanted.contains(&watch), "nobody wants {watch}");
                    self.sent(id, Some(watch));
                }
                Action::Send(Request::Probe { watch, id }) => {
                    assert!(self.wanted.contains(&watch), "nobody wants {watch}");
                    self.sent(id, None);
                }
                Action::Send(Request::Cancel(_) | Request::Progress) | Action::Ping => {}
                Action::Unanswered { watch, since } => {
                    assert!(self.wanted.remove(&watch) && self.now >= since + CREATION_TIMEOUT, "{watch}");
                }
                Action::Displaced(watch) => assert!(self.wanted.remove(&watch), "{watch}"),
                Action::Dead { asked } => {
                    assert!(self.now >= asked + LIVENESS_TIMEOUT && asked >= self.heard + QUIET_LIMIT);
                    self.is_over = true;
                    return;
                }
                Action::Restart => {
                    self.is_over = true;
                    return;
                }
                Action::Wait { until } => return assert!(until > self.now, "a time that has passed"),
            }
        }
    }

    fn sent(&mut self, id: i64, watch: Option<WatchId>) {
        let last = self.sent.last_key_value().map(|(id, _)| *id);
        assert!(id >= FIRST_ID && last < Some(id), "{id} after {last:?}");
        self.sent.insert(id, watch);
    }

    fn say(&mut self, message: MessageHeader) {
        self.heard = self.now;
        let Recipient::Watch(watch) = self.machine.on(self.now, message) else { return };
        assert!(self.wanted.contains(&watch), "{message:?} for {watch}, which nobody wants");
        if let Some(created_for) = self.sent.get(&message.id) {
            assert_eq!(*created_for, Some(watch), "{message:?}");
        }
        if message.canceled {
            self.wanted.remove(&watch);
        }
    }

    /// Each watch is in one place of the machine.
    fn check(&self) {
        let machine = &self.machine;
        if machine.is_ambiguous {
            return;
        }
        let pending = machine.pending.iter().filter_map(|pending| pending.watch);
        let all: Vec<_> =
            machine.waiting.iter().copied().chain(pending).chain(machine.live.values().copied()).collect();
        assert_eq!(all.len(), self.wanted.len(), "{machine:?}");
        assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), self.wanted, "{machine:?}");
        assert!(machine.pending.iter().is_sorted_by_key(|pending| pending.id));
    }
}

fn watches_are_never_lost(steps: &[Step]) {
    let machine = StreamMachine::new(ms(0), PeerTraits::UNKNOWN);
    let (now, wanted, sent) = (ms(0), BTreeSet::new(), BTreeMap::new());
    let mut model = Model { machine, now, heard: now, next: 0, wanted, sent, is_over: false };
    for step in steps {
        match step {
            Step::Attach => {
                model.next += 1;
                model.wanted.insert(model.next);
                model.machine.attach(model.next);
            }
            Step::Detach(at) if !model.wanted.is_empty() => {
                let watch = *at.get(&model.wanted.iter().copied().collect::<Vec<_>>());
                model.wanted.remove(&watch);
                model.machine.detach(watch);
            }
            Step::Message(at, created, canceled) if !model.sent.is_empty() => {
                let id = *at.get(&model.sent.keys().copied().collect::<Vec<_>>());
                model.say(MessageHeader { id, created: *created, canceled: *canceled });
            }
            Step::Detach(_) | Step::Message(..) => {}
            Step::Foreign(id, created, canceled) => {
                model.say(MessageHeader { id: *id, created: *created, canceled: *canceled });
            }
            Step::Pass(millis) => model.now += ms(*millis),
        }
        model.check();
        model.act();
        if model.is_over {
            return; // its task replaces it
        }
        model.check();
    }
}

proptest! {
    #[test]
    fn no_watch_is_lost_whatever_the_peer_says(steps in steps()) {
        watches_are_never_lost(&steps);
    }
}

/// The fuzz target: the same property.
pub(crate) fn fuzz(bytes: &[u8]) {
    crate::fuzzing::with_steps(bytes, Just(()), step(), |(), steps| {
        watches_are_never_lost(&steps);
        Ok(())
    });
}
