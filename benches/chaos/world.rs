//! The processes of a scenario: a real etcd, servers, and one client at a time.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use etcd_client::{Client as EtcdClient, GetOptions, GetResponse, ResponseHeader};
use test_support::{Etcd, Process, Signal};
use tokio::runtime::Runtime;

pub(crate) use crate::call::channel::Side;
use crate::outcome::Outcome;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Longer than any step of a process should ever take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What all scenarios share; each has services of its own in it.
pub(crate) struct World {
    etcd: Etcd,
    runtime: Runtime,
    admin: EtcdClient,
    program: PathBuf,
}

impl World {
    pub(crate) fn start() -> Result<Self> {
        let etcd = Etcd::builder().try_start()?;
        let runtime = Runtime::new()?;
        let admin = runtime.block_on(EtcdClient::connect([etcd.endpoint()], None))?;
        Ok(Self { etcd, runtime, admin, program: env::current_exe()? })
    }

    pub(crate) fn etcd_version(&self) -> String {
        self.etcd.version()
    }

    /// Starts servers of these services, and waits until they are registered.
    pub(crate) fn servers(&self, count: usize, services: &[&str], args: &[&str]) -> Result<Vec<Server>> {
        let start = |_| {
            let mut command = self.command("serve");
            command.args(services.iter().flat_map(|service| ["--service", service])).args(args);
            Process::spawn(&mut command)
        };
        let processes: Vec<_> = (0..count).map(start).collect::<std::result::Result<_, _>>()?;
        processes.into_iter().map(Server::registered).collect()
    }

    pub(crate) fn server(&self, services: &[&str], args: &[&str]) -> Result<Server> {
        Ok(self.servers(1, services, args)?.remove(0))
    }

    /// Starts a client, and waits until it begins to call.
    pub(crate) fn client(&self, side: Side, service: &str, args: &[&str]) -> Result<Client> {
        self.client_of(&self.etcd.endpoint(), side, service, args)
    }

    /// As [`World::client`], in an etcd of its own.
    pub(crate) fn client_of(&self, etcd: &str, side: Side, service: &str, args: &[&str]) -> Result<Client> {
        let client = self.process("call", etcd, &[&["--channel", side.name(), "--service", service], args].concat())?;
        client.wait_line(|line| line == "began", PATIENCE)?;
        Ok(Client { process: client, began: Instant::now() })
    }

    /// A client's whole run.
    pub(crate) fn run(&self, side: Side, service: &str, args: &[&str]) -> Result<Outcome> {
        self.client(side, service, args)?.outcome()
    }

    /// Starts a client that does something else than to call all the time.
    pub(crate) fn tool(&self, side: Side, service: &str, args: &[&str]) -> Result<Process> {
        let mut command = self.command("call");
        Ok(Process::spawn(command.args(["--channel", side.name(), "--service", service]).args(args))?)
    }

    /// Puts an address into etcd, whether anybody answers there or not.
    pub(crate) fn put(&self, service: &str, address: &str) -> Result<()> {
        let mut client = self.admin.kv_client();
        self.runtime.block_on(client.put(format!("{service}/{address}"), naming(address), None))?;
        Ok(())
    }

    /// As [`World::put`], in an etcd of its own.
    pub(crate) fn put_into(&self, etcd: &Etcd, service: &str, address: &str) -> Result<()> {
        let put = async {
            let client = EtcdClient::connect([etcd.endpoint()], None).await?;
            client.kv_client().put(format!("{service}/{address}"), naming(address), None).await
        };
        self.runtime.block_on(put)?;
        Ok(())
    }

    /// Starts this program in a role, in an etcd of its own.
    pub(crate) fn process(&self, role: &str, etcd: &str, args: &[&str]) -> Result<Process> {
        let mut command = Command::new(&self.program);
        // What it logs is shown where something goes wrong.
        command.env("RUST_LOG", "tonic_etcd=debug");
        Ok(Process::spawn(command.args([role, "--etcd", etcd]).args(args))?)
    }

    /// Starts a peer in a process of its own, and waits for its address; etcd knows nothing of it.
    pub(crate) fn peer(&self, args: &[&str]) -> Result<Server> {
        let process = Process::spawn(Command::new(&self.program).arg("peer").args(args))?;
        let line = process.wait_line(|line| line.starts_with("listening "), PATIENCE)?;
        Ok(Server { address: line.trim_start_matches("listening ").to_owned(), process })
    }

    fn command(&self, role: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args([role, "--etcd", &self.etcd.endpoint()]);
        command
    }

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// How many keys there are below a prefix of an etcd.
    pub(crate) fn count(&self, etcd: &Etcd, prefix: &str) -> Result<usize> {
        let options = GetOptions::new().with_prefix().with_count_only();
        Ok(self.get(etcd, prefix, options)?.count() as usize)
    }

    /// The revision of an etcd.
    pub(crate) fn revision(&self, etcd: &Etcd) -> Result<i64> {
        Ok(self.get(etcd, "x", GetOptions::new())?.header().map_or(0, ResponseHeader::revision))
    }

    fn get(&self, etcd: &Etcd, key: &str, options: GetOptions) -> Result<GetResponse> {
        let get =
            async { EtcdClient::connect([etcd.endpoint()], None).await?.kv_client().get(key, Some(options)).await };
        Ok(self.runtime.block_on(get)?)
    }
}

/// A server process; killed when it is dropped.
pub(crate) struct Server {
    pub(crate) process: Process,
    /// The first that it serves.
    pub(crate) address: String,
}

impl Server {
    /// Waits until it is registered.
    pub(crate) fn registered(process: Process) -> Result<Self> {
        let line = process.wait_line(|line| line.starts_with("registered "), PATIENCE)?;
        let address = line.trim_start_matches("registered ").to_owned();
        Ok(Self { process, address })
    }

    /// Ends it in good order.
    pub(crate) fn stop(self) -> Result<()> {
        self.process.signal(Signal::TERM);
        if self.process.wait(PATIENCE)?.success() {
            Ok(())
        } else {
            Err(self.process.failed("did not stop in good order").into())
        }
    }
}

/// A client process that calls; killed when it is dropped.
pub(crate) struct Client {
    process: Process,
    began: Instant,
}

impl Client {
    /// How long it has been calling.
    pub(crate) fn elapsed_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// Waits until it has been calling for so long.
    pub(crate) fn sleep_until(&self, ms: u64) {
        thread::sleep((self.began + Duration::from_millis(ms)).saturating_duration_since(Instant::now()));
    }

    /// How long it had been calling at that time.
    pub(crate) fn ms_at(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.began).as_millis() as u64
    }

    /// Ends its calls.
    pub(crate) fn stop(self) -> Result<Outcome> {
        self.process.signal(Signal::TERM);
        self.outcome()
    }

    /// Waits for its end.
    pub(crate) fn outcome(self) -> Result<Outcome> {
        let line = self.process.wait_line(|line| line.starts_with("outcome "), 2 * PATIENCE)?;
        let errors = self.process.errors();
        for error in errors.iter().take(5) {
            eprintln!("  client: {error}");
        }
        Ok(serde_json::from_str(line.trim_start_matches("outcome "))?)
    }
}

/// etcd's gRPC naming of an address.
pub(crate) fn naming(address: &str) -> String {
    format!(r#"{{"Op":0,"Addr":"{address}","Metadata":null}}"#)
}
