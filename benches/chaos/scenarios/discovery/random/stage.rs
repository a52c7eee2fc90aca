//! Three members of etcd behind proxies, a place for a learner, and who writes and follows.

use std::time::{Duration, Instant};

use etcd_client::{Client, CompactionOptions, DeleteOptions, Member, MemberAddOptions, PutOptions, ResponseHeader};
use test_support::{Builder, Cluster, Etcd, FrameProxy, Proxy, Rule};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic_etcd::{EtcdOptions, Resolver};

use super::Random;
use super::forward::Forward;
use super::step::Step;
use super::truth::{Differences, Followers, truth};
use crate::world::{Result, naming};

const PREFIX: &str = "chaos/";
const WRITERS: u64 = 50;
const KEYS: u64 = 60;
/// As many streams at a time as a member takes: a few watches and requests.
const STREAMS: &str = "--max-concurrent-streams=8";
/// An election and a start take a second or two.
const WRITE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Stage {
    cluster: Cluster,
    /// Starts the members.
    builder: Builder,
    /// The resolver's way to each member: what holds messages, and what cuts connections.
    ways: Vec<(FrameProxy, Proxy)>,
    /// Its way to the learner.
    forward: Forward,
    /// With its id.
    learner: Option<(Etcd, u64)>,
    learners: usize,
    admin: Client,
    followers: Followers,
}

/// What a writer does to a key.
#[derive(Clone)]
enum Write {
    Put(String),
    /// Under a lease that nobody renews, of so many seconds.
    Expire(String, i64),
    Delete,
}

impl Stage {
    pub(super) async fn start() -> Result<Self> {
        let pace = Etcd::builder().pace(25, 250);
        let limited = pace.clone().arg(STREAMS);
        // etcd knows the flag since 3.5.5.
        let builder = match limited.clone().try_start() {
            Ok(_) => limited,
            Err(error) if error.to_string().contains("flag provided but not defined") => {
                eprintln!("  left out: this etcd does not know {STREAMS}; `--etcd 3.7` does");
                pace
            }
            Err(error) => return Err(error.into()),
        };
        let cluster = Cluster::start_with(&builder, 3);
        let way = |member: &Etcd| {
            let cutter = Proxy::to(member.address());
            (FrameProxy::to(cutter.address()), cutter)
        };
        let ways: Vec<_> = cluster.members().iter().map(way).collect();
        let forward = Forward::start().await?;
        let endpoints = ways.iter().map(|(holder, _)| holder.endpoint()).chain([format!("http://{}", forward.address)]);
        let resolver = Resolver::connect_lazy(EtcdOptions::new(endpoints.collect::<Vec<_>>()))?;
        let followers = Followers::of(resolver.resolve("chaos")?)?;
        let admin = Client::connect(cluster.endpoints(), None).await?;
        Ok(Self { cluster, builder, ways, forward, learner: None, learners: 0, admin, followers })
    }

    /// The writers write, while the step happens.
    pub(super) async fn play(&mut self, step: Step, random: &mut Random) -> Result<()> {
        let mut writing = JoinSet::new();
        for _ in 0..WRITERS {
            let writes: Vec<_> = (0..=random.below(2)).map(|_| write(random)).collect();
            let (admin, pause) = (self.admin.clone(), Duration::from_millis(random.below(60)));
            writing.spawn(async move {
                for (key, write) in writes {
                    sleep(pause).await;
                    // Whether it is done or not while etcd fails: either is a state to agree on.
                    let _ = timeout(WRITE, write.apply(&admin, &key)).await;
                }
            });
        }
        self.happen(step, random).await?;
        writing.join_all().await;
        Ok(())
    }

    async fn happen(&mut self, step: Step, random: &mut Random) -> Result<()> {
        let members = self.cluster.members();
        let member = random.below(members.len() as u64) as usize;
        let pause = Duration::from_millis(random.below(1_500));
        match step {
            Step::Write => {}
            Step::Compact => self.compact().await?,
            Step::DeletePrefix => {
                let prefix =
                    if random.below(2) == 0 { PREFIX.to_owned() } else { format!("{PREFIX}{}", random.below(6)) };
                let options = DeleteOptions::new().with_prefix();
                let _ = timeout(WRITE, self.admin.kv_client().delete(prefix, Some(options))).await;
            }
            Step::FreezeStreams => {
                for (holder, _) in &self.ways {
                    holder.rule(Rule::hold().method("Watch").responses().open_now());
                }
            }
            Step::Cut => {
                self.ways.iter().for_each(|(_, cutter)| cutter.cut());
                self.forward.lead_to(self.learner.as_ref().map(|(learner, _)| learner.address()));
            }
            Step::KillMember => {
                members[member].kill();
                sleep(pause).await;
                members[member].start_again();
            }
            Step::FreezeMember => {
                members[member].freeze();
                sleep(pause).await;
                members[member].thaw();
            }
            Step::MoveLeader => self.move_leader().await,
            Step::Learner => self.learner().await?,
            Step::Wipe => self.wipe().await?,
        }
        Ok(())
    }

