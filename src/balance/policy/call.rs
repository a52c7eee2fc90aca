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

/// Says which servers of a set may take an attempt. The channel looks at its connections; tests
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

    /// The number of this attempt: 1 for the first, one more for each attempt before it that a
    /// server may have processed. An attempt that was never processed is repeated under its own
    /// number (gRFC A6's transparent retry).
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Whether a server of the set, by its index, may take this attempt. It may not when it has
    /// failed this call already, when it is at its limit of concurrent streams, or when its
    /// connection was idle for long and has yet to answer a PING
    /// ([`BalancedChannelBuilder::idle_timeout`](crate::BalancedChannelBuilder::idle_timeout));
    /// asking for such a server sends that PING.
    ///
    /// A picker may return a server that is not available: the channel then takes the next one in
    /// the set that is.
    pub fn is_available(&self, server: usize) -> bool {
        self.servers.is_available(server)
    }
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("path", &self.path).field("attempt", &self.attempt).finish_non_exhaustive()
    }
}
