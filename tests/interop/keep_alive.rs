//! Keep-alive that a server's ping enforcement does not forgive: Go's default permits a ping in five minutes.

use std::time::Duration;

use greeter_proto::testing::StreamingOutputCallResponse;
use greeter_proto::testing::test_service_client::TestServiceClient;
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt as _;
use tonic::{Code, Streaming};
use tonic_etcd::{BalancedChannel, KeepAlive};

use crate::cases::{ask, fixed};
use crate::go::{InteropServer, PATIENCE};
use crate::tap::{Seen, Tap};

const SECOND: Duration = Duration::from_secs(1);
const ENHANCE_YOUR_CALM: u32 = 0xb;

/// A channel that pings far more often than Go permits.
fn impatient(tap: &Tap) -> TestServiceClient<BalancedChannel> {
    let keep_alive = KeepAlive::new(SECOND, SECOND / 2);
    let addresses = [tap.address.to_string()];
    let builder = BalancedChannel::builder().keep_alive(keep_alive);
    TestServiceClient::new(builder.discover("interop", fixed(addresses)).unwrap())
}

/// A stream on which the server has said one thing and says nothing more.
async fn silent_stream(client: &mut TestServiceClient<BalancedChannel>) -> Streaming<StreamingOutputCallResponse> {
    let messages = tokio_stream::iter([ask(1, 1)]).chain(tokio_stream::pending());
    let mut answers = client.full_duplex_call(messages).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());
    answers
}

/// The time between pings, on average.
fn interval(seen: &Seen) -> Duration {
    let (first, last) = (seen.pings[0], seen.pings[seen.pings.len() - 1]);
    (last - first) / (seen.pings.len() as u32 - 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_pings_make_the_next_connection_ping_half_as_often() {
    let server = InteropServer::start(&[]).await;
    let tap = Tap::to(server.address).await;
    let mut client = impatient(&tap);
    for _ in 0..2 {
        let mut silent = silent_stream(&mut client).await;
        let ended = timeout(PATIENCE, silent.message()).await.expect("the server ends the connection");
        assert_eq!(ended.unwrap_err().code(), Code::Unavailable);
    }
    let connections = tap.connections();
    assert!(connections.len() >= 2, "{connections:?}"); // it may have connected once more
    for seen in &connections[..2] {
        assert_eq!(seen.go_away, Some((ENHANCE_YOUR_CALM, "too_many_pings".to_owned())));
        assert!(seen.pings.len() >= 3, "{seen:?}");
    }
    // gRFC A8: twice the silence before each. That a busy machine passes a ping on late is forgiven in small part.
    assert!(interval(&connections[1]) >= 19 * SECOND / 10, "{connections:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_channel_sends_no_pings() {
    let server = InteropServer::start(&[]).await;
    let (idle, busy) = (Tap::to(server.address).await, Tap::to(server.address).await);
    let mut quiet = impatient(&idle);
    drop(silent_stream(&mut quiet).await); // connected, and without calls from here on
    let mut neighbour = impatient(&busy);
    let _silent = silent_stream(&mut neighbour).await;
    let three_pings = async {
        while busy.pings() < 3 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, three_pings).await.expect("a silent stream is pinged");
    assert_eq!(idle.connections().len(), 1);
    assert_eq!(idle.pings(), 0);
}
