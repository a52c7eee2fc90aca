//! What a client holds of memory for a server to which it is connected, while no call is made.

use std::collections::BTreeSet;
use std::convert::Infallible;

use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::{Channel, HelloRequest};
use serde::{Deserialize, Serialize};
use test_support::Bar;
use tokio::time::timeout;
use tonic::transport::{Channel as Tonic, Endpoint};
use tonic_etcd::{BalancedChannel, Instance};
use tower::discover::Change;

use crate::findings::{Curve, Findings};
use crate::{PATIENCE, heap, job, servers};

pub(crate) const NAME: &str = "memory";
const COUNTS: [usize; 4] = [3, 30, 300, 1_000];
/// With the second of these counts both sides are compared.
const COMPARED: usize = 1;

/// What a process is told.
#[derive(Serialize, Deserialize)]
enum Job {
    Serve(usize),
    Hold(Side, Vec<String>),
}

/// Whose channel.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum Side {
    Ours,
    /// `tonic::transport::Channel::balance_list`.
    Balanced,
}

pub(crate) fn rows(found: &mut Findings) {
    let process = spawn(&Job::Serve(COUNTS[COUNTS.len() - 1]));
    let addresses = servers::addresses(&process);
    let ours = COUNTS.map(|count| (count as f64, held(Side::Ours, &addresses[..count])));
    let balanced = held(Side::Balanced, &addresses[..COUNTS[COMPARED]]);
    let (_, at_compared) = ours[COMPARED];
    let name = |what: &str| format!("memory held for a connected server of {}, {what}", COUNTS[COMPARED]);
    found.add(name("BalancedChannel"), at_compared / 1e3, "KB", None);
    found.add(name("tonic balance_list"), balanced / 1e3, "KB", None);
    found.add(name("beside balance_list"), at_compared / balanced, "×", Bar::AtMost(0.8));
    let title = "memory held for a connected server".to_owned();
    found.draw(Curve { title, of: "servers", unit: "bytes", points: ours.to_vec() });
}

/// Bytes for each server.
fn held(side: Side, addresses: &[String]) -> f64 {
    let process = spawn(&Job::Hold(side, addresses.to_vec()));
    let line = process.wait_line(|_| true, PATIENCE).expect("how much is held");
    line.parse::<f64>().expect("a number") / addresses.len() as f64
}

fn spawn(job: &Job) -> test_support::Process {
    job::spawn(NAME, &serde_json::to_string(job).expect("a job is JSON"))
}

/// The processes.
pub(crate) fn job(argument: &str) {
    match serde_json::from_str(argument).expect("a job") {
        Job::Serve(count) => servers::serve(count),
        Job::Hold(side, addresses) => job::block_on(hold(side, &addresses)),
    }
}

/// Calls each server once, and tells what is held then.
async fn hold(side: Side, addresses: &[String]) {
    let _profiler = heap::profiler();
    let before = heap::held_when_settled().await;
    let held = match side {
        Side::Ours => {
            let insert = |address: &String| {
                let instance = Instance::new(address.as_str()).expect("an address");
                Ok::<_, Infallible>(Change::Insert(address.clone(), instance))
            };
            let changes: Vec<_> = addresses.iter().map(insert).collect();
            let channel = BalancedChannel::builder().build_with_discovery("greeter", tokio_stream::iter(changes));
            held_by(channel.expect("a runtime"), addresses.len()).await
        }
        Side::Balanced => {
            let endpoint = |address: &String| Endpoint::from_shared(format!("http://{address}")).expect("an address");
            held_by(Tonic::balance_list(addresses.iter().map(endpoint)), addresses.len()).await
        }
    };
    println!("{}", held - before);
}

/// What is held once each server has answered a call. The channel lives until it is known.
async fn held_by<C: Channel>(channel: C, servers: usize) -> f64 {
    let reach = async {
        let mut client = GreeterClient::new(channel.clone());
        let mut answered = BTreeSet::new();
        while answered.len() < servers {
            let reply = client.say_hello(HelloRequest { name: "world".to_owned() }).await.expect("an answer");
            answered.insert(reply.into_inner().message);
        }
    };
    timeout(PATIENCE, reach).await.expect("every server answers");
    let held = heap::held_when_settled().await;
    drop(channel);
    held
}
