//! The client's part of a random exchange, and what it sees of the server's.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use fastrand::Rng;
use greeter_proto::testing::{Payload, SimpleRequest, StreamingInputCallRequest, StreamingOutputCallRequest};
use tokio_stream::Stream;
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::{Code, Request, Status};

use super::plan::{CallKind, Cancel, Plan};
use super::server::SEED;
use crate::cases::{Client, Transport};

/// All that a client can see.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) head: Option<Vec<String>>,
    /// The size of each message, of those whose bytes are as planned.
    pub(crate) messages: Vec<Result<usize, &'static str>>,
    /// The answer to a client's stream.
    pub(crate) sum: Option<i32>,
    /// The status, where tonic tells one.
    pub(crate) end: Option<End>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct End {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) metadata: Vec<String>,
}

/// Why an exchange was left before its end.
enum Left {
    GoneAway,
    Failed(Status),
}

/// Takes one part of the answer after the other, and goes away where the plan says so.
struct Taking {
    cancel: Option<Cancel>,
    taken: usize,
}

impl Taking {
    async fn part<T>(&mut self, part: impl Future<Output = Result<T, Status>>) -> Result<T, Left> {
        let polls = self.cancel.filter(|cancel| cancel.parts == self.taken).map(|cancel| cancel.polls);
        self.taken += 1;
        let Some(mut left) = polls else { return part.await.map_err(Left::Failed) };
        let mut part = pin!(part);
        poll_fn(|context| {
            left -= 1;
            let ready = part.as_mut().poll(context).is_ready();
            if ready || left == 0 { Poll::Ready(Err(Left::GoneAway)) } else { Poll::Pending }
        })
        .await
    }
}

pub(crate) async fn run(transport: &Transport, plan: &Plan) -> Outcome {
    let mut outcome = Outcome::default();
    if let Err(Left::Failed(status)) = exchange(transport, plan, &mut outcome).await {
        let (code, message) = (status.code(), status.message().to_owned());
        outcome.end = Some(End { code, message, metadata: entries(status.metadata()) });
    }
    outcome
}

async fn exchange(transport: &Transport, plan: &Plan, outcome: &mut Outcome) -> Result<(), Left> {
    let mut client = Client::new(transport.clone()).max_decoding_message_size(usize::MAX);
    let mut taking = Taking { cancel: plan.cancel, taken: 0 };
    let output = |payload| StreamingOutputCallRequest { payload, ..StreamingOutputCallRequest::default() };
    let answer = match plan.kind {
        CallKind::Unary => {
            let message = SimpleRequest { payload: plan.request(0), ..SimpleRequest::default() };
            let answer = taking.part(client.unary_call(request(plan, message))).await?;
            outcome.head = Some(entries(answer.metadata()));
            outcome.messages.push(as_planned(plan, 0, answer.into_inner().payload));
            return Ok(());
        }
        CallKind::ClientStreaming => {
            let message = |payload| StreamingInputCallRequest { payload, ..StreamingInputCallRequest::default() };
            let messages = request(plan, paced(plan, message));
            let answer = taking.part(client.streaming_input_call(messages)).await?;
            outcome.head = Some(entries(answer.metadata()));
            outcome.sum = Some(answer.into_inner().aggregated_payload_size);
            return Ok(());
        }
        CallKind::ServerStreaming => {
            taking.part(client.streaming_output_call(request(plan, output(plan.request(0))))).await?
        }
        CallKind::BothWays => taking.part(client.full_duplex_call(request(plan, paced(plan, output)))).await?,
    };
    outcome.head = Some(entries(answer.metadata()));
    let mut answers = answer.into_inner();
    while let Some(answer) = taking.part(answers.message()).await? {
        outcome.messages.push(as_planned(plan, outcome.messages.len(), answer.payload));
    }
    let trailers = answers.trailers().await.map_err(Left::Failed)?.unwrap_or_default();
    outcome.end = Some(End { code: Code::Ok, message: String::new(), metadata: entries(&trailers) });
    Ok(())
}

fn request<T>(plan: &Plan, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(SEED, plan.seed.into());
    if plan.deadline {
        // Far away: that there is one must change nothing.
        request.set_timeout(Duration::from_secs(600));
    }
    request
}

/// The requests, of which some are there at once and others a moment later.
struct Paced<T> {
    messages: std::vec::IntoIter<T>,
    random: Rng,
}

fn paced<T>(plan: &Plan, message: impl Fn(Option<Payload>) -> T) -> Paced<T> {
    let messages: Vec<T> = (0..plan.requests.len()).map(|index| message(plan.request(index))).collect();
    Paced { messages: messages.into_iter(), random: Rng::with_seed(!plan.seed) }
}

impl<T: Unpin> Stream for Paced<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.random.u8(0..3) == 0 {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.messages.next())
    }
}

fn as_planned(plan: &Plan, index: usize, came: Option<Payload>) -> Result<usize, &'static str> {
    match came {
        _ if index >= plan.answers.len() => Err("one too many"),
        Some(payload) if Some(&payload) == plan.answer(index).as_ref() => Ok(payload.body.len()),
        Some(_) => Err("other bytes"),
        None => Err("no payload"),
    }
}

/// Left out: two answers may come at two dates, and this crate's channel adds to a failed call's metadata who failed it.
const NOT_COMPARED: [&str; 2] = ["date", "x-served-by-address"];

pub(crate) fn entries(metadata: &MetadataMap) -> Vec<String> {
    let entry = |entry: KeyAndValueRef<'_>| match entry {
        KeyAndValueRef::Ascii(key, value) => (key.to_string(), value.as_encoded_bytes().to_vec()),
        KeyAndValueRef::Binary(key, value) => (key.to_string(), value.as_encoded_bytes().to_vec()),
    };
    let compared = metadata.iter().map(entry).filter(|(key, _)| !NOT_COMPARED.contains(&&key[..]));
    let mut entries: Vec<_> = compared.map(|(key, value)| format!("{key}: {}", value.escape_ascii())).collect();
    entries.sort();
    entries
}
