//! One fleet with Go: its official client finds our servers through etcd's own resolver, and our client finds servers that
//! registered through Go's `endpoints.Manager`.

use std::path::Path;
use std::process::Command;

use test_support::{Etcd, Process, Signal, example_bin, go_program};

use crate::go::PATIENCE;

fn spawn(program: &Path, args: &[&str]) -> Process {
    Process::spawn(Command::new(program).args(args)).unwrap()
}

/// The address that a server of either language registered.
fn registered(server: &Process, service: &str) -> String {
    let line = server.wait_line(|line| line.starts_with("registered "), PATIENCE).unwrap();
    let key = line.split([' ', ',']).nth(1).unwrap().to_owned();
    key.strip_prefix(&format!("{service}/")).unwrap().to_owned()
}

fn calls_of(client: &Process, address: &str) -> usize {
    client.lines().iter().filter(|line| line.starts_with(&format!("ok {address} "))).count()
}

/// Two servers, ours and Go's, and a client of either language that must reach both.
fn both_are_called(go: &Path, service: &str) {
    let etcd = Etcd::start();
    eprintln!("etcd {}", etcd.version());
    let endpoint = etcd.endpoint();
    let server = ["--etcd", &endpoint, "--service", service, "--listen", "127.0.0.1:0"];
    let ours = spawn(&example_bin("greeter_server"), &server);
    let metadata = ["--metadata", r#"{"weight":"7","team":"x"}"#];
    let theirs = spawn(go, &[&["server"], &server[..], &metadata].concat());
    let addresses = [registered(&ours, service), registered(&theirs, service)];

    let calls = ["--etcd", &endpoint, "--service", service, "--count", "100", "--rate", "200"];
    let our_client = spawn(&example_bin("greeter_client"), &calls);
    // Go sends the service's name as `:authority`, with its slashes escaped, which tonic servers refuse.
    let authority = if service.contains('/') { &["--authority", "greeter"][..] } else { &[] };
    let their_client = spawn(go, &[&["client"], &calls[..], authority].concat());
    for client in [&our_client, &their_client] {
        assert!(client.wait(PATIENCE).unwrap().success(), "{:?} {:?}", client.lines(), client.errors());
        assert_eq!(client.lines().last().unwrap(), "client: calls=100 failed=0");
        for address in &addresses {
            assert!(calls_of(client, address) > 0, "{address} is called: {:?}", client.lines());
        }
    }
    // Go's resolver does not know of weights.
    assert!(
        calls_of(&our_client, &addresses[1]) > 2 * calls_of(&our_client, &addresses[0]),
        "{:?}",
        our_client.lines()
    );
    for server in [&ours, &theirs] {
        server.signal(Signal::TERM);
        assert!(server.wait(PATIENCE).unwrap().success());
    }
}

/// Each of two servers leaves in its turn, under a client of the other language.
fn leaving_costs_no_call(go: &Path) {
    let etcd = Etcd::start();
    let endpoint = etcd.endpoint();
    let server = ["--etcd", &endpoint, "--service", "s", "--listen", "127.0.0.1:0"];
    let ours = spawn(&example_bin("greeter_server"), &server);
    let theirs = spawn(go, &[&["server"], &server[..]].concat());
    let addresses = [registered(&ours, "s"), registered(&theirs, "s")];
    let calls = ["--etcd", &endpoint, "--service", "s", "--rate", "200"];
    let our_client = spawn(&example_bin("greeter_client"), &calls);
    let their_client = spawn(go, &[&["client"], &calls[..], &["--count", "600"]].concat());
    let called = |client: &Process, address: &str| {
        let prefix = format!("ok {address} ");
        client.wait_line(|line| line.starts_with(&prefix), PATIENCE).unwrap();
    };
    for client in [&our_client, &their_client] {
        addresses.iter().for_each(|address| called(client, address));
    }
    ours.signal(Signal::TERM);
    assert!(ours.wait(PATIENCE).unwrap().success());
    assert!(their_client.wait(PATIENCE).unwrap().success(), "{:?}", their_client.errors());
    assert_eq!(their_client.lines().last().unwrap(), "client: calls=600 failed=0");
    our_client.signal(Signal::TERM);
    assert!(our_client.wait(PATIENCE).unwrap().success());
    assert!(our_client.lines().last().unwrap().ends_with(" failed=0"), "{:?}", our_client.lines().last());
    theirs.signal(Signal::TERM);
    assert!(theirs.wait(PATIENCE).unwrap().success());
}

#[test]
fn rust_and_go_are_one_fleet() {
    let go = go_program(".", "greeter-interop").unwrap();
    both_are_called(&go, "greeter");
    both_are_called(&go, "team/greeter");
    both_are_called(&go, "/web");
    leaving_costs_no_call(&go);
}
