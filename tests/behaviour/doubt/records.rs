//! Records that change, or come again, around their loss.

use test_support::Log;
use tokio::time::sleep;
use tonic_etcd::Target;
use tonic_etcd::codec::{Codec, DecodeError, EncodeError, Record};

use super::*;

/// Several instances in one record: their addresses, with commas between them.
#[derive(Debug)]
struct Addresses;

impl Codec for Addresses {
    fn decode(&self, _: &[u8], value: &[u8]) -> Result<Vec<Instance>, DecodeError> {
        let addresses = std::str::from_utf8(value).map_err(|error| DecodeError::new(error.to_string()))?.split(',');
        addresses.map(|address| Instance::new(address).map_err(|error| DecodeError::new(error.to_string()))).collect()
    }

    fn encode(&self, _: &Target, _: &Instance) -> Result<Vec<Record>, EncodeError> {
        Err(EncodeError::new("only read here"))
    }
}

/// Writes to etcd while nothing else runs on this thread, so that all of it comes in one step.
fn at_once(endpoint: String, write: impl AsyncFnOnce(etcd_client::KvClient) + Send + 'static) {
    let writing = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = etcd_client::Client::connect([endpoint], None).await.unwrap();
            write(client.kv_client()).await;
        });
    });
    writing.join().unwrap();
    std::thread::sleep(Duration::from_millis(200)); // the events have arrived by then
}

/// An update of a record takes an instance out of it, and the record is then lost: a reader that sees both at once keeps
/// the server of that instance for ever.
#[tokio::test]
async fn an_instance_that_its_record_no_longer_had_when_that_was_lost_is_not_kept() {
    let world = World::start().await;
    let servers: Vec<Server> = (0..4).map(|_| Server::start()).collect();
    let address = |index: usize| servers[index].address();
    world.put("s/0", &format!("{},{}", address(0), address(1))).await;
    world.put("s/1", &address(2)).await;
    world.put("s/2", &address(3)).await;
    let options = MassLoss::default().doubtful_for(Duration::from_secs(3));
    let resolver = Resolver::builder([world.etcd.endpoint()]).codec(Addresses).mass_loss(options);
    let resolution = resolver.connect_lazy().unwrap().resolve("s").unwrap();
    let channel = resolution.channel().unwrap();
    let listed = address(0);
    let fleet = Fleet { world, servers, resolution, channel };
    fleet.all_ready(4).await;
    at_once(fleet.world.etcd.endpoint(), async move |mut etcd| {
        etcd.put("s/0", listed, None).await.unwrap();
        etcd.delete("s/", Some(etcd_client::DeleteOptions::new().with_prefix())).await.unwrap();
    });
    fleet.doubtful(3).await;
    sleep(Duration::from_millis(1_500)).await;
    let held = fleet.with(ServerState::Held);
    assert_eq!(fleet.not_doubtful().await, ResolutionState::ConfirmedEmpty);
    sleep(Duration::from_secs(1)).await;
    let kept = fleet.with(ServerState::Held);
    assert!(kept.is_empty(), "nothing is doubtful any more, and {kept:?} is still kept");
    assert!(!held.contains(&fleet.servers[1].address()), "the update took it out: {held:?}");
}

/// As above, where the update gives the record another address.
#[tokio::test]
async fn an_address_that_was_replaced_before_its_record_was_lost_is_not_kept() {
    let fleet = Fleet::start(3).await;
    let other = naming(&Server::start().address());
    at_once(fleet.world.etcd.endpoint(), async move |mut etcd| {
        etcd.put("s/0", other, None).await.unwrap();
        etcd.delete("s/", Some(etcd_client::DeleteOptions::new().with_prefix())).await.unwrap();
    });
    fleet.doubtful(3).await;
    sleep(Duration::from_millis(1_500)).await;
    let held = fleet.with(ServerState::Held);
    assert!(!held.contains(&fleet.servers[0].address()), "the update replaced it: {held:?}");
}

