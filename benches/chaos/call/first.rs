//! A call that begins while there is no server: how soon after the first one is in etcd is it answered?

use std::error::Error;
use std::time::{Duration, Instant};

use etcd_client::Client;
use greeter_proto::HelloRequest;
use tokio::time::{sleep, timeout};
use tonic_etcd::Resolution;

use super::channel::Greet;

/// How long the call waits before there is a server.
const AHEAD: Duration = Duration::from_millis(100);
/// A call that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(5);

/// Milliseconds from the acknowledged put to the answer; none when the call failed or hangs.
pub(crate) async fn run<G: Greet>(
    mut greeter: G,
    resolution: &Resolution,
    etcd: &Client,
    address: &str,
) -> Result<Option<f64>, Box<dyn Error>> {
    assert!(resolution.snapshot().is_empty(), "a service that nobody serves yet");
    let call = tokio::spawn(async move {
        let answer = greeter.greet(HelloRequest { name: "world".into() }).await;
        (answer, Instant::now())
    });
    sleep(AHEAD).await;
    let key = format!("{}/{address}", resolution.target().name());
    let value = crate::world::naming(address);
    etcd.kv_client().put(key, value, None).await?;
    let put = Instant::now();
    Ok(match timeout(LIMIT, call).await {
        Ok(Ok((Ok(_), answered))) => Some(answered.saturating_duration_since(put).as_secs_f64() * 1e3),
        Ok(Ok((Err(status), _))) => {
            eprintln!("the call failed: {status:?}");
            None
        }
        Ok(Err(ended)) => return Err(ended.into()),
        Err(_) => None,
    })
}
