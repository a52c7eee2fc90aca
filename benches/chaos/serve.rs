//! The server process: greeters that are served as `Serve` does it, and answer as they are told.

use std::collections::VecDeque;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_etcd::{EtcdOptions, Registrar, ServeControl};

/// Longer than a registration should ever take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at the lease.
const LOOK: Duration = Duration::from_millis(1);
/// No answer.
const FOREVER: Duration = Duration::from_secs(3600);

/// How a server process behaves.
#[derive(Parser)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
struct Options {
    #[arg(long, value_delimiter = ',')]
    etcd: Vec<String>,
    /// Name and password, with a colon between.
    #[arg(long)]
    user: Option<String>,
    #[arg(long, default_value_t = 15)]
    ttl: u64,
    /// Each of them gets every listener.
    #[arg(long, required = true)]
    service: Vec<String>,
    /// The first listener's.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// What the instances say of where they are.
    #[arg(long)]
    zone: Option<String>,
    /// How long each answer takes.
    #[arg(long)]
    delay_ms: Option<u64>,
    /// No answer ever comes.
    #[arg(long)]
    mute: bool,
    /// Answers every call with UNAVAILABLE, at once.
    #[arg(long)]
    out_of_order: bool,
    /// Never passes its own check.
    #[arg(long)]
    never_ready: bool,
    /// Has a check, asked so often, which panics from one SIGUSR1 to the next.
    #[arg(long)]
    check_ms: Option<u64>,
    /// Closes connections at this age, and gives them no grace.
    #[arg(long)]
    max_connection_age_ms: Option<u64>,
    /// How many addresses this process serves.
    #[arg(long, default_value_t = 1)]
    listeners: usize,
    /// How many of them it replaces in a second, each by one at a new address.
    #[arg(long)]
    replace_per_second: Option<u32>,
    #[arg(long)]
    deregister_ms: Option<u64>,
    #[arg(long)]
    propagation_ms: Option<u64>,
    #[arg(long)]
    drain_ms: Option<u64>,
    /// Says its lease with each change of it.
    #[arg(long)]
    tell_lease: bool,
}

/// Runs until SIGTERM.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn run(args: Vec<String>) -> Result<(), Box<dyn Error>> {
    let options = Options::parse_from(args);
    let log = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "off".into());
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_env_filter(log).init();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut etcd = EtcdOptions::new(&options.etcd);
    if let Some((name, password)) = options.user.as_deref().and_then(|user| user.split_once(':')) {
        etcd = etcd.user(name, password);
    }
    let registrar = Registrar::builder(etcd).ttl(Duration::from_secs(options.ttl)).connect_lazy()?;
    let first = Listening::start(&options, &registrar, options.listen, None).await?;
    let (name, any) = (first.address, SocketAddr::new(options.listen.ip(), 0));
    println!("listening {name}");
    let mut fleet = VecDeque::from([first]);
    for _ in 1..options.listeners {
        fleet.push_back(Listening::start(&options, &registrar, any, Some(name)).await?);
    }
    if !options.never_ready {
        for listening in &fleet {
            listening.control.ready(PATIENCE).await?;
        }
        println!("registered {name}");
    }
    if options.tell_lease {
        tokio::spawn(tell_lease(registrar.clone()));
    }
    tokio::select! {
        _ = terminate.recv() => {}
        replaced = replace(&options, &registrar, any, &mut fleet) => replaced?,
    }
    let stopping: Vec<_> = fleet.into_iter().map(|listening| tokio::spawn(listening.stop())).collect();
    for stopped in stopping {
        stopped.await??;
    }
    Ok(())
}

async fn tell_lease(registrar: Registrar) {
    let mut told = None;
    loop {
        let lease = registrar.lease_id();
        if lease != told {
            told = lease;
            println!("lease {}", lease.unwrap_or_default());
        }
        sleep(LOOK).await;
    }
}

