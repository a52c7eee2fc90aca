//! The standard `helloworld.Greeter`, compiled for the examples, tests and benches.
#![allow(clippy::pedantic)]

tonic::include_proto!("helloworld");
