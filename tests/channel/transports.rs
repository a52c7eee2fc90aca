//! Unix sockets, connectors of one's own, TLS that is missing, settings that cannot be, and answers of whoever is no gRPC server.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use hyper_util::rt::tokio::WithHyperIo;
use tokio::io::{AsyncRead, DuplexStream};
use tokio::net::{TcpStream, UnixListener};
use tonic::Code;
use tonic::transport::{Endpoint, Uri};
use tonic_etcd::{BalancedChannel, BalancedChannelBuilder, Instance, KeepAlive, RetryPolicy};
use tower::discover::{Change, Discover};

use crate::peer::{Peer, Script, speak};
use crate::support::{builder, changing, greet, greeted_by, over, server_of, told};

#[tokio::test]
async fn a_unix_socket_is_an_address() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("greeter.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let seen = Arc::default();
    let serve = tokio::spawn({
        let seen = Arc::clone(&seen);
        async move { speak(listener.accept().await.unwrap().0, Script::Greet, None, seen).await }
    });
    let (channel, set) = changing(builder());
    let address = format!("unix:{}", path.display());
    set.put("it", Instance::new(address.as_str()).unwrap());
    assert_eq!(greeted_by(&channel).await, address);
    assert_eq!(seen.heads.lock().unwrap()[0].uri.authority().unwrap(), "localhost");
    serve.abort();
}

#[tokio::test]
async fn a_connector_of_ones_own_is_asked_for_each_server() {
    let seen = Arc::default();
    let connector = tower::service_fn({
        let seen = Arc::clone(&seen);
        move |uri: http::Uri| {
            let seen = Arc::clone(&seen);
            async move {
                if uri.host() == Some("away") {
                    return Err(io::Error::other("nobody is there"));
                }
                assert_eq!(uri.to_string(), "http://there:1/");
                let (ours, theirs): (DuplexStream, DuplexStream) = tokio::io::duplex(1 << 16);
                tokio::spawn(speak(theirs, Script::Greet, None, seen));
                Ok(ours)
            }
        }
    });
    let (channel, set) = changing(builder().connector(connector).authority("the.name"));
    set.put("a", Instance::new("away:1").unwrap());
    let status = greet(&channel).await.unwrap_err();
    assert!(status.message().ends_with("last error: nobody is there"), "{status}");
    assert!(told(&status).ends_with("last error: away:1: nobody is there"), "{status}");
    set.put("b", Instance::new("there:1").unwrap());
    crate::support::ready(&channel, 1).await;
    assert_eq!(greeted_by(&channel).await, "there:1");
    let heads = seen.heads.lock().unwrap();
    assert_eq!(heads[0].uri.authority().unwrap(), "the.name");
    assert_eq!(heads[0].headers["te"], "trailers");
    assert!(heads[0].headers["user-agent"].to_str().unwrap().starts_with("tonic-etcd/"));
}

/// A connector whose IO has tokio's traits, and one as tonic's users write it: with hyper's.
#[tokio::test]
async fn connectors_return_hypers_io_or_tokios() {
    async fn tcp(uri: Uri) -> io::Result<TcpStream> {
        TcpStream::connect(uri.authority().unwrap().as_str()).await
    }
    let hyper = || tower::service_fn(|uri: Uri| async { tcp(uri).await.map(TokioIo::new) });
    let tokio = || tower::service_fn(tcp);
    let both = || tower::service_fn(|uri: Uri| async { tcp(uri).await.map(WithHyperIo::new) });
    let builders: [&dyn Fn() -> _; 3] = [&|| builder().connector(hyper()), &|| builder().connector(tokio()), &|| {
        builder().connector::<_, dyn AsyncRead>(both())
    }];
    for builder in builders {
        let peer = Peer::start(Script::Greet).await;
        let channel = over(builder(), [&peer.address]);
        assert_eq!(greeted_by(&channel).await, peer.address.to_string());
    }
    // The same one fits tonic.
    let peer = Peer::start(Script::Greet).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", peer.address)).unwrap();
    endpoint.connect_with_connector(hyper()).await.unwrap();
}

#[tokio::test]
async fn https_without_tls_is_refused_and_never_called_in_plain_text() {
    let peer = Peer::start(Script::Greet).await;
    let (channel, set) = changing(builder());
    set.put("it", Instance::new(format!("https://{}", peer.address)).unwrap());
    let status = greet(&channel).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("no TLS settings"), "{status}");
    assert_eq!(peer.seen.connections(), 0);
}

