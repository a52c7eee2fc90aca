//! Programs that drive their runtime only during calls, over stock tonic servers that are restarted in between.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime, RuntimeFlavor};
use tokio::sync::oneshot;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_etcd::ServerState;

use crate::support::{builder, greet, over, states, until};

/// Longer than calls may be apart that follow each other.
const PAUSE: Duration = Duration::from_millis(20);

/// How a server ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// Its runtime is dropped: its sockets are closed in order.
    Killed,
    /// The same, and each socket is reset.
    Reset,
    /// It says GOAWAY before.
    Gracefully,
}

/// A stock tonic server on a thread of its own.
pub(super) struct Stock {
    pub(super) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Takes so long for an answer.
struct Me(Duration);

#[tonic::async_trait]
impl Greeter for Me {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        tokio::time::sleep(self.0).await;
        Ok(Response::new(HelloReply { message: format!("Hello {}", request.into_inner().name) }))
    }
}

impl Stock {
    /// A server at this address, which will end in this way.
    fn start(address: SocketAddr, end: End, delay: Duration) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = current_thread();
            runtime.block_on(async {
                let listener = TcpListener::bind(address).await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                let incoming = TcpListenerStream::new(listener).map(move |tcp| {
                    let tcp = tcp?;
                    if end == End::Reset {
                        tcp.set_zero_linger()?;
                    }
                    Ok::<_, std::io::Error>(tcp)
                });
                let (shut, down) = oneshot::channel::<()>();
                let server = Server::builder().add_service(GreeterServer::new(Me(delay)));
                let serve = server.serve_with_incoming_shutdown(incoming, async { drop(down.await) });
                let ended = async {
                    drop(stopped.await); // whoever started it has ended, or wants this to end
                    if end == End::Gracefully {
                        let _ = shut.send(());
                        tokio::time::sleep(Duration::from_millis(100)).await; // a client that is not driven answers nothing
                    }
                };
                tokio::select! {
                    _ = serve => {}
                    () = ended => {}
                }
            });
        });
        Self { address: told.recv().unwrap(), stop: Some(stop), thread: Some(thread) }
    }

    fn anywhere(end: End) -> Self {
        Self::start((Ipv4Addr::LOCALHOST, 0).into(), end, Duration::ZERO)
    }

    /// A server that takes so long for each answer.
    pub(super) fn slow(delay: Duration) -> Self {
        Self::start((Ipv4Addr::LOCALHOST, 0).into(), End::Killed, delay)
    }

    fn stop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        self.thread.take().map(JoinHandle::join).transpose().unwrap();
    }

    fn restart(&mut self, end: End) {
        self.stop();
        *self = Self::start(self.address, end, Duration::ZERO);
    }
}

pub(super) fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Calls, restarts some of the servers, and calls again, ten times.
fn restarted_between_calls(runtime: &Runtime, servers: usize, end: End) {
    let mut servers: Vec<_> = (0..servers).map(|_| Stock::anywhere(end)).collect();
    let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
    let channel = runtime.block_on(async { over(builder(), &addresses) });
    let mut failed = Vec::new();
    for round in 0..10 {
        runtime.block_on(greet(&channel)).unwrap();
        // All of them in every other round, else one.
        let ends = if round % 2 == 0 { servers.len() } else { 1 };
        servers[..ends].iter_mut().for_each(|server| server.restart(end));
        std::thread::sleep(PAUSE);
        if runtime.handle().runtime_flavor() == RuntimeFlavor::MultiThread {
            // Workers see that nobody listens, if that takes long enough, and calls fail at once for a while.
            let is_up = || !states(&channel).values().any(|state| *state == ServerState::TransientFailure);
            runtime.block_on(until("no server to be down", is_up));
        }
        // All of them begin at the same moment in every third round.
        let calls = if round % 3 == 0 { 5 } else { 1 };
        let answers = runtime.block_on(async {
            let calls = (0..calls).map(|_| async { greet(&channel).await });
            join_all(calls.map(Box::pin).collect()).await
        });
        failed.extend(answers.into_iter().filter_map(Result::err));
    }
    assert!(failed.is_empty(), "{} servers, {end:?}: {} calls failed: {failed:?}", servers.len(), failed.len());
}

/// All in one task.
async fn join_all<F: Future + Unpin>(mut calls: Vec<F>) -> Vec<F::Output> {
    let mut answers = Vec::new();
    let all = std::future::poll_fn(|cx| {
        calls.retain_mut(|call| match Pin::new(call).poll(cx) {
            Poll::Ready(answer) => {
                answers.push(answer);
                false
            }
            Poll::Pending => true,
        });
        if calls.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    });
    all.await;
    answers
}

const ENDS: [End; 3] = [End::Killed, End::Reset, End::Gracefully];

/// F66: a server that was restarted while the runtime was not driven costs no call.
#[test]
fn a_server_that_is_restarted_while_nobody_drives_the_runtime_costs_no_call() {
    for servers in [1, 2] {
        ENDS.into_iter().for_each(|end| restarted_between_calls(&current_thread(), servers, end));
    }
}

/// F66: nor does it where idle workers drive the runtime.
#[test]
fn a_server_that_is_restarted_beside_idle_workers_costs_no_call() {
    for servers in [1, 2] {
        for end in ENDS {
            let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            restarted_between_calls(&runtime, servers, end);
        }
    }
}

/// F66: a server that was down when the runtime was last driven is connected to before a call fails over it.
#[test]
fn a_server_that_came_back_while_nobody_drove_the_runtime_is_asked_again() {
    let runtime = current_thread();
    let mut server = Stock::anywhere(End::Killed);
    let channel = runtime.block_on(async { over(builder(), [&server.address]) });
    for _ in 0..5 {
        runtime.block_on(greet(&channel)).unwrap();
        server.stop();
        let failed = async { while greet(&channel).await.is_ok() {} };
        runtime.block_on(failed);
        server.restart(End::Killed);
        std::thread::sleep(Duration::from_millis(400)); // far longer than the first waits between two attempts
        runtime.block_on(greet(&channel)).unwrap();
    }
}
