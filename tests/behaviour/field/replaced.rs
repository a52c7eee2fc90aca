//! Members of etcd that are replaced by others at new addresses.

use std::time::Duration;

use etcd_client::{Client, Member};
use test_support::{Cluster, Etcd, FrameProxy, GrpcProxy, Log};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tonic_etcd::{EtcdOptions, Instance, Registrar, Resolver};

use super::{calls, protect};
use crate::support::{PATIENCE, naming, servers_are, until};

/// A further member, at a new address.
async fn join(admin: &Client, name: &str) -> Etcd {
    let (admin, name, runtime) = (admin.clone(), name.to_owned(), Handle::current());
    let start = move || {
        Etcd::builder().pace(25, 250).join(&name, |peer| {
            let added = async {
                // While the cluster is not sure of itself, it takes nobody.
                until("the member is added", async || {
                    admin.clone().cluster_client().member_add([peer.to_owned()], None).await.ok()
                })
                .await
            };
            let added = runtime.block_on(added);
            let named = |member: &Member| {
                let name = if member.name().is_empty() { name.as_str() } else { member.name() };
                format!("{name}={}", member.peer_urls()[0])
            };
            added.member_list().iter().map(named).collect::<Vec<_>>().join(",")
        })
    };
    spawn_blocking(start).await.unwrap()
}

async fn remove(admin: &Client, name: &str) {
    let removed = async || {
        let mut cluster = admin.cluster_client();
        let members = cluster.member_list().await.ok()?;
        match members.members().iter().find(|member| member.name() == name) {
            Some(member) => cluster.member_remove(member.id()).await.ok().map(drop),
            None => Some(()),
        }
    };
    until(&format!("{name} is removed"), removed).await;
}

/// F20: each of three members is replaced by one with a new address while a registration and a resolution live.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_which_every_member_is_replaced_is_not_lost() {
    let cluster = spawn_blocking(|| Cluster::start(3)).await.unwrap();
    let options = EtcdOptions::new(cluster.endpoints()).learn_members(Duration::from_secs(1));
    let registrar = Registrar::builder(options.clone()).ttl(Duration::from_secs(10)).connect_lazy().unwrap();
    let registration = registrar.register("s", Instance::new("h:1").unwrap()).unwrap();
    registration.ready(PATIENCE).await.unwrap();
    let lease = registration.lease_id();
    let resolution = Resolver::builder(options).connect_lazy().unwrap().resolve("s").unwrap();
    servers_are(&resolution, &["h:1"]).await;
    let mut admin = Client::connect(cluster.endpoints(), None).await.unwrap();
    let mut members = Vec::new();
    for number in 0..3 {
        members.push(join(&admin, &format!("n{number}")).await);
        let all = || cluster.members().iter().chain(&members).map(|member| calls(member, "MemberList")).sum::<usize>();
        let before = all();
        let endpoints: Vec<_> = members.iter().map(Etcd::endpoint).collect();
        admin = Client::connect([endpoints[0].clone()], None).await.unwrap();
        // The registrar and the resolver ask once in a second each: both have heard of it.
        until("both have asked", async || (all() >= before + 5).then_some(())).await;
        remove(&admin, &format!("m{number}")).await;
        cluster.member(number).kill();
    }
    let key = format!("s/{}", "h:2");
    until("a put", async || admin.kv_client().put(&*key, naming("h:2"), None).await.ok()).await;
    servers_are(&resolution, &["h:1", "h:2"]).await;
    let further = registrar.register("s", Instance::new("h:3").unwrap()).unwrap();
    further.ready(PATIENCE).await.unwrap();
    servers_are(&resolution, &["h:1", "h:2", "h:3"]).await;
    assert_eq!(registration.lease_id(), lease);
    let held = until("a get", async || admin.kv_client().get("s/h:1", None).await.ok()).await;
    assert_eq!(held.kvs().first().map(etcd_client::KeyValue::lease), lease);
}

/// F20: whoever may not list members, or asks a proxy, goes on with the endpoints that were given; if it is refused, it is said once.
#[tokio::test]
async fn who_learns_no_members_goes_on_with_those_that_were_given() {
    let (log, _guard) = Log::begin();
    let etcd = Etcd::start();
    let admin = protect(&etcd).await;
    let mut auth = admin.auth_client();
    auth.role_add("role").await.unwrap();
    let all = etcd_client::Permission::read_write("s/").with_prefix();
    auth.role_grant_permission("role", all).await.unwrap();
    auth.user_add("user", "userpw", None).await.unwrap();
    auth.user_grant_role("user", "role").await.unwrap();
    let options = EtcdOptions::from([etcd.endpoint()]).user("user", "userpw").learn_members(Duration::from_secs(1));
    let registrar = Registrar::builder(options).connect_lazy().unwrap();
    let registration = registrar.register("s", Instance::new("h:1").unwrap()).unwrap();
    registration.ready(PATIENCE).await.unwrap();
    until("the members were listed three times", async || (calls(&etcd, "MemberList") >= 3).then_some(())).await;
    eprintln!("{} refusals were said", log.warned("cannot be learned"));
    assert!(log.warned("cannot be learned") <= 1);
    registration.deregister().await.unwrap();
}

/// F20: behind etcd's own grpc-proxy.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_names_itself_costs_nothing() {
    let etcd = Etcd::start();
    let address = etcd.address();
    let proxy = spawn_blocking(move || GrpcProxy::to(address)).await.unwrap();
    let counted = FrameProxy::to(proxy.address());
    let options = EtcdOptions::from([counted.endpoint()]).learn_members(Duration::from_secs(1));
    let resolution = Resolver::builder(options).connect_lazy().unwrap().resolve("s").unwrap();
    resolution.ready(PATIENCE).await.unwrap();
    // It names itself, by an address without a scheme, which is no member's.
    until("the members were listed", async || (counted.streams("MemberList") >= 2).then_some(())).await;
    let admin = Client::connect([etcd.endpoint()], None).await.unwrap();
    admin.kv_client().put("s/h:1", naming("h:1"), None).await.unwrap();
    servers_are(&resolution, &["h:1"]).await;
}
