//! Servers that accept and say nothing.

use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tonic::Code;
use tonic_etcd::Instance;

use crate::support::{builder, changing, greet};

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
        assert_eq!(status.code(), Code::Unavailable);
        for part in [address.as_str(), "accepted, but no HTTP/2 SETTINGS within"] {
            assert!(status.message().contains(part), "{part}: {status}");
        }
    }
}
