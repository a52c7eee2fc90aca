//! A server that refuses every call with `REFUSED_STREAM`, as one that is overloaded does, or one that drains.

use std::net::SocketAddr;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::world::Result;

/// It refuses as long as this lives.
pub(crate) struct Refusing {
    pub(crate) address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Refusing {
    pub(crate) async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, mut tasks) = (listener.local_addr()?, JoinSet::new());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                connections.spawn(refuse(tcp));
            }
        });
        Ok(Self { address, _tasks: tasks })
    }
}

async fn refuse(tcp: TcpStream) {
    let Ok(mut connection) = h2::server::Builder::new().handshake::<_, Bytes>(tcp).await else { return };
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        respond.send_reset(h2::Reason::REFUSED_STREAM);
    }
}
