//! What the behaviour tests share: an etcd with a plain client beside it, and waiting for conditions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, DeleteOptions, GetOptions, Permission};
use test_support::Etcd;
use tokio::time::{Instant, sleep, timeout};
use tonic_etcd::{Instance, Resolution, Resolver, Snapshot};

/// How long a condition may take before the test fails: far longer than it ever should.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// An etcd of the test's own, and what people do to it by hand.
pub(crate) struct World {
    pub(crate) etcd: Etcd,
    pub(crate) admin: Client,
}

impl World {
    pub(crate) async fn start() -> Self {
        let etcd = Etcd::start();
        eprintln!("etcd {}", etcd.version());
        let admin = Client::connect([etcd.endpoint()], None).await.unwrap();
        Self { etcd, admin }
    }

    /// Turns authentication on, with a user "user" who may read and write what begins with this; gives root's client.
    pub(crate) async fn protect(&self, prefix: &str) -> Client {
        let mut auth = self.admin.auth_client();
        auth.user_add("root", "rootpw", None).await.unwrap();
        auth.user_grant_role("root", "root").await.unwrap();
        auth.role_add("role").await.unwrap();
        auth.role_grant_permission("role", Permission::read_write(prefix).with_prefix()).await.unwrap();
        auth.user_add("user", "userpw", None).await.unwrap();
        auth.user_grant_role("user", "role").await.unwrap();
        auth.auth_enable().await.unwrap();
        let options = ConnectOptions::new().with_user("root", "rootpw");
        until("root", async || Client::connect([self.etcd.endpoint()], Some(options.clone())).await.ok()).await
    }

    pub(crate) async fn resolver(&self) -> Resolver {
        Resolver::connect_lazy([self.etcd.endpoint()]).unwrap()
    }

    pub(crate) async fn put(&self, key: &str, value: &str) {
        until(&format!("put {key}"), async || self.admin.kv_client().put(key, value, None).await.ok()).await;
    }

    pub(crate) async fn delete(&self, key: &str) {
        until(&format!("delete {key}"), async || self.admin.kv_client().delete(key, None).await.ok()).await;
    }

    pub(crate) async fn delete_prefix(&self, prefix: &str) {
        let options = DeleteOptions::new().with_prefix();
        let deleted = async || self.admin.kv_client().delete(prefix, Some(options.clone())).await.ok();
        until(&format!("delete {prefix}"), deleted).await;
    }

    /// Everything under a prefix.
    pub(crate) async fn contents(&self, prefix: &str) -> BTreeMap<String, String> {
        let options = GetOptions::new().with_prefix();
        let got = async || self.admin.kv_client().get(prefix, Some(options.clone())).await.ok();
        let response = until(&format!("get {prefix}"), got).await;
        let pair = |pair: &etcd_client::KeyValue| (pair.key_str().unwrap().into(), pair.value_str().unwrap().into());
        response.kvs().iter().map(pair).collect()
    }

    /// The lease of a key, if it is there.
    pub(crate) async fn lease_of(&self, key: &str) -> Option<i64> {
        let response = until("get", async || self.admin.kv_client().get(key, None).await.ok()).await;
        response.kvs().first().map(etcd_client::KeyValue::lease)
    }

    pub(crate) async fn leases(&self) -> Vec<i64> {
        let response = until("leases", async || self.admin.lease_client().leases().await.ok()).await;
        response.leases().iter().map(etcd_client::LeaseStatus::id).collect()
    }

    pub(crate) async fn revision(&self) -> i64 {
        let response = until("get", async || self.admin.kv_client().get("x", None).await.ok()).await;
        response.header().unwrap().revision()
    }

    pub(crate) async fn compact(&self) {
        let revision = self.revision().await;
        let compacted = async || match self.admin.kv_client().compact(revision, None).await {
            Ok(_) => Some(()),
            // Nothing was written since the last time.
            Err(error) => error.to_string().contains("has been compacted").then_some(()),
        };
        until("compact", compacted).await;
    }

    /// The watches that etcd has open.
    pub(crate) fn watches(&self) -> usize {
        self.etcd.metric("etcd_debugging_mvcc_watcher_total").expect("etcd counts its watches") as usize
    }
}

/// etcd's gRPC naming of an address.
pub(crate) fn naming(address: &str) -> String {
    format!(r#"{{"Op":0,"Addr":"{address}","Metadata":null}}"#)
}

/// Tries until there is a value.
pub(crate) async fn until<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Ok(Some(value)) = timeout(Duration::from_secs(5), attempt()).await {
            return value;
        }
        assert!(Instant::now() < end, "not in time: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until the snapshot is as wanted.
pub(crate) async fn resolved(resolution: &Resolution, what: &str, wanted: impl Fn(&Snapshot) -> bool) {
    let mut resolution = resolution.clone();
    let wait = async {
        while !wanted(&resolution.snapshot()) {
            resolution.changed().await.unwrap();
        }
    };
    let came = timeout(PATIENCE, wait).await.is_ok();
    let (error, snapshot) = (resolution.last_error(), resolution.snapshot());
    assert!(came, "not in time: {what}\n{resolution:?}\n{error:?}\n{snapshot:?}");
}

/// Waits until these are the servers.
pub(crate) async fn servers_are(resolution: &Resolution, wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().map(|address| (*address).to_owned()).collect();
    resolved(resolution, &format!("{wanted:?}"), |snapshot| addresses(snapshot) == wanted).await;
}

pub(crate) fn addresses(snapshot: &Snapshot) -> BTreeSet<String> {
    snapshot.instances().flat_map(Instance::addresses).map(ToString::to_string).collect()
}
