//! Children made of a few lines of shell.
#![allow(clippy::disallowed_types)] // real time is meant

use std::process::Command;
use std::time::{Duration, Instant};

use test_support::{Process, Signal};

const LONG: Duration = Duration::from_secs(10);

fn shell(script: &str) -> Process {
    Process::spawn(Command::new("sh").args(["-c", script])).unwrap()
}

#[test]
fn lines_are_found_from_the_start_or_from_where_one_was() {
    let process = shell("echo a 1; echo b; echo a 2; echo oops >&2; exit 3");
    assert_eq!(process.wait_line(|line| line.starts_with('a'), LONG).unwrap(), "a 1");
    assert_eq!(process.wait_line(|line| line.starts_with('a'), LONG).unwrap(), "a 1");
    assert_eq!(process.wait_line_from(1, |line| line.starts_with('a'), LONG).unwrap(), (2, "a 2".to_owned()));
    assert_eq!(process.wait(LONG).unwrap().code(), Some(3));
    assert_eq!(process.lines(), ["a 1", "b", "a 2"]);
    assert_eq!(process.lines_from(2), ["a 2"]);
    assert_eq!(process.errors(), ["oops"]);
}

#[test]
fn a_line_that_never_comes_is_an_error_with_the_output() {
    let process = shell("echo hello; echo no such file >&2; exit 7");
    let started = Instant::now();
    let error = process.wait_line(|line| line == "ready", LONG).unwrap_err().to_string();
    assert!(error.contains("hello") && error.contains("no such file") && error.starts_with("sh ended"), "{error}");
    assert!(started.elapsed() < LONG, "its end was noticed");

    let silent = shell("sleep 60");
    let error = silent.wait_line(|_| true, Duration::from_millis(20)).unwrap_err().to_string();
    assert!(error.contains("silent"), "{error}");
}

#[test]
fn signals_arrive_and_drop_kills() {
    let process = shell("trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done");
    process.wait_line(|line| line == "ready", LONG).unwrap();
    assert!(process.status().is_none());
    assert!(process.wait(Duration::from_millis(1)).is_err());
    process.signal(Signal::TERM);
    assert!(process.wait(LONG).unwrap().success());
    assert_eq!(process.lines(), ["ready", "bye"]);
    process.signal(Signal::TERM); // has ended: nothing happens

    let process = shell("exec sleep 60");
    let path = format!("/proc/{}", process.pid());
    drop(process);
    assert!(!std::path::Path::new(&path).exists());
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let error = Process::spawn(&mut Command::new("/no/such/program")).unwrap_err().to_string();
    assert!(error.contains("/no/such/program"), "{error}");
}
