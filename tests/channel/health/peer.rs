//! A greeter with a health service, both of which do as the test says.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{self, SendResponse};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

pub(crate) const WATCH: &str = "/grpc.health.v1.Health/Watch";
pub(crate) const UNKNOWN: u8 = 0;
pub(crate) const SERVING: u8 = 1;
pub(crate) const NOT_SERVING: u8 = 2;
pub(crate) const SERVICE_UNKNOWN: u8 = 3;

/// What becomes of a `Watch`, now and after each change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Answer {
    /// Nothing is said.
    Silence,
    /// This state is said, and the stream stays open.
    Says(u8),
    /// The stream ends with this code.
    Ends(u8),
    /// This state is said, and the stream ends with this code.
    SaysAndEnds(u8, u8),
    /// The stream is reset.
    Resets(h2::Reason),
    /// The first connection hears the first, each other one the second.
    ByConnection(u8, u8),
    /// The first connection hears this, the others nothing.
    OnlyFirst(u8),
    /// This state is said after a head with `grpc-status: 0`, and the stream stays open.
    SaysAfterOk(u8),
    /// This state is said on new streams. Those that are open end, as a proxy ends them after a while.
    Renews(u8),
    /// This state is said again and again, as fast as it is read.
    SaysWithoutEnd(u8),
}

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) connections: AtomicUsize,
    pub(crate) open: AtomicUsize,
    /// Streams of the health service that were begun, and that are open.
    pub(crate) watches: AtomicUsize,
    pub(crate) open_watches: AtomicUsize,
    pub(crate) calls: AtomicUsize,
    /// Of the last `Watch`, with its message.
    pub(crate) request: Mutex<Option<(http::request::Parts, Vec<u8>)>>,
}

impl Seen {
    pub(crate) fn watches(&self) -> usize {
        self.watches.load(Ordering::SeqCst)
    }

    pub(crate) fn open_watches(&self) -> usize {
        self.open_watches.load(Ordering::SeqCst)
    }

    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

/// Counted as long as it lives.
struct Counted(Arc<Seen>, fn(&Seen) -> &AtomicUsize);

impl Counted {
    fn new(seen: &Arc<Seen>, counter: fn(&Seen) -> &AtomicUsize) -> Self {
        counter(seen).fetch_add(1, Ordering::SeqCst);
        Self(seen.clone(), counter)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.1)(&self.0).fetch_sub(1, Ordering::SeqCst);
    }
}

pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Seen>,
    script: Script,
    task: AbortHandle,
}

#[derive(Clone)]
struct Script {
    answer: watch::Sender<Answer>,
    /// Calls wait as long as this is true.
    holds_calls: watch::Sender<bool>,
    /// Grows by one for each GOAWAY that is to be sent.
    goaway: watch::Sender<u32>,
    limit: Option<u32>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Peer {
    pub(crate) async fn start(answer: Answer) -> Self {
        Self::limited(answer, None).await
    }

    /// A server that takes so many streams at once over a connection.
    pub(crate) async fn limited(answer: Answer, limit: Option<u32>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Seen>::default();
        let (answer, holds_calls, goaway) =
            (watch::Sender::new(answer), watch::Sender::new(false), watch::Sender::new(0));
        let script = Script { answer, holds_calls, goaway, limit };
        let task = tokio::spawn(serve(listener, script.clone(), seen.clone())).abort_handle();
        Self { address, seen, script, task }
    }

    pub(crate) fn answer(&self, answer: Answer) {
        self.script.answer.send_replace(answer);
    }

    pub(crate) fn says(&self, status: u8) {
        self.answer(Answer::Says(status));
    }

    pub(crate) fn hold_calls(&self, hold: bool) {
        self.script.holds_calls.send_replace(hold);
    }

    /// Says GOAWAY over each connection, as in a graceful shutdown.
    pub(crate) fn say_goaway(&self) {
        self.script.goaway.send_modify(|count| *count += 1);
    }
}

async fn serve(listener: TcpListener, script: Script, seen: Arc<Seen>) {
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        connections.spawn(speak(tcp, script.clone(), seen.clone()));
    }
}

