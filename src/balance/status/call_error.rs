//! The source of a status: which server, and the text with addresses.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::address::Address;
use crate::balance::status;

/// Which server a failed call was with, and why it failed: the source of each [`Status`] that a
/// [`BalancedChannel`](crate::BalancedChannel) makes, and of each that a server sent to a generated client in place of an answer.
/// A status in trailers, which ends an answer that had begun, has none: [`ServedBy`](crate::ServedBy) in the answer's extensions
/// tells the server. (A status that the request's own stream failed with is the caller's, and stays as it is.)
///
/// A handler often passes the status of an inner call on to its own caller. So that this caller does not learn the addresses of
/// inner servers, the channel puts none into the text or the metadata of a status. (What a server has written into its own status
/// stays.) `Debug` of this type, which `Display` of a status prints, has none either. `Display` of this type has them, for logs:
///
/// ```
/// # use tonic_etcd::CallError;
/// fn log(status: &tonic::Status) {
///     match CallError::find(status) {
///         Some(error) => eprintln!("{:?}: {error}", status.code()), // Unavailable: 10.0.0.5:50051: connection lost, …
///         None => eprintln!("{status}"),
///     }
/// }
/// ```
///
/// [`BalancedChannelBuilder::addresses_in_statuses`](crate::BalancedChannelBuilder::addresses_in_statuses) puts the addresses
/// into the statuses themselves.
#[derive(Clone)]
pub struct CallError {
    server: Option<Address>,
    /// None where the server sent the status.
    text: Option<String>,
}

impl CallError {
    /// The error among the sources of a status, or of any error that was made of one; `None` where the channel has made neither.
    pub fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            next = error.source();
        }
        None
    }

    /// The server that had the call, or sent the status; `None` where no server had it.
    pub fn server(&self) -> Option<&Address> {
        self.server.as_ref()
    }

    /// Whether a server sent the status; otherwise the channel has made it.
    pub fn is_from_server(&self) -> bool {
        self.text.is_none()
    }

    /// Makes it the source of a status of the channel's own, whose text with addresses this is.
    pub(crate) fn told(mut status: Status, server: Option<&Address>, text: String) -> Status {
        status.set_source(Arc::new(Self { server: server.cloned(), text: Some(text) }));
        status
    }

    /// Makes it the source of a status that a server sent.
    pub(crate) fn sent(mut status: Status, server: &Address) -> Status {
        status.set_source(Arc::new(Self { server: Some(server.clone()), text: None }));
        status
    }

    /// The status with the addresses of its source in its text and metadata.
    pub(crate) fn exposed(told: Status) -> Status {
        let Some(error) = Self::find(&told).cloned() else { return told };
        let mut headers = told.metadata().clone().into_headers();
        if let Some(server) = &error.server {
            status::name(&mut headers, server);
        }
        let metadata = MetadataMap::from_headers(headers);
        let text = error.text.clone().unwrap_or_else(|| told.message().to_owned());
        let details = Bytes::copy_from_slice(told.details());
        let mut exposed = Status::with_details_and_metadata(told.code(), text, details, metadata);
        exposed.set_source(Arc::new(error));
        exposed
    }
}

impl fmt::Display for CallError {
    /// With addresses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.text, &self.server) {
            (Some(text), _) => f.write_str(text),
            (None, Some(server)) => write!(f, "{server} answered with this status"),
            (None, None) => f.write_str("a server answered with this status"),
        }
    }
}

impl fmt::Debug for CallError {
    /// Without addresses: `Display` of a status prints this.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallError").field("from_server", &self.is_from_server()).finish_non_exhaustive()
    }
}

impl Error for CallError {}
