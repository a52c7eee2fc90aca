//! A runtime that stands still while keep-alive waits.

use std::time::Duration;

use tokio::sync::oneshot::{self, error::TryRecvError};
use tonic_etcd::{BalancedChannelBuilder, KeepAlive};

use super::driven::{Stock, current_thread};
use crate::support::{builder, greet, over};

const INTERVAL: Duration = Duration::from_millis(100);
const TIMEOUT: Duration = Duration::from_millis(100);

fn watched() -> BalancedChannelBuilder {
    builder().keep_alive(KeepAlive::new(INTERVAL, TIMEOUT).unthrottled())
}

/// F48: between any two turns of the runtime it stands still for three keep-alive timeouts: before a ping is written, and after
/// it. The connection is well, and stays.
#[test]
fn a_runtime_that_stands_still_takes_no_healthy_connection_for_dead() {
    let server = Stock::slow(Duration::from_secs(4));
    let answer = current_thread().block_on(async {
        let channel = over(watched(), [&server.address]);
        let (told, mut tell) = oneshot::channel();
        tokio::spawn(async move { told.send(greet(&channel).await) });
        loop {
            match tell.try_recv() {
                Ok(answer) => break answer,
                Err(TryRecvError::Empty) => std::thread::sleep(3 * TIMEOUT),
                Err(TryRecvError::Closed) => panic!("the call's task has ended"),
            }
            tokio::task::yield_now().await;
        }
    });
    answer.unwrap();
}
