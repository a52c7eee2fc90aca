//! An etcd of three members behind proxies, a registered server in it, and what can be done to both.

use std::thread;
use std::time::{Duration, Instant};

use etcd_client::{
    AlarmAction, AlarmOptions, AlarmType, Client, ConnectOptions, GetOptions, GetResponse, LeaseStatus, Permission,
    ResponseHeader,
};
use test_support::{Cluster, Etcd, Proxy};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::keeper::{Keeper, TTL};
use crate::world::{Result, World};

/// How often a fresh client is tried at each member, and how long each may take.
const FRESH: Duration = Duration::from_millis(25);
const ANSWER: Duration = Duration::from_millis(500);
/// Between two looks at the key.
const LOOK: Duration = Duration::from_millis(2);
/// Longer than anything here should ever take.
const PATIENCE: Duration = Duration::from_secs(15);
const ROOT: (&str, &str) = ("root", "rootpw");
const KEEPER: (&str, &str) = ("keeper", "keeperpw");
/// How long etcd's tokens live without being used, in seconds.
const TOKEN_TTL: u64 = 3;

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Expired,
    Revoked,
    Deleted,
    Overwritten,
    Restarted,
    Wiped,
    Restored,
    Partitioned,
    CutOff,
    LeaderMoved,
    TokenExpired,
    NoSpace,
    MemberKilled,
    Frozen,
}

impl Fault {
    pub(super) const ALL: [Self; 14] = [
        Self::Expired,
        Self::Revoked,
        Self::Deleted,
        Self::Overwritten,
        Self::Restarted,
        Self::Wiped,
        Self::Restored,
        Self::Partitioned,
        Self::CutOff,
        Self::LeaderMoved,
        Self::TokenExpired,
        Self::NoSpace,
        Self::MemberKilled,
        Self::Frozen,
    ];

    pub(super) fn about(self) -> &'static str {
        match self {
            Self::Expired => "lease expired (the server was stopped)",
            Self::Revoked => "lease revoked by hand",
            Self::Deleted => "key deleted by hand",
            Self::Overwritten => "key overwritten by hand",
            Self::Restarted => "etcd killed and started again",
            Self::Wiped => "etcd wiped",
            Self::Restored => "etcd restored from an old snapshot",
            Self::Partitioned => "partition longer than the lease, packets swallowed",
            Self::CutOff => "partition longer than the lease, connections closed",
            Self::LeaderMoved => "leader changed",
            Self::TokenExpired => "token expired, then the key deleted",
            Self::NoSpace => "NOSPACE alarm longer than the lease",
            Self::MemberKilled => "the member in use killed, for longer than the lease",
            Self::Frozen => "etcd frozen for longer than the lease",
        }
    }

    /// How long its repair may take, in ms, from when etcd answers a fresh client, or from the deed.
    pub(super) fn bar(self) -> f64 {
        if matches!(self, Self::Revoked | Self::Deleted) { 200.0 } else { 1_000.0 }
    }
}

/// When the key could first be right again, and a client that sees it.
pub(super) struct Since {
    at: Instant,
    client: Client,
}

pub(super) struct Stage {
    cluster: Cluster,
    proxies: Vec<Proxy>,
    keeper: Keeper,
    /// The most keys beside the one that were ever seen.
    pub(super) doubled: usize,
    /// How often the key was gone where it should have stood all the time.
    pub(super) gaps: usize,
}

impl Stage {
    pub(super) async fn start(world: &World) -> Result<Self> {
        // Cheap passwords, so that it is the registrar that is measured.
        let token = format!("--auth-token-ttl={TOKEN_TTL}");
        let builder = Etcd::builder().pace(25, 250).args([token.as_str(), "--bcrypt-cost=4"]);
        let cluster = Cluster::start_with(&builder, 3);
        let proxies: Vec<_> = cluster.members().iter().map(|member| Proxy::to(member.address())).collect();
        protect(&cluster.endpoints()).await?;
        let through: Vec<_> = proxies.iter().map(Proxy::endpoint).collect();
        let keeper = Keeper::start(world, &through, &format!("{}:{}", KEEPER.0, KEEPER.1))?;
        let mut stage = Self { cluster, proxies, keeper, doubled: 0, gaps: 0 };
        // There is something to restore from the beginning.
        let since = Box::pin(stage.inflict(Fault::Restarted)).await?;
        stage.repaired(since).await?;
        Ok(stage)
    }

