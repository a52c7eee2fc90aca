//! The standard `helloworld.Greeter`, compiled for the examples, tests and benches, and gRPC's own test service.
#![allow(clippy::pedantic)]

tonic::include_proto!("helloworld");

/// `grpc.testing.TestService`, with which implementations of gRPC are tried against each other.
pub mod testing {
    tonic::include_proto!("grpc.testing");
}
