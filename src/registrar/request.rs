//! One request of the lease machine, carried out.

use std::time::Duration;

use super::lease::{Action, Found, Input};
use crate::codec::Codec;
use crate::etcd::{Etcd, Failure, Patience, Stored};

/// Asks etcd for what the machine says.
pub(super) async fn carry_out(
    etcd: &Etcd,
    codec: &dyn Codec,
    action: &Action,
    asked: Duration,
    patience: Patience,
) -> Result<Input, Failure> {
    match action {
        Action::Grant { id, seconds } => {
            let seconds = etcd.grant(*id, *seconds, patience).await?;
            return Ok(Input::Granted { asked, seconds });
        }
        Action::Put { record, lease, expected: None, .. } => {
            let put = etcd.put(&record.key, &record.value, *lease, patience).await?;
            return Ok(Input::Put { revision: put.revision, again: put.again });
        }
        Action::Put { record, lease, expected: Some(expected), .. } => {
            let put = etcd.put_over(&record.key, &record.value, *lease, *expected, patience).await?;
            return Ok(put.map_or(Input::Conflict, |put| Input::Put { revision: put.revision, again: put.again }));
        }
        Action::Look { record, .. } => {
            let (revision, stored) = etcd.look(&record.key, patience).await?;
            return Ok(seen(codec, record.key.clone(), revision, stored));
        }
        Action::Delete { record, lease, .. } => {
            let was_there = etcd.delete(&record.key, *lease, patience).await?;
            return Ok(if was_there { Input::Done } else { Input::NotThere });
        }
        Action::Revoke { id } => etcd.revoke(*id, patience).await?,
        Action::Wait { .. } => {}
    }
    Ok(Input::Done)
}

/// What stands at a key, as the machine knows keys.
pub(super) fn seen(codec: &dyn Codec, key: Vec<u8>, revision: i64, stored: Option<Stored>) -> Input {
    let found = stored.map(|Stored { lease, revision, value }| {
        let instances = codec.decode(&key, &value).unwrap_or_default();
        let id = instances.first().and_then(|instance| instance.id()).map(Into::into);
        Found { lease, revision, value, id }
    });
    Input::Seen { key, revision, found }
}