    async fn compact(&self) -> Result<()> {
        let Ok(Ok(read)) = timeout(WRITE, self.admin.kv_client().get("x", None)).await else { return Ok(()) };
        let revision = read.header().map_or(0, ResponseHeader::revision);
        let options = CompactionOptions::new().with_physical();
        // One that was compacted already is no failure.
        let _ = timeout(WRITE, self.admin.kv_client().compact(revision, Some(options))).await;
        Ok(())
    }

    async fn move_leader(&self) {
        let moved = async {
            let leader = Client::connect([self.cluster.member(self.cluster.leader()).endpoint()], None).await?;
            let listed = leader.cluster_client().member_list().await?;
            let own = leader.maintenance_client().status().await?.leader();
            let voter = |member: &&Member| member.id() != own && !member.is_learner();
            if let Some(other) = listed.members().iter().find(voter) {
                leader.maintenance_client().move_leader(other.id()).await?;
            }
            Ok::<_, etcd_client::Error>(())
        };
        let _ = timeout(WRITE, moved).await;
    }

    /// The learner leaves, or another one joins.
    async fn learner(&mut self) -> Result<()> {
        if let Some((learner, id)) = self.learner.take() {
            self.forward.lead_to(None);
            patiently(async || self.admin.cluster_client().member_remove(id).await).await?;
            drop(learner);
            return Ok(());
        }
        self.learners += 1;
        let name = format!("learner{}", self.learners);
        let (admin, builder, handle) = (self.admin.clone(), self.builder.clone(), tokio::runtime::Handle::current());
        let joined = tokio::task::spawn_blocking(move || {
            let mut id = 0;
            let learner = builder.join(&name, |peer| {
                let options = MemberAddOptions::new().with_is_learner();
                let mut client = admin.cluster_client();
                let add = async || client.member_add(vec![peer.to_owned()], Some(options.clone())).await;
                let added = handle.block_on(patiently(add));
                let added = added.expect("a learner may join within a minute");
                id = added.member().map_or(0, Member::id);
                let named = |member: &Member| {
                    let own = if member.name().is_empty() { &name } else { member.name() };
                    member.peer_urls().iter().map(|url| format!("{own}={url}")).collect::<Vec<_>>()
                };
                added.member_list().iter().flat_map(named).collect::<Vec<_>>().join(",")
            });
            (learner, id)
        });
        let (learner, id) = joined.await?;
        self.forward.lead_to(Some(learner.address()));
        self.learner = Some((learner, id));
        Ok(())
    }

    async fn wipe(&mut self) -> Result<()> {
        self.forward.lead_to(None);
        self.learner = None;
        let members = self.cluster.members();
        members.iter().for_each(Etcd::kill);
        members.iter().for_each(Etcd::wipe);
        self.cluster.start_again_nowait();
        let began = Instant::now();
        while !timeout(WRITE, self.admin.kv_client().get("x", None)).await.is_ok_and(|read| read.is_ok()) {
            if began.elapsed() > PATIENCE {
                return Err("the wiped members form no cluster".into());
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Waits until all followers are what etcd holds. How they differ, if that takes longer than `within`.
    pub(super) async fn agreement(&self, within: Duration) -> Result<Option<Differences>> {
        let began = Instant::now();
        loop {
            let held = match timeout(WRITE, truth(&self.admin, PREFIX)).await {
                Ok(Ok(held)) => held,
                _ if began.elapsed() > PATIENCE => return Err("etcd does not answer".into()),
                _ => continue,
            };
            let Some(differences) = self.followers.differ(&held) else { return Ok(None) };
            if began.elapsed() > within {
                return Ok(Some(differences));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Streams go on.
    pub(super) fn heal(&self) {
        self.ways.iter().for_each(|(holder, _)| holder.clear());
    }
}

/// Until it succeeds: members that have just started count as unhealthy.
async fn patiently<T>(
    mut attempt: impl AsyncFnMut() -> std::result::Result<T, etcd_client::Error>,
) -> std::result::Result<T, etcd_client::Error> {
    let began = Instant::now();
    loop {
        match attempt().await {
            Err(_) if began.elapsed() < PATIENCE => sleep(Duration::from_millis(200)).await,
            result => return result,
        }
    }
}

fn write(random: &mut Random) -> (String, Write) {
    let key = format!("{PREFIX}{}", random.below(KEYS));
    // Ports at which nobody listens.
    let address = format!("127.0.0.1:{}", 2 + random.below(12));
    let value = match random.below(10) {
        0 => "unreadable".to_owned(),
        1..4 => address,
        _ => naming(&address),
    };
    let write = match random.below(10) {
        0..5 => Write::Put(value),
        5..7 => Write::Expire(value, [1, 2][random.below(2) as usize]),
        _ => Write::Delete,
    };
    (key, write)
}

impl Write {
    async fn apply(self, admin: &Client, key: &str) -> std::result::Result<(), etcd_client::Error> {
        match self {
            Self::Put(value) => drop(admin.kv_client().put(key, value, None).await?),
            Self::Expire(value, seconds) => {
                let lease = admin.lease_client().grant(seconds, None).await?.id();
                let options = PutOptions::new().with_lease(lease);
                admin.kv_client().put(key, value, Some(options)).await?;
            }
            Self::Delete => drop(admin.kv_client().delete(key, None).await?),
        }
        Ok(())
    }
}
