//! Compression, as far as tonic goes: all messages of a client or none, and of a server all of a stream or none. The two cases
//! that compress one message of a stream and leave the next alone are therefore two streams each.

use greeter_proto::testing::{
    BoolValue, SimpleRequest, StreamingInputCallRequest, StreamingOutputCallRequest, StreamingOutputCallResponse,
};
use tonic::codec::CompressionEncoding::Gzip;
use tonic::{Code, Response};

use super::{Client, Flags, LARGE_REQUEST, LARGE_RESPONSE, Transport, ask, assert_zeros, zeros};

fn flags<T>(answer: &Response<T>) -> Flags {
    answer.extensions().get::<Flags>().expect("the transport watches").clone()
}

pub(crate) async fn client_compressed_unary(transport: &Transport) {
    let expecting = |value| SimpleRequest {
        expect_compressed: Some(BoolValue { value }),
        response_size: LARGE_RESPONSE,
        payload: zeros(LARGE_REQUEST),
        ..SimpleRequest::default()
    };
    let mut plain = Client::new(transport.clone());
    let mut compressing = Client::new(transport.clone()).send_compressed(Gzip);
    // The probe: does the server tell the one from the other?
    assert_eq!(plain.unary_call(expecting(true)).await.unwrap_err().code(), Code::InvalidArgument);
    for (client, compressed) in [(&mut compressing, true), (&mut plain, false)] {
        let answer = client.unary_call(expecting(compressed)).await.unwrap();
        assert_zeros(answer.into_inner().payload, LARGE_RESPONSE);
    }
}

pub(crate) async fn server_compressed_unary(transport: &Transport) {
    let mut client = Client::new(transport.clone()).accept_compressed(Gzip);
    for value in [true, false] {
        let request = SimpleRequest {
            response_compressed: Some(BoolValue { value }),
            response_size: LARGE_RESPONSE,
            payload: zeros(LARGE_REQUEST),
            ..SimpleRequest::default()
        };
        let answer = client.unary_call(request).await.unwrap();
        assert_eq!(flags(&answer).so_far(), [value]);
        assert_zeros(answer.into_inner().payload, LARGE_RESPONSE);
    }
}

pub(crate) async fn client_compressed_streaming(transport: &Transport) {
    let messages = |value: bool, sizes: &[usize]| {
        let message = |size: &usize| StreamingInputCallRequest {
            expect_compressed: Some(BoolValue { value }),
            payload: zeros(*size),
        };
        tokio_stream::iter(sizes.iter().map(message).collect::<Vec<_>>())
    };
    let mut plain = Client::new(transport.clone());
    let mut compressing = Client::new(transport.clone()).send_compressed(Gzip);
    let probe = plain.streaming_input_call(messages(true, &[27_182])).await;
    assert_eq!(probe.unwrap_err().code(), Code::InvalidArgument);
    for (client, compressed) in [(&mut compressing, true), (&mut plain, false)] {
        let answer = client.streaming_input_call(messages(compressed, &[27_182, 45_904])).await.unwrap();
        assert_eq!(answer.into_inner().aggregated_payload_size, 73_086);
    }
}

pub(crate) async fn server_compressed_streaming(transport: &Transport) {
    let plain = Client::new(transport.clone());
    let accepting = Client::new(transport.clone()).accept_compressed(Gzip);
    for (mut client, value) in [(accepting, true), (plain, false)] {
        let mut response_parameters =
            [ask(31_415, 0), ask(92_653, 0)].map(|request| request.response_parameters).concat();
        response_parameters.iter_mut().for_each(|wanted| wanted.compressed = Some(BoolValue { value }));
        let request = StreamingOutputCallRequest { response_parameters, ..StreamingOutputCallRequest::default() };
        let answer = client.streaming_output_call(request).await.unwrap();
        let flags = flags(&answer);
        let mut answers = answer.into_inner();
        for size in [31_415, 92_653] {
            let StreamingOutputCallResponse { payload } = answers.message().await.unwrap().expect("two answers");
            assert_zeros(payload, size);
        }
        assert_eq!(answers.message().await.unwrap(), None);
        assert_eq!(flags.so_far(), [value; 2]);
    }
}
