//! What service configs say: in etcd they change while calls are made, and servers are asked for their health because of them.

mod callers;
pub(super) mod health;
pub(super) mod live;
mod server;

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::world::Result;

const PATIENCE: Duration = Duration::from_secs(10);

async fn until(what: &str, condition: impl Fn() -> bool) -> Result<()> {
    let began = Instant::now();
    while !condition() {
        if began.elapsed() > PATIENCE {
            return Err(format!("not in time: {what}").into());
        }
        sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}
