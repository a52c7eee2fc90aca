//! Leases and the keys under them, for the registrar.
//!
//! Each operation may be repeated without harm, because a request may be sent twice and an answer
//! may be lost:
//!
//! | operation | why it may be repeated |
//! |---|---|
//! | grant | the id is chosen here; a second grant says that the lease exists |
//! | put | the same value under the same lease; the key's revision changes, which the registrar's own watch shows |
//! | put over a revision | compares the revision, so that the second one does nothing |
//! | delete | compares lease and revision |
//! | revoke, renew | a lease that does not exist is an answer |
//!
//! A put or a delete whose answer is lost is *in doubt*: it may still take effect. [`Put::again`]
//! and [`Failure::in_doubt`] say so. The registrar then fences the key by another lease.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::backoff::Backoff;
use crate::etcd::failure::{Class, Failure};
use crate::etcd::link::MemberLink;
use crate::etcd::{Core, Etcd, RequestLimits};
use crate::secret::shown_key;
use etcd_client::{
    Compare, CompareOp, LeaseGrantOptions, LeaseKeepAliveStream, LeaseKeeper, PutOptions, ResponseHeader, Txn, TxnOp,
};

/// One key as it stands in etcd.
pub(crate) struct Stored {
    /// The lease that the key is attached to; 0 for none.
    pub(crate) lease: i64,
    /// The revision of its last put.
    pub(crate) revision: i64,
    /// Its value.
    pub(crate) value: Vec<u8>,
}

/// The result of a put.
pub(crate) struct Put {
    /// The revision of the put; `None` where the key was not as expected, so that nothing was put.
    pub(crate) done: Option<i64>,
    /// Whether the request was sent more than once, so that another try of it may also take effect.
    pub(crate) again: bool,
}