async fn speak(tcp: TcpStream, script: Script, seen: Arc<Seen>) {
    let mut builder = server::Builder::new();
    if let Some(limit) = script.limit {
        builder.max_concurrent_streams(limit);
    }
    let Ok(mut connection) = builder.handshake::<_, Bytes>(tcp).await else { return };
    let number = seen.connections.fetch_add(1, Ordering::SeqCst);
    let _open = Counted::new(&seen, |seen| &seen.open);
    let mut goaway = script.goaway.subscribe();
    let mut streams = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            Ok(()) = goaway.changed() => {
                connection.graceful_shutdown();
                continue;
            }
        };
        let Some(Ok((request, respond))) = accepted else { return };
        let (script, seen) = (script.clone(), seen.clone());
        if request.uri().path() == WATCH {
            streams.spawn(health(request, respond, script.answer.subscribe(), number, seen));
        } else {
            streams.spawn(greet(request, respond, script, seen));
        }
    }
}

fn head() -> Response<()> {
    Response::builder().header("content-type", "application/grpc").body(()).unwrap()
}

fn trailers(code: u8) -> HeaderMap {
    HeaderMap::from_iter([("grpc-status".parse().unwrap(), http::HeaderValue::from(u16::from(code)))])
}

async fn read(body: &mut RecvStream) -> Vec<u8> {
    let mut message = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        message.extend_from_slice(&data);
    }
    message
}

async fn health(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    mut answers: watch::Receiver<Answer>,
    connection: usize,
    seen: Arc<Seen>,
) {
    seen.watches.fetch_add(1, Ordering::SeqCst);
    let _open = Counted::new(&seen, |seen| &seen.open_watches);
    let (parts, mut body) = request.into_parts();
    *seen.request.lock().unwrap() = Some((parts, read(&mut body).await));
    let mut out: Option<SendStream<Bytes>> = None;
    loop {
        let answer = *answers.borrow_and_update();
        let is_new = out.is_none();
        if answer != Answer::Silence && out.is_none() {
            match answer {
                Answer::Resets(reason) => return respond.send_reset(reason),
                Answer::Ends(code) => {
                    let mut head = head();
                    head.headers_mut().extend(trailers(code));
                    return drop(respond.send_response(head, true));
                }
                Answer::OnlyFirst(_) if connection > 0 => {}
                Answer::SaysAfterOk(_) => {
                    let mut head = head();
                    head.headers_mut().extend(trailers(0));
                    out = respond.send_response(head, false).ok();
                }
                _ => out = respond.send_response(head(), false).ok(),
            }
        }
        if let Some(out) = &mut out {
            let mut say = |status: u8| out.send_data(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]), false).is_ok();
            match answer {
                Answer::Says(status) | Answer::OnlyFirst(status) | Answer::SaysAfterOk(status) => drop(say(status)),
                Answer::ByConnection(first, others) => drop(say(if connection == 0 { first } else { others })),
                Answer::SaysWithoutEnd(status) => {
                    let many: Bytes = [0, 0, 0, 0, 2, 8, status].repeat(10_000).into();
                    loop {
                        out.reserve_capacity(many.len());
                        let Some(Ok(room)) = std::future::poll_fn(|cx| out.poll_capacity(cx)).await else { return };
                        let room = room / 7 * 7; // whole messages
                        if room > 0 && out.send_data(many.slice(..room.min(many.len())), false).is_err() {
                            return;
                        }
                        tokio::task::yield_now().await;
                    }
                }
                Answer::Renews(status) if is_new => drop(say(status)),
                Answer::Renews(_) => return drop(out.send_trailers(trailers(0))),
                Answer::SaysAndEnds(status, code) => {
                    say(status);
                    return drop(out.send_trailers(trailers(code)));
                }
                Answer::Ends(code) => return drop(out.send_trailers(trailers(code))),
                Answer::Resets(reason) => return out.send_reset(reason),
                Answer::Silence => {}
            }
        }
        let reset = std::future::poll_fn(|cx| match &mut out {
            Some(out) => out.poll_reset(cx),
            None => respond.poll_reset(cx),
        });
        tokio::select! {
            _ = reset => return,
            changed = answers.changed() => if changed.is_err() { return },
        }
    }
}

/// Says hello to the world. Takes a moment, so that there are calls in flight.
async fn greet(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, script: Script, seen: Arc<Seen>) {
    seen.calls.fetch_add(1, Ordering::SeqCst);
    read(&mut request.into_body()).await;
    sleep(Duration::from_millis(1)).await;
    if script.holds_calls.subscribe().wait_for(|hold| !hold).await.is_err() {
        return;
    }
    let Ok(mut out) = respond.send_response(head(), false) else { return };
    drop(out.send_data(Bytes::from_static(b"\0\0\0\0\x0d\x0a\x0bHello world"), false));
    drop(out.send_trailers(trailers(0)));
}
