//! Losses of instances that are doubtful: etcd no longer lists servers that still answer.

mod readers;
mod records;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use test_support::{Log, Proxy};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::StreamExt;
use tonic::{Code, Status};
use tonic_etcd::{
    BalancedChannel, Instance, MassLoss, Registrar, RegistrationOptions, Resolution, ResolutionState, Resolver,
    ServerState,
};
use tower::discover::Change;
use tracing::Level;

use crate::channel::{greet, server};
use crate::support::{PATIENCE, World, addresses, naming, resolved, until};

/// A server behind a proxy, which can cut it off, stall it, and close its connections.
struct Server {
    proxy: Proxy,
}

impl Server {
    fn start() -> Self {
        Self { proxy: Proxy::to(server().parse().unwrap()) }
    }

    fn address(&self) -> String {
        self.proxy.address().to_string()
    }

    /// Its connections end, and it accepts no others.
    fn kill(&self) {
        self.proxy.refuse();
        self.proxy.cut();
    }
}

/// An etcd, servers that it lists, and a channel that has connected to all of them.
struct Fleet {
    world: World,
    servers: Vec<Server>,
    resolution: Resolution,
    channel: BalancedChannel,
}

impl Fleet {
    /// The keys are `s/0`, `s/1` …, without leases.
    async fn start(count: usize) -> Self {
        Self::over(World::start().await, count).await
    }

    async fn over(world: World, count: usize) -> Self {
        let servers: Vec<Server> = (0..count).map(|_| Server::start()).collect();
        let resolution = world.resolver().resolve("s").unwrap();
        let channel = BalancedChannel::builder().connections_per_server(2).build(&resolution).unwrap();
        let fleet = Self { world, servers, resolution, channel };
        for index in 0..count {
            fleet.register(index).await;
        }
        fleet.all_ready(count).await;
        fleet
    }

    async fn register(&self, index: usize) {
        self.world.put(&format!("s/{index}"), &naming(&self.servers[index].address())).await;
    }

    async fn deregister(&self, index: usize) {
        self.world.delete(&format!("s/{index}")).await;
    }

    async fn all_ready(&self, count: usize) {
        let all = async || (self.with(ServerState::Ready).len() == count).then_some(());
        until(&format!("{count} ready servers"), all).await;
    }

    /// The servers in this state.
    fn with(&self, state: ServerState) -> Vec<String> {
        let servers = self.channel.servers().into_iter().filter(|server| server.state() == state);
        servers.map(|server| server.address().to_string()).collect()
    }

    fn held(&self) -> usize {
        self.with(ServerState::Held).len()
    }

    async fn doubtful(&self, instances: usize) {
        let is_so = |state| matches!(state, ResolutionState::Doubtful { instances: found, .. } if found == instances);
        until(&format!("{instances} doubtful"), async || is_so(self.resolution.state()).then_some(())).await;
        assert_eq!(self.resolution.snapshot().doubtful().count(), instances);
    }

    /// The state once nothing is doubtful.
    async fn not_doubtful(&self) -> ResolutionState {
        let state =
            async || Some(self.resolution.state()).filter(|state| !matches!(state, ResolutionState::Doubtful { .. }));
        until("no doubt", state).await
    }
}

/// Calls without a pause, until it is stopped.
struct Callers {
    tasks: JoinSet<(usize, Vec<Status>)>,
    stop: Arc<AtomicBool>,
}

impl Callers {
    fn start(channel: &BalancedChannel) -> Self {
        let (mut tasks, stop) = (JoinSet::new(), Arc::new(AtomicBool::new(false)));
        for _ in 0..8 {
            let (channel, stop) = (channel.clone(), stop.clone());
            tasks.spawn(async move {
                let (mut answered, mut failed) = (0, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    match greet(&channel).await {
                        Ok(_) => answered += 1,
                        Err(status) => failed.push(status),
                    }
                    sleep(Duration::from_millis(1)).await;
                }
                (answered, failed)
            });
        }
        Self { tasks, stop }
    }

    /// All were answered.
    async fn none_failed(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (answered, failed): (Vec<usize>, Vec<Vec<Status>>) = self.tasks.join_all().await.into_iter().unzip();
        let failed: Vec<Status> = failed.into_iter().flatten().collect();
        assert!(
            answered.iter().all(|count| *count > 0) && failed.is_empty(),
            "{} failed: {:?}",
            failed.len(),
            failed.first()
        );
    }
}

