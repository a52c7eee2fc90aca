//! Whoever hears an event, is woken, or runs as the user's code within the crate may use any handle.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::time::sleep;
use tokio_stream::Stream;
use tonic::transport::Server;
use tonic_etcd::codec::{Codec, DecodeError, EncodeError, Plain, Record};
use tonic_etcd::{Instance, Registrar, Registration, ServeControl, Target};
use tracing::span::{Attributes, Id};
use tracing::{Event, Metadata, Subscriber};

use crate::support::{PATIENCE, World, until};

/// Runs it on a thread of its own, and fails where it hangs.
fn under_a_watchdog(test: impl FnOnce() + Send + 'static) {
    let (done, ended) = channel();
    let test = thread::spawn(move || {
        test();
        done.send(()).unwrap();
    });
    match ended.recv_timeout(3 * PATIENCE) {
        Ok(()) => test.join().unwrap(),
        Err(RecvTimeoutError::Timeout) => panic!("deadlock"),
        Err(RecvTimeoutError::Disconnected) => std::panic::resume_unwind(test.join().unwrap_err()),
    }
}

/// All that a registration has to tell.
fn ask(registration: &Registration) {
    let (state, lease) = (registration.state(), registration.lease_id());
    drop(format!("{registration:?} {state:?} {lease:?} {:?}", (registration.is_registered(), registration.instance())));
    drop((registration.states(), registration.target().to_string()));
    // What is so already.
    registration.set_serving(true);
}

#[derive(Clone, Default)]
struct Listener {
    registrations: Arc<Mutex<Vec<Arc<Registration>>>>,
    events: Arc<Mutex<Vec<String>>>,
}

impl Subscriber for Listener {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true // what h2 says as well, which it says while connections are dropped
    }

    fn event(&self, event: &Event<'_>) {
        let registrations = self.registrations.lock().unwrap().clone();
        registrations.iter().for_each(|registration| ask(registration));
        if event.metadata().target().starts_with("tonic_etcd::registrar") {
            self.events.lock().unwrap().push(format!("{event:?}"));
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// F15: a registration is asked from each event of its life: registered, lost with etcd, back, held, paused, gone.
#[test]
fn a_registration_is_asked_from_each_event() {
    under_a_watchdog(|| {
        let listener = Listener::default();
        let _guard = tracing::subscriber::set_default(listener.clone());
        Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let world = World::start().await;
            let registrar = registrar(&world);
            let registration = Arc::new(registrar.register("s", Instance::new("h:1").unwrap()).unwrap());
            listener.registrations.lock().unwrap().push(registration.clone());
            let said = async |what: &str| {
                let is_said = || listener.events.lock().unwrap().iter().any(|event| event.contains(what));
                until(what, async || is_said().then_some(())).await;
            };
            registration.ready(PATIENCE).await.unwrap();
            world.etcd.kill();
            said("registrar request failed").await;
            world.etcd.wipe();
            world.etcd.start_again();
            there(&world).await;
            registration.ready(PATIENCE).await.unwrap();
            world.delete("s/h:1").await;
            said("registration lost").await;
            there(&world).await;
            registration.ready(PATIENCE).await.unwrap();
            registration.pause();
            registration.paused(PATIENCE).await.unwrap();
            registration.resume();
            registration.ready(PATIENCE).await.unwrap();
            registrar.close(PATIENCE).await.unwrap();
            said("deregistered").await;
            listener.registrations.lock().unwrap().clear();
        });
    });
}

/// Asks the registrar whenever it is woken.
struct Asks(Registrar, AtomicUsize);

impl Wake for Asks {
    fn wake(self: Arc<Self>) {
        let (health, lease) = (self.0.health(), self.0.lease_id());
        drop(format!("{:?} {health:?} {lease:?}", self.0));
        self.1.fetch_add(1, Ordering::Relaxed);
    }
}

