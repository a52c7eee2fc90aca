//! The greeter pair, as processes: what the examples promise.

use std::process::Command;

use test_support::{Process, Signal, example_bin};

use crate::support::{PATIENCE, World, until};

fn server(world: &World, args: &[&str]) -> Process {
    let mut command = Command::new(example_bin("greeter_server"));
    command.args(["--etcd", &world.etcd.endpoint(), "--service", "team/greeter", "--listen", "127.0.0.1:0"]).args(args);
    Process::spawn(&mut command).unwrap()
}

fn client(world: &World, rate: &str, args: &[&str]) -> Process {
    let mut command = Command::new(example_bin("greeter_client"));
    command.args(["--etcd", &world.etcd.endpoint(), "--service", "etcd:///team/greeter", "--rate", rate]).args(args);
    Process::spawn(&mut command).unwrap()
}

/// The address that a server registered.
fn registered(server: &Process) -> String {
    let line = server.wait_line(|line| line.starts_with("registered "), PATIENCE).unwrap();
    let key = line.split([' ', ',']).nth(1).unwrap();
    key.strip_prefix("team/greeter/").unwrap().to_owned()
}

fn calls_of(client: &Process, address: &str) -> usize {
    client.lines().iter().filter(|line| line.starts_with(&format!("ok {address} "))).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_spread_over_servers_that_come_and_leave_and_none_fails() {
    let world = World::start().await;
    let servers = [server(&world, &[]), server(&world, &[])];
    let addresses = servers.each_ref().map(registered);
    let client = client(&world, "200", &[]);
    for address in &addresses {
        until("calls at both", async || (calls_of(&client, address) > 10).then_some(())).await;
    }
    let third = server(&world, &[]);
    let joined = registered(&third);
    until("calls at the third", async || (calls_of(&client, &joined) > 10).then_some(())).await;

    servers[0].signal(Signal::TERM);
    servers[0].wait_line(|line| line == "deregistered", PATIENCE).unwrap();
    assert!(world.lease_of(&format!("team/greeter/{}", addresses[0])).await.is_none());
    assert!(servers[0].wait(PATIENCE).unwrap().success());
    assert_eq!(servers[0].lines().last().unwrap(), "stopped");

    let before = calls_of(&client, &joined);
    until("calls go on", async || (calls_of(&client, &joined) > before + 10).then_some(())).await;
    client.signal(Signal::TERM);
    assert!(client.wait(PATIENCE).unwrap().success());
    let lines = client.lines();
    let summary = lines.last().unwrap();
    assert!(summary.starts_with("client: calls=") && summary.ends_with(" failed=0"), "{summary}");
    for server in [&servers[1], &third] {
        server.signal(Signal::INT);
        assert!(server.wait(PATIENCE).unwrap().success());
    }
    assert!(world.contents("").await.is_empty());
    assert!(world.leases().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_counts_its_calls_and_ends() {
    let world = World::start().await;
    let server = server(&world, &[]);
    let address = registered(&server);
    let client = client(&world, "1000", &["--count", "25"]);
    assert!(client.wait(PATIENCE).unwrap().success());
    assert_eq!(calls_of(&client, &address), 25);
    assert_eq!(client.lines().last().unwrap(), "client: calls=25 failed=0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_costs_no_call_and_leaves_with_its_lease() {
    let world = World::start().await;
    let servers = [server(&world, &["--ttl", "2"]), server(&world, &[])];
    let addresses = servers.each_ref().map(registered);
    let client = client(&world, "500", &[]);
    for address in &addresses {
        until("calls at both", async || (calls_of(&client, address) > 10).then_some(())).await;
    }
    servers[0].signal(Signal::KILL);
    servers[0].wait(PATIENCE).unwrap();
    let key = format!("team/greeter/{}", addresses[0]);
    assert!(world.lease_of(&key).await.is_some(), "etcd does not know it yet");
    until("the key to go", async || world.lease_of(&key).await.is_none().then_some(())).await;
    client.signal(Signal::TERM);
    assert!(client.wait(PATIENCE).unwrap().success());
    assert!(client.lines().last().unwrap().ends_with(" failed=0"), "{:?}", client.lines().last());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_servers_says_so_and_can_be_stopped() {
    let world = World::start().await;
    let client = client(&world, "10", &["--timeout", "1"]);
    let line = client.wait_line(|line| line.starts_with("failed Unavailable: no server of \"team/greeter\""), PATIENCE);
    assert!(line.unwrap().contains("none is registered (prefix \"team/greeter/\", revision "));
    client.signal(Signal::INT);
    assert!(client.wait(PATIENCE).unwrap().success());
    assert!(client.lines().last().unwrap().starts_with("client: calls="));
}
