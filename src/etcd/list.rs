//! Lists: a whole range at one revision, in pages.

use std::time::Duration;

use etcd_client::{GetOptions, GetResponse, ResponseHeader};
use tokio::time::sleep;

use crate::etcd::failure::{Class, Failure};
use crate::etcd::{Etcd, MAX_MESSAGE, Patience};
use crate::secret::shown_key;

/// Keys in a page. Large, because etcd walks its whole index for each page; a page too large for a message is halved.
const PAGE: i64 = 10_000;

/// What comes too slowly is asked for in smaller pages, down to this.
const PAGE_AT_LEAST: i64 = 500;

/// Pages carry much more than other answers.
const PATIENCE: u32 = 3;

impl Etcd {
    /// Gives each key and value from `start` up to `end` to `each`, in order, all as they stand at the revision that is
    /// returned.
    pub(crate) async fn list(
        &self,
        start: &[u8],
        end: &[u8],
        mut each: impl FnMut(&[u8], &[u8]),
    ) -> Result<i64, Failure> {
        let mut from = start.to_vec();
        let mut revision = 0;
        let mut limit = PAGE;
        loop {
            let page = match self.page_in_time(&from, end, revision, limit).await {
                Err(failure) if failure.class == Class::TooLarge && limit > 1 => {
                    limit /= 2;
                    continue;
                }
                Err(failure) if failure.class == Class::TooSlow && limit > PAGE_AT_LEAST => {
                    limit = (limit / 4).max(PAGE_AT_LEAST);
                    continue;
                }
                page => page?,
            };
            let at = page.header().map_or(0, ResponseHeader::revision);
            if revision == 0 {
                revision = at;
            } else if at < revision {
                // The etcd that answers is not the one that answered before.
                return Err(Failure::new(Class::Revision, "the revision went backwards between two pages"));
            }
            for pair in page.kvs() {
                each(pair.key(), pair.value());
            }
            if !page.more() {
                return Ok(revision);
            }
            match page.kvs().last() {
                Some(last) if last.key() >= from.as_slice() => {
                    from.clear();
                    from.extend_from_slice(last.key());
                    from.push(0);
                }
                // It would never end, or end too early.
                _ => return Err(Failure::new(Class::Transient, "etcd says that there is more, and does not go on")),
            }
        }
    }

    /// One page. Where it is late, a read of a single number beside it tells whether etcd answers at all: if it does, the
    /// page has three times the request timeout.
    async fn page_in_time(&self, from: &[u8], end: &[u8], at: i64, limit: i64) -> Result<GetResponse, Failure> {
        let within = self.request_timeout();
        let long = Patience { total: self.core.longest() + within * (PATIENCE - 1), ..self.patience() };
        let page = self.page(from, end, at, limit, long);
        tokio::pin!(page);
        let beside = async {
            sleep(within / 2).await;
            let total = self.core.longest().saturating_sub(within / 2);
            self.count(from, end, Patience { total, ..self.patience() }).await
        };
        tokio::select! {
            biased;
            page = &mut page => return page,
            counted = beside => counted?,
        };
        match page.await {
            Err(failure) if failure.class == Class::TimedOut => {
                Err(Failure::new(Class::TooSlow, "the page did not come in time, although etcd answers"))
            }
            page => page,
        }
    }

    async fn page(
        &self,
        from: &[u8],
        end: &[u8],
        at: i64,
        limit: i64,
        patience: Patience,
    ) -> Result<GetResponse, Failure> {
        let doing = format!("listing {}", shown_key(from));
        let options = GetOptions::new().with_range(end).with_revision(at).with_limit(limit);
        self.call(patience, &doing, |client| {
            let mut kv = client.kv_client().max_decoding_message_size(MAX_MESSAGE);
            let (from, options) = (from.to_vec(), options.clone());
            async move { kv.get(from, Some(options)).await }
        })
        .await
    }

    /// The first keys of a range, without their values, as any member knows them.
    pub(crate) async fn keys(&self, start: &[u8], end: &[u8], limit: i64) -> Result<Vec<Vec<u8>>, Failure> {
        let options = GetOptions::new().with_range(end).with_limit(limit).with_keys_only().with_serializable();
        let patience = Patience { late: self.core.longest(), ..self.patience() };
        let doing = format!("looking at {}", shown_key(start));
        let response = self.call(patience, &doing, |client| {
            let (mut kv, start, options) = (client.kv_client(), start.to_vec(), options.clone());
            async move { kv.get(start, Some(options)).await }
        });
        Ok(response.await?.kvs().iter().map(|pair| pair.key().to_vec()).collect())
    }

    /// The revision of the cluster, by a linearizable read of that range.
    pub(crate) async fn revision(&self, start: &[u8], end: &[u8]) -> Result<i64, Failure> {
        self.count(start, end, self.patience()).await
    }

    async fn count(&self, start: &[u8], end: &[u8], patience: Patience) -> Result<i64, Failure> {
        let options = GetOptions::new().with_range(end).with_count_only();
        let response = self
            .call(patience, "asking for the revision", |client| {
                let (mut kv, start, options) = (client.kv_client(), start.to_vec(), options.clone());
                async move { kv.get(start, Some(options)).await }
            })
            .await?;
        Ok(response.header().map_or(0, ResponseHeader::revision))
    }

    /// Reads may be late for as long as an election takes, and wait for a connection as well.
    fn patience(&self) -> Patience {
        Patience { late: self.request_timeout() / 2, total: self.core.longest(), again: false }
    }
}

impl crate::etcd::Core {
    /// The longest that a request may take, connecting included.
    fn longest(&self) -> Duration {
        self.connect_timeout() + self.request_timeout()
    }
}
