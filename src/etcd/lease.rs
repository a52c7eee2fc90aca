//! Leases and the keys under them. Every operation may be repeated without harm.

use std::time::Duration;

use super::failure::{Class, Failure};
use super::{Etcd, Turn, bounded};
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

impl Etcd {
    /// Grants a lease of an id that we choose, so that a grant whose answer was lost can be recognised. Gives the
    /// seconds that etcd granted, which may be more than asked; none if the lease was there already.
    pub(crate) async fn grant(&self, id: i64, seconds: i64, deadline: Duration) -> Result<Option<i64>, Failure> {
        let granted = self
            .call(deadline, "granting a lease", |client| {
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

    /// Puts a key under a lease; gives the revision.
    pub(crate) async fn put(&self, key: &[u8], value: &[u8], lease: i64, deadline: Duration) -> Result<i64, Failure> {
        let doing = format!("putting {}", String::from_utf8_lossy(key));
        self.call(deadline, &doing, |client| {
            let mut kv = client.kv_client();
            let (key, value) = (key.to_vec(), value.to_vec());
            async move { kv.put(key, value, Some(PutOptions::new().with_lease(lease))).await }
        })
        .await
        .map(|response| response.header().map_or(0, ResponseHeader::revision))
    }

    /// Puts a key under a lease while it was last changed at that revision, or is not there where that is 0. Gives the
    /// revision; none if the key is not as expected.
    pub(crate) async fn put_over(
        &self,
        key: &[u8],
        value: &[u8],
        lease: i64,
        expected: i64,
        deadline: Duration,
    ) -> Result<Option<i64>, Failure> {
        let doing = format!("putting {}", String::from_utf8_lossy(key));
        self.call(deadline, &doing, |client| {
            let mut kv = client.kv_client();
            let as_expected = Compare::mod_revision(key.to_vec(), CompareOp::Equal, expected);
            let put = TxnOp::put(key.to_vec(), value.to_vec(), Some(PutOptions::new().with_lease(lease)));
            async move { kv.txn(Txn::new().when([as_expected]).and_then([put])).await }
        })
        .await
        .map(|response| response.succeeded().then(|| response.header().map_or(0, ResponseHeader::revision)))
    }

    /// How a key stands now, by a linearizable read, and the revision at which it does.
    pub(crate) async fn look(&self, key: &[u8], deadline: Duration) -> Result<(i64, Option<Stored>), Failure> {
        let doing = format!("reading {}", String::from_utf8_lossy(key));
        let answer = self
            .call(deadline, &doing, |client| {
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
    pub(crate) async fn delete(&self, key: &[u8], lease: i64, deadline: Duration) -> Result<bool, Failure> {
        let doing = format!("deleting {}", String::from_utf8_lossy(key));
        let guarded = self
            .call(deadline, &doing, |client| {
                let mut kv = client.kv_client();
                let ours = Compare::lease(key.to_vec(), CompareOp::Equal, lease);
                let txn = Txn::new().when([ours]).and_then([TxnOp::delete(key.to_vec(), None)]);
                async move { kv.txn(txn).await.map(|response| response.succeeded()) }
            })
            .await;
        match guarded {
            Err(failure) if failure.class == Class::Denied => {
                self.call(deadline, &doing, |client| {
                    let (mut kv, key) = (client.kv_client(), key.to_vec());
                    async move { kv.delete(key, None).await.map(|response| response.deleted() > 0) }
                })
                .await
            }
            result => result,
        }
    }

    /// Revokes a lease, and with it every key that still carries it. One that is gone already is no failure.
    pub(crate) async fn revoke(&self, id: i64, deadline: Duration) -> Result<(), Failure> {
        let revoked = self
            .call(deadline, "revoking the lease", |client| {
                let mut lease = client.lease_client();
                async move { lease.revoke(id).await.map(drop) }
            })
            .await;
        match revoked {
            Err(failure) if failure.class == Class::LeaseNotFound => Ok(()),
            result => result,
        }
    }

    /// Renews a lease over the stream in `slot`, which is opened where there is none and dropped where it fails. Gives
    /// the seconds until the lease ends; none where the stream was opened, which renews and does not tell.
    pub(crate) async fn renew(
        &self,
        id: i64,
        slot: &mut Option<KeepAlive>,
        deadline: Duration,
    ) -> Result<Option<i64>, Failure> {
        let mut turn = self.turn();
        // A stream to a member that was given up since would only be waited for.
        let kept = slot.take().filter(|stream| stream.id == id && stream.generation == turn.generation);
        let renew = async {
            if let Some(stream) = kept {
                match stream.renew().await {
                    Err(failure) if failure.may_be_the_token() => {}
                    result => return result.map(|(seconds, stream)| (Some(seconds), stream)),
                }
            }
            // Boxed: opening is rare and its future large.
            Box::pin(self.keep_alive(id, &mut turn)).await.map(|stream| (None, stream))
        };
        match bounded(deadline, renew).await {
            Ok((seconds, stream)) => {
                *slot = Some(stream);
                Ok(seconds)
            }
            Err(failure) => {
                let failure = self.of_client(failure, turn.generation);
                self.blame(&turn, &failure);
                Err(failure.while_doing("renewing the lease", &turn.member))
            }
        }
    }

    /// Opens a stream, for which etcd-client renews the lease once, and keeps for itself for how long.
    async fn keep_alive(&self, id: i64, turn: &mut Turn) -> Result<KeepAlive, Failure> {
        let client = self.client(turn).await?;
        let mut opened = client.lease_client().keep_alive(id).await.map_err(Failure::from);
        if opened.as_ref().is_err_and(|failure| self.is_worth_a_token(failure)) {
            self.refresh(turn.tokens, turn).await?;
            opened = client.lease_client().keep_alive(id).await.map_err(Failure::from);
        }
        let (keeper, responses) = opened?;
        Ok(KeepAlive { id, generation: turn.generation, keeper, responses })
    }
}

/// A keep-alive stream of one lease.
pub(crate) struct KeepAlive {
    id: i64,
    generation: u64,
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
