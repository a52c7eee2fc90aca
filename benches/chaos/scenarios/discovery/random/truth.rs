//! What etcd holds, and what everybody else believes.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

use etcd_client::{Client, GetOptions};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tonic_etcd::codec::{Codec as _, Detect};
use tonic_etcd::{BalancedChannel, Instance, Resolution};
use tower::discover::Change;

use crate::world::Result;

/// The addresses of servers.
pub(super) type Addresses = BTreeSet<String>;

/// What somebody has and etcd does not, and the other way round.
pub(super) struct Differences {
    pub(super) lost: usize,
    pub(super) ghosts: usize,
    pub(super) text: String,
}

/// What etcd holds of a prefix.
pub(super) async fn truth(admin: &Client, prefix: &str) -> Result<Addresses> {
    let response = admin.kv_client().get(prefix, Some(GetOptions::new().with_prefix())).await?;
    let instances = response.kvs().iter().flat_map(|pair| Detect.decode(pair.key(), pair.value()).unwrap_or_default());
    Ok(addresses(instances.collect::<Vec<_>>().iter()))
}

fn addresses<'a>(instances: impl Iterator<Item = &'a Instance>) -> Addresses {
    instances.flat_map(Instance::addresses).map(ToString::to_string).collect()
}

/// Those who follow etcd: a snapshot, a change stream whose changes are replayed, and a channel.
pub(super) struct Followers {
    resolution: Resolution,
    channel: BalancedChannel,
    replayed: Arc<Mutex<Addresses>>,
    replay: JoinHandle<()>,
}

impl Followers {
    pub(super) fn of(resolution: Resolution) -> Result<Self> {
        let (channel, mut discover) = (resolution.channel()?, resolution.discover());
        let replayed = Arc::<Mutex<Addresses>>::default();
        let replay = tokio::spawn({
            let replayed = replayed.clone();
            async move {
                while let Some(Ok(change)) = discover.next().await {
                    let mut replayed = replayed.lock().unwrap_or_else(PoisonError::into_inner);
                    match change {
                        Change::Insert(key, _) => drop(replayed.insert(key.to_string())),
                        // What was never inserted is a fault that nothing else would show.
                        Change::Remove(key) => assert!(replayed.remove(&key.to_string()), "{key} was not there"),
                    }
                }
            }
        });
        Ok(Self { resolution, channel, replayed, replay })
    }

    /// How they differ from what etcd holds.
    pub(super) fn differ(&self, truth: &Addresses) -> Option<Differences> {
        let replayed = self.replayed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let servers = self.channel.servers().iter().map(|server| server.address().to_string()).collect();
        let all = [
            ("the snapshot", addresses(self.resolution.snapshot().instances())),
            ("the replay of the changes", replayed),
            ("the channel", servers),
        ];
        let (mut lost, mut ghosts, mut text) = (0, 0, format!("{:?}", self.resolution));
        for (who, known) in all {
            let lacking: Vec<_> = truth.difference(&known).collect();
            let extra: Vec<_> = known.difference(truth).collect();
            if !lacking.is_empty() || !extra.is_empty() {
                let _ = write!(text, "; {who} lacks {lacking:?} and has {extra:?}");
            }
            (lost, ghosts) = (lost + lacking.len(), ghosts + extra.len());
        }
        (lost + ghosts > 0).then_some(Differences { lost, ghosts, text })
    }
}

impl Drop for Followers {
    fn drop(&mut self) {
        self.replay.abort();
    }
}
