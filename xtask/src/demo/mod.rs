//! `cargo xtask demo`: a fleet at work, for fifteen seconds.

mod fleet;
mod output;
mod screen;

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use crate::cargo;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::tools::Tools;
use crate::workspace::Workspace;
use fleet::{Fleet, State};
use screen::Screen;

const JOIN: Duration = Duration::from_secs(5);
const KILL: Duration = Duration::from_secs(8);
const LEAVE: Duration = Duration::from_secs(11);
const END: Duration = Duration::from_secs(15);
/// Within which all is over, come what may.
const LIMIT: Duration = Duration::from_secs(28);
const TICK: Duration = Duration::from_millis(100);
const SERVERS: usize = 3;

pub(crate) fn run(workspace: &Workspace, tools: &Tools) -> Result<ExitCode> {
    eprintln!("xtask: building the examples (cargo build --release --examples)");
    cargo::build_examples(workspace, tools)?;
    let interrupt = Interrupt::catch()?;
    let mut screen = Screen::new();
    match play(workspace, tools, &interrupt, &mut screen) {
        Err(_) if interrupt.came_just_now() => {
            eprintln!("xtask: interrupted; all processes have ended");
            Ok(ExitCode::from(130))
        }
        result => result,
    }
}

/// The whole script. On an error, whatever runs is killed as the fleet goes out of scope.
fn play(workspace: &Workspace, tools: &Tools, interrupt: &Interrupt, screen: &mut Screen) -> Result<ExitCode> {
    let mut fleet = Fleet::start(workspace, tools, Instant::now() + LIMIT)?;
    screen.event(&format!("etcd {} is at {}", tools.etcd.version, fleet.etcd_endpoint()))?;
    for _ in 0..SERVERS {
        let server = fleet.add_server()?;
        screen.event(&format!("server {server} is registered"))?;
    }
    fleet.start_client()?;
    screen.event("the client calls")?;

    let start = Instant::now();
    let (mut joined, mut killed, mut leaving) = (false, false, None);
    while start.elapsed() < END {
        if interrupt.came() {
            return Err(Error::new("interrupted"));
        }
        for failure in fleet.tick()? {
            screen.event(&failure)?;
        }
        if !joined && start.elapsed() >= JOIN {
            joined = true;
            let server = fleet.add_server()?;
            screen.event(&format!("server {server} joins"))?;
        }
        if !killed && start.elapsed() >= KILL {
            killed = true;
            fleet.kill(1);
            screen.event(&format!(
                "server {} is killed (SIGKILL), and etcd does not know it yet",
                fleet.servers()[1].address
            ))?;
        }
        if leaving.is_none() && start.elapsed() >= LEAVE {
            fleet.ask_to_leave(0);
            leaving = Some(State::Leaving);
            screen.event(&format!("server {} is asked to leave (SIGTERM)", fleet.servers()[0].address))?;
        }
        if leaving == Some(State::Leaving) && fleet.servers()[0].state == State::Left {
            leaving = Some(State::Left);
            screen
                .event(&format!("server {} has left: deregistered, its calls finished", fleet.servers()[0].address))?;
        }
        screen.show(&fleet)?;
        thread::sleep(TICK);
    }
    finish(fleet, screen)
}

fn finish(mut fleet: Fleet, screen: &mut Screen) -> Result<ExitCode> {
    let (total, failures) = fleet.end_client()?;
    for failure in failures {
        screen.event(&failure)?;
    }
    screen.event("the client has ended")?;
    fleet.end_servers()?;
    screen.event("all other servers have deregistered and stopped")?;
    fleet.end_etcd()?;
    screen.event("etcd has ended")?;
    screen.close(&fleet)?;

    let servers = fleet.servers().iter().filter(|server| server.calls > 0).count();
    let wanted = SERVERS + 1;
    screen::line(&format!("demo: calls={} failed={} servers={servers}", total.calls, total.failed))?;
    if total.failed == 0 && total.calls > 0 && servers == wanted {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Error::new(format!(
        "the demo did not go as it should: {} of {} calls failed, {servers} of {wanted} servers answered",
        total.failed, total.calls
    )))
}
