//! An etcd of several members.

use std::time::{Duration, Instant};

use crate::etcd::Builder;
use crate::{Error, Etcd, Result};

const LEADER_LIMIT: Duration = Duration::from_secs(20);

/// Several etcd processes that form one cluster.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<Etcd>,
}

impl Cluster {
    /// Starts `count` members and waits until all of them are healthy, which takes 0.3 to 2 s.
    ///
    /// Their election timeout is 250 ms: with the 50 ms of a single [`Etcd`] a busy machine loses its leader
    /// now and then.
    ///
    /// # Panics
    /// Where there is no etcd, or a member does not become healthy.
    pub fn start(count: usize) -> Self {
        Self::start_with(&Etcd::builder().pace(25, 250), count)
    }

    /// As [`Cluster::start`], with these options for each member.
    ///
    /// # Panics
    /// Where there is no etcd, or a member does not become healthy.
    pub fn start_with(builder: &Builder, count: usize) -> Self {
        Self::try_start(builder, count).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Starts all members again at once, with the data that they have; does not wait for their health.
    ///
    /// # Panics
    /// When one is running.
    pub fn start_again_nowait(&self) {
        self.members.iter().for_each(Etcd::start_again_nowait);
    }

    fn try_start(builder: &Builder, count: usize) -> Result<Self> {
        if count == 0 {
            return Err(Error::new("a cluster of no members: ask for at least one"));
        }
        Ok(Self { members: builder.try_start_members(count)? })
    }

    /// Where clients connect, member by member.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Etcd::endpoint).collect()
    }

    /// The member at `index`, from 0.
    ///
    /// # Panics
    /// When there are not that many.
    pub fn member(&self, index: usize) -> &Etcd {
        &self.members[index]
    }

    /// All members.
    pub fn members(&self) -> &[Etcd] {
        &self.members
    }

    /// The index of the member that leads, as soon as there is one.
    ///
    /// # Panics
    /// When no member leads within 20 s: a majority is down.
    pub fn leader(&self) -> usize {
        let deadline = Instant::now() + LEADER_LIMIT;
        let leads = |member: &Etcd| member.metric("etcd_server_is_leader") == Some(1.0);
        loop {
            if let Some(index) = self.members.iter().position(leads) {
                return index;
            }
            assert!(Instant::now() < deadline, "no member of {:?} leads after {LEADER_LIMIT:?}", self.endpoints());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
