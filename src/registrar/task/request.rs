//! Sends one request of the lease machine to etcd.

use std::time::Duration;

use crate::codec::Codec;
use crate::etcd::{Class, Etcd, Failure, Put, RequestLimits, Stored};
use crate::registrar::lease::{Action, Input, KeyValue};

/// Sends the request, and returns its answer as an input of the machine.
pub(super) async fn send(
    etcd: &Etcd,
    codec: &dyn Codec,
    action: &Action,
    asked: Duration,
    timeouts: RequestLimits,
) -> Result<Input, Failure> {
    Ok(match action {
        Action::Grant { lease, seconds } => {
            Input::Granted { asked, seconds: etcd.grant(*lease, *seconds, timeouts).await? }
        }
        Action::Put { record, lease, expected, overwrites, .. } => {
            let (key, value) = (&record.key, &record.value);
            let first = match expected {
                Some(expected) => etcd.put_over(key, value, *lease, *expected, timeouts).await,
                None => etcd.put(key, value, *lease, timeouts).await,
            };
            let put = match first {
                // A comparison takes a role that may read: a role that may only write puts without one.
                Err(failure) if failure.class == Class::Denied && *overwrites && expected.is_some() => {
                    let before = failure.in_doubt;
                    let plain = etcd.put(key, value, *lease, timeouts).await;
                    plain.map(|put| Put { again: put.again || before, ..put }).map_err(|failure| {
                        let in_doubt = failure.in_doubt || before;
                        failure.with_doubt(in_doubt)
                    })
                }
                other => other,
            }?;
            match put.done {
                Some(revision) => Input::Put { revision, retried: put.again },
                None => Input::PutMismatch { retried: put.again },
            }
        }
        Action::Read { record, .. } => {
            let (revision, stored) = etcd.read_key(&record.key, timeouts).await?;
            observed(codec, record.key.clone(), revision, stored)
        }
        Action::Delete { record, lease, expected, .. } => {
            let is_deleted = etcd.delete(&record.key, *lease, *expected, timeouts).await?;
            if is_deleted { Input::Removed } else { Input::DeleteMismatch }
        }
        Action::Revoke { lease } => {
            etcd.revoke(*lease, timeouts).await?;
            Input::Removed
        }
        Action::Wait { .. } => Input::Removed,
    })
}

/// The state of a key as the machine takes it. Runs the codec, which is user code, to learn the
/// instance's id.
pub(super) fn observed(codec: &dyn Codec, key: Vec<u8>, revision: i64, stored: Option<Stored>) -> Input {
    let found = stored.map(|Stored { lease, revision, value }| {
        let instances = codec.decode(&key, &value).unwrap_or_default();
        let id = instances.first().and_then(|instance| instance.id()).map(Into::into);
        KeyValue { lease, revision, value, id }
    });
    Input::Observed { key, revision, found }
}
