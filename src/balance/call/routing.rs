//! Calls with a route: they find their partition first.

use std::pin::pin;
use std::sync::Arc;

use http::{HeaderMap, Request, Response};
use tonic::{Code, Status};

use crate::balance::call::finish;
use crate::balance::call::pick::PickOutcome;
use crate::balance::call::response_body::ResponseBody;
use crate::balance::call::state::CallState;
use crate::balance::partition::{Partition, Partitions};
use crate::balance::pool::select::RouteValues;
use crate::balance::route::Route;
use crate::balance::route::resolve::{Misrouted, Wanted, resolve};
use crate::balance::runtime::nanos::Nanos;
use crate::balance::shared::{ChannelHandle, Settings};
use crate::balance::{runtime, status};

/// What a call of a channel with route keys wants. `None`: the default servers, as most calls.
///
/// # Errors
/// When its route names a key that the channel does not have.
pub(in crate::balance) fn wanted(
    settings: &Settings,
    request: &Request<tonic::body::Body>,
) -> Result<Option<Wanted>, Misrouted> {
    let header = |name: &str| header_of(request.headers(), name);
    let wanted = resolve(&settings.routes, request.extensions().get::<Route>(), header, fastrand::u64(..))?;
    Ok((!wanted.is_default()).then_some(wanted))
}

fn header_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    headers.get(name).map(http::HeaderValue::as_bytes)
}

/// Makes a call that wants other than the default servers.
pub(in crate::balance) fn routed_call(
    channel: Arc<ChannelHandle>,
    wanted: &Wanted,
    request: Request<tonic::body::Body>,
) -> impl Future<Output = Result<Response<ResponseBody>, Status>> + Send + use<> {
    let keys = channel.shared.settings.routes.keys().len();
    let values = RouteValues::new((0..keys).map(|key| wanted.value(key)));
    let found = channel.partitions.find(&values);
    let is_found = found.is_some();
    let mut state = CallState::new(found.unwrap_or_else(|| channel.shared.clone()), request);
    state.or_default = wanted.or_default();
    async move {
        state.begin();
        let entered =
            if is_found { Ok(()) } else { Box::pin(state.enter_partition(&channel.partitions, &values)).await };
        let mut result = match entered {
            Ok(()) => {
                state.leave_if_ejected();
                state.run().await
            }
            Err(status) => Err(status),
        };
        drop(channel);
        finish(&mut result, state.record, state.span, &state.shared);
        result
    }
}

/// A call whose route is a mistake: it ends with its first poll.
pub(in crate::balance) fn misrouted(
    channel: &ChannelHandle,
    misrouted: &Misrouted,
    request: Request<tonic::body::Body>,
) -> impl Future<Output = Result<Response<ResponseBody>, Status>> + Send + use<> {
    let mut state = CallState::new(channel.shared.clone(), request);
    let text = misrouted.to_string();
    async move {
        state.begin();
        let status = status::without_server(Code::Internal, text.clone(), &text);
        let mut result = runtime::require_runtime().and(Err(status));
        finish(&mut result, state.record, state.span, &state.shared);
        result
    }
}

impl CallState {
    /// Whether the call may go to the default servers too, and has not gone there yet.
    pub(super) fn may_fall_back(&self) -> bool {
        self.or_default && self.shared.default.is_some()
    }

    /// Servers that are ejected are no reason to stay, if the call may go elsewhere.
    fn leave_if_ejected(&mut self) {
        if self.may_fall_back()
            && self.shared.ready.load().are_ejected
            && let Some(default) = self.shared.default.clone()
            && default.ready.load().is_ready()
        {
            self.shared = default;
        }
    }

    /// Goes to the partition of a route for which there was no server a moment ago.
    ///
    /// # Errors
    /// If there is none, and the call does not wait for one.
    async fn enter_partition(&mut self, partitions: &Partitions, values: &RouteValues) -> Result<(), Status> {
        runtime::require_runtime()?;
        // What the runtime has not heard yet, because nobody has driven it, may be about this route.
        if runtime::require_timers().is_ok() {
            self.shared.catch_up(Nanos::new(self.shared.since_epoch(self.wait_limits.started))).await;
        }
        if let Some(found) = partitions.find(values) {
            self.shared = found;
            return Ok(());
        }
        let directory = self.shared.channel_status.borrow().directory.clone();
        let is_ready = self.shared.ready.load().is_ready();
        if directory.resolved && self.or_default && is_ready {
            return Ok(()); // it has the default partition
        }
        if directory.resolved && !self.or_default && !self.wait_limits.wait_for_ready {
            let route = values.text(self.shared.settings.routes.keys()).into();
            let absent = Partition::absent(&partitions.default, directory, route);
            return Err(absent.unavailable_status(Code::Unavailable, ""));
        }
        self.shared = partitions.get_or_make(values);
        Ok(())
    }

    /// Looks for a server of the route, and else for a default one, until one of them takes the call. While neither has a ready
    /// server, the call waits for both: whichever is ready first.
    ///
    /// # Errors
    /// When no server can come, or the call's time to wait is over.
    pub(super) async fn find_either(&mut self) -> Result<PickOutcome, Status> {
        let own = self.shared.clone();
        let Some(default) = own.default.clone() else { return Ok(own.pick(&self.pick_request(), None)) };
        let (mut own_statuses, mut default_statuses) = (own.status.subscribe(), default.status.subscribe());
        loop {
            let wait_for_ready = self.wait_limits.wait_for_ready;
            // Before the looks: what changes after them wakes the call. Another connection of a server changes no status.
            let mut other_set = pin!(own.pick_notifier.notified());
            other_set.as_mut().enable();
            let own_fails = own_statuses.borrow_and_update().fails_calls(wait_for_ready);
            let default_fails = default_statuses.borrow_and_update().fails_calls(wait_for_ready);
            // Of servers that are ejected or closing the queue keeps the calls away: to wait for those would end at once, again and
            // again.
            let is_ready = own.ready.load().is_ready();
            let of_own = if self.earlier.is_paused() {
                PickOutcome::AllFailed // enough of them have refused the call: it need not pause to go elsewhere
            } else if is_ready {
                self.pick_of(&own, &self.pick_request())
            } else {
                PickOutcome::NoneReady
            };
            let of_own = match of_own {
                none @ (PickOutcome::NoneReady | PickOutcome::AllFailed) => none,
                found => return Ok(found),
            };
            match self.pick_of(&default, &self.pick_request()) {
                PickOutcome::NoneReady => {}
                found => {
                    self.shared = default;
                    self.earlier.take_pause();
                    return Ok(found);
                }
            }
            if matches!(of_own, PickOutcome::AllFailed) {
                return self.next_round().await;
            }
            if own.ready.load().are_ejected {
                return own.wait_for_server(&self.pick_request(), self.wait_limits, false, None).await;
            }
            if own_fails && default_fails {
                return Err(own.unavailable_status(Code::Unavailable, ""));
            }
            let changed = async {
                tokio::select! {
                    _ = own_statuses.changed() => {}
                    _ = default_statuses.changed() => {}
                    () = other_set => {}
                }
            };
            own.within_limits(self.wait_limits, "", changed).await?;
        }
    }
}
