//! What this crate relies on h2 for, against h2's own server and frames written by hand: which failure tells that a call was never
//! processed, and what servers bear of resets. `.ci/run` runs these against the newest h2 as well.

mod chaos;
mod closed_door;
mod goaway;
mod guards;
mod pacing;
mod parked;
mod raw;
mod resets;

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use http::Request;
use http_body::Body;

use self::raw::{Peer, Raw};
use crate::connection::{CloseKind, Connection, ConnectionState, Exchange, Failure, FailureKind, Options, RecvBody};

/// Begins a call without a body.
fn begin(connection: &Connection) -> Exchange<String> {
    let slot = connection.reserve().expect("the connection takes calls");
    let head = Request::post("http://server/service/method").body(()).unwrap();
    connection.exchange(slot, head, String::new()).unwrap_or_else(|(failure, _)| panic!("{failure}"))
}

/// Waits for the head of the answer.
async fn head(mut exchange: Exchange<String>) -> Result<RecvBody, Failure> {
    let stream = poll_fn(|cx| exchange.poll_head(cx)).await?.into_body();
    Ok(exchange.into_response_body(stream, |_, _| {}).0)
}

/// Waits for the end of the answer.
async fn end(mut answer: RecvBody) -> Result<(), Failure> {
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut answer).poll_frame(cx)).await {
        frame?;
    }
    Ok(())
}

/// Why there was no head.
async fn failure(exchange: Exchange<String>) -> Failure {
    head(exchange).await.err().expect("no answer")
}

/// Waits until the connection takes no more calls.
async fn over(connection: &Connection) -> ConnectionState {
    let over = |state: &ConnectionState| matches!(state, ConnectionState::Draining(_) | ConnectionState::Closed(_));
    connection.states().wait_for(over).await.unwrap().clone()
}
