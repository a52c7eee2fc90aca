//! The standard `helloworld.Greeter`, compiled for the examples, tests and benches; gRPC's own test service; and streams
//! for benches.
#![allow(clippy::pedantic)]

use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Body as HttpBody, Bytes, StdError};

tonic::include_proto!("helloworld");

/// What gRPC's reflection tells of these services.
pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("descriptors");

/// `grpc.testing.TestService`, with which implementations of gRPC are tried against each other.
pub mod testing {
    tonic::include_proto!("grpc.testing");
}

/// Streams without an end, for benches.
pub mod bench {
    tonic::include_proto!("bench");
}

/// Any channel that generated clients take.
pub trait Channel:
    GrpcService<
        Body,
        Error: Send,
        Future: Send,
        ResponseBody: HttpBody<Data = Bytes, Error: Into<StdError> + Send> + Send,
    > + Clone
    + Send
    + Sync
    + 'static
{
}

impl<C> Channel for C
where
    C: GrpcService<Body, Error: Send, Future: Send> + Clone + Send + Sync + 'static,
    C::ResponseBody: HttpBody<Data = Bytes, Error: Into<StdError> + Send> + Send,
{
}