    /// Does it, and undoes what has to be undone before the key can stand again.
    pub(super) async fn inflict(&mut self, fault: Fault) -> Result<Since> {
        let (members, key) = (self.cluster.members(), self.keeper.key.clone());
        match fault {
            Fault::Revoked => {
                let client = self.admin().await?;
                let lease = self.lease_of_key(&client).await?;
                client.lease_client().revoke(lease).await?;
                return Ok(Since { at: Instant::now(), client });
            }
            Fault::Deleted => {
                let client = self.admin().await?;
                client.kv_client().delete(key, None).await?;
                return Ok(Since { at: Instant::now(), client });
            }
            Fault::Overwritten => {
                let client = self.admin().await?;
                client.kv_client().put(key, "by hand", None).await?;
                return Ok(Since { at: Instant::now(), client });
            }
            Fault::TokenExpired => {
                sleep(Duration::from_secs(TOKEN_TTL) + Duration::from_millis(1_500)).await;
                return Box::pin(self.inflict(Fault::Deleted)).await;
            }
            Fault::Expired => {
                let client = self.admin().await?;
                self.keeper.freeze();
                let gone = self.gone(&client).await;
                self.keeper.thaw();
                gone?;
                return Ok(Since { at: Instant::now(), client });
            }
            Fault::NoSpace => {
                let client = self.admin().await?;
                let status = client.maintenance_client().status().await?;
                let member = status.header().map_or(0, ResponseHeader::member_id);
                let alarm = async |action| {
                    let mut of = AlarmOptions::new();
                    of.with_member(member);
                    client.maintenance_client().alarm(action, AlarmType::Nospace, Some(of)).await
                };
                alarm(AlarmAction::Activate).await?;
                self.stands(&client, Duration::from_secs(TTL) + Duration::from_millis(1_500)).await;
                alarm(AlarmAction::Deactivate).await?;
                return Ok(Since { at: Instant::now(), client });
            }
            Fault::LeaderMoved => {
                let leader = self.cluster.leader();
                let client = connect(&members[leader].endpoint()).await?;
                let listed = client.cluster_client().member_list().await?;
                let own = client.maintenance_client().status().await?.leader();
                let other = listed.members().iter().map(etcd_client::Member::id).find(|id| *id != own);
                client.maintenance_client().move_leader(other.ok_or("there is no other member")?).await?;
            }
            Fault::MemberKilled => {
                let used = self.proxies.iter().position(|proxy| proxy.open_connections() > 0);
                let member = used.ok_or("no member is in use")?;
                members[member].kill();
                let since = self.fresh().await?;
                let soon = self.repaired(since).await;
                let client = self.admin().await?;
                self.stands(&client, Duration::from_secs(TTL) + Duration::from_millis(1_500)).await;
                self.cluster.members()[member].start_again();
                soon?;
            }
            Fault::Restarted => {
                members.iter().for_each(Etcd::kill);
                members.iter().for_each(Etcd::save);
                self.cluster.start_again_nowait();
            }
            Fault::Wiped | Fault::Restored => {
                members.iter().for_each(Etcd::kill);
                members.iter().for_each(if fault == Fault::Wiped { Etcd::wipe } else { Etcd::restore });
                self.cluster.start_again_nowait();
            }
            Fault::Partitioned | Fault::CutOff => {
                let client = self.admin().await?;
                self.proxies.iter().for_each(if fault == Fault::CutOff { Proxy::refuse } else { Proxy::stall });
                let gone = self.gone(&client).await;
                self.proxies.iter().for_each(Proxy::resume);
                gone?;
            }
            Fault::Frozen => {
                members.iter().for_each(Etcd::freeze);
                thread::sleep(Duration::from_secs(TTL) + Duration::from_millis(500));
                members.iter().for_each(Etcd::thaw);
            }
        }
        self.fresh().await
    }

    /// How long it took until the key stood as it should, in ms.
    pub(super) async fn repaired(&mut self, since: Since) -> Result<f64> {
        let Since { at, client } = since;
        loop {
            if self.is_right(&client).await {
                return Ok(at.elapsed().as_secs_f64() * 1e3);
            }
            if at.elapsed() > PATIENCE {
                let lease = self.keeper.lease();
                let said = self.keeper.said();
                return Err(format!(
                    "the key is not right after {PATIENCE:?}; the server's lease is {lease:x}\n{said}"
                )
                .into());
            }
            sleep(LOOK).await;
        }
    }

    /// The end of the server's log.
    pub(super) fn said(&self) -> String {
        self.keeper.said()
    }

    /// Looks on for longer than a lease lives: what stands by chance alone would go with it.
    pub(super) async fn keeps(&mut self) -> Result<()> {
        let client = self.admin().await?;
        self.stands(&client, Duration::from_secs(TTL) + Duration::from_millis(700)).await;
        Ok(())
    }

    /// Turns authentication on again, where a wipe or an old snapshot left it off.
    pub(super) async fn protect(&mut self) -> Result<()> {
        protect(&self.cluster.endpoints()).await?;
        let since = Since { at: Instant::now(), client: self.admin().await? };
        self.repaired(since).await.map(drop)
    }

