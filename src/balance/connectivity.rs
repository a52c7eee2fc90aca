//! What a channel knows as a whole: whether calls can be made, may wait, or must fail, and what to say of it.

use std::fmt::Write;
use std::sync::Arc;

use crate::address::Address;
use crate::balance::status;

/// How a channel is as a whole, in gRPC's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Connectivity {
    /// The servers are being looked up, or connected to for the first time or again after a connection that was well: calls wait.
    Connecting,
    /// A server is connected, ejected or not.
    Ready,
    /// No server is known, or each known one failed to be connected: calls fail at once unless they wait for ready.
    TransientFailure,
    /// The last clone was dropped, or the runtime that the channel worked on has ended. Nothing follows.
    Shutdown,
}

/// What the source of the servers says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Directory {
    /// What is looked for, and where, for people.
    pub(crate) service: Arc<str>,
    pub(crate) place: Option<Arc<str>>,
    pub(crate) revision: Option<i64>,
    /// Whether it has ever answered.
    pub(crate) known: bool,
    /// Records that nobody can read, and what is wrong with the first of them.
    pub(crate) unreadable: usize,
    pub(crate) first_unreadable: Option<Arc<str>>,
    /// What is wrong with it now.
    pub(crate) trouble: Option<Arc<str>>,
}

impl Directory {
    /// Of which nothing is known yet.
    pub(crate) fn new(service: &str, place: Option<String>) -> Self {
        Self {
            service: service.into(),
            place: place.map(Into::into),
            revision: None,
            known: false,
            unreadable: 0,
            first_unreadable: None,
            trouble: None,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct ChannelStatus {
    pub(crate) directory: Arc<Directory>,
    pub(crate) connectivity: Connectivity,
    pub(crate) ready: usize,
    pub(crate) ejected: usize,
    pub(crate) connecting: usize,
    pub(crate) failing: usize,
    /// Instances that take no new calls, and are not among the servers.
    pub(crate) draining: usize,
    /// One more with each that is published.
    pub(crate) number: u64,
}

impl ChannelStatus {
    pub(crate) fn new(directory: Arc<Directory>) -> Self {
        Self {
            directory,
            connectivity: Connectivity::Connecting,
            ready: 0,
            ejected: 0,
            connecting: 0,
            failing: 0,
            draining: 0,
            number: 0,
        }
    }

    /// Whether a call that finds no server now waits in vain.
    pub(crate) fn is_in_vain(&self, for_ready: bool) -> bool {
        match self.connectivity {
            Connectivity::TransientFailure => !for_ready,
            Connectivity::Shutdown => true,
            Connectivity::Connecting | Connectivity::Ready => false,
        }
    }

    /// Why there is no server, in a sentence, with what last went wrong with one; with addresses or without.
    pub(crate) fn explain(&self, last_error: Option<&(Address, String)>, addresses: bool) -> String {
        let directory = &*self.directory;
        if self.connectivity == Connectivity::Shutdown {
            return format!("the runtime that the channel to {:?} worked on has ended", &*directory.service);
        }
        let mut text = format!("no server of {:?}", &*directory.service);
        let known = self.ready + self.ejected + self.connecting + self.failing;
        let reason = match (directory.known, known) {
            (false, _) => ": not resolved yet".to_owned(),
            (true, 0) if self.draining > 0 => format!(": {} registered, all draining", self.draining),
            (true, 0) if directory.unreadable > 0 => ": of its records none can be read".to_owned(),
            (true, 0) => ": none is registered".to_owned(),
            (true, _) => " takes calls".to_owned(),
        };
        text.push_str(&reason);
        let mut say = |part: std::fmt::Arguments<'_>| {
            let _ = text.write_fmt(part); // a String takes all
        };
        match (&directory.place, directory.revision) {
            (Some(place), Some(revision)) => say(format_args!(" (prefix {place:?}, revision {revision})")),
            (Some(place), None) => say(format_args!(" (prefix {place:?})")),
            (None, _) => {}
        }
        if known > 0 {
            say(format_args!(
                ": {known} known, {} ready, {} ejected, {} connecting, {} failing",
                self.ready, self.ejected, self.connecting, self.failing
            ));
        }
        if let Some(first) = &directory.first_unreadable {
            say(format_args!("; {} unreadable", directory.unreadable));
            if addresses {
                say(format_args!(", {first}")); // its key is mostly an address
            }
        }
        if let Some((address, error)) = last_error {
            if addresses {
                say(format_args!("; last error: {address}: {error}"));
            } else {
                say(format_args!("; last error: {}", status::without_address(error, address)));
            }
        }
        if let Some(trouble) = &directory.trouble {
            say(format_args!("; the directory: {trouble}"));
        }
        text
    }
}
