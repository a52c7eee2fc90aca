//! F12: many registrations of one registrar, far from etcd.

use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions, GetOptions, Permission};
use test_support::{Bar, Etcd, FrameProxy, Rule};
use tokio::task::JoinSet;
use tonic_etcd::{EtcdOptions, Instance, Registrar, Registration};

use crate::findings::Findings;
use crate::world::{Result, World};

const REGISTRATIONS: usize = 200;
const ROUND_TRIP: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(30);
const BAR: Bar = Bar::AtMost(2_000.0);
const ROOT: (&str, &str) = ("root", "rootpw");
const WRITER: (&str, &str) = ("writer", "writerpw");

pub(in crate::scenarios) fn run(world: &World, findings: &mut Findings) -> Result<()> {
    world.block_on(well(findings))?;
    world.block_on(beside_one_that_is_refused(findings))
}

async fn well(findings: &mut Findings) -> Result<()> {
    let etcd = Etcd::start();
    let client = Client::connect([etcd.endpoint()], None).await?;
    let proxy = far(&etcd);
    let registrar = Registrar::connect_lazy([proxy.endpoint()])?;
    let (mut registrations, took) = registered(&registrar, REGISTRATIONS).await?;
    findings.ours("registered within", ms(took), "ms", BAR);
    let leases = || etcd.metric("etcd_debugging_lease_granted_total").unwrap_or(f64::NAN);
    findings.ours("leases granted", leases(), "", Bar::Equal(1.0));
    findings.ours("keys", count(&client).await?, "", Bar::Equal(REGISTRATIONS as f64));
    let stays = registrations.pop();
    findings.ours("all but one left within", ms(leave(registrations).await?), "ms", BAR);
    findings.ours("keys that stay", count(&client).await?, "", Bar::Equal(1.0));
    findings.ours("leases granted then", leases(), "", Bar::Equal(1.0));
    findings.ours("the last left within", ms(leave(stays.into_iter().collect()).await?), "ms", BAR);
    Ok(())
}

async fn beside_one_that_is_refused(findings: &mut Findings) -> Result<()> {
    let etcd = Etcd::start();
    let root = protect(&etcd).await?;
    let proxy = far(&etcd);
    let options = EtcdOptions::from([proxy.endpoint()]).user(WRITER.0, WRITER.1);
    let registrar = Registrar::builder(options).connect_lazy()?;
    let refused = registrar.register("forbidden", Instance::new("h:1")?)?;
    let (registrations, took) = registered(&registrar, REGISTRATIONS - 1).await?;
    findings.ours("registered beside one that is refused within", ms(took), "ms", BAR);
    let expected = Bar::Equal(REGISTRATIONS as f64 - 1.0);
    findings.ours("keys beside one that is refused", count(&root).await?, "", expected);
    findings.ours("refused ones that stand", f64::from(u8::from(refused.is_registered())), "", Bar::Equal(0.0));
    drop(registrations);
    Ok(())
}

async fn count(client: &Client) -> Result<f64> {
    let options = GetOptions::new().with_prefix().with_count_only();
    Ok(client.kv_client().get("many/", Some(options)).await?.count() as f64)
}

/// Everything that a client sends arrives a round trip later.
fn far(etcd: &Etcd) -> FrameProxy {
    let proxy = FrameProxy::to(etcd.address());
    proxy.rule(Rule::delay(ROUND_TRIP).requests());
    proxy
}

/// How long it takes until all of them stand.
async fn registered(registrar: &Registrar, count: usize) -> Result<(Vec<Registration>, Duration)> {
    let (began, mut registrations) = (Instant::now(), Vec::new());
    for number in 0..count {
        registrations.push(registrar.register("many", Instance::new(format!("h:{}", 1 + number))?)?);
    }
    for registration in &registrations {
        registration.ready(PATIENCE).await?;
    }
    Ok((registrations, began.elapsed()))
}

/// How long it takes until all of them have left.
async fn leave(registrations: Vec<Registration>) -> Result<Duration> {
    let (began, mut leaving) = (Instant::now(), JoinSet::new());
    for registration in registrations {
        leaving.spawn(registration.deregister_within(PATIENCE));
    }
    while let Some(left) = leaving.join_next().await {
        left??;
    }
    Ok(began.elapsed())
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

/// A user who may read and write one service; root's client.
async fn protect(etcd: &Etcd) -> Result<Client> {
    let admin = Client::connect([etcd.endpoint()], None).await?;
    let mut auth = admin.auth_client();
    auth.user_add(ROOT.0, ROOT.1, None).await?;
    auth.user_grant_role(ROOT.0, "root").await?;
    auth.role_add("many").await?;
    auth.role_grant_permission("many", Permission::read_write("many/").with_prefix()).await?;
    auth.user_add(WRITER.0, WRITER.1, None).await?;
    auth.user_grant_role(WRITER.0, "many").await?;
    auth.auth_enable().await?;
    Ok(Client::connect([etcd.endpoint()], Some(ConnectOptions::new().with_user(ROOT.0, ROOT.1))).await?)
}
