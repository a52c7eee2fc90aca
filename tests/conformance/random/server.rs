//! The server of random exchanges: it knows the plan of each from the seed that the client sends, does its part of it and
//! says so when the client's part is another.

use std::pin::Pin;

use greeter_proto::testing::test_service_server::TestService;
use greeter_proto::testing::{
    Empty, Payload, SimpleRequest, SimpleResponse, StreamingInputCallRequest, StreamingInputCallResponse,
    StreamingOutputCallRequest, StreamingOutputCallResponse,
};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status, Streaming};

use super::plan::{CallKind, Plan, Step};

pub(crate) const SEED: &str = "x-seed";

pub(crate) struct Planned;

type Answers = Pin<Box<dyn Stream<Item = Result<StreamingOutputCallResponse, Status>> + Send>>;

fn plan(metadata: &MetadataMap, kind: CallKind) -> Result<Plan, Status> {
    let seed = metadata.get(SEED).and_then(|seed| seed.to_str().ok()?.parse().ok());
    let plan = Plan::new(seed.ok_or_else(|| Status::data_loss("no seed came"))?);
    if plan.kind == kind { Ok(plan) } else { Err(Status::data_loss("a call of another kind")) }
}

/// Holds a message that came, or the end of them, against the plan.
fn check(plan: &Plan, index: usize, came: Option<Payload>) -> Result<(), Status> {
    let wanted = (index < plan.requests.len()).then(|| plan.request(index)).flatten();
    if came == wanted {
        return Ok(());
    }
    let size = |payload: Option<Payload>| payload.map(|payload| payload.body.len());
    Err(Status::data_loss(format!("message {index}: {:?} bytes came, not {:?}", size(came), size(wanted))))
}

/// The one answer of a call, in the order in which it was planned.
fn one<T>(plan: &Plan, answer: T) -> Result<Response<T>, Status> {
    if plan.code != Code::Ok {
        return Err(plan.status());
    }
    let mut response = Response::new(answer);
    *response.metadata_mut() = plan.metadata_map();
    Ok(response)
}

/// What a stream of requests gives, beyond what the server needs to read.
struct Requests(Option<Streaming<StreamingOutputCallRequest>>);

impl Requests {
    async fn read(&mut self, plan: &Plan, index: usize) -> Result<(), Status> {
        let Some(requests) = &mut self.0 else { return Ok(()) };
        check(plan, index, requests.message().await?.and_then(|request| request.payload))
    }
}

async fn answers(plan: Plan, mut requests: Requests) -> Result<Response<Answers>, Status> {
    for index in 0..plan.before_head {
        requests.read(&plan, index).await?;
    }
    let mut response = Response::new(());
    *response.metadata_mut() = plan.metadata_map();
    let (send, receive) = mpsc::channel(1);
    tokio::spawn(async move {
        let work = async {
            let (mut read, mut answered) = (plan.before_head, 0);
            for step in &plan.steps[plan.before_head..] {
                match step {
                    Step::Read => {
                        requests.read(&plan, read).await?;
                        read += 1;
                    }
                    Step::Answer => {
                        let answer = StreamingOutputCallResponse { payload: plan.answer(answered) };
                        let _ = send.send(Ok(answer)).await;
                        answered += 1;
                    }
                }
            }
            if read == plan.requests.len() {
                requests.read(&plan, read).await?;
            }
            Ok::<_, Status>(())
        };
        let ended = tokio::select! {
            ended = work => ended,
            () = send.closed() => return,
        };
        // tonic writes the metadata of a status as trailers, of OK too.
        let _ = send.send(Err(ended.err().unwrap_or_else(|| plan.status()))).await;
    });
    Ok(response.map(|()| Box::pin(ReceiverStream::new(receive)) as Answers))
}

#[tonic::async_trait]
impl TestService for Planned {
    async fn unary_call(&self, request: Request<SimpleRequest>) -> Result<Response<SimpleResponse>, Status> {
        let plan = plan(request.metadata(), CallKind::Unary)?;
        check(&plan, 0, request.into_inner().payload)?;
        one(&plan, SimpleResponse { payload: plan.answer(0) })
    }

    async fn streaming_input_call(
        &self,
        request: Request<Streaming<StreamingInputCallRequest>>,
    ) -> Result<Response<StreamingInputCallResponse>, Status> {
        let plan = plan(request.metadata(), CallKind::ClientStreaming)?;
        let mut requests = request.into_inner();
        let mut size = 0_i32;
        for index in 0..plan.read() {
            let payload = requests.message().await?.and_then(|request| request.payload);
            size +=
                payload.as_ref().map_or(0, |payload| i32::try_from(payload.body.len()).expect("no plan is so large"));
            check(&plan, index, payload)?;
        }
        if plan.read() == plan.requests.len() {
            check(&plan, plan.read(), requests.message().await?.and_then(|request| request.payload))?;
        }
        one(&plan, StreamingInputCallResponse { aggregated_payload_size: size })
    }

    type StreamingOutputCallStream = Answers;

    async fn streaming_output_call(
        &self,
        request: Request<StreamingOutputCallRequest>,
    ) -> Result<Response<Answers>, Status> {
        let plan = plan(request.metadata(), CallKind::ServerStreaming)?;
        check(&plan, 0, request.into_inner().payload)?;
        answers(plan, Requests(None)).await
    }

    type FullDuplexCallStream = Answers;

    async fn full_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let plan = plan(request.metadata(), CallKind::BothWays)?;
        answers(plan, Requests(Some(request.into_inner()))).await
    }

    type HalfDuplexCallStream = Answers;

    async fn half_duplex_call(
        &self,
        _: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Answers>, Status> {
        Err(Status::unimplemented("no exchange is planned so"))
    }

    async fn empty_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Ok(Response::new(Empty {}))
    }

    async fn unimplemented_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented("nobody has it"))
    }
}