    /// The leases that there are.
    pub(super) async fn leases(&self) -> Result<usize> {
        let client = self.admin().await?;
        let leases = client.lease_client().leases().await?;
        Ok(leases.leases().iter().map(LeaseStatus::id).count())
    }

    /// Counts a gap for each time in which the key is not as it should be.
    async fn stands(&mut self, client: &Client, long: Duration) {
        let (began, mut stood) = (Instant::now(), true);
        while began.elapsed() < long {
            let stands = self.is_right(client).await;
            self.gaps += usize::from(stood && !stands);
            stood = stands;
            sleep(LOOK * 5).await;
        }
    }

    async fn is_right(&mut self, client: &Client) -> bool {
        let options = GetOptions::new().with_prefix();
        let Ok(Ok(there)) = timeout(ANSWER, client.kv_client().get("kept/", Some(options))).await else { return false };
        self.doubled = self.doubled.max(there.kvs().len().saturating_sub(1));
        let [pair] = there.kvs() else { return false };
        let (key, value) = (self.keeper.key.as_bytes(), self.keeper.value.as_bytes());
        pair.key() == key && pair.value() == value && pair.lease() == self.keeper.lease()
    }

    async fn lease_of_key(&self, client: &Client) -> Result<i64> {
        let there = client.kv_client().get(self.keeper.key.clone(), None).await?;
        Ok(there.kvs().first().map(etcd_client::KeyValue::lease).ok_or("there is no key")?)
    }

    /// Waits until the key has gone.
    async fn gone(&self, client: &Client) -> Result<()> {
        let began = Instant::now();
        while !client.kv_client().get(self.keeper.key.clone(), None).await?.kvs().is_empty() {
            if began.elapsed() > PATIENCE {
                return Err("the key outlived its lease".into());
            }
            sleep(LOOK * 5).await;
        }
        Ok(())
    }

    /// A client past all proxies.
    async fn admin(&self) -> Result<Client> {
        first_answer(&self.cluster.endpoints()).await.map(|(client, _)| client)
    }

    /// The moment at which a fresh client's linearizable get is answered, on the server's own way.
    async fn fresh(&self) -> Result<Since> {
        let through: Vec<_> = self.proxies.iter().map(Proxy::endpoint).collect();
        let (client, at) = first_answer(&through).await?;
        Ok(Since { at, client })
    }
}

/// The first of many fresh clients whose linearizable get is answered, and when.
async fn first_answer(endpoints: &[String]) -> Result<(Client, Instant)> {
    let (began, mut tries) = (Instant::now(), JoinSet::new());
    while began.elapsed() < PATIENCE {
        for endpoint in endpoints {
            let endpoint = endpoint.clone();
            tries.spawn(async move {
                let client = connect(&endpoint).await.ok()?;
                let answer: GetResponse = client.kv_client().get("kept/", None).await.ok()?;
                drop(answer);
                Some((client, Instant::now()))
            });
        }
        let next = Instant::now() + FRESH;
        while let Ok(Some(tried)) = timeout(next.saturating_duration_since(Instant::now()), tries.join_next()).await {
            if let Ok(Some(answered)) = tried {
                return Ok(answered);
            }
        }
        sleep(next.saturating_duration_since(Instant::now())).await;
    }
    Err("etcd answers no fresh client".into())
}

/// As root, where authentication is on.
async fn connect(endpoint: &str) -> Result<Client> {
    let connect = async {
        match Client::connect([endpoint], Some(ConnectOptions::new().with_user(ROOT.0, ROOT.1))).await {
            Err(error) if error.to_string().contains("authentication is not enabled") => {
                Client::connect([endpoint], None).await
            }
            result => result,
        }
    };
    Ok(timeout(ANSWER, connect).await??)
}

/// Users, and authentication on.
async fn protect(endpoints: &[String]) -> Result<()> {
    let (client, _) = first_answer(endpoints).await?;
    let mut auth = client.auth_client();
    let there = |result: std::result::Result<(), etcd_client::Error>| match result {
        Err(error) if error.to_string().contains("already exist") => Ok(()),
        other => other,
    };
    there(auth.role_add("root").await.map(drop))?;
    there(auth.user_add(ROOT.0, ROOT.1, None).await.map(drop))?;
    auth.user_grant_role(ROOT.0, "root").await?;
    there(auth.role_add("kept").await.map(drop))?;
    auth.role_grant_permission("kept", Permission::read_write("kept/").with_prefix()).await?;
    there(auth.user_add(KEEPER.0, KEEPER.1, None).await.map(drop))?;
    auth.user_grant_role(KEEPER.0, "kept").await?;
    auth.auth_enable().await?;
    Ok(())
}
