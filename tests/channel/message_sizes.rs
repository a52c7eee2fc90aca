//! The maximum sizes of messages, in streams of several.

use bytes::Bytes;
use http::{HeaderMap, Response};
use tokio::net::TcpListener;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request};
use tonic_etcd::MethodConfig;

use crate::field::codec::Raw;
use crate::support::{builder, over, ready};

fn message(length: u32) -> Vec<u8> {
    [&[0][..], &length.to_be_bytes(), &vec![7; length as usize]].concat()
}

/// Two small messages and a large one, which a server may put into one frame, as tonic's does. tonic's own limit gives the small
/// ones first.
#[tokio::test]
async fn the_messages_before_one_that_is_too_large_arrive() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(tcp).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                    let mut out = respond.send_response(head, false).unwrap();
                    let all = [message(10), message(10), message(1_000)].concat();
                    out.send_data(Bytes::from(all), false).unwrap();
                    let ok = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
                    out.send_trailers(ok).unwrap();
                }
            });
        }
    });
    for by_tonic in [true, false] {
        let config = if by_tonic { MethodConfig::new() } else { MethodConfig::new().max_response_message_bytes(100) };
        let channel = over(builder().method_config("/a.B/C", config), [&address]);
        ready(&channel, 1).await;
        let mut grpc = Grpc::new(channel);
        if by_tonic {
            grpc = grpc.max_decoding_message_size(100);
        }
        grpc.ready().await.unwrap();
        let path = PathAndQuery::from_static("/a.B/C");
        let response = grpc.server_streaming(Request::new(vec![1]), path, Raw).await.unwrap();
        let mut stream = response.into_inner();
        let mut arrived = 0;
        let status = loop {
            match stream.message().await {
                Ok(Some(_)) => arrived += 1,
                Ok(None) => panic!("it ended"),
                Err(status) => break status,
            }
        };
        let expected = if by_tonic { Code::OutOfRange } else { Code::ResourceExhausted };
        assert_eq!((status.code(), arrived), (expected, 2), "by tonic: {by_tonic}");
    }
}
