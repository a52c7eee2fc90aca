//! Many servers that let connections wait without an end, and one that lives: how soon is it called?

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use test_support::Bar;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::sleep;
use tonic_etcd::BalancedChannel;

use super::callers::{Callers, Kind};
use super::channel;
use super::fleet::Fleet;
use crate::findings::Findings;
use crate::peer::Settings;
use crate::peer::conduct::Conduct;
use crate::world::{Result, World};

const DEAD: usize = 2_000;
const CALLERS: usize = 64;
const ANSWER: Duration = Duration::from_millis(20);
/// The last of all, by its address as well.
const LIVE: Ipv4Addr = Ipv4Addr::new(127, 200, 0, 1);
/// When each connection to the live one gets its GOAWAY.
const AGE: Duration = Duration::from_millis(1_500);
/// In which it has some of them.
const RUN: Duration = Duration::from_secs(8);
const LIMIT: Duration = Duration::from_secs(40);
/// How long a connection to a full backlog is tried before it counts as full.
const FULL: Duration = Duration::from_millis(300);

pub(in crate::scenarios) fn run(_world: &World, findings: &mut Findings) -> Result<()> {
    let found = super::block_on(async {
        let backlog = Backlog::fill()?;
        let settings = Settings { ip: Some(LIVE), max_age: Some(AGE), ..Settings::default() };
        let fleet = Fleet::start_as(1, Conduct::well(ANSWER), settings)?;
        let live = fleet.addresses().into_iter().map(|address| address.to_string());
        let began = Instant::now();
        let channel = channel::ours(BalancedChannel::builder(), backlog.addresses().chain(live))?;
        let callers = Callers::start(&channel, CALLERS, Kind::Unary, None);
        let first = without_answer(&callers, 0, LIMIT).await;
        let first = began.elapsed().max(first);
        let (mut longest, end) = (Duration::ZERO, Instant::now() + RUN);
        while Instant::now() < end {
            longest = longest.max(without_answer(&callers, callers.answered(), LIMIT).await);
        }
        let found = (first, longest, fleet.accepted());
        callers.stop().await;
        Ok(found)
    })?;
    let (first, longest, accepted) = found;
    if accepted < 2 {
        return Err("the live server has closed no connection".into());
    }
    findings.ours("first answer of 2 001 servers", first.as_secs_f64() * 1e3, "ms", Bar::AtMost(1_000.0));
    let name = "longest time without an answer, with a GOAWAY every 1.5 s";
    findings.ours(name, longest.as_secs_f64() * 1e3, "ms", Bar::AtMost(1_000.0));
    findings.ours("connections that the live one accepted", accepted as f64, "", None);
    Ok(())
}

/// How long it takes until more calls than so many are answered.
async fn without_answer(callers: &Callers, answered: u64, limit: Duration) -> Duration {
    let began = Instant::now();
    while callers.answered() <= answered && began.elapsed() < limit {
        sleep(Duration::from_millis(2)).await;
    }
    began.elapsed()
}

/// One listener on every address of this host, whose backlog is full.
struct Backlog {
    address: SocketAddr,
    _listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl Backlog {
    fn fill() -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::UNSPECIFIED, 0).into())?;
        let listener = socket.listen(1)?;
        let address = listener.local_addr()?;
        let (mut waiting, one) = (Vec::new(), (Ipv4Addr::LOCALHOST, address.port()).into());
        while let Ok(stream) = TcpStream::connect_timeout(&one, FULL) {
            waiting.push(stream);
        }
        Ok(Self { address, _listener: listener, _waiting: waiting })
    }

    fn addresses(&self) -> impl Iterator<Item = String> {
        let port = self.address.port();
        (0..DEAD).map(move |number| format!("127.2.{}.{}:{port}", number / 250, number % 250 + 1))
    }
}
