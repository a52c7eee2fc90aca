//! What a client sees of a proxy's faults, against an echo server.
#![allow(clippy::disallowed_types)] // real time is meant

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use test_support::Proxy;

fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut bytes = [0; 1024];
                while let Ok(length @ 1..) = stream.read(&mut bytes) {
                    stream.write_all(&bytes[..length]).unwrap();
                }
            });
        }
    });
    address
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream
}

fn echo(stream: &mut TcpStream, text: &str) -> String {
    stream.write_all(text.as_bytes()).unwrap();
    read(stream, text.len())
}

fn read(stream: &mut TcpStream, length: usize) -> String {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 1]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

fn is_silent(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let read = stream.read(&mut [0; 1]);
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    read.is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

fn wait(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn passes_bytes_and_counts() {
    let proxy = Proxy::to(echo_server());
    assert_eq!(proxy.endpoint(), format!("http://{}", proxy.address()));
    assert_eq!(echo(&mut connect(&proxy), "one"), "one");
    let mut second = connect(&proxy);
    assert_eq!(echo(&mut second, "two"), "two");
    assert_eq!(proxy.connections(), 2);
    wait("the first is closed", || proxy.open_connections() == 1);
}

#[test]
fn half_closed_connection_is_answered_to_the_end() {
    let proxy = Proxy::to(echo_server());
    let mut stream = connect(&proxy);
    stream.write_all(b"last words").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "last words");
}

#[test]
fn cut_closes_old_connections_only() {
    let proxy = Proxy::to(echo_server());
    let mut old = connect(&proxy);
    assert_eq!(echo(&mut old, "old"), "old");
    proxy.cut();
    assert!(is_closed(&mut old));
    assert_eq!(echo(&mut connect(&proxy), "new"), "new");
}

#[test]
fn stall_holds_old_and_new_connections_until_resume() {
    let proxy = Proxy::to(echo_server());
    let mut old = connect(&proxy);
    assert_eq!(echo(&mut old, "before"), "before");
    proxy.stall();
    let mut new = connect(&proxy);
    old.write_all(b"old").unwrap();
    new.write_all(b"new").unwrap();
    assert!(is_silent(&mut old) && is_silent(&mut new));
    proxy.resume();
    assert_eq!((read(&mut old, 3), read(&mut new, 3)), ("old".to_owned(), "new".to_owned()));
}

#[test]
fn stalled_connections_can_be_cut() {
    let proxy = Proxy::to(echo_server());
    proxy.stall();
    let mut stream = connect(&proxy);
    assert!(is_silent(&mut stream));
    wait("it is accepted", || proxy.connections() == 1);
    proxy.cut();
    assert!(is_closed(&mut stream));
}

#[test]
fn refuse_closes_old_and_new_connections_until_resume() {
    let proxy = Proxy::to(echo_server());
    let mut old = connect(&proxy);
    assert_eq!(echo(&mut old, "old"), "old");
    proxy.refuse();
    assert!(is_closed(&mut old));
    assert!(is_closed(&mut connect(&proxy)));
    proxy.resume();
    assert_eq!(echo(&mut connect(&proxy), "again"), "again");
}

#[test]
fn drop_closes_everything_even_when_stalled() {
    let proxy = Proxy::to(echo_server());
    let address = proxy.address();
    let mut passing = connect(&proxy);
    assert_eq!(echo(&mut passing, "here"), "here");
    proxy.stall();
    let mut stalled = connect(&proxy);
    stalled.write_all(b"held").unwrap();
    drop(proxy);
    assert!(is_closed(&mut passing) && is_closed(&mut stalled));
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn no_server_behind_it_closes_the_connection() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = Proxy::to(gone);
    assert!(is_closed(&mut connect(&proxy)));
    assert_eq!(proxy.connections(), 1);
}
