//! Calls that are in flight while something is done to one beside them.

use std::time::{Duration, Instant};

use greeter_proto::Channel;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::Status;

use super::callers::{Kind, call, greet};
use crate::peer::log::Arrivals;
use crate::world::Result;

pub(super) const COMPANY: usize = 32;
/// How long calls may take to their server, before they must have failed.
const REACH: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(10);

pub(super) struct Company(JoinSet<std::result::Result<(), Status>>);

impl Company {
    /// Waits until a call is answered, makes them, and returns when all have reached their server; or have failed before.
    pub(super) async fn start(channel: &impl Channel, arrivals: &Arrivals, kind: Kind) -> Result<Self> {
        answered(channel).await?;
        let (before, began) = (arrivals.count(), Instant::now());
        let mut calls = JoinSet::new();
        for _ in 0..COMPANY {
            let channel = channel.clone();
            calls.spawn(async move { call(&channel, kind).await });
        }
        while arrivals.count() < before + COMPANY {
            if began.elapsed() > REACH {
                break;
            }
            sleep(Duration::from_millis(1)).await;
        }
        Ok(Self(calls))
    }

    /// How many of them failed, at their end.
    pub(super) async fn failed(self) -> usize {
        let failed = self.0.join_all().await.into_iter().filter_map(std::result::Result::err);
        let failed: Vec<_> = failed.collect();
        if let Some(status) = failed.first() {
            eprintln!("  {} calls beside: {:?}, {:.200}", failed.len(), status.code(), status.message());
        }
        failed.len()
    }
}

/// Calls until one is answered: what was broken before is to be whole again.
pub(super) async fn answered(channel: &impl Channel) -> Result<()> {
    let began = Instant::now();
    loop {
        match timeout(LIMIT, greet(channel)).await {
            Ok(Ok(())) => return Ok(()),
            ended if began.elapsed() > LIMIT => return Err(format!("no call is answered, at last: {ended:?}").into()),
            _ => sleep(Duration::from_millis(10)).await,
        }
    }
}
