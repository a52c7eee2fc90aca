//! Calls with a route: they find their partition first.

use std::pin::pin;
use std::sync::Arc;

use http::{HeaderMap, Request, Response};
use tonic::{Code, Status};

use crate::balance::call::response_body::ResponseBody;
use crate::balance::call::state::CallState;
use crate::balance::connectivity::ConnectivityState;
use crate::balance::partition::{Partition, Partitions};
use crate::balance::pool::select::RouteValues;
use crate::balance::route::Route;
use crate::balance::route::resolve::{Misrouted, Wanted, resolve};
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
    wanted: Wanted,
    request: Request<tonic::body::Body>,
) -> impl Future<Output = Result<Response<ResponseBody>, Status>> + Send {
    let keys = channel.shared.settings.routes.keys().len();
    let values = RouteValues::new((0..keys).map(|key| wanted.value(key)));
    let found = channel.partitions.find(&values);
    let shared = found.clone().unwrap_or_else(|| channel.shared.clone());
    let mut state = CallState::new(shared, request);
    state.or_default = wanted.or_default();
    async move {
        state.begin();
        let found = match found {
            Some(_) => Ok(()),
            None => Box::pin(state.find_partition(&channel.partitions, &values)).await,
        };
        let result = match found {
            Ok(()) => state.run().await,
            Err(status) => Err(status),
        };
        drop(channel);
        result.map_err(|status| state.shared.settings.finish_status(status))
    }
}

/// The status of a call whose route is a mistake.
pub(in crate::balance) fn misrouted(misrouted: &Misrouted) -> Status {
    let text = misrouted.to_string();
    status::without_server(Code::Internal, text.clone(), &text)
}

impl CallState {
    /// Goes to the default servers, if the call may and no server of its route takes it. Returns whether it has.
    pub(super) fn fall_back(&mut self) -> bool {
        let Some(default) = self.shared.default.clone().filter(|_| self.or_default) else { return false };
        self.shared = default;
        true
    }

    /// Waits until there are servers for the call, as long as there may be some.
    ///
    /// # Errors
    /// When there are none, or the call's time to wait is over.
    async fn find_partition(&mut self, partitions: &Partitions, values: &RouteValues) -> Result<(), Status> {
        loop {
            // The present state first: a change from now on is not missed.
            let mut changed = pin!(partitions.changed.notified());
            changed.as_mut().enable();
            let mut statuses = self.shared.channel_status.subscribe();
            if let Some(found) = partitions.find(values) {
                self.shared = found;
                return Ok(());
            }
            let (is_resolved, state) = {
                let status = statuses.borrow_and_update();
                (status.directory.resolved, status.state)
            };
            if is_resolved && self.or_default {
                return Ok(()); // it has the default partition
            }
            let absent = || {
                let directory = self.shared.channel_status.borrow().directory.clone();
                let route = values.text(self.shared.settings.routes.keys()).into();
                Partition::absent(&partitions.default, directory, route)
            };
            if state == ConnectivityState::Shutdown || is_resolved && !self.wait_limits.wait_for_ready {
                return Err(absent().unavailable_status(Code::Unavailable, ""));
            }
            runtime::require_timers()?;
            let any = async {
                tokio::select! {
                    () = changed => {}
                    _ = statuses.changed() => {}
                }
            };
            absent().within_limits(self.wait_limits, "", any).await?;
        }
    }
}
