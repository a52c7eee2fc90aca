//! A peer as a process of its own, which can be stopped and go on.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tokio::time::sleep;

use super::conduct::{Conduct, Fault};
use super::{Peer, Settings};

/// Between two looks at the connections.
const LOOK: Duration = Duration::from_millis(20);

/// How a peer behaves.
#[derive(Parser)]
struct Options {
    /// No answer ever comes.
    #[arg(long)]
    mute: bool,
    /// How long each answer takes.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    #[arg(long)]
    max_streams: Option<u32>,
}

/// Says its address and how many connections it has accepted, until it is killed.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn run(args: Vec<String>) -> Result<(), Box<dyn Error>> {
    let options = Options::parse_from(args);
    let well = Conduct::well(Duration::from_millis(options.delay_ms));
    let conduct = if options.mute { well.but(Fault::Silence) } else { well };
    let settings = Settings { max_streams: options.max_streams, ..Settings::default() };
    let peer = Peer::start(0, conduct, Arc::default(), settings)?;
    println!("listening {}", peer.address);
    let mut told = 0;
    loop {
        let accepted = peer.accepted();
        if accepted > told {
            told = accepted;
            println!("accepted {accepted}");
        }
        sleep(LOOK).await;
    }
}
