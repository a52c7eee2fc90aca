//! What a call keeps of attempts that have failed.

use std::sync::Arc;

use http::Response;
use tonic::Status;

use crate::backoff::Backoff;
use crate::balance::call::response_body::ResponseBody;
use crate::balance::pool::ready::ReadySubchannel;
use crate::connection::Failure;

/// The failures of a call so far. Boxed as a whole, and made with the first of them, because few calls have any.
#[derive(Default)]
pub(in crate::balance::call) struct EarlierAttempts(Option<Box<Failures>>);

#[derive(Default)]
struct Failures {
    /// Pauses between rounds in which no server processed the call.
    round_backoff: Option<Backoff>,
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

    /// Returns the backoff between rounds. The first call makes it.
    pub(in crate::balance::call) fn round_backoff(&mut self) -> &mut Backoff {
        self.failures().round_backoff.get_or_insert_with(|| Backoff::new(fastrand::u64(..)))
    }

    /// Returns the backoff between rounds, if there was a round.
    pub(in crate::balance::call) fn begun_backoff(&mut self) -> Option<&mut Backoff> {
        self.0.as_mut()?.round_backoff.as_mut()
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
