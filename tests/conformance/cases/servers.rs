//! Servers at addresses that do not change, for a channel without etcd.

use std::convert::Infallible;

use tokio_stream::Stream;
use tonic_etcd::Instance;
use tower::discover::Change;

pub(crate) fn fixed(
    addresses: impl IntoIterator<Item = String, IntoIter: Send + 'static>,
) -> impl Stream<Item = Result<Change<String, Instance>, Infallible>> + Send + Unpin + 'static {
    let insert = |address: String| Ok(Change::Insert(address.clone(), Instance::new(address).unwrap()));
    tokio_stream::iter(addresses.into_iter().map(insert))
}