impl Etcd {
    /// Grants a lease with an id of our choice, so that a grant whose answer was lost is
    /// recognised.
    ///
    /// Gives the time to live that etcd granted, in seconds, which may be more than was asked for;
    /// `None` where the lease existed already.
    ///
    /// # Errors
    /// How the request failed; never that the lease exists.
    pub(crate) async fn grant(&self, id: i64, seconds: i64, limits: RequestLimits) -> Result<Option<i64>, Failure> {
        let granted = self
            .call(limits, "granting a lease", |client| {
                let mut lease = client.lease_client();
                async move { lease.grant(seconds, Some(LeaseGrantOptions::new().with_id(id))).await }
            })
            .await;
        match granted {
            Ok(response) => Ok(Some(response.ttl())),
            Err(failure) if failure.class == Class::LeaseExists => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Puts a key under a lease, whatever stands there.
    ///
    /// # Errors
    /// [`Class::LeaseNotFound`] where the lease has ended; otherwise how the request failed.
    pub(crate) async fn put(
        &self,
        key: &[u8],
        value: &[u8],
        lease: i64,
        limits: RequestLimits,
    ) -> Result<Put, Failure> {
        let doing = format!("putting {}", shown_key(key));
        let (response, again) = self
            .core
            .call_counted(limits, &doing, |client| {
                let mut kv = client.kv_client();
                let (key, value) = (key.to_vec(), value.to_vec());
                async move { kv.put(key, value, Some(PutOptions::new().with_lease(lease))).await }
            })
            .await?;
        Ok(Put { done: Some(response.header().map_or(0, ResponseHeader::revision)), again })
    }

    /// Puts a key under a lease if its last change is at the revision `expected`; 0 means that the
    /// key must not exist.
    ///
    /// # Errors
    /// As [`Etcd::put`]. A comparison that fails is no error: see [`Put::done`].
    pub(crate) async fn put_over(
        &self,
        key: &[u8],
        value: &[u8],
        lease: i64,
        expected: i64,
        limits: RequestLimits,
    ) -> Result<Put, Failure> {
        let doing = format!("putting {}", shown_key(key));
        let (response, again) = self
            .core
            .call_counted(limits, &doing, |client| {
                let mut kv = client.kv_client();
                let as_expected = Compare::mod_revision(key.to_vec(), CompareOp::Equal, expected);
                let put = TxnOp::put(key.to_vec(), value.to_vec(), Some(PutOptions::new().with_lease(lease)));
                async move { kv.txn(Txn::new().when([as_expected]).and_then([put])).await }
            })
            .await?;
        let revision = response.header().map_or(0, ResponseHeader::revision);
        Ok(Put { done: response.succeeded().then_some(revision), again })
    }

    /// Reads one key by a linearizable read. Gives the revision of the cluster and the key, if it
    /// exists. The registrar asks this where the answer to a put was lost.
    pub(crate) async fn read_key(&self, key: &[u8], limits: RequestLimits) -> Result<(i64, Option<Stored>), Failure> {
        let doing = format!("reading {}", shown_key(key));
        let answer = self
            .call(limits, &doing, |client| {
                let (mut kv, key) = (client.kv_client(), key.to_vec());
                async move { kv.get(key, None).await }
            })
            .await?;
        let stored = answer.kvs().first().map(|pair| Stored {
            lease: pair.lease(),
            revision: pair.mod_revision(),
            value: pair.value().to_vec(),
        });
        Ok((answer.header().map_or(0, ResponseHeader::revision), stored))
    }

    /// Deletes a key if it carries `lease` and was last changed at the revision `expected`. So a
    /// late request never deletes what was put since. Gives `false` where the comparison failed and
    /// the key must be looked at.
    ///
    /// The comparison needs the right to read. Without it the key is deleted as it is. An etcd that
    /// is full refuses a transaction that only deletes in some releases (etcd issue 13429; 3.5.1 is
    /// one) but accepts a plain delete. There the key is read first, and nobody can put it between
    /// the two requests, because etcd is full.
    pub(crate) async fn delete(
        &self,
        key: &[u8],
        lease: i64,
        expected: i64,
        limits: RequestLimits,
    ) -> Result<bool, Failure> {
        let doing = format!("deleting {}", shown_key(key));
        let guarded = self
            .call(limits, &doing, |client| {
                let mut kv = client.kv_client();
                let ours = Compare::lease(key.to_vec(), CompareOp::Equal, lease);
                let as_expected = Compare::mod_revision(key.to_vec(), CompareOp::Equal, expected);
                let txn = Txn::new().when([ours, as_expected]).and_then([TxnOp::delete(key.to_vec(), None)]);
                async move { kv.txn(txn).await.map(|response| response.succeeded()) }
            })
            .await;
        match guarded {
            Err(failure) if failure.class == Class::Denied => {}
            Err(failure) if failure.class == Class::NoSpace => match self.read_key(key, limits).await {
                Ok((_, Some(stored))) if stored.lease == lease => {}
                Ok((_, None)) => return Ok(true),
                // It is another instance's, or under another lease of ours.
                Ok((_, Some(_))) => return Ok(false),
                Err(failure) if failure.class == Class::Denied => {}
                Err(failure) => return Err(failure),
            },
            result => return result,
        }
        self.call(limits, &doing, |client| {
            let (mut kv, key) = (client.kv_client(), key.to_vec());
            async move { kv.delete(key, None).await.map(drop) }
        })
        .await?;
        Ok(true)
    }

    /// Revokes a lease and deletes every key that is still attached to it. A lease that does not
    /// exist is no failure.
    pub(crate) async fn revoke(&self, id: i64, limits: RequestLimits) -> Result<(), Failure> {
        let revoked = self
            .call(limits, "revoking the lease", |client| {
                let mut lease = client.lease_client();
                async move { lease.revoke(id).await.map(drop) }
            })
            .await;
        match revoked {
            Err(failure) if failure.class == Class::LeaseNotFound => Ok(()),
            result => result,
        }
    }

    /// Renews a lease over the stream in `slot`, or over a new one where there is none.
    ///
    /// Where the answer is late, or the stream fails, another stream is opened beside it, at
    /// another member if there is one, until one answers. The stream that answers is left in
    /// `slot`; on an error the slot is empty.
    ///
    /// Gives the seconds until the lease ends. `None` where a stream was opened: etcd-client renews
    /// once while it opens a stream, and keeps the answer to itself.
    ///
    /// # Errors
    /// [`Class::LeaseNotFound`] where the lease has ended; otherwise how the last try failed.
    ///
    /// # Cancel safety
    /// Dropping the future loses the stream, and the next renewal opens another one. The lease may
    /// have been renewed.
    pub(crate) async fn renew(
        &self,
        id: i64,
        slot: &mut Option<KeepAlive>,
        limits: RequestLimits,
    ) -> Result<Option<i64>, Failure> {
        let renewed = self.core.renew(id, slot.take(), limits).await;
        let (seconds, stream) = renewed.map_err(|failure| failure.while_doing("renewing the lease"))?;
        *slot = Some(stream);
        Ok(seconds)
    }
}

/// The result of a renewal: the seconds until the lease ends, if known, and the stream to keep.
type Renewed = Result<(Option<i64>, KeepAlive), Failure>;

impl Core {
    /// See [`Etcd::renew`]. `kept` is the stream of the last renewal.
    ///
    /// Two tries run at most: the renewal over `kept`, and [`Core::renew_beside`], which starts
    /// when the first is late or has failed. The first answer counts, whichever it is.
    async fn renew(self: &Arc<Self>, id: i64, kept: Option<KeepAlive>, limits: RequestLimits) -> Renewed {
        let end = Instant::now() + limits.total;
        // Nothing would be heard over a stream whose connection has ended.
        let kept = kept.filter(|stream| stream.id == id && !stream.link.has_ended());
        let (link, token) = match &kept {
            Some(stream) => (stream.link.clone(), stream.token),
            None => match timeout_at(end, self.stream_link_and_token()).await {
                Ok(begun) => begun?,
                Err(_) => return Err(Failure::timed_out(limits.total).at(&self.member_in_use())),
            },
        };
        let asked = Instant::now();
        let to = link.clone();
        let mut first: Pin<Box<dyn Future<Output = Renewed> + Send + '_>> = match kept {
            Some(stream) => Box::pin(async { stream.renew().await.map(|(seconds, stream)| (Some(seconds), stream)) }),
            None => Box::pin(async move { open(id, to, token).await.map(|stream| (None, stream)) }),
        };
        let late = asked + limits.late_by(&link);
        let failed = Notify::new();
        let beside = self.renew_beside(id, &link, late, &failed, limits);
        tokio::pin!(beside);
        let (mut failure, mut is_beside_over) = (None, false);
        loop {
            tokio::select! {
                biased;
                renewed = &mut first, if failure.is_none() => match renewed {
                    Ok(renewed) => {
                        link.record_latency(asked.elapsed());
                        return Ok(renewed);
                    }
                    Err(error) => {
                        let error = self.on_failure(&link, asked, error).at(link.name());
                        if error.class == Class::LeaseNotFound {
                            return Err(error);
                        }
                        // Where the stream's token has expired, another stream carries the next
                        // one.
                        if !self.tokens.refused(token, &error) && !error.is_worth_a_retry() {
                            return Err(error);
                        }
                        if is_beside_over {
                            return Err(error);
                        }
                        failure = Some(error);
                        failed.notify_one();
                    }
                },
                opened = &mut beside, if !is_beside_over => {
                    let stream = match opened {
                        Ok(stream) => stream,
                        // The first stream may still answer.
                        Err(error) if failure.is_none() && error.class != Class::LeaseNotFound => {
                            is_beside_over = true;
                            continue;
                        }
                        Err(error) => return Err(error),
                    };
                    if link.is_silent_since(asked) {
                        self.links.switch_to(&stream.link);
                    }
                    return Ok((None, stream));
                }
                () = sleep_until(end) => {
                    let late = || self.on_failure(&link, asked, Failure::timed_out(limits.total)).at(link.name());
                    return Err(failure.unwrap_or_else(late));
                }
            }
        }
    }

    /// Opens another stream once the first one is late or has failed, and goes on until one is
    /// open: at each of the other members in turn, with a backoff between them.
    ///
    /// # Errors
    /// When another try cannot succeed.
    async fn renew_beside(
        self: &Arc<Self>,
        id: i64,
        first: &MemberLink,
        late: Instant,
        failed: &Notify,
        limits: RequestLimits,
    ) -> Result<KeepAlive, Failure> {
        tokio::select! {
            () = failed.notified() => {}
            () = sleep_until(late) => first.ping(), // the answer tells a dead connection from a slow member
        }
        let (mut backoff, began) = (Backoff::new(fastrand::u64(..)), Instant::now());
        let mut last = first.clone();
        loop {
            let opened = async {
                // Each of the other members in turn; the one in use where there is no other.
                let (link, token) = match self.link_elsewhere(&last).await {
                    Some(link) => (self.stream_link(link.clone()).await, self.token_for(&link).await?),
                    None => self.stream_link_and_token().await?,
                };
                last = link.clone();
                // The next try goes to the next member, unless this one answers.
                self.links.mark_failed(&link);
                let asked = Instant::now();
                // No longer than the first stream had before it was late. Then the next member is
                // tried.
                let opened = match timeout(limits.late_by(&link), open(id, link.clone(), token)).await {
                    Ok(opened) => opened,
                    Err(_) => Err(Failure::timed_out(limits.late_by(&link))),
                };
                match opened {
                    Ok(stream) => {
                        self.links.clear_failed(&link);
                        Ok(Some(stream))
                    }
                    Err(failure) => {
                        let failure = self.on_failure(&link, asked, failure).at(link.name());
                        if self.tokens.refused(token, &failure) { Ok(None) } else { Err(failure) }
                    }
                }
            };
            match opened.await {
                Ok(Some(stream)) => return Ok(stream),
                Err(failure) if !failure.is_worth_a_retry() => return Err(failure),
                Ok(None) | Err(_) => sleep(backoff.fail(began.elapsed(), false)).await,
            }
        }
    }
}

/// Opens a keep-alive stream. etcd-client renews the lease once while it opens the stream, and does
/// not tell the time to live that etcd answers.
///
/// # Errors
/// [`Class::LeaseNotFound`] where the lease has ended; otherwise how the stream failed.
async fn open(id: i64, link: MemberLink, token: u64) -> Result<KeepAlive, Failure> {
    // Boxed, because opening is rare and the future is large.
    let (keeper, responses) = Box::pin(link.client().lease_client().keep_alive(id)).await.map_err(Failure::from)?;
    Ok(KeepAlive { id, link, token, keeper, responses })
}

/// A keep-alive stream of one lease.
pub(crate) struct KeepAlive {
    /// The lease that it renews.
    id: i64,
    /// The link that it runs over.
    link: MemberLink,
    /// The number of the token that it carries.
    token: u64,
    keeper: LeaseKeeper,
    responses: LeaseKeepAliveStream,
}

impl KeepAlive {
    /// Sends one renewal and waits for its answer: the seconds until the lease ends, and the
    /// stream.
    async fn renew(mut self) -> Result<(i64, Self), Failure> {
        self.keeper.keep_alive().await.map_err(Failure::from)?;
        match self.responses.message().await.map_err(Failure::from)? {
            // etcd reports an expired lease as a time to live of 0, not as an error.
            Some(response) if response.ttl() <= 0 => Err(Failure::new(Class::LeaseNotFound, "the lease has expired")),
            Some(response) => Ok((response.ttl(), self)),
            None => Err(Failure::new(Class::Transient, "etcd ended the keep-alive stream")),
        }
    }
}
