//! One of two servers says NOT_SERVING, five times under 64 callers. Both are Go's, with grpc-go's own health service.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use test_support::{Bar, Process, Signal, go_program};
use tokio::time::sleep;
use tonic_etcd::BalancedChannel;

use super::DOCUMENT;
use crate::findings::Findings;
use crate::scenarios::calls::channel::{connected, ours};
use crate::scenarios::config::PATIENCE;
use crate::scenarios::config::callers::Callers;
use crate::world::Result;

const ROUNDS: usize = 5;
/// How long the server is in one state.
const STEP: Duration = Duration::from_millis(800);

pub(super) async fn run(findings: &mut Findings) -> Result<()> {
    let program = go_program("./health", "health-interop")?;
    let (mut stops, stays) = (Stopping::start(&program)?, Stopping::start(&program)?);
    let channel = ours(BalancedChannel::builder().service_config(DOCUMENT), [&stops.address, &stays.address])?;
    connected(&channel, 2).await?;
    let callers = Callers::start(&channel);
    let mut worst = 0.0_f64;
    for _ in 0..ROUNDS {
        sleep(STEP).await;
        worst = worst.max(stops.stop_and_go_on().await?);
        connected(&channel, 2).await?;
    }
    let (made, failed) = callers.stop().await;
    let what = "a Go server turns NOT_SERVING under 64 callers";
    let until_last = format!("{what}: until the last call begun to it, worst of {ROUNDS}");
    findings.ours(&until_last, worst, "ms", Bar::AtMost(100.0));
    findings.ours(&format!("{what}: calls that failed meanwhile"), failed as f64, "", Bar::Equal(0.0));
    findings.ours(&format!("{what}: calls that were made meanwhile"), made as f64, "", Bar::AtLeast(1_000.0));
    Ok(())
}

/// `tests/interop/go/health`: a greeter that is told by signals what its health service says.
struct Stopping {
    process: Process,
    address: String,
    /// The calls that it has had when it last said so.
    calls: u64,
}

impl Stopping {
    fn start(program: &Path) -> Result<Self> {
        let process = Process::spawn(&mut Command::new(program))?;
        let line = process.wait_line(|line| line.starts_with("listening on "), PATIENCE)?;
        Ok(Self { process, address: line.trim_start_matches("listening on ").to_owned(), calls: 0 })
    }

    /// How long after NOT_SERVING the last call began, in ms and by the server's own clock. It serves again afterwards.
    async fn stop_and_go_on(&mut self) -> Result<f64> {
        let seen = self.process.lines().len();
        self.process.signal(Signal::USR1);
        sleep(STEP).await;
        self.process.signal(Signal::USR2);
        let (_, line) = self.process.wait_line_from(seen, |line| line.starts_with("calls "), PATIENCE)?;
        eprintln!("  {line}");
        let (calls, after) = read(&line).ok_or_else(|| format!("a line that nobody can read: {line}"))?;
        if calls == self.calls {
            return Err("no call came to the server between two rounds".into());
        }
        self.calls = calls;
        Ok(after)
    }
}

/// `calls 7, the last one began 1.25 ms after NOT_SERVING`.
fn read(line: &str) -> Option<(u64, f64)> {
    let (calls, after) = line.strip_prefix("calls ")?.split_once(", the last one began ")?;
    Some((calls.parse().ok()?, after.strip_suffix(" ms after NOT_SERVING")?.parse().ok()?))
}
