//! Learning the members from etcd itself, where
//! [`EtcdOptions::learn_members`](crate::EtcdOptions::learn_members) is set.
//!
//! A background task asks with `MemberList`: in each interval, and after each new connection, because
//! the one before it may have ended when its member left the cluster. The task starts with the
//! first connection, holds [`Core`] weakly, and ends with it.
//!
//! What etcd names is filtered by [`usable`] and merged with the given endpoints, which are never
//! forgotten. What is logged: other members than before at INFO; a refusal once at WARN; everything
//! else at DEBUG.

use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::client::Grpc;
use tonic::{Request, Status};

use crate::etcd::failure::{Class, Failure};
use crate::etcd::link::links::TaskGuard;
use crate::etcd::link::{self, MemberLink};
use crate::etcd::members::endpoint::{ListedMember, usable};
use crate::etcd::prost_codec::ProstCodec;
use crate::etcd::{Core, Source};

/// The pause after a request that was not answered. After a refusal the whole interval is waited
/// for.
const RETRY_DELAY: Duration = Duration::from_secs(2);

impl Core {
    /// Starts the task, where it is wanted and does not run.
    pub(crate) fn start_learning(self: &Arc<Self>) {
        let Source::Options(options) = &self.links.source else { return };
        let Some(every) = options.learn_every else { return };
        let begins = !std::mem::replace(&mut self.links.state().is_learning, true);
        if begins {
            // Made before the task. A runtime that ends drops its tasks unpolled, and the guard's
            // `Drop` takes the lock.
            let learning = TaskGuard::new(self, |state| &mut state.is_learning);
            let task = tokio::spawn(learn(learning, every, self.links.connected.subscribe())).abort_handle();
            self.links.store_task(task, |state| &mut state.learning);
        }
    }

    /// Asks for the members once, over the link in use, and takes them. Gives their number.
    ///
    /// # Errors
    /// How the request failed. [`Class::TimedOut`] after the request timeout.
    async fn list_members(self: &Arc<Self>) -> Result<usize, Failure> {
        let (link, number) = self.link_and_token().await?;
        let asked = timeout(self.request_timeout(), members(&link)).await;
        let listed = asked.unwrap_or_else(|_| Err(Failure::timed_out(self.request_timeout())));
        let listed = listed.map_err(|failure| {
            let failure = failure.at(link.name()).while_doing("listing the members of etcd");
            // An expired token is replaced, so that the next request may succeed.
            if self.tokens.refused(number, &failure) { failure.into_transient() } else { failure }
        })?;
        let mut state = self.links.state();
        let Some(from) = state.members[link.member()].endpoint.clone() else { return Ok(0) };
        let learned = usable(&listed, &from, &state.configured_and_found());
        let count = learned.len();
        if state.set_learned(learned) {
            let members: Vec<String> = state.order().iter().map(|number| state.text(*number)).collect();
            drop(state);
            tracing::info!(parent: None, ?members, "etcd members learned");
        }
        Ok(count)
    }
}

/// The task: asks in each interval and after each new connection. Ends when all users are gone.
async fn learn(learning: TaskGuard, every: Duration, mut connected: Receiver<u64>) {
    let mut is_logged = false;
    loop {
        connected.borrow_and_update();
        let next = {
            let Some(core) = learning.core.upgrade() else { return };
            // Not asked without a connection: a member that has just started may not know the
            // others yet.
            let is_connected = core.links.state().current().is_some();
            let result = if is_connected { core.list_members().await.map(drop) } else { Ok(()) };
            match result {
                Ok(()) => {
                    is_logged &= !is_connected;
                    every
                }
                Err(failure) => {
                    let error = failure.to_string();
                    // Failures of the connection are logged by those who need it.
                    let is_refusal = !matches!(failure.class, Class::Transient | Class::TimedOut | Class::Changed);
                    if is_refusal && !std::mem::replace(&mut is_logged, true) {
                        tracing::warn!(parent: None, error, "etcd members not learned; using the given endpoints");
                    } else {
                        tracing::debug!(parent: None, error, "etcd members not learned, retrying");
                    }
                    if is_refusal { every } else { RETRY_DELAY.min(every) }
                }
            }
        };
        // ±10 %, so that a fleet that was started together does not ask together.
        let next = next.mul_f64(0.9 + 0.2 * fastrand::f64());
        let due = Instant::now() + next;
        tokio::select! {
            () = sleep_until(due) => {}
            changed = connected.changed() => {
                if changed.is_err() {
                    return;
                }
                sleep(Duration::from_millis(fastrand::u64(..50))).await;
            }
        }
    }
}

/// Asks one member for the list, by a linearizable read: every member that answers knows the same
/// list.
///
/// A user's own client has no service here, and its members are not learned.
async fn members(link: &MemberLink) -> Result<Vec<ListedMember>, Failure> {
    link.client(); // marks the link as used
    let Some(service) = link.service() else { return Ok(Vec::new()) };
    let refused = |status: Status| Failure::from(etcd_client::Error::GRpcStatus(status));
    let path = PathAndQuery::from_static("/etcdserverpb.Cluster/MemberList");
    let mut client: Grpc<link::LinkService> = Grpc::new(service.clone());
    let response = client
        .unary(Request::new(ListRequest { linearizable: true }), path, ProstCodec::<_, ListResponse>::default())
        .await;
    let members = response.map_err(refused)?.into_inner().members;
    Ok(members.into_iter().map(|m| ListedMember { is_learner: m.is_learner, client_urls: m.client_urls }).collect())
}

/// `MemberListRequest` of etcd's rpc.proto. etcd-client's own request is not linearizable: one
/// member answers it from what it happens to know.
#[derive(Clone, PartialEq, prost::Message)]
struct ListRequest {
    #[prost(bool, tag = "1")]
    linearizable: bool,
}

/// `MemberListResponse`, without its header.
#[derive(Clone, PartialEq, prost::Message)]
struct ListResponse {
    #[prost(message, repeated, tag = "2")]
    members: Vec<Member>,
}

/// `Member`, without id, name and peer URLs.
#[derive(Clone, PartialEq, prost::Message)]
struct Member {
    #[prost(string, repeated, tag = "4")]
    client_urls: Vec<String>,
    #[prost(bool, tag = "5")]
    is_learner: bool,
}

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests {
    use prost::Message;

    use super::*;

    /// The part of the fuzz target `watch_message` for lists of members: what is decoded is the same when it is encoded and
    /// decoded again.
    pub(crate) fn fuzz(bytes: &[u8]) {
        if let Ok(response) = ListResponse::decode(bytes) {
            assert_eq!(ListResponse::decode(&*response.encode_to_vec()).as_ref(), Ok(&response));
        }
    }
}
