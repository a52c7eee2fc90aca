//! An etcd in which nothing happens: what does a resolver do to it, and what does it tell its user?

use std::thread;
use std::time::{Duration, SystemTime};

use etcd_client::Permission;
use test_support::{Bar, Etcd, GrpcProxy, Proxy};

use super::reader::{Admin, Reader, ms_between};
use crate::findings::Findings;
use crate::world::{Result, World};

const SERVICE: &str = "quiet";
const SETTLED: Duration = Duration::from_secs(2);
const QUIET: Duration = Duration::from_secs(60);
/// For the change that proves, after the minute, that the resolver is still there.
const PATIENCE: Duration = Duration::from_secs(20);
const ADDRESSES: [&str; 3] = ["10.0.0.1:5", "10.0.0.2:5", "10.0.0.3:5"];
const AFTER: &str = "10.0.0.4:5";
const ROOT: (&str, &str) = ("root", "rootpw");
const USER: (&str, &str) = ("reader", "readerpw");

/// How the resolver reaches etcd. All forms have their minute at the same time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    User,
    Plain,
    GrpcProxy,
}

struct Form {
    way: Way,
    admin: Admin,
    reader: Reader,
    /// Between the resolver and what it connects to.
    proxy: Proxy,
    grpc_proxy: Option<GrpcProxy>,
    etcd: Etcd,
    /// Watch streams that there were before the resolver: grpc-proxy has one of its own.
    streams_of_others: f64,
}

/// What can be counted from outside.
struct Counts {
    watches: f64,
    authentications: f64,
    connections: usize,
    changes: usize,
    events: usize,
}

pub(in crate::scenarios) fn run(world: &World, findings: &mut Findings) -> Result<()> {
    let forms = [Way::User, Way::Plain, Way::GrpcProxy].map(|way| Form::start(world, way));
    let forms: Vec<Form> = forms.into_iter().collect::<Result<_>>()?;
    thread::sleep(SETTLED);
    let before: Vec<Counts> = forms.iter().map(Form::counts).collect();
    thread::sleep(QUIET.checked_sub(SETTLED).unwrap_or(QUIET));
    for (form, before) in forms.iter().zip(before) {
        form.judge(world, &before, findings);
    }
    Ok(())
}

impl Form {
    fn start(world: &World, way: Way) -> Result<Self> {
        // Cheap passwords, so that a busy machine makes no difference.
        let etcd = Etcd::builder().arg("--bcrypt-cost=4").try_start()?;
        let admin = world.block_on(prepare(&etcd, way))?;
        let grpc_proxy = (way == Way::GrpcProxy).then(|| GrpcProxy::to(etcd.address()));
        let proxy = Proxy::to(grpc_proxy.as_ref().map_or(etcd.address(), GrpcProxy::address));
        let streams_of_others = streams(&etcd);
        let user = format!("{}:{}", USER.0, USER.1);
        let args: &[&str] = if way == Way::User { &["--user", &user] } else { &[] };
        let reader = Reader::start(world, &proxy.endpoint(), SERVICE, args)?;
        Ok(Self { way, admin, reader, proxy, grpc_proxy, etcd, streams_of_others })
    }

    fn counts(&self) -> Counts {
        let started = |method: &str| {
            let label = format!(r#"grpc_method="{method}""#);
            self.etcd.metric_with("grpc_server_started_total", &label).unwrap_or(f64::NAN)
        };
        Counts {
            watches: started("Watch"),
            authentications: started("Authenticate"),
            connections: self.proxy.connections(),
            changes: self.reader.changes(),
            events: self.reader.events().len(),
        }
    }

    fn judge(&self, world: &World, before: &Counts, findings: &mut Findings) {
        let name = self.way.name();
        let after = self.counts();
        for event in self.reader.events().iter().skip(before.events).take(3) {
            eprintln!("  {name}: {event}");
        }
        let streams = streams(&self.etcd) - self.streams_of_others;
        let mut none = |what: &str, count: f64| findings.ours(&format!("{name}: {what}"), count, "", Bar::Equal(0.0));
        none("Watch calls begun", after.watches - before.watches);
        none("Authenticate calls begun", after.authentications - before.authentications);
        none("connections made", (after.connections - before.connections) as f64);
        none("returns of changed()", (after.changes - before.changes) as f64);
        none("events at INFO and above", (after.events - before.events) as f64);
        findings.ours(&format!("{name}: watch streams in etcd"), streams, "", Bar::Equal(1.0));
        if let Some(grpc_proxy) = &self.grpc_proxy {
            let errors = grpc_proxy.errors() as f64;
            findings.ours(&format!("{name}: errors that it has logged"), errors, "", Bar::AtMost(1.0));
        }
        let what = format!("{name}: a change after the minute, seen within");
        match self.seen(world) {
            Ok(ms) => findings.ours(&what, ms, "ms", Bar::AtMost(1_000.0)),
            Err(error) => findings.missing(&what, error.to_string()),
        }
    }

    /// A resolver that has died would be the quietest.
    fn seen(&self, world: &World) -> Result<f64> {
        let (said, put) = (self.reader.said(), SystemTime::now());
        world.block_on(self.admin.put(AFTER))?;
        let all: Vec<String> = ADDRESSES.iter().chain([&AFTER]).map(ToString::to_string).collect();
        Ok(ms_between(put, self.reader.saw(said, &all, PATIENCE)?))
    }
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::User => "with a user",
            Self::Plain => "without a user",
            Self::GrpcProxy => "behind grpc-proxy",
        }
    }
}

fn streams(etcd: &Etcd) -> f64 {
    etcd.metric("etcd_debugging_mvcc_watch_stream_total").unwrap_or(f64::NAN)
}

/// Puts the servers, and turns authentication on where there is to be a user.
async fn prepare(etcd: &Etcd, way: Way) -> Result<Admin> {
    let admin = Admin::connect(&etcd.endpoint(), SERVICE, None).await?;
    for address in ADDRESSES {
        admin.put(address).await?;
    }
    if way != Way::User {
        return Ok(admin);
    }
    let mut auth = admin.client().auth_client();
    auth.role_add("root").await?;
    auth.user_add(ROOT.0, ROOT.1, None).await?;
    auth.user_grant_role(ROOT.0, "root").await?;
    auth.role_add(SERVICE).await?;
    auth.role_grant_permission(SERVICE, Permission::read(format!("{SERVICE}/")).with_prefix()).await?;
    auth.user_add(USER.0, USER.1, None).await?;
    auth.user_grant_role(USER.0, SERVICE).await?;
    auth.auth_enable().await?;
    Admin::connect(&etcd.endpoint(), SERVICE, Some(ROOT)).await
}
