//! Servers that accept and say nothing.

use std::convert::Infallible;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::time::sleep;
use tonic::{Code, Status};
use tonic_etcd::Instance;

use crate::support::{builder, changing, greet, told};

/// F54: the error says that the server accepted and sent no SETTINGS, over TCP by address and by name, and over a Unix socket.
#[tokio::test]
async fn the_error_says_that_a_server_accepted_and_sent_no_settings() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("silent.sock");
    let _silent_too = UnixListener::bind(&path).unwrap();
    for address in [format!("127.0.0.1:{port}"), format!("localhost:{port}"), format!("unix:{}", path.display())] {
        let (channel, set) = changing(builder().connect_timeout(Duration::from_millis(300)));
        set.put("it", Instance::new(address.as_str()).unwrap());
        let status = greet(&channel).await.unwrap_err();
        assert_accepted(&status, &address);
    }
}

fn assert_accepted(status: &Status, address: &str) {
    assert_eq!(status.code(), Code::Unavailable);
    assert!(told(status).contains(address), "{address}: {}", told(status));
    assert!(status.message().contains("accepted, but no HTTP/2 SETTINGS within"), "{status}");
}

/// F54: it says so as well where the way to the server has taken a part of the time, as every network does.
#[tokio::test]
async fn the_error_says_so_where_the_way_to_the_server_is_long() {
    let connector = tower::service_fn(|_: http::Uri| async {
        sleep(Duration::from_millis(100)).await;
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move {
            let _silent = theirs;
            std::future::pending::<()>().await;
        });
        Ok::<_, Infallible>(ours)
    });
    let (channel, set) = changing(builder().connector(connector).connect_timeout(Duration::from_millis(300)));
    set.add("127.0.0.1:1".parse().unwrap());
    assert_accepted(&greet(&channel).await.unwrap_err(), "127.0.0.1:1");
}
