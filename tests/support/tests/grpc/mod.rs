//! Just enough of a gRPC client on h2, and etcd's messages by hand: building them from protos would take protoc.
#![allow(dead_code)] // each test target uses a part

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

pub(crate) const PUT: &str = "/etcdserverpb.KV/Put";
pub(crate) const RANGE: &str = "/etcdserverpb.KV/Range";
pub(crate) const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// Seconds on two busy cores; what is longer is stuck.
const LIMIT: Duration = Duration::from_secs(10);

/// One connection.
pub(crate) struct Client {
    pub(crate) send: SendRequest<Bytes>,
    pub(crate) connection: JoinHandle<Result<(), h2::Error>>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let socket = within("connecting", TcpStream::connect(address)).await.unwrap();
        let (send, connection) = within("a handshake", h2::client::handshake(socket)).await.unwrap();
        Self { send, connection: tokio::spawn(connection) }
    }

    pub(crate) async fn open(&self, path: &str) -> Call {
        let request = Request::post(format!("http://etcd{path}")).header("content-type", "application/grpc");
        let request = request.header("te", "trailers").body(()).unwrap();
        let mut send = within("a place for a stream", self.send.clone().ready()).await.unwrap();
        let (answer, sink) = send.send_request(request, false).unwrap();
        Call { sink, answer: Answer::Awaited(answer), rest: BytesMut::new() }
    }

    /// Sends one message, as the only one.
    pub(crate) async fn call(&self, path: &str, message: &[u8]) -> Call {
        let mut call = self.open(path).await;
        call.sink.send_data(framed(message), true).unwrap();
        call
    }

    /// The one message of the answer.
    pub(crate) async fn unary(&self, path: &str, message: &[u8]) -> Bytes {
        let mut call = self.call(path, message).await;
        let answer = call.next().await.unwrap().expect("a message");
        assert_eq!(call.status().await.unwrap(), "0");
        answer
    }

    pub(crate) async fn put(&self, key: &str, value: &str) {
        self.unary(PUT, &put(key, value)).await;
    }

    /// Whether etcd has this value under this key.
    pub(crate) async fn has(&self, key: &str, value: &str) -> bool {
        contains(&self.unary(RANGE, &field(1, key.as_bytes())).await, value)
    }

    /// A watch of one key that etcd has confirmed.
    pub(crate) async fn watch(&self, key: &str) -> Call {
        let mut call = self.open(WATCH).await;
        call.sink.send_data(framed(&watch(key)), false).unwrap();
        call.next().await.unwrap().expect("etcd says that the watch is there");
        call
    }
}

/// One stream.
pub(crate) struct Call {
    pub(crate) sink: SendStream<Bytes>,
    answer: Answer,
    rest: BytesMut,
}

enum Answer {
    Awaited(ResponseFuture),
    Here(HeaderMap, RecvStream),
}

impl Call {
    /// The next message, without its prefix; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, h2::Error> {
        loop {
            if self.rest.len() >= 5 {
                let length = u32::from_be_bytes(self.rest[1..5].try_into().unwrap()) as usize;
                if self.rest.len() >= 5 + length {
                    return Ok(Some(self.rest.split_to(5 + length).freeze().slice(5..)));
                }
            }
            let (_, body) = self.answer().await?;
            match within("a message", body.data()).await {
                Some(data) => {
                    let data = data?;
                    let _ = body.flow_control().release_capacity(data.len());
                    self.rest.extend_from_slice(&data);
                }
                None => return Ok(None),
            }
        }
    }

    /// gRPC's status, from the trailers, or from the head where there is nothing else.
    pub(crate) async fn status(&mut self) -> Result<String, h2::Error> {
        assert_eq!(self.next().await?, None);
        let (head, body) = self.answer().await?;
        let trailers = within("trailers", body.trailers()).await?;
        let status = trailers.as_ref().unwrap_or(head).get("grpc-status").expect("a status");
        Ok(status.to_str().unwrap().to_owned())
    }

    /// The head of the answer.
    pub(crate) async fn head(&mut self) -> Result<&HeaderMap, h2::Error> {
        Ok(self.answer().await?.0)
    }

    /// Nothing comes, for as long as one can wait in a test.
    pub(crate) async fn is_silent(&mut self) -> bool {
        timeout(Duration::from_millis(50), self.next()).await.is_err()
    }

    async fn answer(&mut self) -> Result<(&HeaderMap, &mut RecvStream), h2::Error> {
        if let Answer::Awaited(answer) = &mut self.answer {
            let (head, body) = within("the head of an answer", answer).await?.into_parts();
            self.answer = Answer::Here(head.headers, body);
        }
        match &mut self.answer {
            Answer::Here(head, body) => Ok((head, body)),
            Answer::Awaited(_) => unreachable!("it is here"),
        }
    }
}

pub(crate) fn put(key: &str, value: &str) -> Vec<u8> {
    [field(1, key.as_bytes()), field(2, value.as_bytes())].concat()
}

pub(crate) fn watch(key: &str) -> Vec<u8> {
    field(1, &field(1, key.as_bytes()))
}

/// A field of protobuf's second wire type, shorter than 128 bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).ok().filter(|length| *length < 128).expect("a short field");
    [&[number << 3 | 2, length][..], bytes].concat()
}

pub(crate) fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap());
    framed.put_slice(message);
    framed.freeze()
}

pub(crate) fn contains(message: &[u8], text: &str) -> bool {
    message.windows(text.len()).any(|bytes| bytes == text.as_bytes())
}

pub(crate) async fn within<T>(what: &str, future: impl IntoFuture<Output = T>) -> T {
    timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("{what}: nothing within {LIMIT:?}"))
}

pub(crate) async fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    within(what, async {
        while !condition() {
            sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}
