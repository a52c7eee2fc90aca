//! The lease machine: keeps keys in etcd under one lease for as long as they are desired.
//!
//! Every file here is PURE: no async, no clock, no I/O. The clock is an argument (the time since
//! any fixed start, the same for every call) and randomness is a seed, so the property tests replay
//! any history.
//!
//! # How data flows
//!
//! ```text
//!   task ── Input ──▶ Machine::on ──▶ Leases, TrackedRegistration, KeyState
//!   task ◀─ Action ── Machine::action    (grant, put, delete, read, revoke; many in flight)
//!   task ◀─ Renewal ─ Machine::renewal   (apart from the others, so that no slow request delays a renewal)
//!   task ◀─ status ── Machine::status
//! ```
//!
//! # Files
//!
//! - `vocabulary`: what the machine and its task exchange: [`Action`], [`Input`],
//!   [`RegistrationStatus`].
//! - `machine`: [`Machine`], and what it decides to do next.
//! - `input`: what each [`Input`] changes.
//! - `fence`: how a lease is left when a late put could still arrive under it.
//! - `leases`: the leases and when each is renewed.
//! - `registrations`: all registrations, each with its keys; who has a key, and who has a request to send.
//! - `key`: one key: what is known of it in etcd.
//! - `pending`: which requests are in flight.
//!
//! # States of a lease
//!
//! ```text
//!             desired            granted                 a late put may arrive        unused
//!   (none) ───────────▶ Granting ───────▶ Held (current) ─────────────────────▶ retired ──▶ released ──▶ (none)
//!                          ▲                  │    ▲                              │   │                   ▲
//!                          │                  │    └── etcd grants no other ──────┘   │                   │
//!                          └── still desired ─┴──── etcd says that it is gone ────────┴───────────────────┘
//! ```
//!
//! A lease is *current* while puts use it. It is *retired* when another lease replaces it: keys
//! move to the new lease and the old one is still renewed. It is *released* once no desired key
//! needs it: it is revoked and no longer renewed. When the last registration leaves, the current
//! lease is retired and released at once.
//!
//! A lease whose grant had no answer may have been granted before: it is asked for again with the
//! same id, and puts use it only once a renewal has told its time to live. If it is not needed any
//! more, it ends by itself: it holds no key and is not renewed.
//!
//! A lease ends only when etcd says so. A failed renewal, or our own clock, never gives up a lease:
//! it is renewed until etcd answers that it does not exist. (A released lease is not renewed, so it
//! is also forgotten after two times to live, if etcd cannot confirm its revocation until then.)
//!
//! # States of a key
//!
//! ```text
//!             put sent                put done
//!   Absent ────────────▶ Unconfirmed ───────────▶ Present ◀── put again ── Outdated (other value, or a late delete)
//!     ▲                    │      │                 │  │                        ▲
//!     │                    │      └── mismatch ─────┼──┼──▶ Unknown ── read ────┤
//!     │                    │                        │  └── new value desired ───┘
//!     └── deleted, or its lease ended ──────────────┘
//!
//!   any ── read or watched under another owner, which is respected ──▶ HeldByOther ── freed ──▶ Absent
//! ```
//!
//! # States of a registration
//!
//! [`RegistrationStatus`] is computed from its keys and the leases; see [`Machine::status`].
//!
//! ```text
//!   Pending ──▶ Registered ◀──▶ Updating
//!                 │    ▲
//!      renewal    ▼    │ renewed          Held, Paused: from any of these, and back
//!      failed   Renewing ──▶ Lost         Closed: after it left
//! ```
//!
//! # Invariants
//!
//! - One request for a key is in flight at a time, and 24 of each kind in all.
//! - Who is refused again and again is tried again after everybody else: many keys that the role may not write hold up none that
//!   it may.
//! - Each key has one owner: a registration that stays, or one that leaves, or an orphan.
//! - A key is put only under the current lease, once its time to live is known, and deleted only
//!   while it carries a lease of ours. (Without the right to read, nothing can be compared.)
//! - What may be in etcd is never forgotten before it is known to be gone, or before its lease is.
//! - A registration is closed only once no late put can bring back a key of it. (While etcd grants
//!   no other lease, the lease alone remembers the put.)
//! - An update never takes a server out of etcd: new keys are put before old ones are deleted.
//!
//! # Which of two answers is later
//!
//! etcd orders everything by revision, so the machine compares revisions, never times. An event
//! that comes while a put or a read is in flight may be earlier or later than that: it is kept
//! until the answer tells. A new watch may be of an etcd that was restored from a snapshot, whose
//! revisions are lower; so a new watch forgets the known revision, and the key is read again.

mod fence;
mod input;
mod key;
mod leases;
mod machine;
mod pending;
mod registrations;
mod vocabulary;

pub(crate) use self::machine::Machine;
pub use self::vocabulary::Conflict;
pub(crate) use self::vocabulary::{
    Action, Desired, FailureKind, Id, Input, KeyValue, Loss, RegistrationStatus, Relevance, Renewal,
};

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests;
