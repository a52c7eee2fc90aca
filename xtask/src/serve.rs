//! `cargo xtask etcd`: an etcd to try things with.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use test_support::Etcd;

use crate::error::{Error, Result, on};
use crate::interrupt::Interrupt;
use crate::tools::etcd::EtcdBinary;

pub(crate) fn run(binary: &EtcdBinary, port: Option<u16>) -> Result<ExitCode> {
    let interrupt = Interrupt::catch()?;
    // At etcd's own pace: what is tried here should behave as in production.
    let mut builder = Etcd::builder().binary(&binary.path).fast(false);
    if let Some(port) = port {
        builder = builder.port(port);
    }
    let etcd = match builder.try_start() {
        Err(_) if interrupt.came_just_now() => return Ok(ExitCode::SUCCESS),
        started => started?,
    };
    on(
        "writing to stdout",
        io::stdout().write_all(guide(&binary.version, &etcd.endpoint(), &binary.etcdctl()).as_bytes()),
    )?;
    while !interrupt.came() {
        if !etcd.is_running() && !interrupt.came_just_now() {
            return Err(Error::new(format!("etcd has ended by itself; its log:\n{}", etcd.log())));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    etcd.try_terminate(Duration::from_secs(10))?;
    eprintln!("xtask: etcd has ended, its data are removed");
    Ok(ExitCode::SUCCESS)
}

/// What to type next, ready to be copied.
fn guide(version: &str, endpoint: &str, etcdctl: &str) -> String {
    let etcdctl = format!("ETCDCTL_API=3 {etcdctl} --endpoints={endpoint}");
    format!(
        r#"etcd {version} is at {endpoint} (Ctrl-C ends it and removes its data)

A server, a client, and the service as it changes, each in a terminal of its own:
  cargo xtask example greeter_server -- --etcd {endpoint} --listen 127.0.0.1:0
  cargo xtask example greeter_client -- --etcd {endpoint}
  cargo xtask example watch_service -- --etcd {endpoint}

A server put in by hand, as gRPC naming writes it; the list; and out again:
  {etcdctl} put greeter/127.0.0.1:50051 '{{"Op":0,"Addr":"127.0.0.1:50051","Metadata":null}}'
  {etcdctl} get --prefix greeter/
  {etcdctl} del greeter/127.0.0.1:50051
"#
    )
}
