//! A member that greets, and ends each connection at its first request; later it is well.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use tonic_etcd::{Instance, Registrar, Resolver};

use crate::support::{PATIENCE, World, until};

struct Weak {
    endpoint: String,
    is_well: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
}

impl Weak {
    fn before(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (is_well, connections) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (well, counted) = (is_well.clone(), connections.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                counted.fetch_add(1, Ordering::Relaxed);
                let well = well.load(Ordering::Relaxed);
                thread::spawn(move || if well { pass(stream, target) } else { greet(stream) });
            }
        });
        Self { endpoint, is_well, connections }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

fn greet(mut stream: TcpStream) {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let (mut bytes, mut all) = ([0; 4096], 0);
    let _ = stream.write_all(&SETTINGS);
    // The preface, SETTINGS and what follows them: it goes at the first request.
    while all < 150 {
        match stream.read(&mut bytes) {
            Ok(0) | Err(_) => return,
            Ok(read) => all += read,
        }
    }
}

fn pass(mut stream: TcpStream, target: SocketAddr) {
    let Ok(mut etcd) = TcpStream::connect(target) else { return };
    let (mut from, mut to) = (stream.try_clone().unwrap(), etcd.try_clone().unwrap());
    thread::spawn(move || std::io::copy(&mut from, &mut to));
    let _ = std::io::copy(&mut etcd, &mut stream);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_greeted_and_went_is_found_again_when_it_is_well() {
    let world = World::start().await;
    world.put("s/1", "h:1").await;
    let weak = Weak::before(world.etcd.address());
    let resolver = Resolver::connect_lazy([weak.endpoint.clone()]).unwrap();
    let mut resolutions = Vec::new();
    for number in 0..300 {
        resolutions.push(resolver.resolve(format!("s{number}")).unwrap());
    }
    let registrar = Registrar::connect_lazy([weak.endpoint.clone()]).unwrap();
    let registration = registrar.register("s", Instance::new("h:2").unwrap()).unwrap();
    // Each of the two has come to know it.
    until("forty connections", async || (weak.connections() >= 40).then_some(())).await;
    weak.is_well.store(true, Ordering::Relaxed);
    registration.ready(PATIENCE).await.unwrap();
    for resolution in &resolutions {
        resolution.ready(PATIENCE).await.unwrap();
    }
}
