//! A server that refuses every call with `REFUSED_STREAM`, as one that is overloaded does, or one that drains.

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Accepts connections and refuses their calls. Dropping the future ends the connections.
pub async fn refuse_calls(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        connections.spawn(refuse(tcp));
        while connections.try_join_next().is_some() {} // those that have ended
    }
}

async fn refuse(tcp: TcpStream) {
    let Ok(mut connection) = h2::server::Builder::new().handshake::<_, Bytes>(tcp).await else { return };
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        respond.send_reset(h2::Reason::REFUSED_STREAM);
    }
}