/// The watch may run on another runtime than the channel.
#[test]
fn a_doubt_ends_although_the_runtime_of_the_watch_has_ended() {
    let start = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (runtime, of_watch) = (start(), start());
    runtime.block_on(async {
        let world = World::start().await;
        let options = MassLoss::default().doubtful_for(Duration::from_secs(3));
        let resolver = Resolver::builder([world.etcd.endpoint()]).mass_loss(options).connect_lazy().unwrap();
        let servers: Vec<Server> = (0..3).map(|_| Server::start()).collect();
        let resolution = {
            let _entered = of_watch.enter();
            resolver.resolve("s").unwrap()
        };
        let channel = resolution.channel().unwrap();
        let fleet = Fleet { world, servers, resolution, channel };
        for index in 0..3 {
            fleet.register(index).await;
        }
        fleet.all_ready(3).await;
        fleet.world.delete_prefix("s/").await;
        fleet.doubtful(3).await;
        of_watch.shutdown_background();
        sleep(Duration::from_secs(6)).await;
        assert_eq!(fleet.resolution.state(), ResolutionState::Closed);
        assert_eq!(fleet.held(), 0, "3 s are long over");
    });
}

/// Registrars that name their keys after their leases put others after a loss.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_leaves_is_let_go_although_it_has_registered_again_under_another_key() {
    let fleet = Fleet::start(4).await;
    fleet.world.delete_prefix("s/").await;
    fleet.doubtful(4).await;
    for index in 0..4 {
        fleet.world.put(&format!("s/again/{index}"), &naming(&fleet.servers[index].address())).await;
    }
    fleet.all_ready(4).await;
    sleep(Duration::from_millis(1_500)).await;
    fleet.world.delete("s/again/0").await;
    resolved(&fleet.resolution, "three instances", |snapshot| snapshot.len() == 3).await;
    sleep(Duration::from_millis(1_500)).await;
    let left = fleet.servers[0].address();
    assert!(!fleet.with(ServerState::Held).contains(&left), "one of four has left in order, and is held");
}

/// A wiped etcd is restored from its backup while its servers have just registered again: that is no deletion, and no server
/// has left.
#[tokio::test(flavor = "multi_thread")]
async fn servers_are_kept_when_an_etcd_that_was_wiped_is_then_restored() {
    let world = World::start().await;
    world.put("s/old", &naming("127.0.0.1:1")).await;
    world.etcd.terminate();
    world.etcd.save();
    world.etcd.start_again();
    world.delete("s/old").await;
    let fleet = Fleet::over(world, 4).await;
    fleet.world.etcd.kill();
    fleet.world.etcd.wipe();
    fleet.world.etcd.start_again();
    fleet.doubtful(4).await;
    for index in 0..4 {
        fleet.register(index).await;
    }
    fleet.all_ready(4).await;
    for index in 0..4 {
        // A new etcd counts its revisions anew: it comes as far as the backup.
        fleet.register(index).await;
    }
    sleep(Duration::from_secs(2)).await;
    let callers = Callers::start(&fleet.channel);
    fleet.world.etcd.kill();
    fleet.world.etcd.restore();
    fleet.world.etcd.start_again();
    resolved(&fleet.resolution, "the backup", |snapshot| addresses(snapshot) == ["127.0.0.1:1".to_owned()].into())
        .await;
    sleep(Duration::from_millis(1_500)).await;
    assert_eq!(fleet.held(), 4, "{:?} {:?}", fleet.resolution.state(), fleet.channel.servers());
    callers.none_failed().await;
}

/// The warning counts what the state counts.
#[tokio::test]
async fn the_warning_counts_instances_not_records() {
    let (log, _guard) = Log::begin();
    let world = World::start().await;
    world.put("s/0", "h:1,h:2,h:3").await;
    let resolver = Resolver::builder([world.etcd.endpoint()]).codec(Addresses).connect_lazy().unwrap();
    let resolution = resolver.resolve("s").unwrap();
    resolved(&resolution, "three instances", |snapshot| snapshot.len() == 3).await;
    world.delete("s/0").await;
    let doubtful = async || Some(resolution.state()).filter(|state| matches!(state, ResolutionState::Doubtful { .. }));
    let state = until("a doubt", doubtful).await;
    assert!(format!("{state:?}").contains("instances: 3"), "{state:?}");
    assert_eq!(log.warned("doubtful=3"), 1, "{}", log.text());
}
