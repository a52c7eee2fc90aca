//! An etcd of three members behind proxies, four servers in it, and how it can fail.

use std::time::{Duration, Instant};

use etcd_client::{Client, CompactionOptions, Member, ResponseHeader};
use test_support::{Cluster, Etcd, Process, Proxy};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::world::{Result, Server, World};

pub(super) const SERVICE: &str = "fleet";
const SERVERS: usize = 4;
/// How often fresh clients are tried, and how long each may take.
const FRESH: Duration = Duration::from_millis(25);
const ANSWER: Duration = Duration::from_secs(1);
/// How long it may take until a member that says nothing is left; with the second that every bar gives, 9 s.
const SILENCE: Duration = Duration::from_secs(8);
const PATIENCE: Duration = Duration::from_secs(60);

/// How etcd fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Killed,
    MemberKilled,
    MemberFrozen,
    LeaderMoved,
    Compacted,
    CutOff,
}

impl Fault {
    pub(super) const ALL: [Self; 6] =
        [Self::Killed, Self::MemberKilled, Self::MemberFrozen, Self::LeaderMoved, Self::Compacted, Self::CutOff];

    pub(super) fn about(self) -> &'static str {
        match self {
            Self::Killed => "etcd killed for 20 s",
            Self::MemberKilled => "member in use killed for 5 s",
            Self::MemberFrozen => "member in use frozen for 12 s",
            Self::LeaderMoved => "leader moved",
            Self::Compacted => "compacted while cut off for 2 s",
            Self::CutOff => "cut off for 5 s",
        }
    }

    /// From its beginning to its end.
    pub(super) fn length(self) -> Duration {
        Duration::from_secs(match self {
            Self::Killed => 20,
            Self::MemberKilled | Self::CutOff => 5,
            // Longer than it may take to find it out.
            Self::MemberFrozen => 12,
            Self::LeaderMoved => 1,
            Self::Compacted => 2,
        })
    }
}

pub(super) struct Stage<'a> {
    world: &'a World,
    cluster: Cluster,
    /// The way of our client alone, so that the member that it uses is known.
    ours: Vec<Proxy>,
    /// The way of the servers and of the other client.
    others: Vec<Proxy>,
    pub(super) servers: Vec<Server>,
}

impl<'a> Stage<'a> {
    pub(super) fn start(world: &'a World) -> Result<Self> {
        let cluster = Cluster::start(3);
        let proxies = || cluster.members().iter().map(|member| Proxy::to(member.address())).collect();
        let (ours, others) = (proxies(), proxies());
        let mut stage = Self { world, cluster, ours, others, servers: vec![] };
        let starting: Vec<Process> = (0..SERVERS).map(|_| stage.spawn()).collect::<Result<_>>()?;
        stage.servers = starting.into_iter().map(Server::registered).collect::<Result<_>>()?;
        Ok(stage)
    }

    pub(super) fn our_endpoints(&self) -> String {
        endpoints(&self.ours).join(",")
    }

    pub(super) fn other_endpoints(&self) -> String {
        endpoints(&self.others).join(",")
    }

    /// Starts a server, and does not wait for its registration.
    pub(super) fn spawn(&self) -> Result<Process> {
        self.world.process("serve", &self.other_endpoints(), &["--service", SERVICE])
    }

    /// The member that our client uses.
    pub(super) fn used(&self) -> Result<usize> {
        let used = (0..self.ours.len()).max_by_key(|member| self.ours[*member].open_connections());
        let used = used.filter(|member| self.ours[*member].open_connections() > 0);
        Ok(used.ok_or("our client has no connection to etcd")?)
    }

    pub(super) async fn begin(&self, fault: Fault, used: usize) -> Result<()> {
        let members = self.cluster.members();
        match fault {
            Fault::Killed => members.iter().for_each(Etcd::kill),
            Fault::MemberKilled => members[used].kill(),
            Fault::MemberFrozen => members[used].freeze(),
            Fault::LeaderMoved => {
                let client = Client::connect([members[self.cluster.leader()].endpoint()], None).await?;
                let listed = client.cluster_client().member_list().await?;
                let own = client.maintenance_client().status().await?.leader();
                let other = listed.members().iter().map(Member::id).find(|id| *id != own);
                client.maintenance_client().move_leader(other.ok_or("there is no other member")?).await?;
            }
            Fault::Compacted => self.ours.iter().for_each(Proxy::refuse),
            Fault::CutOff => self.ours.iter().chain(&self.others).for_each(Proxy::refuse),
        }
        Ok(())
    }

    pub(super) async fn end(&self, fault: Fault, used: usize) -> Result<()> {
        let members = self.cluster.members();
        match fault {
            Fault::Killed => self.cluster.start_again_nowait(),
            Fault::MemberKilled => members[used].start_again_nowait(),
            Fault::MemberFrozen => members[used].thaw(),
            Fault::LeaderMoved => {}
            Fault::Compacted => {
                // All that our client missed is gone, the server that joined included.
                let client = Client::connect([members[used].endpoint()], None).await?;
                let put = client.kv_client().put("other/key", "value", None).await?;
                let revision = put.header().map_or(0, ResponseHeader::revision);
                let physical = CompactionOptions::new().with_physical();
                client.kv_client().compact(revision, Some(physical)).await?;
                self.ours.iter().for_each(Proxy::resume);
            }
            Fault::CutOff => self.ours.iter().chain(&self.others).for_each(Proxy::resume),
        }
        Ok(())
    }

    /// When a server's key can first be seen by a fresh client, on our client's way, at a member that says that it is healthy.
    /// Where the member in use is frozen, at the earliest when that should be found out.
    pub(super) async fn visible(&self, address: &str, fault: Fault) -> Result<Instant> {
        let key = format!("{SERVICE}/{address}");
        let (began, mut tries) = (Instant::now(), JoinSet::new());
        let found_out = if fault == Fault::MemberFrozen { began + SILENCE } else { began };
        while began.elapsed() < PATIENCE {
            for (member, proxy) in self.ours.iter().enumerate() {
                tries.spawn(timeout(ANSWER, there(member, proxy.endpoint(), key.clone())));
            }
            let next = Instant::now() + FRESH;
            while let Ok(Some(tried)) = timeout(next.saturating_duration_since(Instant::now()), tries.join_next()).await
            {
                if let Ok(Ok(Some(member))) = tried
                    && self.cluster.member(member).health()
                {
                    return Ok(found_out.max(Instant::now()));
                }
            }
            sleep(next.saturating_duration_since(Instant::now())).await;
        }
        Err(format!("the key of the server that joined is not in etcd after {PATIENCE:?}").into())
    }
}

/// The member, where the key is there.
async fn there(member: usize, endpoint: String, key: String) -> Option<usize> {
    let client = Client::connect([endpoint], None).await.ok()?;
    let got = client.kv_client().get(key, None).await.ok()?;
    (!got.kvs().is_empty()).then_some(member)
}

fn endpoints(proxies: &[Proxy]) -> Vec<String> {
    proxies.iter().map(Proxy::endpoint).collect()
}
