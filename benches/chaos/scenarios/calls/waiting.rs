//! Calls that wait, for a server or for room at one: what does it cost while nothing happens?

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use test_support::{Bar, cpu_time};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::codegen::http::Uri;
use tonic_etcd::BalancedChannel;
use tower::service_fn;

use super::callers::greet;
use super::channel;
use crate::findings::Findings;
use crate::world::{Result, World};

const DOWN: usize = 1_000;
const WAITING: usize = 10_000;
/// In turns, and the best of each counts: whatever disturbs one makes it dearer.
const ROUNDS: usize = 3;
/// From when all wait.
const DOWN_FOR: Duration = Duration::from_secs(4);

const STREAMS: usize = 100;
const AT_THE_LIMIT: usize = 50_000;
const SETTLED: Duration = Duration::from_secs(2);
const QUIET: Duration = Duration::from_secs(5);
/// Longer than so many calls should ever need to begin.
const LIMIT: Duration = Duration::from_secs(60);

pub(in crate::scenarios) fn for_a_server(_world: &World, findings: &mut Findings) -> Result<()> {
    // Bound and not listening, on every address of this host: whoever connects to any of them is refused.
    let bound = TcpSocket::new_v4()?;
    bound.bind(([0, 0, 0, 0], 0).into())?;
    let port = bound.local_addr()?.port();
    let (mut many, mut one) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..ROUNDS {
        one = one.min(super::block_on(cpu_while_down(port, 1))?);
        many = many.min(super::block_on(cpu_while_down(port, WAITING))?);
    }
    findings.ours("CPU in 4 s, 1 call waiting", one, "s", None);
    findings.ours("CPU in 4 s, 10 000 calls waiting", many, "s", None);
    findings.figure("10 000 calls waiting / 1, ours", many / one, "×", Bar::AtMost(1.3));
    Ok(())
}

/// No attempt to connect ends before all calls wait: most are made in the first second.
async fn cpu_while_down(port: u16, calls: usize) -> Result<f64> {
    let (open, gate) = watch::channel(false);
    let connector = service_fn(move |uri: Uri| {
        let mut gate = gate.clone();
        async move {
            gate.wait_for(|open| *open).await.map_err(io::Error::other)?;
            TcpStream::connect((uri.host().unwrap_or_default(), uri.port_u16().unwrap_or_default())).await
        }
    });
    let addresses = (0..DOWN).map(|number| format!("127.1.{}.{}:{port}", number / 250, number % 250 + 1));
    let channel = channel::ours(BalancedChannel::builder().wait_for_ready(true).connector(connector), addresses)?;
    let mut waiting = wait(&channel, calls).await?;
    open.send(true)?;
    let cpu = cpu_over(DOWN_FOR).await;
    still_waiting(&mut waiting)?;
    Ok(cpu)
}

pub(in crate::scenarios) fn for_room(world: &World, findings: &mut Findings) -> Result<()> {
    let server = world.peer(&["--mute", "--max-streams", &STREAMS.to_string()])?;
    let cpu = super::block_on(async {
        let channel = channel::ours(BalancedChannel::builder().wait_for_ready(true), [&server.address])?;
        channel::connected(&channel, 1).await?;
        let mut waiting = wait(&channel, STREAMS + AT_THE_LIMIT).await?;
        sleep(SETTLED).await;
        let cpu = cpu_over(QUIET).await;
        still_waiting(&mut waiting)?;
        Ok(cpu)
    })?;
    findings.ours("50 000 calls at the stream limit", cpu / QUIET.as_secs_f64(), "cores", Bar::AtMost(0.01));
    Ok(())
}

/// Returns when each of so many calls waits.
async fn wait(channel: &BalancedChannel, calls: usize) -> Result<JoinSet<Option<tonic::Status>>> {
    let (mut tasks, waiting) = (JoinSet::new(), Arc::<AtomicUsize>::default());
    for _ in 0..calls {
        let (channel, waiting) = (channel.clone(), waiting.clone());
        tasks.spawn(async move {
            let mut call = pin!(greet(&channel));
            let mut begun = false;
            let ended = poll_fn(|context| {
                let poll = call.as_mut().poll(context);
                if !std::mem::replace(&mut begun, true) {
                    waiting.fetch_add(1, Ordering::Relaxed);
                }
                poll
            });
            ended.await.err()
        });
    }
    let began = Instant::now();
    while waiting.load(Ordering::Relaxed) < calls {
        if began.elapsed() > LIMIT {
            return Err(format!("{} of {calls} calls wait", waiting.load(Ordering::Relaxed)).into());
        }
        sleep(Duration::from_millis(1)).await;
    }
    Ok(tasks)
}

fn still_waiting(calls: &mut JoinSet<Option<tonic::Status>>) -> Result<()> {
    match calls.try_join_next() {
        None => Ok(()),
        Some(ended) => Err(format!("a call that was to wait has ended: {ended:?}").into()),
    }
}

/// Seconds of CPU time that this process needs in that time.
async fn cpu_over(time: Duration) -> f64 {
    let before = cpu_time();
    sleep(time).await;
    cpu_time().saturating_sub(before).as_secs_f64()
}
