//! The health check of one connection: the task around the [`Machine`], as a part of the server's supervisor.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep_until};

use crate::balance::subchannel::health::machine::{Action, Health, Input, Machine};
use crate::balance::subchannel::health::protocol::{HealthStream, ServingStatus, WatchEnd, WatchNews, WatchRequest};
use crate::balance::subchannel::reconnect::LATE;
use crate::connection::Connection;

/// The health of one connection, while its supervisor polls it. Dropped, it ends the stream.
#[derive(Default)]
pub(in crate::balance::subchannel) struct ConnectionHealth {
    /// `None` while no health is asked for.
    check: Option<Box<Check>>,
}

/// What is asked of a server, over each of its connections.
#[derive(Clone)]
pub(in crate::balance::subchannel) struct CheckOptions {
    /// Whose health; empty for that of the server as a whole.
    pub(super) service: Arc<str>,
    pub(super) request: WatchRequest,
    /// How long an answer that is due may take, from when the server is asked.
    pub(super) answer_within: Duration,
}

/// One that asks.
struct Check {
    connection: Connection,
    options: CheckOptions,
    machine: Machine,
    /// Where the machine's times begin.
    began: Instant,
    /// Does what the machine says. Gives the stream back that is open then, and what has happened.
    step: Pin<Box<dyn Future<Output = (Option<HealthStream>, Event)> + Send>>,
    /// Why the connection is unhealthy, or cannot be asked.
    reason: Option<String>,
}

/// What has happened, and why.
struct Event {
    input: Input,
    reason: Option<String>,
}

impl ConnectionHealth {
    /// Asks as the options say from now on, or no longer. What is known stays until the first answer.
    pub(in crate::balance::subchannel) fn follow(&mut self, connection: &Connection, options: Option<CheckOptions>) {
        // A server that cannot be asked for one service cannot be asked for another one, now or later.
        if self.check.as_ref().is_some_and(|check| check.machine.action() == Action::Rest) {
            return;
        }
        let asked = self.check.as_ref().map(|check| &check.options.service);
        if asked != options.as_ref().map(|options| &options.service) {
            self.ask(self.health(), connection, options);
        }
    }

    /// The same for a connection over which nothing was called yet.
    pub(in crate::balance::subchannel) fn of_new(connection: &Connection, options: Option<CheckOptions>) -> Self {
        let mut health = Self::default();
        health.ask(Health::Unknown, connection, options);
        health
    }

    fn ask(&mut self, known: Health, connection: &Connection, options: Option<CheckOptions>) {
        self.check = options.map(|options| Box::new(Check::new(known, connection.clone(), options)));
        connection.set_awaited(self.health() != Health::Healthy);
    }

    /// What is known now.
    pub(in crate::balance::subchannel) fn health(&self) -> Health {
        self.check.as_ref().map_or(Health::Healthy, |check| check.machine.health())
    }

    /// Why the connection is unhealthy.
    pub(in crate::balance::subchannel) fn error(&self) -> Option<&str> {
        self.check.as_ref().filter(|check| check.machine.health() == Health::Unhealthy)?.reason.as_deref()
    }

    /// Why the server cannot be asked over this connection, if it cannot.
    pub(in crate::balance::subchannel) fn not_supported(&self) -> Option<&str> {
        self.check.as_ref().filter(|check| check.machine.action() == Action::Rest)?.reason.as_deref()
    }

    /// Ready when anything of the above has changed.
    pub(in crate::balance::subchannel) fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.check {
            Some(check) => check.poll_changed(cx),
            None => Poll::Pending,
        }
    }
}

impl Check {
    fn new(known: Health, connection: Connection, options: CheckOptions) -> Self {
        let began = Instant::now();
        let machine = Machine::new(known, Duration::ZERO, options.answer_within, fastrand::u64(..));
        let step = Box::pin(step(machine.action(), None, began, connection.clone(), options.clone()));
        Self { connection, options, machine, began, step, reason: None }
    }

    fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let (stream, event) = ready!(self.step.as_mut().poll(cx));
            let before = (self.machine.health(), self.machine.action() == Action::Rest);
            let is_other_reason = event.reason.is_some() && event.reason != self.reason;
            self.machine.on(event.input, self.began.elapsed());
            self.connection.set_awaited(self.machine.health() != Health::Healthy);
            let action = self.machine.action();
            let stream = stream.filter(|_| matches!(action, Action::Watch { .. }));
            self.step = Box::pin(step(action, stream, self.began, self.connection.clone(), self.options.clone()));
            if is_other_reason || before != (self.machine.health(), action == Action::Rest) {
                let is_late = event.input == Input::TimeOver; // with time alone it becomes unhealthy, and nothing else
                let late =
                    || format!("no response to the health check within {} ms", self.options.answer_within.as_millis());
                self.reason = event.reason.or_else(|| is_late.then(late));
                return Poll::Ready(());
            }
        }
    }
}

/// Does what the machine says, with the stream that is open.
async fn step(
    action: Action,
    stream: Option<HealthStream>,
    began: Instant,
    connection: Connection,
    options: CheckOptions,
) -> (Option<HealthStream>, Event) {
    match action {
        Action::Rest => {
            drop((stream, connection));
            std::future::pending().await
        }
        Action::Wait { until } => {
            drop(stream);
            sleep_until(began + until).await;
            (None, Event { input: Input::TimeOver, reason: None })
        }
        Action::Watch { until } => {
            let only_one = connection.only_one_stream();
            let mut stream = stream;
            let open = || HealthStream::open(&connection, &options.request, &options.service);
            let event = tokio::select! {
                biased; // no stream is opened that would leave none to calls
                () = only_one => Event::not_supported("the server accepts one stream at a time".to_owned()),
                event = next(&mut stream, open) => event,
                () = reached(until.map(|until| began + until), options.answer_within) => {
                    Event { input: Input::TimeOver, reason: None }
                }
            };
            (stream, event)
        }
    }
}

/// What comes next over the stream, which is opened if there is none.
async fn next(stream: &mut Option<HealthStream>, open: impl FnOnce() -> HealthStream) -> Event {
    // A server that answers without an end holds up nothing else of its thread: its answers count as what tokio's own resources
    // give, of which a task takes so many before it lets others run.
    consume_budget().await;
    match stream.get_or_insert_with(open).next().await {
        Ok(WatchNews::Opened) => Event { input: Input::Opened, reason: None },
        Ok(WatchNews::Answer(answer)) => Event::of(Ok(answer)),
        Err(end) => Event::of(Err(end)),
    }
}

impl Event {
    fn not_supported(reason: String) -> Self {
        Self { input: Input::NotSupported, reason: Some(reason) }
    }

    /// From what the stream has given.
    fn of(answer: Result<ServingStatus, WatchEnd>) -> Self {
        let (input, reason) = match answer {
            Ok(ServingStatus::Serving) => (Input::Answered { serving: true }, None),
            Ok(status) => {
                (Input::Answered { serving: false }, Some(format!("the health service says {}", status.name())))
            }
            Err(WatchEnd::NotSupported(text)) => return Self::not_supported(format!("UNIMPLEMENTED: {text}")),
            Err(WatchEnd::Disconnected) => (Input::Disconnected, None),
            Err(WatchEnd::Ended(text)) => (Input::Ended, Some(format!("the health check has ended: {text}"))),
        };
        Self { input, reason }
    }
}

/// Waits until this time. For ever, if there is none. If the runtime stood still then, the answer may lie in the socket: it gets
/// as long again as it may take.
async fn reached(at: Option<Instant>, answer_within: Duration) {
    let Some(mut at) = at else { return std::future::pending().await };
    loop {
        sleep_until(at).await;
        if at.elapsed() < LATE {
            return;
        }
        at = Instant::now() + answer_within;
    }
}
