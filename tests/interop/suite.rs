//! gRPC's standard cases against Go's server of them. It knows nothing of the compressed ones.

use tokio::time::timeout;
use tonic_etcd::BalancedChannel;

use crate::cases::{self, Transport, fixed, transport};
use crate::go::{InteropServer, PATIENCE};

macro_rules! every {
    ($($case:ident)*) => {
        /// All of them, one after the other.
        pub(crate) async fn passes_every_case(transport: &Transport) {
            $(
                let passes = timeout(PATIENCE, cases::$case(transport)).await;
                assert!(passes.is_ok(), "not in time: {}", stringify!($case));
                eprintln!("passed: {}", stringify!($case));
            )*
        }
    };
}
cases::for_each_case!(every);

#[tokio::test(flavor = "multi_thread")]
async fn every_case_passes_against_go() {
    let servers = [InteropServer::start(&[]).await, InteropServer::start(&[]).await];
    let addresses = servers.each_ref().map(|server| server.address.to_string());
    let channel = BalancedChannel::builder().build_with_discovery("interop", fixed(addresses)).unwrap();
    passes_every_case(&transport(channel)).await;
}
