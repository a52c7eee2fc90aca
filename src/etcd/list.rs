//! Lists and counts: a range at one revision.
//!
//! A list is read in pages. The first page fixes the revision, and the others are read at that
//! revision, so that the list is consistent however long it takes. Pages adapt to what the peer can
//! bear:
//!
//! | what happens | next |
//! |---|---|
//! | the page is too large for a message | half the keys |
//! | the page is late and etcd answers other reads | a quarter of the keys, at least [`MIN_PAGE`] |
//! | the revision was compacted meanwhile | the list fails, and is started again by the resolver |
//! | the revision goes backwards, or the cluster's id changes | the list fails: another etcd answers |

use etcd_client::{GetOptions, GetResponse, ResponseHeader};
use tokio::time::sleep;

use crate::etcd::failure::{Class, Failure};
use crate::etcd::{Etcd, MAX_MESSAGE, RequestLimits};
use crate::secret::shown_key;

/// Keys in a page. Large, because etcd walks its whole index for each page. A page that is too
/// large for one message is halved.
const PAGE: i64 = 10_000;

/// A page that comes too slowly is asked for again with a quarter of the keys, down to this number.
const MIN_PAGE: i64 = 500;

/// How many request timeouts a page may take: pages carry much more data than other answers.
const PAGE_TIME_FACTOR: u32 = 3;

/// Which etcd has answered a list, and at which revision.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ListedAt {
    pub(crate) revision: i64,
    /// The id of the cluster; 0 if it is not said.
    pub(crate) cluster: u64,
}

impl Etcd {
    /// Calls `each` with every key, its value and its lease (0 for none) from `start` (included) to `end` (excluded), in order,
    /// as they stand at the revision that is returned.
    ///
    /// `each` may have been called for some keys when the list fails.
    ///
    /// # Errors
    /// The failure of a page. A revision that goes backwards between two pages, or another cluster's
    /// id, means another etcd, and is [`Class::Revision`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the list. The next one starts again.
    pub(crate) async fn list(
        &self,
        start: &[u8],
        end: &[u8],
        mut each: impl FnMut(&[u8], &[u8], i64),
    ) -> Result<ListedAt, Failure> {
        let mut from = start.to_vec();
        let mut listed = ListedAt::default();
        let mut limit = PAGE;
        loop {
            let page = match self.page_in_time(&from, end, listed.revision, limit).await {
                Err(failure) if failure.class == Class::TooLarge && limit > 1 => {
                    limit /= 2;
                    continue;
                }
                Err(failure) if failure.class == Class::TooSlow && limit > MIN_PAGE => {
                    limit = (limit / 4).max(MIN_PAGE);
                    continue;
                }
                page => page?,
            };
            let at = page.header().map_or(0, ResponseHeader::revision);
            let cluster = page.header().map_or(0, ResponseHeader::cluster_id);
            if listed.revision == 0 {
                listed = ListedAt { revision: at, cluster };
            } else if at < listed.revision || cluster != listed.cluster {
                // The etcd that answered this page is not the one that answered the page before.
                return Err(Failure::new(Class::Revision, "another etcd answered the next page"));
            }
            for pair in page.kvs() {
                each(pair.key(), pair.value(), pair.lease());
            }
            if !page.more() {
                return Ok(listed);
            }
            match page.kvs().last() {
                Some(last) if last.key() >= from.as_slice() => {
                    from.clear();
                    from.extend_from_slice(last.key());
                    from.push(0);
                }
                // Going on would never end, or would end too early.
                _ => return Err(Failure::new(Class::Transient, "etcd announces more keys and sends none")),
            }
        }
    }

