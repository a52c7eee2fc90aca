//! What picking a server costs, without a call on any wire: a request with a header that HTTP/2 forbids is given to the
//! server that was picked, and refused by h2 before a byte of it is sent.

use std::error::Error;
use std::time::{Duration, Instant};

use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic_etcd::BalancedChannel;

/// The best batch counts: whatever disturbs one makes it slower.
const BATCHES: usize = 200;
const BATCH: u32 = 2_000;

/// Nanoseconds from the call to its refusal.
pub(crate) async fn run(mut channel: BalancedChannel) -> Result<f64, Box<dyn Error>> {
    let mut best = Duration::MAX;
    for _ in 0..BATCHES {
        let began = Instant::now();
        for _ in 0..BATCH {
            let request = http::Request::post("http://greeter/helloworld.Greeter/SayHello");
            let request = request.header(http::header::CONNECTION, "close").body(Body::empty())?;
            if channel.call(request).await.is_ok() {
                return Err("a request that cannot be sent was answered".into());
            }
        }
        best = best.min(began.elapsed());
        tokio::task::yield_now().await;
    }
    Ok(best.as_secs_f64() * 1e9 / f64::from(BATCH))
}
