//! Requests that are slow, held or never answered beside registrations that are well: what do they cost those?

use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions, GetOptions, KeyValue};
use test_support::{Bar, Cluster, Etcd, FrameProxy, Proxy, Rule};
use tokio::time::sleep;
use tonic_etcd::{EtcdOptions, Instance, Registrar, Registration};

use crate::findings::Findings;
use crate::world::{Result, World};

/// How long commits stall, or requests are held.
const HELD: Duration = Duration::from_secs(12);
/// How long a watch is not answered.
const UNANSWERED: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(30);
const ROOT: (&str, &str) = ("root", "rootpw");

/// F6: both followers of three are stopped while a second registration is put, with and without a user.
pub(in crate::scenarios) fn commits(world: &World, findings: &mut Findings) -> Result<()> {
    for with_user in [false, true] {
        let builder = Etcd::builder().pace(100, 15_000).arg("--bcrypt-cost=4");
        let cluster = Cluster::start_with(&builder, 3);
        world.block_on(commits_stall(&cluster, with_user, findings))?;
    }
    Ok(())
}

async fn commits_stall(cluster: &Cluster, with_user: bool, findings: &mut Findings) -> Result<()> {
    let leader = cluster.leader();
    let etcd = cluster.member(leader);
    let client = client(etcd, with_user).await?;
    let checks = calls(etcd, "Authenticate");
    let proxy = Proxy::to(etcd.address());
    let registrar = registrar(&proxy.endpoint(), with_user, Duration::from_secs(5))?;
    let first = registered(&registrar, 1).await?;
    let followers: Vec<_> = (0..3).filter(|member| *member != leader).map(|member| cluster.member(member)).collect();
    followers.iter().for_each(|member| member.freeze());
    let second = registrar.register("kept", instance(2)?)?;
    let gaps = stands(&client, &first, HELD).await?;
    followers.iter().for_each(|member| member.thaw());
    second.ready(PATIENCE).await?;
    let form = if with_user { "commits stall, with a user" } else { "commits stall, without a user" };
    let mut row = |what: &str, value: usize, bar| findings.ours(&format!("{form}: {what}"), value as f64, "", bar);
    row("the first key not under its lease", gaps, Bar::Equal(0.0));
    row("keep-alive streams", calls(etcd, "LeaseKeepAlive"), Bar::Equal(1.0));
    row("connections", proxy.connections(), Bar::Equal(1.0));
    row("password checks", calls(etcd, "Authenticate") - checks, Bar::AtMost(1.0));
    Ok(())
}

/// F6: puts and password checks are held on their way for four lives of the lease.
pub(in crate::scenarios) fn held(world: &World, findings: &mut Findings) -> Result<()> {
    world.block_on(async {
        let etcd = Etcd::start();
        let client = client(&etcd, true).await?;
        let proxy = FrameProxy::to(etcd.address());
        let registrar = registrar(&proxy.endpoint(), true, Duration::from_secs(3))?;
        let first = registered(&registrar, 1).await?;
        proxy.rule(Rule::hold().method("Put"));
        proxy.rule(Rule::hold().method("Txn"));
        proxy.rule(Rule::hold().method("Authenticate"));
        let second = registrar.register("kept", instance(2)?)?;
        let gaps = stands(&client, &first, HELD).await?;
        proxy.clear();
        second.ready(PATIENCE).await?;
        findings.ours("the first key not under its lease", gaps as f64, "", Bar::Equal(0.0));
        findings.ours("keep-alive streams", proxy.streams("LeaseKeepAlive") as f64, "", Bar::Equal(1.0));
        findings.ours("connections", proxy.connections() as f64, "", Bar::Equal(1.0));
        findings.ours("password checks", proxy.streams("Authenticate") as f64, "", Bar::Equal(1.0));
        Ok(())
    })
}

