//! An address that leads to a learner while there is one.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::world::Result;

/// Forwards connections while it has a target, and closes them otherwise.
pub(super) struct Forward {
    pub(super) address: SocketAddr,
    target: watch::Sender<Option<SocketAddr>>,
    task: JoinHandle<()>,
}

impl Forward {
    /// Without a target.
    pub(super) async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, target) = (listener.local_addr()?, watch::Sender::new(None));
        let task = tokio::spawn(accept(listener, target.subscribe()));
        Ok(Self { address, target, task })
    }

    /// From now on. Connections to another target end.
    pub(super) fn lead_to(&self, target: Option<SocketAddr>) {
        self.target.send_replace(target);
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: watch::Receiver<Option<SocketAddr>>) {
    while let Ok((mut from, _)) = listener.accept().await {
        let mut target = target.clone();
        let Some(address) = *target.borrow_and_update() else { continue };
        tokio::spawn(async move {
            let Ok(mut to) = TcpStream::connect(address).await else { return };
            tokio::select! {
                _ = copy_bidirectional(&mut from, &mut to) => {}
                _ = target.changed() => {}
            }
        });
    }
}
