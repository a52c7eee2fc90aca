//! A scripted gRPC server on h2: it counts what comes, and answers as its script says.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{self, SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};

/// What it does with a request.
#[derive(Clone)]
pub(crate) enum Script {
    /// `Hello NAME`, as the greeter does.
    Greet,
    /// The same, once it is told to.
    GreetLater(Arc<Notify>),
    /// Resets the stream.
    Reset(h2::Reason),
    /// Reads the request, and breaks the connection.
    Break,
    /// Another script, once it is told to.
    Later(Arc<Notify>, Box<Script>),
    /// Says GOAWAY, as in a graceful shutdown, and goes on with another script.
    GoAway(Box<Script>),
    /// Sends this much of an answer, and breaks the connection.
    BreakAfter(Part),
    /// This status at once, with these headers beside.
    Status(i32, Vec<(&'static str, &'static str)>),
    /// An HTTP answer that is no gRPC.
    Http(u16),
    /// Nothing at all.
    Silence,
    /// The head of an answer, and nothing more.
    HeadOnly,
    /// An answer without an end, as fast as it is read.
    Flood,
    /// Another script, once this time has passed.
    After(Duration, Box<Script>),
    /// What the test says when the call comes.
    Now(Arc<Mutex<Script>>),
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Part {
    Head,
    Message,
}

pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Seen>,
    task: AbortHandle,
}

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) connections: AtomicUsize,
    pub(crate) open: AtomicUsize,
    pub(crate) calls: AtomicUsize,
    /// Calls that are being answered, and the most that ever were.
    pub(crate) running: AtomicUsize,
    pub(crate) most: AtomicUsize,
    /// Streams that the client reset.
    pub(crate) cancelled: AtomicUsize,
    pub(crate) heads: Mutex<Vec<http::request::Parts>>,
}

impl Seen {
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn cancelled(&self) -> usize {
        self.cancelled.load(Ordering::SeqCst)
    }

    pub(crate) fn header(&self, call: usize, name: &str) -> Option<HeaderValue> {
        self.heads.lock().unwrap()[call].headers.get(name).cloned()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Peer {
    pub(crate) async fn start(script: Script) -> Self {
        Self::limited(script, None).await
    }

    /// A server that takes so many calls at once.
    pub(crate) async fn limited(script: Script, limit: Option<u32>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let serve = serve(listener, script, limit, seen.clone());
        Self { address, seen, task: tokio::spawn(serve).abort_handle() }
    }
}

async fn serve(listener: TcpListener, script: Script, limit: Option<u32>, seen: Arc<Seen>) {
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        connections.spawn(speak(tcp, script.clone(), limit, seen.clone()));
    }
}

/// One connection, whatever it runs over.
pub(crate) async fn speak<T>(io: T, script: Script, limit: Option<u32>, seen: Arc<Seen>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = server::Builder::new();
    if let Some(limit) = limit {
        builder.max_concurrent_streams(limit);
    }
    let Ok(mut connection) = builder.handshake::<_, Bytes>(io).await else { return };
    seen.connections.fetch_add(1, Ordering::SeqCst);
    let _open = Open::new(&seen);
    let ends = Arc::new(Ends::default());
    let mut calls = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            () = ends.broken.notified() => return,
            () = ends.goaway.notified() => {
                connection.graceful_shutdown();
                continue;
            }
        };
        let Some(Ok((request, respond))) = accepted else { return };
        calls.spawn(play(request, respond, script.clone(), seen.clone(), ends.clone()));
    }
}

/// What calls do to their connection.
#[derive(Default)]
struct Ends {
    broken: Notify,
    goaway: Notify,
}

struct Running(Arc<Seen>);

