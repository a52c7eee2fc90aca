//! The server process: greeters that register themselves, answer as they are told, and leave as a good server does.

use std::collections::VecDeque;
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::Parser;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_etcd::{Instance, Registrar, Registration};

/// How long clients get to see that a server has left, before it stops: etcd tells them within milliseconds.
const PROPAGATION: Duration = Duration::from_millis(500);
/// How long calls that are still on their way may take.
const DRAIN: Duration = Duration::from_secs(10);
/// Longer than a registration should ever take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a server process behaves.
#[derive(Parser)]
struct Options {
    #[arg(long)]
    etcd: String,
    /// Each of them gets every listener.
    #[arg(long, required = true)]
    service: Vec<String>,
    /// How long each answer takes.
    #[arg(long)]
    delay_ms: Option<u64>,
    /// Answers every call with UNAVAILABLE, at once.
    #[arg(long)]
    out_of_order: bool,
    /// Closes connections at this age, and gives them no grace.
    #[arg(long)]
    max_connection_age_ms: Option<u64>,
    /// How many addresses this process serves.
    #[arg(long, default_value_t = 1)]
    listeners: usize,
    /// How many of them it replaces in a second, each by one at a new address.
    #[arg(long)]
    replace_per_second: Option<u32>,
}

/// Runs until SIGTERM, then deregisters, lets the clients see it, answers what is on its way, and stops.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn run(args: Vec<String>) -> Result<(), Box<dyn Error>> {
    let options = Options::parse_from(args);
    let mut terminate = signal(SignalKind::terminate())?;
    let registrar = Registrar::connect([options.etcd.clone()]).await?;
    let mut fleet = VecDeque::from([Listening::start(&options, &registrar, None).await?]);
    let name = fleet[0].address;
    for _ in 1..options.listeners {
        fleet.push_back(Listening::start(&options, &registrar, Some(name)).await?);
    }
    for registration in fleet.iter().flat_map(|listening| &listening.registrations) {
        registration.ready(PATIENCE).await?;
    }
    println!("registered {name}");
    tokio::select! {
        _ = terminate.recv() => {}
        replaced = replace(&options, &registrar, &mut fleet) => replaced?,
    }
    let stopping: Vec<_> = fleet.into_iter().map(|listening| tokio::spawn(listening.stop())).collect();
    for stopped in stopping {
        stopped.await?;
    }
    Ok(())
}

/// Replaces the oldest listener again and again; without a rate, never.
async fn replace(
    options: &Options,
    registrar: &Registrar,
    fleet: &mut VecDeque<Listening>,
) -> Result<(), Box<dyn Error>> {
    let name = fleet[0].address;
    let Some(rate) = options.replace_per_second else { return std::future::pending().await };
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut replaced = 0_u64;
    loop {
        ticks.tick().await;
        let new = Listening::start(options, registrar, Some(name)).await?;
        for registration in &new.registrations {
            registration.ready(PATIENCE).await?;
        }
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
    registrations: Vec<Registration>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Listening {
    /// Listens first, then registers. All of a process answer under one name, that of its first.
    async fn start(options: &Options, registrar: &Registrar, name: Option<SocketAddr>) -> Result<Self, Box<dyn Error>> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let mut server = Server::builder();
        if let Some(age) = options.max_connection_age_ms {
            server = server.max_connection_age(Duration::from_millis(age));
        }
        let me = Me {
            name: name.unwrap_or(address).to_string().parse()?,
            delay: options.delay_ms.map(Duration::from_millis),
            out_of_order: options.out_of_order,
        };
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = server.add_service(GreeterServer::new(me));
        let server = server.serve_with_incoming_shutdown(incoming, async { drop(stopped.await) });
        let server = tokio::spawn(server);
        let mut registrations = Vec::new();
        for service in &options.service {
            registrations.push(registrar.register(&**service, Instance::new(address)?).await?);
        }
        Ok(Self { address, registrations, stop, server })
    }

    async fn stop(self) {
        for registration in self.registrations {
            if let Err(error) = registration.deregister().await {
                eprintln!("{error:?}");
            }
        }
        sleep(PROPAGATION).await;
        drop(self.stop);
        if timeout(DRAIN, self.server).await.is_err() {
            eprintln!("{}: calls were still on their way after {DRAIN:?}", self.address);
        }
    }
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
