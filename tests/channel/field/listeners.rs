//! Whoever hears an event may use the channel that logs it.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::thread;

use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic_etcd::policy::RoundRobin;
use tonic_etcd::{BalancedChannel, Instance, OutlierDetection, ServerState};
use tower::discover::Change;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::peer::{Peer, Script};
use crate::support::{PATIENCE, builder, changing, greet, over, ready, repeating, states, until};

#[derive(Clone, Default)]
struct Listener {
    channels: Arc<Mutex<Vec<BalancedChannel>>>,
    messages: Arc<Mutex<BTreeSet<String>>>,
}

/// All that a channel has to tell.
fn ask(channel: &BalancedChannel) {
    drop(format!("{channel:?} {:?}", channel.servers()));
    let _ = pin!(channel.states()).poll_next(&mut Context::from_waker(Waker::noop()));
}

impl Subscriber for Listener {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true // what h2 says too, which it says while connections are dropped
    }

    fn event(&self, event: &Event<'_>) {
        let channels = self.channels.lock().unwrap().clone();
        channels.iter().for_each(ask);
        if event.metadata().target().starts_with("tonic_etcd") {
            self.messages.lock().unwrap().insert(format!("{event:?}"));
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// F15: a channel is asked from each event: servers that come, are connected, lost, refuse, are ejected and go, a discovery that
/// fails, calls that nobody processed and calls that are repeated.
#[test]
fn a_channel_is_asked_from_each_event() {
    let (done, ended) = channel();
    let test = thread::spawn(move || {
        all_events();
        done.send(()).unwrap();
    });
    match ended.recv_timeout(3 * PATIENCE) {
        Ok(()) => test.join().unwrap(),
        Err(RecvTimeoutError::Timeout) => panic!("deadlock"),
        Err(RecvTimeoutError::Disconnected) => std::panic::resume_unwind(test.join().unwrap_err()),
    }
}

fn all_events() {
    let listener = Listener::default();
    let _guard = tracing::subscriber::set_default(listener.clone());
    Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let said = |what: &str| listener.messages.lock().unwrap().iter().any(|message| message.contains(what));
        let listen = |channel: &BalancedChannel| listener.channels.lock().unwrap().push(channel.clone());
        let peer = Peer::start(Script::Greet).await;
        let (come_and_go, set) = changing(builder());
        listen(&come_and_go);
        set.add(peer.address);
        ready(&come_and_go, 1).await;
        greet(&come_and_go).await.unwrap();
        let address = peer.address;
        drop(peer);
        until("it to be lost", || said("disconnected") && said("server cannot be connected")).await;
        set.remove(&address);
        until("it to go", || said("server removed")).await;

        let refuses = Peer::start(Script::Reset(h2::Reason::REFUSED_STREAM)).await;
        let breaks = Peer::start(Script::Break).await;
        let greets = Peer::start(Script::Greet).await;
        let several = over(repeating().policy(RoundRobin::new()), [&refuses.address, &breaks.address, &greets.address]);
        listen(&several);
        ready(&several, 3).await;
        while !said("call not processed") || !said("repeating it") {
            greet(&several).await.unwrap();
        }

        let fails = Peer::start(Script::Status(14, vec![])).await;
        let ejecting = over(
            builder().outlier_detection(OutlierDetection::default()).policy(RoundRobin::new()),
            [&fails.address, &greets.address],
        );
        listen(&ejecting);
        ready(&ejecting, 2).await;
        while !said("server ejected") {
            let _ = greet(&ejecting).await;
        }
        assert!(states(&ejecting).values().any(|state| *state == ServerState::Ejected));

        let (tell, told) = mpsc::unbounded_channel::<Result<Change<u8, Instance>, &str>>();
        let troubled = builder().build_with_discovery("greeter", UnboundedReceiverStream::new(told)).unwrap();
        listen(&troubled);
        tell.send(Err("no more")).unwrap();
        until("the discovery to fail", || said("discovery failed")).await;
        assert!(said("server added") && said("connected") && said("greeter"));
        listener.channels.lock().unwrap().clear();
        drop((come_and_go, several, ejecting, troubled));
    });
}