/// F9: the watch of one key is never answered.
pub(in crate::scenarios) fn unanswered(world: &World, findings: &mut Findings) -> Result<()> {
    world.block_on(async {
        let etcd = Etcd::start();
        let client = client(&etcd, false).await?;
        let proxy = FrameProxy::to(etcd.address());
        proxy.rule(Rule::drop_all().method("Watch").requests().containing("kept/h:99"));
        let registrar = registrar(&proxy.endpoint(), false, Duration::from_secs(5))?;
        let mute = registrar.register("kept", instance(99)?)?;
        let mut slowest = Duration::ZERO;
        let first = registered(&registrar, 1).await?;
        mute.ready(PATIENCE).await?;
        let (began, lease) = (Instant::now(), first.lease_id());
        let watches = proxy.streams("Watch");
        while began.elapsed() < UNANSWERED {
            client.kv_client().delete("kept/h:1", None).await?;
            let gone = Instant::now();
            while lease_of(&client, "kept/h:1").await? != lease {
                sleep(Duration::from_millis(2)).await;
            }
            slowest = slowest.max(gone.elapsed());
            sleep(Duration::from_secs(2)).await;
        }
        let opened = (proxy.streams("Watch") - watches) as f64;
        findings.ours("further watch streams in 60 s", opened, "", Bar::AtMost(6.0));
        findings.ours("keep-alive streams", proxy.streams("LeaseKeepAlive") as f64, "", Bar::Equal(1.0));
        findings.ours("connections", proxy.connections() as f64, "", Bar::Equal(1.0));
        let others = etcd.metric("etcd_debugging_mvcc_watcher_total").unwrap_or(f64::NAN);
        findings.ours("other watches in etcd", others, "", Bar::Equal(1.0));
        findings.ours("repair of another key, slowest", slowest.as_secs_f64() * 1e3, "ms", Bar::AtMost(200.0));
        Ok(())
    })
}

fn registrar(endpoint: &str, with_user: bool, ttl: Duration) -> Result<Registrar> {
    let options = EtcdOptions::from([endpoint]);
    let options = if with_user { options.user(ROOT.0, ROOT.1) } else { options };
    Ok(Registrar::builder(options).ttl(ttl).connect_lazy()?)
}

fn instance(port: usize) -> Result<Instance> {
    Ok(Instance::new(format!("h:{port}"))?)
}

async fn registered(registrar: &Registrar, port: usize) -> Result<Registration> {
    let registration = registrar.register("kept", instance(port)?)?;
    registration.ready(PATIENCE).await?;
    Ok(registration)
}

/// How often the first key does not stand under the lease that it had at the beginning. Reads need no majority.
async fn stands(client: &Client, registration: &Registration, long: Duration) -> Result<usize> {
    let (began, lease, mut gaps) = (Instant::now(), registration.lease_id(), 0);
    while began.elapsed() < long {
        gaps += usize::from(lease_of(client, "kept/h:1").await? != lease);
        sleep(LOOK).await;
    }
    Ok(gaps)
}

async fn lease_of(client: &Client, key: &str) -> Result<Option<i64>> {
    let read = client.kv_client().get(key, Some(GetOptions::new().with_serializable())).await?;
    Ok(read.kvs().first().map(KeyValue::lease))
}

/// A client past all proxies; root's, where authentication is turned on for it.
async fn client(etcd: &Etcd, with_user: bool) -> Result<Client> {
    let client = Client::connect([etcd.endpoint()], None).await?;
    if !with_user {
        return Ok(client);
    }
    let mut auth = client.auth_client();
    auth.user_add(ROOT.0, ROOT.1, None).await?;
    auth.user_grant_role(ROOT.0, "root").await?;
    auth.auth_enable().await?;
    let options = ConnectOptions::new().with_user(ROOT.0, ROOT.1);
    Ok(Client::connect([etcd.endpoint()], Some(options)).await?)
}

/// How often clients have called a method of this etcd.
fn calls(etcd: &Etcd, method: &str) -> usize {
    etcd.metric_with("grpc_server_started_total", &format!("grpc_method=\"{method}\"")).unwrap_or_default() as usize
}
