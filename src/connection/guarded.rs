//! The request's body is its owner's code: where it panics, the exchange fails, and whoever polls it goes on.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};

use super::failure::{Failure, Kind};

type BoxError = Box<dyn Error + Send + Sync>;

/// The body's next frame. One that has failed must not be polled again.
pub(super) fn poll_frame<B>(body: &mut B, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    match catch_unwind(AssertUnwindSafe(|| Pin::new(body).poll_frame(cx))) {
        Ok(polled) => polled.map(|next| next.map(|frame| frame.map_err(|error| Failure::of_body(error.into())))),
        Err(_) => Poll::Ready(Some(Err(panicked()))),
    }
}

/// Whether nothing follows.
pub(super) fn is_end_stream<B: Body>(body: &B) -> Result<bool, Failure> {
    catch_unwind(AssertUnwindSafe(|| body.is_end_stream())).map_err(|_| panicked())
}

fn panicked() -> Failure {
    Failure::new(Kind::Panicked, "the request's stream panicked")
}

/// Where a body that fails beside its answer leaves why.
#[derive(Clone, Default)]
pub(super) struct BodyFailure(Arc<Mutex<Option<Failure>>>);

impl BodyFailure {
    pub(super) fn set(&self, failure: Failure) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
    }

    pub(super) fn take(&self) -> Option<Failure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
