//! Which address is registered, as a process sees its environment.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use test_support::{Process, example_bin};

use crate::support::{PATIENCE, World};

/// A greeter that listens so, in this environment.
fn start(world: &World, listen: &str, environment: &[(&str, &str)], args: &[&str]) -> Process {
    let mut command = Command::new(example_bin("greeter_server"));
    command.args(["--etcd", &world.etcd.endpoint(), "--service", "s", "--listen", listen]).args(args);
    command.env_remove("TONIC_ETCD_ADVERTISE").env_remove("POD_IP").envs(environment.iter().copied());
    Process::spawn(&mut command).unwrap()
}

/// What it registers.
fn registers(world: &World, listen: &str, environment: &[(&str, &str)], args: &[&str]) -> Vec<String> {
    let server = start(world, listen, environment, args);
    let advertised = environment.iter().find(|(name, _)| *name == "TONIC_ETCD_ADVERTISE");
    let addresses = advertised.map_or(1, |(_, value)| value.split(',').count());
    let address = |line: &String| {
        let key = line.strip_prefix("registered s/")?.split(',').next()?;
        Some(key.rsplit_once(':')?.0.to_owned())
    };
    let registered = |line: &str| line.starts_with("registered ");
    let mut next = 0;
    for _ in 0..addresses {
        next = server.wait_line_from(next, registered, PATIENCE).unwrap().0 + 1;
    }
    server.lines().iter().filter_map(address).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_says_what_a_container_cannot_know() {
    let world = World::start().await;
    // Every interface: the one that reaches etcd, which is on this host.
    assert_eq!(registers(&world, "0.0.0.0:0", &[], &[]), ["127.0.0.1"]);
    assert_eq!(registers(&world, "127.0.0.1:0", &[], &[]), ["127.0.0.1"]);
    assert_eq!(registers(&world, "0.0.0.0:0", &[("POD_IP", "10.1.2.3")], &[]), ["10.1.2.3"]);
    let several = [("TONIC_ETCD_ADVERTISE", "10.1.2.3:30001,2001:db8::1"), ("POD_IP", "10.9.9.9")];
    assert_eq!(registers(&world, "0.0.0.0:0", &several, &[]), ["10.1.2.3", "[2001:db8::1]"]);
    // What is said comes first.
    assert_eq!(registers(&world, "0.0.0.0:0", &several[..0], &["--advertise", "host.local"]), ["host.local"]);
}

/// F22: an address on which the listener does not answer is not taken from `POD_IP`.
#[tokio::test(flavor = "multi_thread")]
async fn a_pods_address_is_one_that_is_listened_on() {
    let world = World::start().await;
    let pod = |ips: &'static str| [("POD_IP", ips)];
    assert_eq!(registers(&world, "0.0.0.0:0", &pod("fd00::5,10.0.0.5"), &[]), ["10.0.0.5"]);
    let refused = start(&world, "0.0.0.0:0", &pod("fd00::5"), &[]);
    assert!(!refused.wait(PATIENCE).unwrap().success());
    let said = refused.errors().join("\n");
    assert!(["POD_IP", "fd00::5", "IPv4", "TONIC_ETCD_ADVERTISE"].iter().all(|text| said.contains(text)), "{said}");
    if std::net::TcpListener::bind("[::]:0").is_ok() {
        assert_eq!(registers(&world, "[::]:0", &pod("fd00::5,10.0.0.5"), &[]), ["[fd00::5]"]);
        assert_eq!(registers(&world, "[::]:0", &pod("10.0.0.5 fd00::5"), &[]), ["10.0.0.5"]);
    }
}

/// An address in `POD_IP` that no client can call, or none on another host, is refused as one that is listened on.
#[tokio::test(flavor = "multi_thread")]
async fn a_pods_address_is_one_that_clients_reach() {
    let world = World::start().await;
    // etcd is on this host, and so are the clients.
    assert_eq!(registers(&world, "0.0.0.0:0", &[("POD_IP", "127.0.0.1")], &[]), ["127.0.0.1"]);
    for pod_ip in ["169.254.1.1", "0.0.0.0"] {
        let refused = start(&world, "0.0.0.0:0", &[("POD_IP", pod_ip)], &[]);
        assert!(!refused.wait(PATIENCE).unwrap().success());
        let said = refused.errors().join("\n");
        assert!(["POD_IP", pod_ip].iter().all(|text| said.contains(text)), "{said}");
    }
}

/// A variable that cannot be read, or names what no client can call, is refused and named.
#[tokio::test(flavor = "multi_thread")]
async fn a_variable_that_is_no_address_is_refused_and_named() {
    let world = World::start().await;
    for pod_ip in ["224.0.0.1", "255.255.255.255"] {
        let refused = start(&world, "0.0.0.0:0", &[("POD_IP", pod_ip)], &[]);
        assert!(!refused.wait(PATIENCE).unwrap().success());
        let said = refused.errors().join("\n");
        assert!(["POD_IP", pod_ip].iter().all(|text| said.contains(text)), "{said}");
        assert!(!said.contains("draining"), "it accepted calls: {said}");
    }
    for name in ["TONIC_ETCD_ADVERTISE", "POD_IP"] {
        let mut command = Command::new(example_bin("greeter_server"));
        command.args(["--etcd", &world.etcd.endpoint(), "--service", "s", "--listen", "0.0.0.0:0"]);
        command.env_remove("TONIC_ETCD_ADVERTISE").env_remove("POD_IP");
        command.env(name, OsStr::from_bytes(b"10.0.0.\xff"));
        let refused = Process::spawn(&mut command).unwrap();
        assert!(!refused.wait(PATIENCE).unwrap().success());
        let said = refused.errors().join("\n");
        assert!(said.contains(name), "{said}");
    }
}
