//! The standard `helloworld.Greeter`, compiled for the examples, tests and benches; gRPC's own test service; and streams
//! for benches.
#![allow(clippy::pedantic)]

tonic::include_proto!("helloworld");

/// `grpc.testing.TestService`, with which implementations of gRPC are tried against each other.
pub mod testing {
    tonic::include_proto!("grpc.testing");
}

/// Streams without an end, for benches.
pub mod bench {
    tonic::include_proto!("bench");
}
