//! Leases and the keys under them. Every operation may be repeated without harm.

use std::sync::Arc;

use tokio::time::{Instant, sleep_until};

use super::failure::{Class, Failure};
use super::link::Link;
use super::{Core, Etcd, Patience, bounded};
use etcd_client::{
    Compare, CompareOp, LeaseGrantOptions, LeaseKeepAliveStream, LeaseKeeper, PutOptions, ResponseHeader, Txn, TxnOp,
};

/// What stands at a key.
pub(crate) struct Stored {
    pub(crate) lease: i64,
    /// When it was put.
    pub(crate) revision: i64,
    pub(crate) value: Vec<u8>,
}

/// A put that was done.
pub(crate) struct Put {
    pub(crate) revision: i64,
    /// It was asked for more than once: another of these puts may still arrive.
    pub(crate) again: bool,
}

impl Etcd {
    /// Grants a lease of an id that we choose, so that a grant whose answer was lost can be recognised. Gives the
    /// seconds that etcd granted, which may be more than asked; none if the lease was there already.
    pub(crate) async fn grant(&self, id: i64, seconds: i64, patience: Patience) -> Result<Option<i64>, Failure> {
        let granted = self
            .call(patience, "granting a lease", |client| {
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

    /// Puts a key under a lease.
    pub(crate) async fn put(&self, key: &[u8], value: &[u8], lease: i64, patience: Patience) -> Result<Put, Failure> {
        let doing = format!("putting {}", String::from_utf8_lossy(key));
        let (response, tries) = self
            .core
            .call_counted(patience, &doing, |client| {
                let mut kv = client.kv_client();
                let (key, value) = (key.to_vec(), value.to_vec());
                async move { kv.put(key, value, Some(PutOptions::new().with_lease(lease))).await }
            })
            .await?;
        Ok(Put { revision: response.header().map_or(0, ResponseHeader::revision), again: tries > 1 })
    }

    /// Puts a key under a lease while it was last changed at that revision, or is not there where that is 0; none if the key
    /// is not as expected.
    pub(crate) async fn put_over(
        &self,
        key: &[u8],
        value: &[u8],
        lease: i64,
        expected: i64,
        patience: Patience,
    ) -> Result<Option<Put>, Failure> {
        let doing = format!("putting {}", String::from_utf8_lossy(key));
        let (response, tries) = self
            .core
            .call_counted(patience, &doing, |client| {
                let mut kv = client.kv_client();
                let as_expected = Compare::mod_revision(key.to_vec(), CompareOp::Equal, expected);
                let put = TxnOp::put(key.to_vec(), value.to_vec(), Some(PutOptions::new().with_lease(lease)));
                async move { kv.txn(Txn::new().when([as_expected]).and_then([put])).await }
            })
            .await?;
        let put = || Put { revision: response.header().map_or(0, ResponseHeader::revision), again: tries > 1 };
        Ok(response.succeeded().then(put))
    }

    /// How a key stands now, by a linearizable read, and the revision at which it does.
    pub(crate) async fn look(&self, key: &[u8], patience: Patience) -> Result<(i64, Option<Stored>), Failure> {
        let doing = format!("reading {}", String::from_utf8_lossy(key));
        let answer = self
            .call(patience, &doing, |client| {
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

    /// Deletes a key while it still carries that lease, and so never what another has put since; whether it did carry it.
    /// Where the role may not read, which the comparison needs, the key is deleted as it is.
    pub(crate) async fn delete(&self, key: &[u8], lease: i64, patience: Patience) -> Result<bool, Failure> {
        let doing = format!("deleting {}", String::from_utf8_lossy(key));
        let guarded = self
            .call(patience, &doing, |client| {
                let mut kv = client.kv_client();
                let ours = Compare::lease(key.to_vec(), CompareOp::Equal, lease);
                let txn = Txn::new().when([ours]).and_then([TxnOp::delete(key.to_vec(), None)]);
                async move { kv.txn(txn).await.map(|response| response.succeeded()) }
            })
            .await;
        match guarded {
            Err(failure) if failure.class == Class::Denied => {
                self.call(patience, &doing, |client| {
                    let (mut kv, key) = (client.kv_client(), key.to_vec());
                    async move { kv.delete(key, None).await.map(|response| response.deleted() > 0) }
                })
                .await
            }
            result => result,
        }
    }

    /// Revokes a lease, and with it every key that still carries it. One that is gone already is no failure.
    pub(crate) async fn revoke(&self, id: i64, patience: Patience) -> Result<(), Failure> {
        let revoked = self
            .call(patience, "revoking the lease", |client| {
                let mut lease = client.lease_client();
                async move { lease.revoke(id).await.map(drop) }
            })
            .await;
        match revoked {
            Err(failure) if failure.class == Class::LeaseNotFound => Ok(()),
            result => result,
        }
    }

    /// Renews a lease over the stream in `slot`, which is opened where there is none. Where the answer is late, another stream
    /// is opened beside it, at another member if there is one; whichever answers first is kept. Gives the seconds until the
    /// lease ends; none where a stream was opened, which renews and does not tell.
    pub(crate) async fn renew(
        &self,
        id: i64,
        slot: &mut Option<KeepAlive>,
        patience: Patience,
    ) -> Result<Option<i64>, Failure> {
        let end = Instant::now() + patience.total;
        // A stream whose connection has ended would only be waited for.
        let kept = slot.take().filter(|stream| stream.id == id && !stream.link.is_over());
        let Some(kept) = kept else {
            return match bounded(end - Instant::now(), self.core.keep_alive(id, None)).await {
                Ok(stream) => {
                    *slot = Some(stream);
                    Ok(None)
                }
                Err(failure) => Err(failure.while_doing(RENEWING)),
            };
        };
        let (link, token, asked) = (kept.link.clone(), kept.token, Instant::now());
        let renewing = kept.renew();
        tokio::pin!(renewing);
        let beside = async {
            sleep_until(asked + patience.late + link.grace()).await;
            // Its answer tells a connection that is dead from a member that is slow.
            link.ping();
            self.core.keep_alive(id, Some(&link)).await
        };
        tokio::pin!(beside);
        let mut beside_failed = false;
        let failure = loop {
            tokio::select! {
                biased;
                renewed = &mut renewing => match renewed {
                    Ok((seconds, stream)) => {
                        link.answered(asked.elapsed());
                        *slot = Some(stream);
                        return Ok(Some(seconds));
                    }
                    Err(failure) => break self.core.blame(&link, asked, failure),
                },
                opened = &mut beside, if !beside_failed => match opened {
                    Ok(stream) => {
                        if link.is_silent_since(asked) {
                            self.core.links.prefer(&stream.link);
                        }
                        *slot = Some(stream);
                        return Ok(None);
                    }
                    Err(failure) if failure.class == Class::LeaseNotFound => break failure,
                    Err(_) => beside_failed = true,
                },
                () = sleep_until(end) => break self.core.blame(&link, asked, Failure::timed_out(patience.total)),
            }
        };
        let failure = failure.at(link.name()).while_doing(RENEWING);
        if self.core.tokens.refused(token, &failure) {
            // The token of the stream has ended: another stream carries the next one.
            let opened = bounded(end - Instant::now(), self.core.keep_alive(id, None)).await;
            *slot = Some(opened.map_err(|failure| failure.while_doing(RENEWING))?);
            return Ok(None);
        }
        Err(failure)
    }
}

const RENEWING: &str = "renewing the lease";

impl Core {
    /// Opens a stream, for which etcd-client renews the lease once, and keeps for itself for how long; at another member
    /// than that of `late`, if there is one.
    async fn keep_alive(self: &Arc<Self>, id: i64, late: Option<&Link>) -> Result<KeepAlive, Failure> {
        let mut renewed = false;
        loop {
            let link = match late {
                Some(late) => self.elsewhere(late).await.unwrap_or_else(|| late.clone()),
                None => self.link().await?,
            };
            let token = self.token().await?;
            let asked = Instant::now();
            // Boxed: opening is rare and its future large.
            match Box::pin(link.client().lease_client().keep_alive(id)).await {
                Ok((keeper, responses)) => return Ok(KeepAlive { id, link, token, keeper, responses }),
                Err(error) => {
                    let failure = self.blame(&link, asked, error.into());
                    if renewed || !self.tokens.refused(token, &failure) {
                        return Err(failure.at(link.name()));
                    }
                    renewed = true;
                }
            }
        }
    }
}

/// A keep-alive stream of one lease.
pub(crate) struct KeepAlive {
    id: i64,
    link: Link,
    /// The number of the token that it carries.
    token: u64,
    keeper: LeaseKeeper,
    responses: LeaseKeepAliveStream,
}

impl KeepAlive {
    async fn renew(mut self) -> Result<(i64, Self), Failure> {
        self.keeper.keep_alive().await.map_err(Failure::from)?;
        match self.responses.message().await.map_err(Failure::from)? {
            // An expired lease is not an error of the stream.
            Some(response) if response.ttl() <= 0 => Err(Failure::new(Class::LeaseNotFound, "the lease has expired")),
            Some(response) => Ok((response.ttl(), self)),
            None => Err(Failure::new(Class::Transient, "etcd ended the keep-alive stream")),
        }
    }
}
