//! One accepted connection, and the one to the target that belongs to it.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, client, server};
use tokio::io::{Interest, Ready};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{sleep, timeout};

use super::exchange;
use super::state::{Connection, Shared};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(10);
/// The most that HTTP/2 knows: flow control is no obstacle.
const WINDOW: u32 = (1 << 31) - 1;
/// h2 takes what a proxy under test has to do for attacks, unless it is told otherwise.
const PLENTY: usize = 1 << 30;

type Upstream = client::Connection<TcpStream, Bytes>;
type Downstream = server::Connection<TcpStream, Bytes>;

pub(super) async fn accept_all(shared: &Arc<Shared>, listener: &TcpListener, target: SocketAddr) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            sleep(POLL).await; // too many open files, say
            continue;
        };
        tokio::spawn(carry(Connection::accepted(shared), client, target));
    }
}

/// The life of one connection. Whichever end is lost: both sockets are closed when this returns.
async fn carry(connection: Connection, client: TcpStream, target: SocketAddr) {
    let dialled = tokio::select! {
        dialled = dial(target) => dialled,
        () = closed(&client) => None,
    };
    let Some((send, mut upstream)) = dialled else { return };
    let _ = client.set_nodelay(true);
    let mut settings = server::Builder::new();
    settings.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).data_frame_budget(PLENTY);
    settings.max_header_list_size(1 << 24).max_concurrent_reset_streams(PLENTY);
    settings.max_pending_accept_reset_streams(PLENTY).max_local_error_reset_streams(None);
    if let Ok(limit) = u32::try_from(upstream.max_concurrent_send_streams()) {
        settings.max_concurrent_streams(limit);
    }
    let accepted = tokio::select! {
        accepted = settings.handshake(client) => accepted,
        _ = &mut upstream => return,
    };
    let Ok(mut downstream) = accepted else { return };

    let mut streams = JoinSet::new(); // dropping it ends the tasks of all streams
    let mut leaving = Leaving { send: send.clone(), seen: false };
    loop {
        tokio::select! {
            request = downstream.accept() => {
                let Some(Ok((request, respond))) = request else { return };
                let stream = connection.open(exchange::method(&request));
                streams.spawn(exchange::carry(stream, request, respond, send.clone()));
            }
            news = poll_fn(|cx| leaving.poll(&mut upstream, cx)) => match news {
                News::Leaves => downstream.graceful_shutdown(),
                News::Ended(reason) => return pass_on_the_end(&mut downstream, reason).await,
            },
            Some(_) = streams.join_next() => {}
        }
    }
}

/// A connection to the target whose SETTINGS have come.
async fn dial(target: SocketAddr) -> Option<(SendRequest<Bytes>, Upstream)> {
    let socket = timeout(CONNECT_TIMEOUT, TcpStream::connect(target)).await.ok()?.ok()?;
    let _ = socket.set_nodelay(true);
    let mut settings = client::Builder::new();
    settings.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).data_frame_budget(PLENTY);
    settings.max_header_list_size(1 << 24).max_concurrent_reset_streams(PLENTY);
    settings.max_pending_accept_reset_streams(PLENTY).max_local_error_reset_streams(None);
    settings.enable_push(false).initial_max_send_streams(0);
    let (send, mut upstream) = settings.handshake(socket).await.ok()?;
    // No streams until the target has said how many: this is how its SETTINGS are seen.
    let agreed = poll_fn(|cx| match Pin::new(&mut upstream).poll(cx) {
        Poll::Ready(_) => Poll::Ready(false),
        Poll::Pending if upstream.max_concurrent_send_streams() > 0 => Poll::Ready(true),
        Poll::Pending => Poll::Pending,
    });
    agreed.await.then_some((send, upstream))
}

/// The client has closed a connection that nobody reads yet.
async fn closed(client: &TcpStream) {
    while !client.ready(Interest::READABLE).await.is_ok_and(Ready::is_read_closed) {
        sleep(POLL).await; // what it has sent keeps the socket readable
    }
}

/// What the target does to its connection.
enum News {
    /// It takes no new streams, and ends those that there are in good order.
    Leaves,
    Ended(Option<Reason>),
}

/// Whether the target has said GOAWAY: h2 shows it to whoever wants to send.
struct Leaving {
    send: SendRequest<Bytes>,
    seen: bool,
}

impl Leaving {
    fn poll(&mut self, upstream: &mut Upstream, cx: &mut Context<'_>) -> Poll<News> {
        if let Poll::Ready(end) = Pin::new(upstream).poll(cx) {
            return Poll::Ready(News::Ended(end.err().and_then(|error| error.reason())));
        }
        if !self.seen && matches!(self.send.poll_ready(cx), Poll::Ready(Err(_))) {
            self.seen = true;
            return Poll::Ready(News::Leaves);
        }
        Poll::Pending
    }
}

/// What came before the end still goes on where nothing holds it.
async fn pass_on_the_end(downstream: &mut Downstream, reason: Option<Reason>) {
    const TURNS: usize = 8;
    for turn in 0..TURNS {
        yield_now().await; // the streams' tasks
        if let (Some(reason), true) = (reason, turn == TURNS / 2) {
            downstream.abrupt_shutdown(reason);
        }
        if poll_fn(|cx| Poll::Ready(downstream.poll_closed(cx).is_ready())).await {
            return;
        }
    }
}
