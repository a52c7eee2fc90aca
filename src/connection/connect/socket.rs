//! TCP and Unix sockets to a server.

use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::{Instant, timeout};

use crate::connection::options::Options;

/// The first of the host's addresses that accepts, within the connect timeout.
pub(crate) async fn tcp(host: &str, port: u16, options: &Options) -> io::Result<TcpStream> {
    let began = Instant::now();
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    let addresses: Vec<_> = lookup_host((host, port)).await?.collect();
    let deadline = began + options.connect_timeout;
    for (tried, address) in addresses.iter().enumerate() {
        // A share of the time each, so that one that swallows everything does not hide the others.
        let share = deadline.saturating_duration_since(Instant::now()) / (addresses.len() - tried) as u32;
        match timeout(share, tcp_to(*address, options)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = at(*address, host, error),
            Err(_) => last = at(*address, host, io::Error::new(io::ErrorKind::TimedOut, "no answer")),
        }
    }
    Err(last)
}

/// Names the address where the server is known by a name.
fn at(address: SocketAddr, host: &str, error: io::Error) -> io::Error {
    if address.ip().to_string() == host {
        return error;
    }
    io::Error::new(error.kind(), format!("{address}: {error}"))
}

async fn tcp_to(address: SocketAddr, options: &Options) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    configure(&socket, options)?;
    let stream = socket.connect(address).await?;
    stream.set_nodelay(options.tcp_nodelay)?;
    Ok(stream)
}

/// Before it connects, so that it holds from the first packet on.
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

#[cfg(unix)]
pub(crate) async fn unix(path: &std::path::Path) -> io::Result<tokio::net::UnixStream> {
    tokio::net::UnixStream::connect(path).await
}

#[cfg(not(unix))]
pub(crate) async fn unix(_path: &std::path::Path) -> io::Result<TcpStream> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no Unix sockets"))
}
