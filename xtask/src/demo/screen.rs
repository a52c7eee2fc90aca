//! The demo on the screen: a table redrawn in place, or plain lines where there is no terminal.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use super::fleet::{Fleet, Server, State};
use crate::error::{Result, on};

const REDRAW: Duration = Duration::from_millis(200);
const PLAIN: Duration = Duration::from_secs(1);
/// Events that stay below the table.
const EVENTS: usize = 10;
const BAR_WIDTH: u64 = 24;

pub(crate) struct Screen {
    start: Instant,
    live: bool,
    shown: Option<Instant>,
    /// Lines of the last table, to be drawn over.
    drawn: usize,
    events: Vec<String>,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let live = io::stdout().is_terminal();
        Self { start: Instant::now(), live, shown: None, drawn: 0, events: Vec::new() }
    }

    /// Something happened: a line of its own, or one below the table.
    pub(crate) fn event(&mut self, text: &str) -> Result<()> {
        let event = format!("{:5.1} s  {text}", self.start.elapsed().as_secs_f64());
        if self.live {
            self.events.push(event);
            self.shown = None; // to be seen at once
            Ok(())
        } else {
            line(&event)
        }
    }

    /// The present state, not more often than is good to read.
    pub(crate) fn show(&mut self, fleet: &Fleet) -> Result<()> {
        let pause = if self.live { REDRAW } else { PLAIN };
        if self.shown.is_some_and(|shown| shown.elapsed() < pause) {
            return Ok(());
        }
        self.shown = Some(Instant::now());
        if self.live { self.redraw(fleet) } else { line(&self.summary(fleet)) }
    }

    /// The state at the end; in a terminal the table stays.
    pub(crate) fn close(&mut self, fleet: &Fleet) -> Result<()> {
        if self.live { self.redraw(fleet) } else { Ok(()) }
    }

    fn summary(&self, fleet: &Fleet) -> String {
        let (seconds, total) = (self.start.elapsed().as_secs_f64(), fleet.counted());
        let mut text = format!("{seconds:5.1} s  calls {:5}  failed {}", total.calls, total.failed);
        for server in fleet.servers().iter().filter(|server| !matches!(server.state, State::Left | State::Killed)) {
            let _ = write!(text, "  :{} {}/s", server.address.port(), server.per_second()); // a String takes it all
        }
        text
    }

    fn redraw(&mut self, fleet: &Fleet) -> Result<()> {
        let (width, height) = size();
        let mut lines = table(fleet);
        let room = height.saturating_sub(lines.len() + 2).min(EVENTS);
        lines.extend_from_slice(&self.events[self.events.len().saturating_sub(room)..]);
        let up = if self.drawn > 0 { format!("\x1b[{}A", self.drawn) } else { String::new() };
        // A line that wrapped would be two, and the next table would be drawn too low.
        let text = lines.iter().fold(String::new(), |text, line| {
            text + &line.chars().take(width.saturating_sub(1)).collect::<String>() + "\n"
        });
        self.drawn = lines.len();
        let mut out = io::stdout().lock();
        on("writing to stdout", write!(out, "{up}\r\x1b[J{text}").and_then(|()| out.flush()))
    }
}

pub(crate) fn line(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    on("writing to stdout", writeln!(out, "{text}").and_then(|()| out.flush()))
}

fn table(fleet: &Fleet) -> Vec<String> {
    let most = fleet.servers().iter().map(Server::per_second).max().unwrap_or(0);
    let row = |server: &Server| {
        let state = match server.state {
            State::Serving => "serving",
            State::Leaving => "leaving",
            State::Left => "left",
            State::Killed => "killed",
        };
        let (address, calls, rate) = (server.address.to_string(), server.calls, server.per_second());
        format!("  {address:<21}  {state:<8} {calls:>7} {rate:>8}  {}", bar(rate, most)).trim_end().to_owned()
    };
    let total = fleet.counted();
    let rate: u64 = fleet.servers().iter().map(Server::per_second).sum();
    let header = format!("  {:<21}  {:<8} {:>7} {:>8}", "server", "state", "calls", "calls/s");
    let footer = format!("  {:<21}  {:<8} {:>7} {rate:>8}  failed: {}", "all", "", total.calls, total.failed);
    let rows = fleet.servers().iter().map(row);
    std::iter::once(header).chain(rows).chain([footer, String::new()]).collect()
}

fn bar(rate: u64, most: u64) -> String {
    "█".repeat((rate * BAR_WIDTH).div_ceil(most.max(1)) as usize)
}

/// Columns and rows of the terminal.
fn size() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
    size.map_or((80, 24), |size| (size.ws_col.into(), size.ws_row.into()))
}

#[cfg(test)]
mod tests {
    use super::bar;

    #[test]
    fn bars_are_relative_to_the_busiest() {
        assert_eq!(bar(100, 100).chars().count(), 24);
        assert_eq!(bar(50, 100).chars().count(), 12);
        assert_eq!(bar(1, 1000).chars().count(), 1);
        assert_eq!(bar(0, 0), "");
    }
}
