//! What the fake was asked, and what it is told to answer in place of the truth.

use etcd_client::proto::{
    PbDeleteRequest, PbDeleteResponse, PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveResponse,
    PbLeaseRevokeRequest, PbLeaseRevokeResponse, PbPutRequest, PbPutResponse, PbRangeRequest, PbRangeResponse,
    PbTxnRequest, PbTxnResponse, PbWatchResponse,
};
use tokio::time::Instant;
use tonic::Status;

use super::store::Store;

/// What becomes of a request.
pub(crate) enum Reply<A> {
    /// What etcd would do.
    Honest,
    /// This, and nothing is done for it.
    Say(A),
    Fail(Status),
    /// Neither an answer nor an end.
    Never,
}

/// Decides on a request; may also change what the fake holds, as others do while a request is on its way.
type Rule<Q, A> = Box<dyn FnMut(&mut Store, &Q) -> Reply<A> + Send>;

/// A request and when it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen<Q> {
    pub(crate) at: Instant,
    pub(crate) request: Q,
}

/// One kind of request: all that came so far, and the rule for those to come.
pub(crate) struct Rpc<Q, A> {
    pub(crate) seen: Vec<Seen<Q>>,
    rule: Rule<Q, A>,
}

impl<Q, A> Default for Rpc<Q, A> {
    fn default() -> Self {
        Self { seen: Vec::new(), rule: Box::new(|_, _| Reply::Honest) }
    }
}

impl<Q, A> Rpc<Q, A> {
    pub(crate) fn rule(&mut self, rule: impl FnMut(&mut Store, &Q) -> Reply<A> + Send + 'static) {
        self.rule = Box::new(rule);
    }

    /// A rule for so many requests; those after them are answered honestly.
    pub(crate) fn first(
        &mut self,
        mut count: usize,
        mut rule: impl FnMut(&mut Store, &Q) -> Reply<A> + Send + 'static,
    ) {
        self.rule(move |store, request| {
            if count == 0 {
                return Reply::Honest;
            }
            count -= 1;
            rule(store, request)
        });
    }

    pub(crate) fn honest(&mut self) {
        self.rule(|_, _| Reply::Honest);
    }

    pub(super) fn decide(&mut self, store: &mut Store, request: &Q) -> Reply<A>
    where
        Q: Clone,
    {
        self.seen.push(Seen { at: Instant::now(), request: request.clone() });
        (self.rule)(store, request)
    }

    pub(crate) fn requests(&self) -> impl Iterator<Item = &Q> {
        self.seen.iter().map(|seen| &seen.request)
    }
}

/// A watch, as it was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    /// The id asked for: 0 leaves the choice to etcd.
    pub(crate) id: i64,
    /// Counts the streams, from one.
    pub(crate) stream: usize,
    pub(crate) start: i64,
    pub(crate) key: Vec<u8>,
    pub(crate) end: Vec<u8>,
    /// The token that its stream carries.
    pub(crate) token: Option<String>,
}

/// One request to keep a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Renewal {
    pub(crate) lease: i64,
    /// Counts the streams.
    pub(crate) stream: usize,
}

/// Every kind of request.
#[derive(Default)]
pub(crate) struct Rpcs {
    pub(crate) range: Rpc<PbRangeRequest, PbRangeResponse>,
    pub(crate) put: Rpc<PbPutRequest, PbPutResponse>,
    pub(crate) delete: Rpc<PbDeleteRequest, PbDeleteResponse>,
    pub(crate) txn: Rpc<PbTxnRequest, PbTxnResponse>,
    pub(crate) grant: Rpc<PbLeaseGrantRequest, PbLeaseGrantResponse>,
    pub(crate) revoke: Rpc<PbLeaseRevokeRequest, PbLeaseRevokeResponse>,
    pub(crate) renew: Rpc<Renewal, PbLeaseKeepAliveResponse>,
    /// A watch that is answered by other than the truth stays silent after that, until it is told to speak.
    pub(crate) watch: Rpc<Watched, Vec<PbWatchResponse>>,
    /// The stream and the id of each request to end a watch.
    pub(crate) cancels: Vec<(usize, i64)>,
    /// Requests for progress, each by its stream.
    pub(crate) probe: Rpc<usize, PbWatchResponse>,
    /// Counted from one; the answer is a token.
    pub(crate) authenticate: Rpc<usize, String>,
    /// How many requests and streams were refused because the fake was a learner; they are nowhere else.
    pub(crate) turned_away: usize,
}

impl Rpcs {
    /// How many lists were begun.
    pub(crate) fn lists(&self) -> usize {
        self.range.requests().filter(|request| !request.count_only && request.revision == 0).count()
    }

    /// How often the revision was asked for.
    pub(crate) fn verifications(&self) -> usize {
        self.range.requests().filter(|request| request.count_only).count()
    }

    /// Where each watch began.
    pub(crate) fn starts(&self) -> Vec<i64> {
        self.watch.requests().map(|watched| watched.start).collect()
    }

    /// The ids of the leases asked for.
    pub(crate) fn grants(&self) -> Vec<i64> {
        self.grant.requests().map(|request| request.id).collect()
    }
}