/// Replaces the oldest listener again and again; without a rate, never.
async fn replace(
    options: &Options,
    registrar: &Registrar,
    any: SocketAddr,
    fleet: &mut VecDeque<Listening>,
) -> Result<(), Box<dyn Error>> {
    let name = fleet[0].address;
    let Some(rate) = options.replace_per_second else { return std::future::pending().await };
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut replaced = 0_u64;
    loop {
        ticks.tick().await;
        let new = Listening::start(options, registrar, any, Some(name)).await?;
        new.control.ready(PATIENCE).await?;
        fleet.push_back(new);
        if let Some(oldest) = fleet.pop_front() {
            tokio::spawn(oldest.stop());
        }
        replaced += 1;
        println!("replaced {replaced}");
    }
}

/// One address that is served and registered.
struct Listening {
    address: SocketAddr,
    control: ServeControl,
    server: JoinHandle<Result<(), tonic_etcd::Error>>,
}

impl Listening {
    /// All of a process answer under one name, that of its first.
    async fn start(
        options: &Options,
        registrar: &Registrar,
        listen: SocketAddr,
        name: Option<SocketAddr>,
    ) -> Result<Self, Box<dyn Error>> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let mut server = Server::builder();
        if let Some(age) = options.max_connection_age_ms {
            server = server.max_connection_age(Duration::from_millis(age));
        }
        let delay = if options.mute { Some(FOREVER) } else { options.delay_ms.map(Duration::from_millis) };
        let me = Me { name: name.unwrap_or(address).to_string().parse()?, delay, out_of_order: options.out_of_order };
        let router = server.add_service(GreeterServer::new(me));
        let mut serve = registrar.service(&*options.service[0]);
        for service in &options.service[1..] {
            serve = serve.service(&**service);
        }
        if let Some(zone) = options.zone.clone() {
            serve = serve.describe(|instance| instance.with_zone(zone));
        }
        if options.never_ready {
            serve = serve.ready_when(|| async { Err::<(), _>("as it was told") });
        }
        if let Some(ms) = options.check_ms {
            let panics = panics()?;
            serve = serve.healthy_when(Duration::from_millis(ms), move || {
                assert!(!panics.load(Ordering::Relaxed), "as it was told");
                async { Ok::<_, std::io::Error>(()) }
            });
        }
        for (ms, step) in [
            (options.deregister_ms, tonic_etcd::Serve::deregister_timeout as fn(_, _) -> _),
            (options.propagation_ms, tonic_etcd::Serve::propagation_delay),
            (options.drain_ms, tonic_etcd::Serve::drain_timeout),
        ] {
            if let Some(ms) = ms {
                serve = step(serve, Duration::from_millis(ms));
            }
        }
        let control = serve.control();
        let server = tokio::spawn(serve.serve(router, listener, std::future::pending()));
        Ok(Self { address, control, server })
    }

    async fn stop(self) -> Result<(), tonic_etcd::Error> {
        self.control.stop();
        self.server.await.unwrap_or(Ok(()))
    }
}

/// Turned by each SIGUSR1.
fn panics() -> std::io::Result<Arc<AtomicBool>> {
    let panics = Arc::new(AtomicBool::new(false));
    let (mut signals, turned) = (signal(SignalKind::user_defined1())?, panics.clone());
    tokio::spawn(async move {
        while signals.recv().await.is_some() {
            turned.fetch_xor(true, Ordering::Relaxed);
        }
    });
    Ok(panics)
}

struct Me {
    name: MetadataValue<Ascii>,
    delay: Option<Duration>,
    out_of_order: bool,
}

#[tonic::async_trait]
impl Greeter for Me {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        if self.out_of_order {
            return Err(Status::unavailable("out of order"));
        }
        if let Some(delay) = self.delay {
            sleep(delay).await;
        }
        let mut response = Response::new(HelloReply { message: format!("Hello {}", request.into_inner().name) });
        // Tells the client which of the servers answered.
        response.metadata_mut().insert("x-served-by", self.name.clone());
        Ok(response)
    }
}
