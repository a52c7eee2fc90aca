//! The command line and its help.

#![allow(clippy::doc_markdown)] // these doc comments are read in a terminal

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The project's own commands.
///
/// Nothing needs to be installed but Rust: protoc is taken from PROTOC, PATH or a crate, etcd from ETCD_BIN, PATH,
/// PyPI (x86-64 Linux) or a build with Go. What is fetched or built stays in target/tools; `cargo clean` removes it.
#[derive(Parser)]
#[command(name = "xtask", bin_name = "cargo xtask", disable_version_flag = true)]
#[command(
    after_help = "Start here: `cargo xtask demo` shows a fleet at work; its first build takes some minutes, the show a quarter of one."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show a fleet at work: etcd, three servers, a client; a fourth joins, one is killed, one leaves, no call fails
    ///
    /// Builds the examples, then runs greeter_server and greeter_client for fifteen seconds and shows the calls that
    /// each server answers. In a terminal the table is redrawn in place, elsewhere it is plain lines. The last line is
    /// `demo: calls=N failed=N servers=N`; the exit code is 0 only when no call failed, all four servers answered and
    /// every process that was not killed left cleanly.
    Demo {
        #[command(flatten)]
        etcd: EtcdArgs,
    },
    /// Run all tests, against a real etcd
    ///
    /// Runs `cargo test --workspace` with PROTOC and ETCD_BIN set. What stands after `--` goes to cargo:
    ///
    ///   cargo xtask test -- --test behaviour        one test target
    ///   cargo xtask test -- lease                   tests whose name contains `lease`
    ///   cargo xtask test -- lease -- --nocapture    the same, with their output
    #[command(verbatim_doc_comment)]
    Test {
        #[command(flatten)]
        etcd: EtcdArgs,
        /// Also test with another language's servers and clients (needs its toolchain on PATH)
        #[arg(long, value_name = "LANGUAGE")]
        interop: Option<Interop>,
        /// Arguments of `cargo test`
        #[arg(last = true)]
        args: Vec<OsString>,
    },
    /// Run one benchmark and hold its numbers against their bars
    ///
    /// Runs `cargo bench --bench NAME` with PROTOC and ETCD_BIN set. Only the result is on stdout; the exit code is
    /// the benchmark's: 0 when every bar holds. benches/README.md says what each measures, and names the parts.
    ///
    ///   cargo xtask bench growth                      all parts of one benchmark
    ///   cargo xtask bench call -- targets latency     some parts of it
    #[command(verbatim_doc_comment)]
    Bench {
        /// call, discovery, growth or metrics
        name: String,
        #[command(flatten)]
        etcd: EtcdArgs,
        /// Print the result as a JSON list of {"name", "value", "unit", "bar", "holds"}
        #[arg(long)]
        json: bool,
        /// Arguments of the benchmark: the parts of `call` or `growth` to run [default: all]
        #[arg(last = true)]
        args: Vec<OsString>,
    },
    /// Kill, freeze, slow down, restart and replace servers and their etcd, and count what callers see of it
    ///
    /// Starts a real etcd, server processes and one client process at a time, for this crate's channel and for tonic's
    /// own. Takes some minutes; the exit code is 0 only when every bar holds.
    ///
    ///   cargo xtask chaos --list          which scenarios there are
    ///   cargo xtask chaos kill freeze     two of them
    ///   cargo xtask chaos registration    all of a group
    #[command(verbatim_doc_comment)]
    Chaos {
        /// Scenarios or groups of them [default: all]
        names: Vec<String>,
        /// Only say which scenarios there are
        #[arg(long)]
        list: bool,
        #[command(flatten)]
        etcd: EtcdArgs,
        /// Print the result as a JSON list of {"name", "value", "unit", "bar", "holds"}
        #[arg(long)]
        json: bool,
        /// Draw answered and failed calls over time into this file
        #[arg(long, value_name = "PATH")]
        svg: Option<PathBuf>,
    },
    /// Run an etcd to try things with, until Ctrl-C; prints what to type next
    ///
    /// Its data lie in a temporary folder that is removed when it ends.
    Etcd {
        #[command(flatten)]
        etcd: EtcdArgs,
        /// The port of 127.0.0.1 for clients [default: a free one]
        #[arg(long)]
        port: Option<u16>,
    },
    /// Run an example, with the tools that building it takes
    ///
    ///   cargo xtask example greeter_server -- --etcd http://127.0.0.1:2379
    ///   cargo xtask example observability -- --etcd http://127.0.0.1:2379
    #[command(verbatim_doc_comment)]
    Example {
        /// A file of examples/, without .rs, or a folder of it
        name: String,
        #[command(flatten)]
        etcd: EtcdArgs,
        /// Build it optimised
        #[arg(long)]
        release: bool,
        /// Arguments of the example
        #[arg(last = true)]
        args: Vec<OsString>,
    },
    /// Pack the crate and its adapter for metrics, and use the packages as README says: a project of one's own, built and run
    ///
    /// Unpacks what `cargo package` makes, writes the files that README.md shows, builds them against it, and runs the
    /// server and the client with a real etcd. Compiles a project with the adapter. Everything lies in target/package.
    Package {
        #[command(flatten)]
        etcd: EtcdArgs,
    },
    /// Run the fuzz targets with libFuzzer, and count how often each was executed
    ///
    /// Builds cargo-fuzz into target/tools on first use, and the targets in fuzz/ with it, on this toolchain. Needs a C++ compiler.
    /// Fails where a target finds a fault, or is executed fewer than 1,000 times. What is found lies in target/fuzz.
    ///
    ///   cargo xtask fuzz                          each target for 10 s
    ///   cargo xtask fuzz 600 watch_machine        one of them for ten minutes
    #[command(verbatim_doc_comment)]
    Fuzz {
        /// How long each target runs, in seconds
        #[arg(default_value_t = 10)]
        seconds: u64,
        /// Targets: files of fuzz/fuzz_targets/, without .rs [default: all]
        targets: Vec<String>,
    },
    /// Hold the public API against the list of other crates whose types may stand in it
    ///
    /// Builds cargo-check-external-types into target/tools on first use. It reads one format of rustdoc's JSON, that of
    /// Rust 1.95; where rustdoc writes another, this fails unless CI_SKIP_EXTERNAL_TYPES is set.
    ExternalTypes,
    /// Hold the locked dependencies against the oldest Rust that is promised, and check with it where it is installed
    Msrv,
    /// Print PROTOC and ETCD_BIN for a shell: eval "$(cargo xtask env)"
    ///
    /// After that, plain cargo commands (`cargo test`, `cargo clippy`, an editor started from that shell) find
    /// the tools as well.
    Env {
        #[command(flatten)]
        etcd: EtcdArgs,
    },
}

#[derive(Args)]
pub(crate) struct EtcdArgs {
    /// Build and use this etcd release (needs Go) [default: ETCD_BIN, PATH, or 3.5.1 from PyPI]
    #[arg(long, value_name = "RELEASE")]
    pub(crate) etcd: Option<Release>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Release {
    /// 3.5.32
    #[value(name = "3.5")]
    V3_5,
    /// 3.6.16
    #[value(name = "3.6")]
    V3_6,
    /// 3.7.3
    #[value(name = "3.7")]
    V3_7,
    /// The newest release that the Go module proxy knows
    Newest,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Interop {
    /// grpc-go with etcd's own Go client
    Go,
}
