//! What people reported of systems like this one, by number: `F6` and so on, as the comments of the tests have it.

mod closing;
mod connections;
mod corpus;
mod dropped;
mod dying;
mod full;
mod grpc_proxy;
mod held;
mod last_errors;
mod late;
mod leases;
mod listeners;
mod lists;
mod many;
mod members;
mod panics;
mod quiet;
mod records;
mod replaced;
mod secrets;
mod several;
mod spans;
mod streams;
mod tokens;
mod weak;

use etcd_client::{Client, ConnectOptions};
use test_support::Etcd;
use tonic_etcd::EtcdOptions;

use crate::support::until;

/// How often clients have called a method of this etcd.
fn calls(etcd: &Etcd, method: &str) -> usize {
    etcd.metric_with("grpc_server_started_total", &format!("grpc_method=\"{method}\"")).unwrap_or_default() as usize
}

/// How many of them it has answered, or seen given up.
fn handled(etcd: &Etcd, method: &str) -> usize {
    let metrics = etcd.metrics();
    let of = |line: &&str| line.starts_with("grpc_server_handled_total") && line.contains(&format!("\"{method}\""));
    let counts = metrics.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    counts.sum::<f64>() as usize
}

/// Turns authentication on, with root alone.
async fn protect(etcd: &Etcd) -> Client {
    let admin = Client::connect([etcd.endpoint()], None).await.unwrap();
    let mut auth = admin.auth_client();
    auth.user_add("root", "rootpw", None).await.unwrap();
    auth.user_grant_role("root", "root").await.unwrap();
    auth.auth_enable().await.unwrap();
    let options = ConnectOptions::new().with_user("root", "rootpw");
    until("root", async || Client::connect([etcd.endpoint()], Some(options.clone())).await.ok()).await
}

fn as_root<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> EtcdOptions {
    EtcdOptions::new(endpoints).user("root", "rootpw")
}
