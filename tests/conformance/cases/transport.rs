//! One type for every channel, so that the cases run over any, and what the messages of an answer look like on the wire.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use http_body::{Body as _, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Bytes, StdError, http};
use tower::util::{BoxCloneSyncService, ServiceExt};

/// Any channel; its answers carry their [`Flags`] as an extension.
pub(crate) type Transport = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;

/// The channel as it is used in the cases; that this compiles is itself a promise: it and its futures may move between threads.
pub(crate) fn transport<S, B>(channel: S) -> Transport
where
    S: tower::Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<StdError> + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError>,
{
    BoxCloneSyncService::new(channel.map_err(|error| Status::from_error(error.into())).map_response(
        |response: http::Response<B>| {
            let (mut parts, body) = response.into_parts();
            let (body, flags) = Flags::watch(Body::new(body));
            parts.extensions.insert(flags);
            http::Response::from_parts(parts, body)
        },
    ))
}

/// Whether each message of a body that has come so far was compressed, which generated code does not tell.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags(Arc<Mutex<Vec<bool>>>);

impl Flags {
    pub(crate) fn watch(body: Body) -> (Body, Self) {
        let flags = Self::default();
        (Body::new(Watched { body, left: 0, head: Vec::new(), flags: flags.clone() }), flags)
    }

    pub(crate) fn so_far(&self) -> Vec<bool> {
        self.0.lock().unwrap().clone()
    }
}

/// A body whose length-prefixed messages are walked through as they pass.
struct Watched {
    body: Body,
    /// Of the message that is passing.
    left: usize,
    /// What has come of the next message's five bytes: the flag and the length.
    head: Vec<u8>,
    flags: Flags,
}

impl Watched {
    fn see(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let skipped = self.left.min(data.len());
            (self.left, data) = (self.left - skipped, &data[skipped..]);
            let wanted = (5 - self.head.len()).min(data.len());
            self.head.extend_from_slice(&data[..wanted]);
            data = &data[wanted..];
            if let [flag, ref length @ ..] = self.head[..]
                && let Ok(length) = <[u8; 4]>::try_from(length)
            {
                self.flags.0.lock().unwrap().push(flag == 1);
                self.left = u32::from_be_bytes(length) as usize;
                self.head.clear();
            }
        }
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Some(data)) = frame.as_ref().map(|frame| frame.as_ref().ok().and_then(Frame::data_ref)) {
            self.see(data);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