const SECOND: Duration = Duration::from_secs(1);

fn empty() -> impl Discover<Key = u8, Service = Instance, Error = Infallible> + Send + 'static {
    tokio_stream::iter(Vec::<Result<Change<u8, Instance>, Infallible>>::new())
}

fn assert_refused(builder: BalancedChannelBuilder, what: &str) {
    let error = builder.build_with_discovery("greeter", empty()).unwrap_err();
    assert!(error.is_invalid_argument() && error.to_string().contains(what), "{error}");
}

#[tokio::test]
async fn times_and_counts_outside_of_their_ranges_are_refused() {
    for (builder, what) in [
        (builder().connect_timeout(Duration::ZERO), "connect timeout"),
        (builder().connect_timeout(Duration::MAX), "connect timeout"),
        (builder().idle_timeout(Duration::from_millis(9)), "idle timeout \"9ms\": it must be from 10ms to 86400s"),
        (builder().tcp_user_timeout(Duration::ZERO), "TCP user timeout"),
        (builder().tcp_keepalive(Duration::ZERO, SECOND, 1), "TCP keep-alive time"),
        (builder().tcp_keepalive(SECOND, Duration::MAX, 1), "TCP keep-alive interval"),
        (builder().tcp_keepalive(SECOND, SECOND, 0), "TCP keep-alive retries"),
        (builder().tcp_keepalive(SECOND, SECOND * 3 / 2, 3), "interval \"1.5s\": it must be whole seconds"),
        (builder().keep_alive(KeepAlive::new(Duration::from_millis(9), SECOND)), "keep-alive interval \"9ms\""),
        (builder().keep_alive(KeepAlive::new(SECOND, Duration::MAX)), "keep-alive timeout"),
        (builder().retry(RetryPolicy::new().max_attempts(0)), "max_attempts"),
        (builder().retry(RetryPolicy::new().budget(1, f64::NAN)), "budget ratio"),
        (builder().retry(RetryPolicy::new().budget(1, -0.1)), "budget ratio"),
    ] {
        assert_refused(builder, what);
    }
}

#[tokio::test]
async fn settings_that_http2_forbids_are_refused() {
    for (builder, what) in [
        (builder().stream_window(0), "stream window"),
        (builder().stream_window(u32::MAX), "stream window"),
        (builder().connection_window(1), "connection window"),
        (builder().max_frame_size(1), "frame size"),
        (builder().max_frame_size(u32::MAX), "frame size"),
        (builder().max_header_list_size(0), "header list size"),
        (builder().max_header_list_size(u32::MAX), "header list size"),
        (builder().max_request_header_list_size(0), "request header list size"),
        (builder().retry(RetryPolicy::new().repeatable("helloworld.Greeter")), "repeatable method"),
        (builder().retry(RetryPolicy::new().repeatable_streaming("")), "repeatable method"),
        (builder().authority("not an authority"), "authority"),
        (builder().user_agent("new\nline"), "user agent"),
    ] {
        assert_refused(builder, what);
    }
    let outside =
        std::thread::spawn(move || BalancedChannel::builder().build_with_discovery("greeter", empty()).unwrap_err());
    assert!(outside.join().unwrap().to_string().contains("runtime"));
}

#[tokio::test]
async fn answers_without_a_grpc_status_become_one() {
    for (http, code) in
        [(503, Code::Unavailable), (404, Code::Unimplemented), (431, Code::Internal), (418, Code::Unknown)]
    {
        let peer = Peer::start(Script::Http(http)).await;
        let status = greet(&over(builder(), [&peer.address])).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(&http.to_string()), "{status}");
        assert_eq!(server_of(&status), peer.address.to_string());
    }
}

#[tokio::test]
async fn resets_become_the_status_that_grpc_gives_them() {
    for (reason, code) in [
        (h2::Reason::CANCEL, Code::Cancelled),
        (h2::Reason::ENHANCE_YOUR_CALM, Code::ResourceExhausted),
        (h2::Reason::INADEQUATE_SECURITY, Code::PermissionDenied),
        (h2::Reason::INTERNAL_ERROR, Code::Internal),
    ] {
        let peer = Peer::start(Script::Reset(reason)).await;
        let status = greet(&over(builder(), [&peer.address])).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert_eq!(server_of(&status), peer.address.to_string());
    }
}
