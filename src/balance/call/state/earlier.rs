//! What a call keeps of attempts that have failed.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use tonic::Status;

use crate::balance::call::response_body::ResponseBody;
use crate::balance::call::transparent::TransparentRetries;
use crate::balance::pool::ready::ReadySubchannel;
use crate::connection::Failure;

/// The failures of a call so far. Boxed as a whole, and made with the first of them, because few calls have any.
#[derive(Default)]
pub(in crate::balance::call) struct EarlierAttempts(Option<Box<Failures>>);

#[derive(Default)]
struct Failures {
    /// Of attempts that no server has processed.
    transparent: Option<TransparentRetries>,
    /// The failure of the last server that did not process the call.
    last_refusal: Option<(Failure, Arc<ReadySubchannel>)>,
    /// The result of the last attempt that a server may have processed: the call ends with it if no further attempt is
    /// possible.
    last_result: Option<Result<Response<ResponseBody>, Status>>,
}

impl EarlierAttempts {
    fn failures(&mut self) -> &mut Failures {
        self.0.get_or_insert_default()
    }

    /// Returns what decides about transparent retries. The first call makes it.
    pub(in crate::balance::call) fn transparent_retries(&mut self) -> &mut TransparentRetries {
        self.failures().transparent.get_or_insert_with(|| TransparentRetries::new(fastrand::u64(..)))
    }

    /// Returns the same, if an attempt was not processed.
    pub(in crate::balance::call) fn begun_transparent_retries(&mut self) -> Option<&mut TransparentRetries> {
        self.0.as_mut()?.transparent.as_mut()
    }

    /// Whether the call has not failed yet.
    #[inline]
    pub(in crate::balance::call) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether the next transparent retry has to wait.
    pub(in crate::balance::call) fn is_paused(&self) -> bool {
        self.transparent().is_some_and(TransparentRetries::is_paused)
    }

    /// Takes the pause before the next transparent retry, if there is one.
    pub(in crate::balance::call) fn take_pause(&mut self) -> Option<Duration> {
        self.begun_transparent_retries()?.take_pause()
    }

    /// Whether a server has refused the call.
    pub(in crate::balance::call) fn was_refused(&self) -> bool {
        self.transparent().is_some_and(TransparentRetries::was_refused)
    }

    #[inline]
    fn transparent(&self) -> Option<&TransparentRetries> {
        self.0.as_ref()?.transparent.as_ref()
    }

    /// Keeps the failure of a server that has not processed the call.
    pub(in crate::balance::call) fn refused(&mut self, failure: Failure, server: Arc<ReadySubchannel>) {
        self.failures().last_refusal = Some((failure, server));
    }

    pub(in crate::balance::call) fn take_refusal(&mut self) -> Option<(Failure, Arc<ReadySubchannel>)> {
        self.0.as_mut()?.last_refusal.take()
    }

    /// Keeps the result of an attempt that a server may have processed.
    pub(in crate::balance::call) fn ended(&mut self, result: Result<Response<ResponseBody>, Status>) {
        self.failures().last_result = Some(result);
    }

    pub(in crate::balance::call) fn has_result(&self) -> bool {
        self.0.as_ref().is_some_and(|failures| failures.last_result.is_some())
    }

    pub(in crate::balance::call) fn take_result(&mut self) -> Option<Result<Response<ResponseBody>, Status>> {
        self.0.as_mut()?.last_result.take()
    }
}
