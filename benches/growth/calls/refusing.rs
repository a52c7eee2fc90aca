//! Servers that refuse every call.

use test_support::refuse_calls;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::job::block_on;

/// So many, until the process is killed. Their addresses are said on stdout.
pub(super) fn serve(count: usize) {
    block_on(async {
        let (mut servers, mut addresses) = (JoinSet::new(), Vec::new());
        for _ in 0..count {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            addresses.push(listener.local_addr().expect("its address").to_string());
            servers.spawn(refuse_calls(listener));
        }
        println!("{}", serde_json::to_string(&addresses).expect("addresses are JSON"));
        servers.join_all().await;
    });
}
