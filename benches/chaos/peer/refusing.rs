//! A server that refuses every call.

use std::net::SocketAddr;

use test_support::refuse_calls;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::world::Result;

/// It refuses as long as this lives.
pub(crate) struct Refusing {
    pub(crate) address: SocketAddr,
    _task: JoinSet<()>,
}

impl Refusing {
    pub(crate) async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, mut task) = (listener.local_addr()?, JoinSet::new());
        task.spawn(refuse_calls(listener));
        Ok(Self { address, _task: task })
    }
}
