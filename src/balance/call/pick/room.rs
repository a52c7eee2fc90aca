//! Room for the calls that wait: when all servers are looked at, and what is asked of them.

use std::sync::atomic::{Ordering, fence};

use crate::balance::partition::Partition;
use crate::balance::queue::order::Look;

impl Partition {
    /// Looks at all servers, if calls wait and there may be slots that no turn was given for. Gives turns for those
    /// that are free; if there is none, sends PINGs to further idle servers, and asks a server for a further
    /// connection.
    ///
    /// Each call does so that begins to wait, and again when its turn is over. So no call waits while a server that
    /// would take it has room or was not asked for some. While all are at their limits and slots become free one by
    /// one, there is nothing to look for.
    pub(super) fn look_for_room(&self) {
        if let Some(look) = self.queue.begin_look(false) {
            self.count_room(look);
        }
    }

    /// The same for a call that has found no slot. Where servers may have further connections it looks in any case: of
    /// those as many may be made at a time as calls wait.
    pub(super) fn look_for_growth(&self) {
        let may_grow = *self.connect_context.connections_per_server.borrow() > 1;
        if let Some(look) = self.queue.begin_look(may_grow) {
            self.count_room(look);
        }
    }

    /// The same for the pool, which has published servers, or learned that those may be gone which were asked before.
    pub(crate) fn look_anew(&self) {
        if let Some(look) = self.queue.begin_look(true) {
            self.count_room(look);
        }
    }

    fn count_room(&self, look: Look) {
        let ready = self.ready.load();
        let [free_slots, refusing] = ready.free_slots();
        self.queue.end_look(look, free_slots, refusing);
        // Slots of servers that refuse calls are not for every call that waits: room is made for those.
        if free_slots > 0 {
            // Once those are taken, other servers are asked for room, as far as there are such.
            if ready.may_get_room() {
                self.queue.look_again();
            }
            return;
        }
        if ready.probe() {
            self.queue.look_again();
        }
        if *self.connect_context.connections_per_server.borrow() > 1 {
            // A call enters the queue and then looks who was asked; a supervisor says that it may be asked and then
            // looks for calls. At least one of them sees the other.
            fence(Ordering::SeqCst);
            if ready.grow(self.queue.waiters(), fastrand::usize(..)) {
                self.queue.look_again();
            }
        }
    }
}
