//! Where a connection goes.

use std::path::{Path, PathBuf};

use http::Uri;

/// The address of a server, and whether it speaks TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    pub(crate) address: PeerAddress,
    /// TLS, as `https` says.
    pub(crate) secure: bool,
}

/// The address of a server, as sockets take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PeerAddress {
    /// A DNS name, or an IP address without brackets; and a port.
    Tcp(String, u16),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Destination {
    /// The URI that connectors are called with. An IPv6 address has brackets in it, and the path of
    /// a socket is percent-encoded. See
    /// [`BalancedChannelBuilder::connector`](crate::BalancedChannelBuilder::connector) for its
    /// forms.
    pub(crate) fn uri(&self) -> Result<Uri, http::uri::InvalidUri> {
        let scheme = if self.secure { "https" } else { "http" };
        let uri = match &self.address {
            PeerAddress::Tcp(host, port) if host.contains(':') => format!("{scheme}://[{host}]:{port}/"),
            PeerAddress::Tcp(host, port) => format!("{scheme}://{host}:{port}/"),
            PeerAddress::Unix(path) => format!("unix://localhost{}", percent_encoded(path)),
        };
        uri.parse()
    }
}

/// Encodes what is no unreserved character of RFC 3986 or a slash.
fn percent_encoded(path: &Path) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    let encode = |byte: u8| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    path.as_os_str().as_encoded_bytes().iter().copied().map(encode).collect()
}