/// F15: a waker is anybody's code, too: it is woken while nothing is locked, whether etcd, a handle or the runtime's end is why.
#[test]
fn a_waker_asks_the_registrar() {
    under_a_watchdog(|| {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (asks, _world, registration, mut states) = runtime.block_on(async {
            let world = World::start().await;
            let registrar = registrar(&world);
            let registration = registrar.register("s", Instance::new("h:1").unwrap()).unwrap();
            let asks = Arc::new(Asks(registrar, AtomicUsize::new(0)));
            let mut states = Box::pin(registration.states());
            let waker = Waker::from(asks.clone());
            let mut woken = async |what: &str| {
                let before = asks.1.load(Ordering::Relaxed);
                while states.as_mut().poll_next(&mut Context::from_waker(&waker)).is_ready() {}
                match what {
                    "paused" => registration.pause(),
                    "resumed" => registration.resume(),
                    _ => {}
                }
                until(what, async || (asks.1.load(Ordering::Relaxed) > before).then_some(())).await;
                registration.ready(Duration::from_millis(50)).await.ok();
            };
            woken("registered").await;
            woken("paused").await;
            woken("resumed").await;
            registration.ready(PATIENCE).await.unwrap();
            (asks, world, registration, states)
        });
        let waker = Waker::from(asks.clone());
        while states.as_mut().poll_next(&mut Context::from_waker(&waker)).is_ready() {}
        let before = asks.1.load(Ordering::Relaxed);
        drop(runtime);
        assert!(asks.1.load(Ordering::Relaxed) > before, "the end of the runtime is told");
        drop(registration);
    });
}

/// Asks the server's handle whenever it writes.
#[derive(Clone, Default)]
struct Curious(Arc<OnceLock<ServeControl>>, Arc<AtomicUsize>);

fn ask_control(control: &ServeControl) {
    let (state, registrations) = (control.state(), control.registrations());
    drop(format!("{control:?} {state:?} {registrations:?} {:?}", (control.instance(), control.is_ready())));
    drop(control.states());
}

impl Codec for Curious {
    fn decode(&self, key: &[u8], value: &[u8]) -> Result<Vec<Instance>, DecodeError> {
        Plain.decode(key, value)
    }

    fn encode(&self, target: &Target, instance: &Instance) -> Result<Vec<Record>, EncodeError> {
        if let Some(control) = self.0.get() {
            ask_control(control);
            self.1.fetch_add(1, Ordering::Relaxed);
        }
        Plain.encode(target, instance)
    }
}

impl std::fmt::Debug for Curious {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Curious")
    }
}

/// F15: what changes an instance, and the codec that writes it, are the user's code.
#[test]
fn a_change_and_a_codec_ask_the_server() {
    under_a_watchdog(|| {
        Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let world = World::start().await;
            let codec = Curious::default();
            let registrar = Registrar::builder([world.etcd.endpoint()]).codec(codec.clone()).connect_lazy().unwrap();
            let asks = |control: &ServeControl| {
                let control = control.clone();
                move |instance: Instance| {
                    ask_control(&control);
                    instance
                }
            };
            let serve = registrar.service("s").service("t");
            let control = serve.control();
            codec.0.set(control.clone()).unwrap();
            let serve = serve.describe(asks(&control));
            control.update(asks(&control)).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let router = Server::builder().add_routes(tonic::service::Routes::default());
            let served =
                tokio::spawn(serve.propagation_delay(Duration::ZERO).serve(router, listener, std::future::pending()));
            control.ready(PATIENCE).await.unwrap();
            control.update(asks(&control)).unwrap();
            assert!(codec.1.load(Ordering::Relaxed) >= 4, "once for each service, twice");
            // It would wait for itself.
            let (again, refused) = (control.clone(), Arc::new(OnceLock::new()));
            let told = refused.clone();
            control
                .update(move |instance| {
                    told.set(again.update(|instance| instance)).ok();
                    instance
                })
                .unwrap();
            assert!(refused.get().unwrap().as_ref().unwrap_err().is_invalid_argument());
            control.stop();
            served.await.unwrap().unwrap();
            sleep(Duration::ZERO).await;
        });
    });
}

async fn there(world: &World) {
    until("the key", async || world.lease_of("s/h:1").await).await;
}

fn registrar(world: &World) -> Registrar {
    Registrar::builder([world.etcd.endpoint()]).ttl(Duration::from_secs(3)).connect_lazy().unwrap()
}
