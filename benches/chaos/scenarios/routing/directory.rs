//! What a channel is told of its servers, change by change.

use std::convert::Infallible;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic_etcd::{BalancedChannel, BalancedChannelBuilder, Instance};
use tower::discover::Change;

use super::host::Server;
use crate::world::Result;

type Told = std::result::Result<Change<String, Instance>, Infallible>;

/// Where a channel has its servers from.
pub(super) struct Directory(UnboundedSender<Told>);

impl Directory {
    /// A channel, and what tells it of servers; of these at first.
    pub(super) fn channel(
        builder: BalancedChannelBuilder,
        instances: impl IntoIterator<Item = Instance>,
    ) -> Result<(BalancedChannel, Self)> {
        let (told, changes) = unbounded_channel();
        let directory = Self(told);
        instances.into_iter().for_each(|instance| directory.insert(instance));
        let channel = builder.build_with_discovery("routing", UnboundedReceiverStream::new(changes))?;
        Ok((channel, directory))
    }

    pub(super) fn insert(&self, instance: Instance) {
        self.tell(Change::Insert(key(&instance), instance));
    }

    pub(super) fn remove(&self, instance: &Instance) {
        self.tell(Change::Remove(key(instance)));
    }

    fn tell(&self, change: Change<String, Instance>) {
        let _ = self.0.send(Ok(change)); // a channel that has ended needs no word of it
    }
}

fn key(instance: &Instance) -> String {
    instance.addresses().iter().map(ToString::to_string).collect()
}

/// The server's instance, which says nothing but its address.
pub(super) fn instance(server: &Server) -> Result<Instance> {
    Ok(Instance::new(server.address.to_string())?)
}
