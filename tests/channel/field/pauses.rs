//! Pauses before repetitions, and what remains of the deadline.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;
use tonic_etcd::{BalancedChannelBuilder, RetryPolicy};

use crate::peer::{Peer, Script};
use crate::support::{SAY_HELLO, builder, greet, over, repeating};

/// Far less than any pause here.
const AT_ONCE: Duration = Duration::from_secs(10);

async fn told_at_once(peer: &Peer, builder: BalancedChannelBuilder) {
    let channel = over(builder, [&peer.address]);
    let began = Instant::now();
    let status = greet(&channel).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "as told"));
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    assert_eq!(peer.seen.calls(), 1);
}

/// F45: the server's pushback, and the channel's own backoff.
#[tokio::test]
async fn a_pause_beyond_the_deadline_ends_the_call_at_once_with_what_the_server_said() {
    let minute = Duration::from_secs(60);
    for millis in ["60000", "61000", "4000000000"] {
        let peer = Peer::start(Script::Status(14, vec![("grpc-retry-pushback-ms", millis)])).await;
        told_at_once(&peer, repeating().timeout(minute)).await;
    }
    let peer = Peer::start(Script::Status(14, vec![])).await;
    let years = Duration::from_secs(1 << 30); // a pause is drawn at random from none to this
    let retry = RetryPolicy::new().repeatable(SAY_HELLO).backoff(years, years);
    told_at_once(&peer, builder().retry(retry).timeout(minute)).await;
}

/// F45: without a deadline.
#[tokio::test]
async fn a_pushback_of_more_than_a_minute_forbids_where_there_is_no_deadline() {
    for millis in ["60001", "4000000000", "4294967295"] {
        let peer = Peer::start(Script::Status(14, vec![("grpc-retry-pushback-ms", millis)])).await;
        told_at_once(&peer, repeating()).await;
    }
}

/// F45: a call that no server takes, and that waits between rounds.
#[tokio::test]
async fn a_call_that_is_refused_until_its_time_is_up_says_that_it_was_refused() {
    let refusing = Peer::start(Script::Reset(h2::Reason::REFUSED_STREAM)).await;
    let short = Duration::from_millis(300);
    for builder in
        [builder().timeout(short), builder().wait_limit(short), builder().wait_for_ready(true).timeout(short)]
    {
        let status = greet(&over(builder, [&refusing.address])).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(status.message().starts_with("not processed: "), "{status}");
    }
}
