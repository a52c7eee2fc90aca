//! A runtime that stands still while keep-alive waits.

use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Builder;
use tonic_etcd::KeepAlive;

use super::driven::Stock;
use crate::support::{builder, greet, over, ready};

const INTERVAL: Duration = Duration::from_millis(100);
const TIMEOUT: Duration = Duration::from_millis(100);

/// F48: between any two turns of the runtime it stands still for three keep-alive timeouts: before a ping is written, and after
/// it. The connection is well, and stays.
#[test]
fn a_runtime_that_stands_still_takes_no_healthy_connection_for_dead() {
    let server = Stock::slow(Duration::from_secs(3));
    let stall = std::future::poll_fn(|cx| {
        std::thread::sleep(3 * TIMEOUT);
        cx.waker().wake_by_ref(); // behind what has been woken since
        Poll::<()>::Pending
    });
    let runtime = Builder::new_current_thread().event_interval(1).enable_all().build().unwrap();
    let answer = runtime.block_on(async {
        let keep_alive = KeepAlive::new(INTERVAL, TIMEOUT).unthrottled();
        let channel = over(builder().keep_alive(keep_alive), [&server.address]);
        ready(&channel, 1).await;
        tokio::spawn(stall);
        greet(&channel).await
    });
    answer.unwrap();
}
