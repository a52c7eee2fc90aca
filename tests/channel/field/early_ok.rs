//! Servers that end a call with OK before the request has ended: the end of the answer, and then a reset with `NO_ERROR`, in one
//! write (RFC 9113, 8.1; so does grpc-go where a handler returns without having read the request to its end).

use std::net::SocketAddr;

use greeter_proto::testing::StreamingOutputCallRequest;
use greeter_proto::testing::test_service_client::TestServiceClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::StreamExt;

use crate::support::{builder, over, ready};

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn field(name: &str, value: &str) -> Vec<u8> {
    [&[0, name.len() as u8][..], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
}

/// Answers each request, once its first DATA has come, with these bytes.
async fn server(answer: impl Fn(u32) -> Vec<u8> + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(speak(tcp, answer.clone()));
        }
    });
    address
}

async fn speak(mut tcp: TcpStream, answer: impl Fn(u32) -> Vec<u8>) -> std::io::Result<()> {
    tcp.read_exact(&mut [0; 24]).await?;
    tcp.write_all(&frame(4, 0, 0, &[])).await?;
    let mut answered = 0;
    loop {
        let mut head = [0; 9];
        tcp.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        tcp.read_exact(&mut vec![0; length]).await?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        match head[3] {
            4 if head[4] == 0 => tcp.write_all(&frame(4, 1, 0, &[])).await?,
            0 if stream > answered => {
                answered = stream;
                tcp.write_all(&answer(stream)).await?;
            }
            _ => {}
        }
    }
}

async fn called(address: SocketAddr) -> Result<usize, tonic::Status> {
    let channel = over(builder(), [&address]);
    ready(&channel, 1).await;
    let requests = tokio_stream::once(StreamingOutputCallRequest::default()).chain(tokio_stream::pending());
    let mut answers = TestServiceClient::new(channel.clone()).full_duplex_call(requests).await?.into_inner();
    let mut count = 0;
    while answers.message().await?.is_some() {
        count += 1;
    }
    let servers = channel.servers();
    assert_eq!((servers[0].attempts(), servers[0].failures()), (1, 0));
    Ok(count)
}

fn ok_alone(stream: u32) -> Vec<u8> {
    let block = [vec![0x88], field("content-type", "application/grpc"), field("grpc-status", "0")].concat();
    frame(1, 4 | 1, stream, &block)
}

fn message_and_ok(stream: u32) -> Vec<u8> {
    let head = [vec![0x88], field("content-type", "application/grpc")].concat();
    [frame(1, 4, stream, &head), frame(0, 0, stream, &[0; 5]), frame(1, 4 | 1, stream, &field("grpc-status", "0"))]
        .concat()
}

const NO_ERROR: [u8; 4] = [0; 4];

/// F44: OK ends a call whose request has not ended.
#[tokio::test]
async fn ok_alone_is_ok() {
    assert_eq!(called(server(ok_alone).await).await.unwrap(), 0);
}

/// F44: nor does the reset that follows it make a failure of it.
#[tokio::test]
async fn ok_alone_is_ok_where_the_rest_of_the_request_is_not_wanted() {
    let address = server(|stream| [ok_alone(stream), frame(3, 0, stream, &NO_ERROR)].concat()).await;
    assert_eq!(called(address).await.unwrap(), 0);
}

/// F44: the same after a message.
#[tokio::test]
async fn a_message_and_ok_are_ok_where_the_rest_of_the_request_is_not_wanted() {
    let address = server(|stream| [message_and_ok(stream), frame(3, 0, stream, &NO_ERROR)].concat()).await;
    assert_eq!(called(address).await.unwrap(), 1);
}
