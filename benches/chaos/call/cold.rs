//! A client that starts while etcd is down: how soon is its first call answered, if at all?

use std::time::{Duration, Instant};

use greeter_proto::HelloRequest;
use tokio::time::timeout;

use super::channel::Greet;

/// How long a client waits for the answer: long after a cache would have been used.
const LIMIT: Duration = Duration::from_secs(3);

/// Milliseconds from the beginning to the answer; not a number when there is none.
pub(crate) async fn run<G: Greet>(mut greeter: G, began: Instant) -> f64 {
    match timeout(LIMIT, greeter.greet(HelloRequest { name: "world".into() })).await {
        Ok(Ok(_)) => began.elapsed().as_secs_f64() * 1e3,
        Ok(Err(status)) => {
            eprintln!("the call failed: {status:?}");
            f64::NAN
        }
        Err(_) => f64::NAN,
    }
}
