//! TCP and Unix sockets to a server.
//!
//! A name with several addresses is one server: they are tried in the resolver's order, one after
//! the other, and not at the same time (RFC 8305), because an instance in the directory is usually
//! an IP address.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::{Instant, timeout};

use crate::connection::options::Options;

/// Connects to the first of the host's addresses that accepts, in the resolver's order, within the
/// connect timeout.
///
/// # Errors
/// When no address accepts: the error of the last one, with its address if the host is a name.
pub(crate) async fn connect_tcp(host: &str, port: u16, options: &Options) -> io::Result<TcpStream> {
    let deadline = Instant::now() + options.connect_timeout;
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    let addresses: Vec<_> = lookup_host((host, port)).await?.collect();
    for (tried, address) in addresses.iter().enumerate() {
        // Each has an equal share of the time that is left: an address that swallows packets must
        // not use up that of the others.
        let share = deadline.saturating_duration_since(Instant::now()) / (addresses.len() - tried) as u32;
        let no_answer = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer"));
        match timeout(share, connect_to(*address, options)).await.unwrap_or_else(no_answer) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = with_address(*address, host, error),
        }
    }
    Err(last)
}

/// Adds the address to the error, unless the host is that address: the caller names the host.
fn with_address(address: SocketAddr, host: &str, error: io::Error) -> io::Error {
    if address.ip().to_string() == host {
        return error;
    }
    io::Error::new(error.kind(), format!("{address}: {error}"))
}

async fn connect_to(address: SocketAddr, options: &Options) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    configure(&socket, options)?;
    let stream = socket.connect(address).await?;
    stream.set_nodelay(options.tcp_nodelay)?;
    Ok(stream)
}

/// Sets the options that must hold from the first packet on, so before the socket connects.
fn configure(socket: &TcpSocket, options: &Options) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if let Some(keep_alive) = options.tcp_keepalive {
        let probes = socket2::TcpKeepalive::new().with_time(keep_alive.time);
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let probes = probes.with_interval(keep_alive.interval).with_retries(keep_alive.retries);
        socket.set_tcp_keepalive(&probes)?;
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if options.tcp_user_timeout.is_some() {
        socket.set_tcp_user_timeout(options.tcp_user_timeout)?;
    }
    Ok(())
}

/// Connects to a Unix socket.
#[cfg(unix)]
pub(crate) async fn connect_unix(path: &Path) -> io::Result<tokio::net::UnixStream> {
    tokio::net::UnixStream::connect(path).await
}

/// Fails: this system has no Unix sockets.
#[cfg(not(unix))]
pub(crate) async fn connect_unix(_path: &Path) -> io::Result<TcpStream> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no Unix sockets"))
}