    /// One page. Halfway through the request timeout a count of the same range is asked for beside
    /// it. If that is answered, etcd is alive and the page gets [`PAGE_TIME_FACTOR`] request
    /// timeouts.
    ///
    /// # Errors
    /// [`Class::TooSlow`] where etcd answers but the page is late.
    async fn page_in_time(&self, from: &[u8], end: &[u8], at: i64, limit: i64) -> Result<GetResponse, Failure> {
        let within = self.request_timeout();
        let long = RequestLimits { total: self.core.longest() + within * (PAGE_TIME_FACTOR - 1), ..self.limits() };
        let page = self.page(from, end, at, limit, long);
        tokio::pin!(page);
        let beside = async {
            sleep(within / 2).await;
            let total = self.core.longest().saturating_sub(within / 2);
            self.count(from, end, RequestLimits { total, ..self.limits() }).await
        };
        tokio::select! {
            biased;
            page = &mut page => return page,
            counted = beside => counted?,
        };
        match page.await {
            Err(failure) if failure.class == Class::TimedOut => {
                Err(Failure::new(Class::TooSlow, "the page was late although etcd answers other requests"))
            }
            page => page,
        }
    }

    /// One page of at most `limit` keys at the revision `at`; 0 means the latest. The members of a
    /// cluster may all answer it.
    async fn page(
        &self,
        from: &[u8],
        end: &[u8],
        at: i64,
        limit: i64,
        limits: RequestLimits,
    ) -> Result<GetResponse, Failure> {
        let doing = format!("listing {}", shown_key(from));
        let options = GetOptions::new().with_range(end).with_revision(at).with_limit(limit);
        self.call(limits, &doing, |client| {
            let mut kv = client.kv_client().max_decoding_message_size(MAX_MESSAGE);
            let (from, options) = (from.to_vec(), options.clone());
            async move { kv.get(from, Some(options)).await }
        })
        .await
    }

    /// The first `limit` keys of a range without their values, as any member knows them: a
    /// serializable read, which may be stale.
    pub(crate) async fn keys(&self, start: &[u8], end: &[u8], limit: i64) -> Result<Vec<Vec<u8>>, Failure> {
        let options = GetOptions::new().with_range(end).with_limit(limit).with_keys_only().with_serializable();
        let limits = RequestLimits { late_after: self.core.longest(), ..self.limits() };
        let doing = format!("looking at {}", shown_key(start));
        let response = self.call(limits, &doing, |client| {
            let (mut kv, start, options) = (client.kv_client(), start.to_vec(), options.clone());
            async move { kv.get(start, Some(options)).await }
        });
        Ok(response.await?.kvs().iter().map(|pair| pair.key().to_vec()).collect())
    }

    /// The value of a key, as any member knows it: a serializable read, which may be stale. `None` if
    /// there is no such key.
    pub(crate) async fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        let limits = RequestLimits { late_after: self.core.longest(), ..self.limits() };
        let doing = format!("reading {}", shown_key(key));
        let response = self.call(limits, &doing, |client| {
            let (mut kv, key) = (client.kv_client().max_decoding_message_size(MAX_MESSAGE), key.to_vec());
            async move { kv.get(key, Some(GetOptions::new().with_serializable())).await }
        });
        Ok(response.await?.kvs().first().map(|pair| pair.value().to_vec()))
    }

    /// The revision of the cluster, by a linearizable read of that range. A role needs the right to
    /// read the range.
    pub(crate) async fn revision(&self, start: &[u8], end: &[u8]) -> Result<i64, Failure> {
        self.count(start, end, self.limits()).await
    }

    /// Counts the keys of a range by a linearizable read. Gives the revision: the count itself is
    /// not needed.
    async fn count(&self, start: &[u8], end: &[u8], limits: RequestLimits) -> Result<i64, Failure> {
        let options = GetOptions::new().with_range(end).with_count_only();
        let response = self
            .call(limits, "asking for the revision", |client| {
                let (mut kv, start, options) = (client.kv_client(), start.to_vec(), options.clone());
                async move { kv.get(start, Some(options)).await }
            })
            .await?;
        Ok(response.header().map_or(0, ResponseHeader::revision))
    }

    /// Limits of reads. They may be late for as long as an election takes, and wait for a
    /// connection as well.
    fn limits(&self) -> RequestLimits {
        RequestLimits { late_after: self.request_timeout() / 2, total: self.core.longest(), may_repeat: false }
    }
}
