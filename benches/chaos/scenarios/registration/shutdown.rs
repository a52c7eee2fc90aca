//! Connections of every kind at a server that shuts down.

use std::time::{Duration, Instant};

use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use test_support::{Bar, Proxy, Signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic::transport::Endpoint;

use crate::findings::Findings;
use crate::world::{Result, World};

const PATIENCE: Duration = Duration::from_secs(30);
/// How long the busy call takes.
const BUSY_MS: &str = "3000";
/// HTTP/2's preface and SETTINGS; after them nothing is answered.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The beginning of a HEADERS frame.
const HALF: &[u8] = b"\0\0\x10\x01\x04\0\0\0\x01\x82";
/// A connection without a call ends within a second of GOAWAY, which comes after SIGTERM.
const CLOSED: Bar = Bar::AtMost(1_000.0);

/// F23: SIGTERM while one connection is silent, one is half-open, and one has a call in flight.
pub(in crate::scenarios) fn run(world: &World, findings: &mut Findings) -> Result<()> {
    let server = world.server(&["f23"], &["--delay-ms", BUSY_MS, "--propagation-ms", "0"])?;
    world.block_on(async {
        let address = &*server.address;
        // Behind a network that loses everything.
        let proxy = Proxy::to(address.parse()?);
        let lost = Endpoint::try_from(proxy.endpoint())?.connect().await?;
        let kinds = [
            ("a silent connection", vec![]),
            ("a half-open connection", GREETING.to_vec()),
            ("half a call", [GREETING, HALF].concat()),
        ];
        let mut open = Vec::new();
        for (name, said) in kinds {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(&said).await?;
            open.push((name, stream));
        }
        let mut busy = GreeterClient::connect(format!("http://{address}")).await?;
        let call = tokio::spawn(async move {
            let answer = busy.say_hello(HelloRequest { name: "world".into() }).await;
            (answer.is_err(), Instant::now())
        });
        sleep(Duration::from_millis(500)).await;
        proxy.stall();
        server.process.signal(Signal::TERM);
        let began = Instant::now();
        let closed: Vec<_> = open.into_iter().map(|(name, stream)| (name, closed(stream))).collect();
        for (name, closed) in closed {
            findings.ours(&format!("{name}, closed after"), ms(closed.await? - began), "ms", CLOSED);
        }
        let (failed, answered) = call.await?;
        findings.ours("the busy call, failed", f64::from(failed), "", Bar::Equal(0.0));
        findings.ours("the busy call, answered after", ms(answered - began), "ms", None);
        let ended = server.process.wait(PATIENCE)?;
        findings.ours("the server's end after that answer", ms(answered.elapsed()), "ms", CLOSED);
        drop(lost);
        if ended.success() { Ok(()) } else { Err(server.process.failed("did not stop in good order").into()) }
    })
}

/// When the server closes it.
fn closed(mut stream: TcpStream) -> JoinHandle<Instant> {
    tokio::spawn(async move {
        drop(timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await);
        Instant::now()
    })
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