impl Running {
    fn new(seen: &Arc<Seen>) -> Self {
        let running = seen.running.fetch_add(1, Ordering::SeqCst) + 1;
        seen.most.fetch_max(running, Ordering::SeqCst);
        Self(seen.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Open(Arc<Seen>);

impl Open {
    fn new(seen: &Arc<Seen>) -> Self {
        seen.open.fetch_add(1, Ordering::SeqCst);
        Self(seen.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn play(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    script: Script,
    seen: Arc<Seen>,
    ends: Arc<Ends>,
) {
    let script = match script {
        Script::Now(script) => script.lock().unwrap().clone(),
        script => script,
    };
    let (head, mut body) = request.into_parts();
    seen.heads.lock().unwrap().push(head);
    let running = Running::new(&seen);
    seen.calls.fetch_add(1, Ordering::SeqCst);
    if let Script::Reset(reason) = script {
        return respond.send_reset(reason);
    }
    let mut message = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        body.flow_control().release_capacity(data.len()).unwrap();
        message.extend_from_slice(&data);
    }
    let response = Response::builder().header("content-type", "application/grpc");
    let mut script = script;
    let script = loop {
        script = match script {
            Script::After(time, script) => {
                tokio::time::sleep(time).await;
                *script
            }
            Script::Later(told, script) => {
                told.notified().await;
                *script
            }
            Script::GoAway(script) => {
                ends.goaway.notify_one();
                *script
            }
            script => break script,
        };
    };
    match script {
        Script::Greet => {
            drop(running); // before the client can know
            greet(&mut respond, &message);
        }
        Script::GreetLater(told) => {
            tokio::select! {
                () = told.notified() => {
                    drop(running); // as above
                    greet(&mut respond, &message);
                }
                _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => {
                    seen.cancelled.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
        Script::Break => {
            ends.broken.notify_one();
            std::future::pending::<()>().await; // so that nothing is reset before
        }
        Script::BreakAfter(part) => {
            let mut out = respond.send_response(response.body(()).unwrap(), false).unwrap();
            if part == Part::Message {
                out.send_data(hello(&message), false).unwrap();
            }
            tokio::task::yield_now().await; // so that the connection writes it before it breaks
            ends.broken.notify_one();
            std::future::pending::<()>().await; // as above
        }
        Script::Status(code, headers) => {
            let mut response = response.header("grpc-status", code).header("grpc-message", "as told");
            for (name, value) in headers {
                response = response.header(name, value);
            }
            drop(respond.send_response(response.body(()).unwrap(), true));
        }
        Script::Http(status) => drop(respond.send_response(Response::builder().status(status).body(()).unwrap(), true)),
        Script::Silence => {
            drop(std::future::poll_fn(|cx| respond.poll_reset(cx)).await);
            seen.cancelled.fetch_add(1, Ordering::SeqCst);
        }
        Script::HeadOnly => {
            let _out = respond.send_response(response.body(()).unwrap(), false).unwrap();
            std::future::pending::<()>().await;
        }
        Script::Flood => {
            let mut out = respond.send_response(response.body(()).unwrap(), false).unwrap();
            loop {
                out.reserve_capacity(1000);
                let Some(Ok(room)) = std::future::poll_fn(|cx| out.poll_capacity(cx)).await else { return };
                if out.send_data(Bytes::from(vec![0; room]), false).is_err() {
                    return;
                }
            }
        }
        Script::Reset(reason) => respond.send_reset(reason), // after a while
        Script::After(..) | Script::Later(..) | Script::GoAway(_) | Script::Now(_) => unreachable!("done above"),
    }
}

fn greet(respond: &mut SendResponse<Bytes>, request: &[u8]) {
    let response = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let Ok(mut out) = respond.send_response(response, false) else { return };
    drop(out.send_data(hello(request), false));
    drop(out.send_trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))])));
}

/// Name and greeting are field 1 of their messages: a tag, a length that is one byte where it is short, the text.
fn hello(request: &[u8]) -> Bytes {
    let name = if request.len() < 100 { request.get(7..).unwrap_or_default() } else { b"somebody with a long name" };
    let text = [b"Hello ", name].concat();
    let message = [&[0x0a, text.len() as u8][..], &text].concat();
    [&[0, 0, 0, 0, message.len() as u8][..], &message].concat().into()
}
