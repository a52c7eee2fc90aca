//! Each standard case as a test, over two servers of which each is called.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::cases::{self, Transport, transport};
use crate::channel::balanced;
use crate::server::Fleet;

/// How long a condition may take before the test fails: far longer than it ever should.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until the condition holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// The case, until each of two servers has been called, and no call is left.
async fn passes(case: impl AsyncFn(&Transport)) {
    let fleet = Fleet::start(2);
    let transport = transport(balanced(&fleet));
    let run = async {
        while fleet.servers.iter().any(|server| server.calls() == 0) {
            case(&transport).await;
        }
    };
    timeout(PATIENCE, run).await.unwrap_or_else(|_| panic!("not in time: {:?}", fleet.servers));
    until("the end of each call", || fleet.open() == 0).await;
}

macro_rules! tests {
    ($($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                passes(cases::$case).await;
            }
        )*
    };
}
cases::for_each_case!(tests);
cases::for_each_compressed_case!(tests);
