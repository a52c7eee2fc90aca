//! One request of the lease machine, carried out.

use std::time::Duration;

use crate::codec::Codec;
use crate::etcd::{Class, Etcd, Failure, Put, RequestLimits, Stored};
use crate::registrar::lease::{Action, Found, Input};

/// Asks etcd for what the machine says.
pub(crate) async fn carry_out(
    etcd: &Etcd,
    codec: &dyn Codec,
    action: &Action,
    asked: Duration,
    patience: RequestLimits,
) -> Result<Input, Failure> {
    match action {
        Action::Grant { id, seconds } => {
            let seconds = etcd.grant(*id, *seconds, patience).await?;
            return Ok(Input::Granted { asked, seconds });
        }
        Action::Put { record, lease, expected, overwrites, .. } => {
            let (key, value) = (&record.key, &record.value);
            let guarded = match expected {
                Some(expected) => etcd.put_over(key, value, *lease, *expected, patience).await,
                None => etcd.put(key, value, *lease, patience).await,
            };
            let put = match guarded {
                // To compare takes a role that may read.
                Err(failure) if failure.class == Class::Denied && *overwrites && expected.is_some() => {
                    let before = failure.in_doubt;
                    let plain = etcd.put(key, value, *lease, patience).await;
                    plain.map(|put| Put { again: put.again || before, ..put }).map_err(|failure| {
                        let in_doubt = failure.in_doubt || before;
                        failure.with_doubt(in_doubt)
                    })
                }
                other => other,
            }?;
            return Ok(match put.done {
                Some(revision) => Input::Put { revision, again: put.again },
                None => Input::Conflict { again: put.again },
            });
        }
        Action::Look { record, .. } => {
            let (revision, stored) = etcd.read_key(&record.key, patience).await?;
            return Ok(seen(codec, record.key.clone(), revision, stored));
        }
        Action::Delete { record, lease, expected, .. } => {
            let is_gone = etcd.delete(&record.key, *lease, *expected, patience).await?;
            return Ok(if is_gone { Input::Done } else { Input::NotThere });
        }
        Action::Revoke { id } => etcd.revoke(*id, patience).await?,
        Action::Wait { .. } => {}
    }
    Ok(Input::Done)
}

/// What stands at a key, as the machine knows keys.
pub(crate) fn seen(codec: &dyn Codec, key: Vec<u8>, revision: i64, stored: Option<Stored>) -> Input {
    let found = stored.map(|Stored { lease, revision, value }| {
        let instances = codec.decode(&key, &value).unwrap_or_default();
        let id = instances.first().and_then(|instance| instance.id()).map(Into::into);
        Found { lease, revision, value, id }
    });
    Input::Seen { key, revision, found }
}