#[tokio::test]
async fn servers_of_a_wiped_etcd_are_kept_until_their_connections_end() {
    let (log, _guard) = Log::begin();
    let fleet = Fleet::start(4).await;
    let callers = Callers::start(&fleet.channel);
    fleet.world.etcd.kill();
    fleet.world.etcd.wipe();
    fleet.world.etcd.start_again();
    fleet.doubtful(4).await;
    assert!(fleet.resolution.snapshot().is_empty(), "the snapshot is what etcd holds");
    until("all to be held", async || (fleet.held() == 4).then_some(())).await;
    sleep(Duration::from_millis(1_500)).await; // they have a second to prove that they live
    assert_eq!(fleet.held(), 4);
    callers.none_failed().await;

    // No new connection is made to one that etcd does not list.
    let connections = fleet.servers[0].proxy.connections();
    fleet.servers[0].proxy.cut();
    until("it to go", async || (fleet.held() == 3).then_some(())).await;
    let callers = Callers::start(&fleet.channel);
    for index in [1, 2, 3] {
        fleet.register(index).await;
    }
    fleet.all_ready(3).await;
    fleet.doubtful(1).await;
    assert_eq!(fleet.held(), 0);
    callers.none_failed().await;
    assert_eq!(fleet.servers[0].proxy.connections(), connections);
    fleet.register(0).await;
    fleet.all_ready(4).await;
    assert_eq!(fleet.not_doubtful().await, ResolutionState::Current);

    // What was put again is ordinary: its next loss is believed.
    fleet.world.delete_prefix("s/").await;
    until("all to go", async || fleet.channel.servers().is_empty().then_some(())).await;
    assert_eq!(fleet.resolution.state(), ResolutionState::ConfirmedEmpty);
    assert_eq!(log.warned("etcd has lost most instances, channels keep those that answer"), 1);
    assert_eq!(log.count_at(Level::INFO, "no instance is doubtful any more"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_an_old_backup_does_not_know_are_kept() {
    let world = World::start().await;
    world.put("s/old", &naming("127.0.0.1:1")).await;
    world.etcd.terminate();
    world.etcd.save();
    world.etcd.start_again();
    world.delete("s/old").await;
    let fleet = Fleet::over(world, 4).await;
    let callers = Callers::start(&fleet.channel);
    fleet.world.etcd.kill();
    fleet.world.etcd.restore();
    fleet.world.etcd.start_again();
    fleet.doubtful(4).await;
    let snapshot = fleet.resolution.snapshot();
    assert_eq!(addresses(&snapshot), ["127.0.0.1:1".to_owned()].into(), "{snapshot:?}");
    sleep(Duration::from_millis(1_500)).await;
    assert_eq!(fleet.held(), 4);
    callers.none_failed().await;
}

/// Another cluster, whose revision is higher than all that was known.
#[tokio::test(flavor = "multi_thread")]
async fn servers_that_another_cluster_does_not_know_are_kept() {
    let fleet = Fleet::start(3).await;
    let other = test_support::Etcd::builder().args(["--initial-cluster-token", "another"]);
    let other = other.port(fleet.world.etcd.address().port());
    let callers = Callers::start(&fleet.channel);
    fleet.world.etcd.kill();
    let other = other.start();
    let admin = etcd_client::Client::connect([other.endpoint()], None).await.unwrap();
    for _ in 0..50 {
        admin.kv_client().put("s/other", naming("127.0.0.1:1"), None).await.unwrap();
    }
    fleet.doubtful(3).await;
    sleep(Duration::from_millis(1_500)).await;
    assert_eq!(fleet.held(), 3);
    callers.none_failed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_that_is_deleted_at_once_costs_no_server_that_answers() {
    let fleet = Fleet::start(3).await;
    fleet.servers[0].proxy.stall();
    fleet.world.delete_prefix("s/").await;
    let began = Instant::now();
    fleet.doubtful(3).await;
    until("the one that does not answer to go", async || (fleet.channel.servers().len() == 2).then_some(())).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let callers = Callers::start(&fleet.channel);
    sleep(Duration::from_millis(300)).await;
    callers.none_failed().await;
    assert_eq!(fleet.held(), 2);

    // Registered again, it is connected again.
    fleet.servers[0].proxy.resume();
    fleet.register(0).await;
    fleet.all_ready(1).await;
    let calls = Callers::start(&fleet.channel);
    sleep(Duration::from_millis(300)).await;
    calls.none_failed().await;
    let used = |address: String| {
        fleet.channel.servers().iter().find(|server| server.address().to_string() == address).unwrap().attempts()
    };
    assert!((0..3).all(|index| used(fleet.servers[index].address()) > 0), "a sudden loss: calls go on as before");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_whose_registrars_are_cut_off_are_kept() {
    let world = World::start().await;
    let to_etcd = Proxy::to(world.etcd.address());
    let servers: Vec<Server> = (0..3).map(|_| Server::start()).collect();
    let mut registrars = Vec::new();
    for server in &servers {
        let registrar = Registrar::builder([to_etcd.endpoint()]).ttl(Duration::from_secs(2)).connect_lazy().unwrap();
        let instance = Instance::new(server.address()).unwrap();
        let registration = registrar.register_with("s", instance, RegistrationOptions::default()).unwrap();
        registration.ready(PATIENCE).await.unwrap();
        registrars.push((registrar, registration));
    }
    let resolution = world.resolver().resolve("s").unwrap();
    let channel = resolution.channel().unwrap();
    let fleet = Fleet { world, servers, resolution, channel };
    fleet.all_ready(3).await;
    let callers = Callers::start(&fleet.channel);
    to_etcd.refuse();
    to_etcd.cut();
    resolved(&fleet.resolution, "no instance", tonic_etcd::Snapshot::is_empty).await;
    fleet.doubtful(2).await; // of three one is gone before fewer than half are left
    sleep(Duration::from_millis(1_500)).await;
    assert_eq!(fleet.held(), 2);
    callers.none_failed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_servers_are_gone_two_seconds_after_their_keys() {
    let fleet = Fleet::start(3).await;
    for index in [1, 2] {
        fleet.servers[index].proxy.stall();
    }
    fleet.deregister(1).await;
    fleet.deregister(2).await;
    let began = Instant::now();
    fleet.doubtful(1).await;
    until("both to go", async || (fleet.channel.servers().len() == 1).then_some(())).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    for _ in 0..20 {
        assert_eq!(greet(&fleet.channel).await.unwrap(), fleet.servers[0].address());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_is_replaced_after_a_gap_fails_no_call() {
    let mut fleet = Fleet::start(5).await;
    fleet.servers.extend((0..5).map(|_| Server::start()));
    let callers = Callers::start(&fleet.channel);
    for index in 0..5 {
        fleet.deregister(index).await;
    }
    sleep(Duration::from_secs(1)).await;
    for index in 5..10 {
        fleet.register(index).await;
    }
    fleet.all_ready(5).await;
    sleep(Duration::from_secs(1)).await;
    (0..5).for_each(|index| fleet.servers[index].kill());
    until("the old ones to go", async || (fleet.channel.servers().len() == 5).then_some(())).await;
    callers.none_failed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_have_left_get_no_call_that_another_can_take() {
    let fleet = Fleet::start(4).await;
    for index in [0, 1, 2] {
        fleet.deregister(index).await;
    }
    fleet.doubtful(1).await;
    until("one to be held", async || (fleet.held() == 1).then_some(())).await;
    for _ in 0..50 {
        assert_eq!(greet(&fleet.channel).await.unwrap(), fleet.servers[3].address());
    }
    // All leave: they get calls for as long as they answer, and none after.
    fleet.deregister(3).await;
    until("both to be held", async || (fleet.held() == 2).then_some(())).await;
    assert!(greet(&fleet.channel).await.is_ok());
    fleet.servers.iter().for_each(Server::kill);
    let began = Instant::now();
    let status = until("calls to fail", async || greet(&fleet.channel).await.err()).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    until("all to go", async || fleet.channel.servers().is_empty().then_some(())).await;
    let status = greet(&fleet.channel).await.err().unwrap_or(status);
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("none is registered"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doubt_ends_after_its_time() {
    let world = World::start().await;
    let options = MassLoss::default().doubtful_for(Duration::from_secs(2));
    let resolver = Resolver::builder([world.etcd.endpoint()]).mass_loss(options).connect_lazy().unwrap();
    let servers: Vec<Server> = (0..3).map(|_| Server::start()).collect();
    let resolution = resolver.resolve("s").unwrap();
    let channel = resolution.channel().unwrap();
    let fleet = Fleet { world, servers, resolution, channel };
    for index in 0..3 {
        fleet.register(index).await;
    }
    fleet.all_ready(3).await;
    let began = Instant::now(); // before: the resolver may see it sooner than this test
    fleet.world.delete_prefix("s/").await;
    fleet.doubtful(3).await;
    assert_eq!(fleet.not_doubtful().await, ResolutionState::ConfirmedEmpty);
    assert!(began.elapsed() > Duration::from_millis(1_500), "{:?}", began.elapsed());
    // A server is listed no longer from when it is taken down on, and picked no longer a moment after that.
    until("all to go", async || fleet.channel.servers().is_empty().then_some(())).await;
    let status = until("calls to fail", async || greet(&fleet.channel).await.err()).await;
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn options_out_of_bounds_are_refused() {
    let build = |options| Resolver::builder(["http://127.0.0.1:1"]).mass_loss(options).connect_lazy().map(drop);
    let error = build(MassLoss::default().percent_left(101)).unwrap_err();
    assert!(error.is_invalid_argument() && error.to_string().contains("percent_left must be from 0 to 100"), "{error}");
    assert!(build(MassLoss::default().delay_removals(Duration::from_secs(61))).unwrap_err().is_invalid_argument());
    build(MassLoss::default().delay_removals(Duration::from_secs(60))).unwrap();
}
