//! The source of a status: the server, and the text with addresses.

use std::error::Error;
use std::fmt;
use std::iter::successors;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::address::Address;

/// The metadata that carries the server's address (`host:port` or `unix:/path`) if the user asked for it.
pub(crate) const SERVER: HeaderName = HeaderName::from_static("x-served-by-address");

/// The source of a failed call's [`Status`]: the server that had the call, and as text why it failed.
///
/// | status | has a `CallError` |
/// |---|---|
/// | made by a [`BalancedChannel`](crate::BalancedChannel) | yes |
/// | sent by a server to a generated client in place of a response (`Trailers-Only`) | yes |
/// | sent by a server in trailers, after its response had begun | no, see [`BalancedChannel`](crate::BalancedChannel#errors) for other ways to find the server |
/// | the request's own stream failed: its status, or `UNKNOWN` for another error | no |
/// | of a policy ([`Pick::Fail`](crate::policy::Pick::Fail)) | no |
///
/// A handler often passes the status of an inner call on to its own caller. So that this caller does not learn the addresses of
/// inner servers, the channel puts no address into the text or the metadata of a status. Text that a server wrote into its own
/// status stays as it is. `Debug` of this type shows no address either, because tonic's `Display` of a status prints its source
/// with `Debug`. `Display` of this type shows the addresses, for logs:
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
    /// The server that had the call, or sent the status.
    server: Option<Address>,
    /// The text with addresses. `None` if the server sent the status.
    text: Option<String>,
}

impl CallError {
    /// Finds the `CallError` among the sources of a status, or of any error that wraps a status.
    ///
    /// `None` if the status has no such source: see the table above.
    pub fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        successors(Some(error), |&error| error.source()).find_map(|error| error.downcast_ref())
    }

    /// Returns the server that had the call, or sent the status. `None` if no server had the call.
    pub fn server(&self) -> Option<&Address> {
        self.server.as_ref()
    }

    /// Returns whether a server sent the status. Otherwise the channel made it.
    pub fn is_from_server(&self) -> bool {
        self.text.is_none()
    }

    /// Gives a source to a status that the channel made. `text` is its message with addresses.
    pub(crate) fn of_channel(mut status: Status, server: Option<&Address>, text: String) -> Status {
        status.set_source(Arc::new(Self { server: server.cloned(), text: Some(text) }));
        status
    }

    /// Gives a source to a status that a server sent.
    pub(crate) fn of_server(mut status: Status, server: &Address) -> Status {
        status.set_source(Arc::new(Self { server: Some(server.clone()), text: None }));
        status
    }

    /// Puts the addresses of a status's source into its text and metadata. Other statuses stay as they are.
    pub(crate) fn with_addresses(status: Status) -> Status {
        let Some(error) = Self::find(&status).cloned() else { return status };
        let mut headers = status.metadata().clone().into_headers();
        if let Some(server) = &error.server {
            add_server_header(&mut headers, server);
        }
        let metadata = MetadataMap::from_headers(headers);
        let text = error.text.clone().unwrap_or_else(|| status.message().to_owned());
        let details = Bytes::copy_from_slice(status.details());
        let mut status = Status::with_details_and_metadata(status.code(), text, details, metadata);
        status.set_source(Arc::new(error));
        status
    }
}

/// Adds the server's address to headers or trailers.
pub(crate) fn add_server_header(headers: &mut HeaderMap, address: &Address) {
    if let Ok(value) = HeaderValue::from_bytes(address.parsed_authority().as_str().as_bytes()) {
        headers.insert(SERVER, value);
    }
}

impl fmt::Display for CallError {
    /// Writes the text with addresses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.text, &self.server) {
            (Some(text), _) => f.write_str(text),
            (None, Some(server)) => write!(f, "{server} answered with this status"),
            (None, None) => f.write_str("a server answered with this status"),
        }
    }
}

impl fmt::Debug for CallError {
    /// Writes no addresses: `Display` of a status prints this.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallError").field("from_server", &self.is_from_server()).finish_non_exhaustive()
    }
}

impl Error for CallError {}
