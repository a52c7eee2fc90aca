//! One attempt of a call, as a picker gets it.

use std::fmt;

use http::{Extensions, HeaderMap};

/// One attempt of a call, for [`Picker::pick`](crate::policy::Picker::pick).
#[derive(Clone, Copy)]
pub struct Call<'a> {
    pub(crate) path: &'a str,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) extensions: &'a Extensions,
    pub(crate) attempt: u32,
    pub(crate) servers: &'a dyn IsAvailable,
}

/// Tells which servers of a set may take an attempt. The channel looks at its connections; tests
/// have a list.
pub(crate) trait IsAvailable {
    /// Whether the server at this index may take the attempt.
    fn is_available(&self, server: usize) -> bool;
}

impl<'a> Call<'a> {
    /// The method: `/package.Service/Method`.
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// The request's metadata as HTTP/2 headers.
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// The request's extensions, with what interceptors and layers have put there.
    pub fn extensions(&self) -> &'a Extensions {
        self.extensions
    }

    /// The number of this attempt: 1 for the first, and one more for each earlier attempt that a
    /// server may have processed, those in flight included. The retry of an attempt that was never processed (gRFC A6's
    /// transparent retry) has the same number.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Whether a server of the set, by its index, would take this attempt now. It does not if it has failed this call
    /// already, if it is at its limit of concurrent streams, or if its connection was idle for long and has not
    /// answered a PING yet ([`BalancedChannelBuilder::idle_timeout`](crate::BalancedChannelBuilder::idle_timeout)). In
    /// the last case this method sends that PING, unless it is on its way already. A call that was refused
    /// ([transparent retries](crate::BalancedChannel#transparent-retries)) also passes over servers that refuse calls,
    /// the first 16 that are asked about. Of the servers that have failed a call, the last eight are known.
    ///
    /// A picker may return a server that is not available: the channel then takes the next server
    /// in the set that is. If none is available, a retry goes to a server that has failed the call
    /// and has room; if no server has room, the call waits.
    pub fn is_available(&self, server: usize) -> bool {
        self.servers.is_available(server)
    }
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("path", &self.path).field("attempt", &self.attempt).finish_non_exhaustive()
    }
}
