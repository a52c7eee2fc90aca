//! F61: an etcd whose quota is used up: who wants out is out, and the others stay.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{Client, DeleteOptions, GetOptions, KeyValue};
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use test_support::{Bar, Etcd};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::sleep;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_etcd::{Instance, Registrar, Registration};

use crate::findings::Findings;
use crate::world::{Result, World};

const PATIENCE: Duration = Duration::from_secs(10);
const TTL: Duration = Duration::from_secs(3);
const BAR: Bar = Bar::AtMost(1_000.0);
/// How often the server's own check is asked.
const CHECKED: Duration = Duration::from_millis(100);

/// How one of four wants out.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Pause,
    SetServing,
    Check,
    Deregister,
}

struct Quiet;

#[tonic::async_trait]
impl Greeter for Quiet {
    async fn say_hello(&self, _: Request<HelloRequest>) -> std::result::Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply::default()))
    }
}

pub(in crate::scenarios) fn run(world: &World, findings: &mut Findings) -> Result<()> {
    world.block_on(async {
        for deed in [Deed::Pause, Deed::SetServing, Deed::Check, Deed::Deregister] {
            let etcd = Etcd::builder().arg("--quota-backend-bytes=2097152").start();
            one_of_four(&etcd, deed, findings).await?;
        }
        Ok(())
    })
}

async fn one_of_four(etcd: &Etcd, deed: Deed, findings: &mut Findings) -> Result<()> {
    let client = Client::connect([etcd.endpoint()], None).await?;
    let registrar = Registrar::builder([etcd.endpoint()]).ttl(TTL).connect_lazy()?;
    let mut others = Vec::new();
    for port in 1..=3 {
        others.push(registered(&registrar, &format!("h:{port}")).await?);
    }
    let lease = registrar.lease_id();
    let took = match deed {
        Deed::Check => {
            let is_well = Arc::new(AtomicBool::new(true));
            let asked = is_well.clone();
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let key = format!("kept/{}", listener.local_addr()?);
            let serve = registrar.service("kept").healthy_when(CHECKED, move || {
                let is_well = asked.load(Ordering::SeqCst);
                async move { if is_well { Ok(()) } else { Err("not well") } }
            });
            let control = serve.control();
            let (stop, stopped) = oneshot::channel::<()>();
            let router = Server::builder().add_service(GreeterServer::new(Quiet));
            let task = tokio::spawn(serve.serve(router, listener, async { drop(stopped.await) }));
            control.ready(PATIENCE).await?;
            fill(&client).await?;
            is_well.store(false, Ordering::SeqCst);
            let took = gone(&client, &key).await?;
            drop(stop);
            task.await??;
            took
        }
        Deed::Pause | Deed::SetServing | Deed::Deregister => {
            let fourth = registered(&registrar, "h:4").await?;
            fill(&client).await?;
            let began = Instant::now();
            match deed {
                Deed::Pause => fourth.pause(),
                Deed::SetServing => fourth.set_serving(false),
                _ => fourth.deregister().await?,
            }
            gone(&client, "kept/h:4").await?;
            began.elapsed()
        }
    };
    let form = match deed {
        Deed::Pause => "pause",
        Deed::SetServing => "set_serving(false)",
        Deed::Check => "a failing check",
        Deed::Deregister => "deregister",
    };
    findings.ours(&format!("{form}: the key is gone after"), took.as_secs_f64() * 1e3, "ms", BAR);
    // Longer than a lease lives: it is still renewed.
    sleep(TTL * 2).await;
    let stand = others.iter().filter(|other| other.is_registered()).count();
    findings.ours(&format!("{form}: others that stand"), stand as f64, "", Bar::Equal(3.0));
    let there = client.kv_client().get("kept/", Some(GetOptions::new().with_prefix())).await?;
    let under = there.kvs().iter().filter(|pair| Some(KeyValue::lease(pair)) == lease).count();
    findings.ours(&format!("{form}: keys under the lease that they had"), under as f64, "", Bar::Equal(3.0));
    Ok(())
}

async fn registered(registrar: &Registrar, address: &str) -> Result<Registration> {
    let registration = registrar.register("kept", Instance::new(address)?)?;
    registration.ready(PATIENCE).await?;
    Ok(registration)
}

/// Puts until etcd says that it is full.
async fn fill(client: &Client) -> Result<()> {
    let value = vec![b'x'; 256 * 1024];
    for number in 0..1_000 {
        match client.kv_client().put(format!("fill/{number}"), value.clone(), None).await {
            Err(error) if error.to_string().contains("database space exceeded") => return Ok(()),
            result => result?,
        };
    }
    client.kv_client().delete("fill/", Some(DeleteOptions::new().with_prefix())).await?;
    Err("etcd does not get full".into())
}

/// How long until the key is gone.
async fn gone(client: &Client, key: &str) -> Result<Duration> {
    let began = Instant::now();
    while !client.kv_client().get(key, None).await?.kvs().is_empty() {
        if began.elapsed() > PATIENCE {
            return Ok(PATIENCE);
        }
        sleep(Duration::from_millis(5)).await;
    }
    Ok(began.elapsed())
}
