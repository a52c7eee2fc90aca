//! The standard cases of gRPC's interoperability suite (its `doc/interop-test-descriptions.md`), over any channel to any server.
//!
//! Left out are those of Google's own credentials and caches. What tonic cannot do is said in `compressed.rs`.

// The interoperability tests include this folder too, and use a part of it.
#![allow(dead_code, unused_imports, unused_macros)]

mod basic;
mod compressed;
mod ends;
mod servers;
mod transport;

use std::iter::repeat_n;

use greeter_proto::testing::test_service_client::TestServiceClient;
use greeter_proto::testing::{EchoStatus, Payload, ResponseParameters, StreamingOutputCallRequest};

pub(crate) use basic::*;
pub(crate) use compressed::*;
pub(crate) use ends::*;
pub(crate) use servers::fixed;
pub(crate) use transport::{Flags, Transport, transport};

pub(crate) type Client = TestServiceClient<Transport>;

/// Hands the names of the cases that every server must pass to another macro.
macro_rules! for_each_case {
    ($then:ident) => {
        $then! {
            empty_unary large_unary client_streaming server_streaming ping_pong empty_stream timeout_on_sleeping_server
            cancel_after_begin cancel_after_first_response status_code_and_message special_status_message custom_metadata
            unimplemented_method unimplemented_service
        }
    };
}
/// The cases of servers that say which messages were compressed.
macro_rules! for_each_compressed_case {
    ($then:ident) => {
        $then! {
            client_compressed_unary server_compressed_unary client_compressed_streaming server_compressed_streaming
        }
    };
}
pub(crate) use {for_each_case, for_each_compressed_case};

pub(crate) const LARGE_REQUEST: usize = 271_828;
pub(crate) const LARGE_RESPONSE: i32 = 314_159;

/// As many zeros.
#[expect(clippy::unnecessary_wraps)] // as messages have it
pub(crate) fn zeros(size: usize) -> Option<Payload> {
    Some(Payload { body: repeat_n(0, size).collect(), ..Payload::default() })
}

/// Holds a payload of an answer against its size.
pub(crate) fn assert_zeros(payload: Option<Payload>, size: i32) {
    let body = payload.expect("an answer has a payload").body;
    assert_eq!(body.len(), size as usize);
    assert!(body.iter().all(|byte| *byte == 0), "all of them are zeros");
}

#[expect(clippy::unnecessary_wraps)]
pub(crate) fn echo(code: tonic::Code, message: &str) -> Option<EchoStatus> {
    Some(EchoStatus { code: code as i32, message: message.to_owned() })
}

/// A message of `size` bytes that asks for one answer of `answer` bytes.
pub(crate) fn ask(answer: i32, size: usize) -> StreamingOutputCallRequest {
    let response_parameters = vec![ResponseParameters { size: answer, ..ResponseParameters::default() }];
    StreamingOutputCallRequest { response_parameters, payload: zeros(size), ..StreamingOutputCallRequest::default() }
}
