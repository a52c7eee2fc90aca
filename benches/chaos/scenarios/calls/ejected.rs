//! A server that is ejected because it restarted with calls in flight: does it come back when its time is over?

use std::time::{Duration, Instant};

use test_support::Bar;
use tokio::time::{sleep, sleep_until};
use tonic_etcd::{BalancedChannel, OutlierDetection, ServerState};

use super::callers::{Callers, Kind};
use super::fleet::Fleet;
use super::worst::Worst;
use crate::findings::Findings;
use crate::peer::conduct::Conduct;
use crate::world::{Result, World};

/// About six and about twenty calls are in flight at each of the three.
const CALLERS: [usize; 2] = [18, 64];
const ANSWER: Duration = Duration::from_millis(20);
const WARM_UP: Duration = Duration::from_secs(1);
const EJECTION: Duration = Duration::from_secs(2);
/// After the ejection's time.
const BACK: Duration = Duration::from_secs(3);
const CALLS: usize = 500;
const LIMIT: Duration = Duration::from_secs(20);

pub(in crate::scenarios) fn run(_world: &World, findings: &mut Findings) -> Result<()> {
    let (mut share, mut ejected) = (Worst::least(), 0);
    for callers in CALLERS {
        let found = super::block_on(restart(callers))?;
        ejected += usize::from(found.ejected);
        share.see(found.share, &format!("{callers} callers"));
    }
    findings.ours("restarts that ejected the server, of 2", ejected as f64, "", Bar::Equal(2.0));
    let name = "calls at it 3 s after its ejection's time, 18 and 64 callers, least";
    findings.ours(name, share.tell(name), "%", Bar::AtLeast(25.0));
    Ok(())
}

struct Found {
    ejected: bool,
    share: f64,
}

async fn restart(callers: usize) -> Result<Found> {
    let mut fleet = Fleet::start(3, Conduct::well(ANSWER))?;
    let detection = OutlierDetection::default().ejection_time(EJECTION, Duration::from_secs(300));
    let channel = fleet.ours(BalancedChannel::builder().outlier_detection(detection)).await?;
    let callers = Callers::start(&channel, callers, Kind::Unary, None);
    sleep(WARM_UP).await;
    let killed = Instant::now();
    fleet.peers[0].kill();
    fleet.peers[0].start_again()?;
    let mut ejected = false;
    while killed.elapsed() < EJECTION && !ejected {
        ejected = channel.servers().iter().any(|server| server.state() == ServerState::Ejected);
        sleep(Duration::from_millis(1)).await;
    }
    sleep_until((killed + EJECTION + BACK).into()).await;
    let calls = fleet.next(CALLS, Duration::from_secs(1), LIMIT).await?;
    callers.stop().await;
    Ok(Found { ejected, share: fleet.share_of_first(calls) })
}
