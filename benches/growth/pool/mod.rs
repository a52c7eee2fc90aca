//! What a channel to thousands of servers does by itself, and with calls: while all servers are down, while outlier
//! detection watches calls that fail, and while every server is at its limit of streams.

mod down;
mod ejection;
mod slots;

use std::convert::Infallible;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use test_support::Process;
use tokio::time::{sleep, timeout};
use tonic_etcd::{BalancedChannel, BalancedChannelBuilder, Instance, ServerState};
use tower::discover::Change;

use crate::findings::Findings;
use crate::{PATIENCE, job, servers};

pub(crate) const NAME: &str = "pool";

/// As many servers as a channel has in each of these.
const MANY: usize = 3_000;

/// What a process is told.
#[derive(Serialize, Deserialize)]
enum Job {
    Serve(usize),
    ServeSlots(usize),
    Down(down::Run),
    Eject(ejection::Run),
    Free(slots::Run),
}

pub(crate) fn rows(found: &mut Findings) {
    down::rows(found);
    ejection::rows(found);
    slots::rows(found);
}

/// The processes.
pub(crate) fn job(argument: &str) {
    test_support::raise_fd_limit();
    match serde_json::from_str(argument).expect("a job") {
        Job::Serve(count) => servers::serve(count),
        Job::ServeSlots(count) => servers::serve_slots(count),
        Job::Down(run) => down::job(run),
        Job::Eject(run) => ejection::job(&run),
        Job::Free(run) => slots::job(&run),
    }
}

fn argument(job: &Job) -> String {
    serde_json::to_string(job).expect("a job is JSON")
}

fn spawn(job: &Job) -> Process {
    job::spawn(NAME, &argument(job))
}

/// A channel to these servers.
fn channel(builder: BalancedChannelBuilder, addresses: &[String]) -> BalancedChannel {
    let insert = |address: &String| {
        let instance = Instance::new(address.as_str()).expect("an address");
        Ok::<_, Infallible>(Change::Insert(address.clone(), instance))
    };
    let changes: Vec<_> = addresses.iter().map(insert).collect();
    builder.build_with_discovery("greeter", tokio_stream::iter(changes)).expect("a runtime")
}

/// Waits until all servers are connected.
async fn connected(channel: &BalancedChannel, servers: usize) {
    until(|| channel.stats().servers(ServerState::Ready) == servers).await;
}

async fn until(mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("what is waited for");
}
