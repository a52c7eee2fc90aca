//! Keep-alive that a server's ping enforcement does not forgive: Go's default permits a ping in five minutes.

use std::time::Duration;

use greeter_proto::testing::test_service_client::TestServiceClient;
use greeter_proto::testing::{Empty, StreamingOutputCallResponse};
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tonic::{Code, Streaming};
use tonic_etcd::{BalancedChannel, KeepAlive, ServerState};

use crate::cases::{ask, fixed};
use crate::go::{InteropServer, PATIENCE};
use crate::tap::{Seen, Tap};

const SECOND: Duration = Duration::from_secs(1);
const ENHANCE_YOUR_CALM: u32 = 0xb;

/// Asks after a second of silence.
fn keep_alive() -> KeepAlive {
    KeepAlive::new(SECOND, SECOND / 2)
}

fn channel(tap: &Tap, keep_alive: KeepAlive) -> BalancedChannel {
    let addresses = [tap.address.to_string()];
    BalancedChannel::builder().keep_alive(keep_alive).build_with_discovery("interop", fixed(addresses)).unwrap()
}

fn client(tap: &Tap, keep_alive: KeepAlive) -> TestServiceClient<BalancedChannel> {
    TestServiceClient::new(channel(tap, keep_alive))
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
    let tap = Tap::to(server.address);
    let mut client = client(&tap, keep_alive().unthrottled());
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
async fn go_does_not_complain_of_keep_alive_that_is_not_unthrottled() {
    let server = InteropServer::start(&[]).await;
    let taps: [Tap; 4] = std::array::from_fn(|_| Tap::to(server.address));
    let [idle, used, silent, too_often] = &taps;
    let idle_channel = channel(idle, keep_alive());
    let mut used_client = client(used, keep_alive());
    used_client.empty_call(Empty {}).await.unwrap();
    let mut with_one = client(silent, keep_alive());
    let _open = silent_stream(&mut with_one).await;
    // As long as Go takes to complain of one that does not hold back.
    let mut neighbour = silent_stream(&mut client(too_often, keep_alive().unthrottled())).await;
    timeout(PATIENCE, neighbour.message()).await.expect("the server ends the connection").unwrap_err();
    assert!(too_often.connections()[0].go_away.is_some());
    for (tap, most) in [(idle, 0), (used, 1), (silent, 2)] {
        let [seen] = &tap.connections()[..] else { panic!("it stays connected: {:?}", tap.connections()) };
        assert!(seen.go_away.is_none() && seen.pings.len() <= most, "{seen:?}");
    }
    assert_eq!(silent.connections()[0].pings.len(), 2);
    assert_eq!(idle_channel.servers()[0].state(), ServerState::Ready);
}
