//! The health check of one connection: the task around the [`Machine`], as a part of the server's supervisor.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep_until};

use crate::balance::subchannel::health::machine::{Action, Health, Input, Machine};
use crate::balance::subchannel::health::protocol::{
    HealthStream, MAX_TEXT, ServingStatus, WatchEnd, WatchNews, WatchRequest,
};
use crate::balance::subchannel::reconnect::LATE;
use crate::connection::Connection;

/// The health of one connection, while its supervisor polls it. Dropped, it ends the stream.
pub(in crate::balance::subchannel) enum ConnectionHealth {
    /// It is not known yet whether the server is asked.
    Undecided,
    /// No health is asked for.
    Unchecked,
    Checked(Box<Check>),
}

/// What is asked of a server, over each of its connections.
#[derive(Clone)]
pub(in crate::balance::subchannel) enum Asked {
    /// That is not known yet.
    Undecided,
    Nothing,
    Health(CheckOptions),
}

/// How a server is asked for its health.
#[derive(Clone)]
pub(in crate::balance::subchannel) struct CheckOptions {
    /// Whose health; empty for that of the server as a whole.
    pub(super) service: Arc<str>,
    pub(super) request: WatchRequest,
    /// How long an answer that is due may take, from when the server is asked.
    pub(super) answer_within: Duration,
}

/// One that asks.
pub(in crate::balance::subchannel) struct Check {
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

impl CheckOptions {
    /// A reason with what was asked for: operators set that too, and may err.
    fn with_service(&self, reason: &str) -> String {
        match &*self.service {
            "" => format!("{reason} (asked for the server as a whole)"),
            service => format!("{reason} (asked for {:?})", service.chars().take(MAX_TEXT).collect::<String>()),
        }
    }
}

impl ConnectionHealth {
    /// Asks in this way from now on, or no longer. What is known stays until the first answer: a connection that was ready while
    /// nothing was asked stays ready. One over which nothing was called, because that was undecided, does not become it before.
    pub(in crate::balance::subchannel) fn follow(&mut self, connection: &Connection, asked: Asked) {
        let is_same = match (&*self, &asked) {
            // A server that cannot be asked for one service cannot be asked for another one, now or later.
            (Self::Checked(check), _) if check.machine.action() == Action::Rest => true,
            (Self::Checked(check), Asked::Health(options)) => check.options.service == options.service,
            (Self::Undecided, Asked::Undecided) | (Self::Unchecked, Asked::Nothing) => true,
            _ => false,
        };
        if !is_same {
            self.ask(self.health(), connection, asked);
        }
    }

    /// The same for a connection over which nothing was called yet.
    pub(in crate::balance::subchannel) fn of_new(connection: &Connection, asked: Asked) -> Self {
        let mut health = Self::Undecided;
        health.ask(Health::Unknown, connection, asked);
        health
    }

    fn ask(&mut self, known: Health, connection: &Connection, asked: Asked) {
        *self = match asked {
            Asked::Undecided => Self::Undecided,
            Asked::Nothing => Self::Unchecked,
            Asked::Health(options) => Self::Checked(Box::new(Check::new(known, connection.clone(), options))),
        };
        connection.set_awaited(self.health() != Health::Healthy);
    }

    /// What is known now.
    pub(in crate::balance::subchannel) fn health(&self) -> Health {
        match self {
            Self::Undecided => Health::Unknown,
            Self::Unchecked => Health::Healthy,
            Self::Checked(check) => check.machine.health(),
        }
    }

    fn check(&self) -> Option<&Check> {
        match self {
            Self::Undecided | Self::Unchecked => None,
            Self::Checked(check) => Some(check),
        }
    }

    /// Why the connection is unhealthy.
    pub(in crate::balance::subchannel) fn error(&self) -> Option<&str> {
        self.check().filter(|check| check.machine.health() == Health::Unhealthy)?.reason.as_deref()
    }

    /// Whether the server itself says that it serves.
    pub(in crate::balance::subchannel) fn is_confirmed(&self) -> bool {
        let is_asked = |check: &Check| check.machine.action() != Action::Rest;
        self.check().is_some_and(is_asked) && self.health() == Health::Healthy
    }

    /// Why the server cannot be asked over this connection, if it cannot.
    pub(in crate::balance::subchannel) fn not_supported(&self) -> Option<&str> {
        self.check().filter(|check| check.machine.action() == Action::Rest)?.reason.as_deref()
    }

    /// Ready when anything of the above has changed.
    pub(in crate::balance::subchannel) fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Checked(check) => check.poll_changed(cx),
            Self::Undecided | Self::Unchecked => Poll::Pending,
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
                self.reason = event.reason.or_else(|| is_late.then(|| self.options.with_service(&late())));
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
                event = next(&mut stream, open, &options) => event,
                () = reached(until.map(|until| began + until), options.answer_within) => {
                    Event { input: Input::TimeOver, reason: None }
                }
            };
            (stream, event)
        }
    }
}

/// What comes next over the stream, which is opened if there is none.
async fn next(stream: &mut Option<HealthStream>, open: impl FnOnce() -> HealthStream, options: &CheckOptions) -> Event {
    // A server that answers without an end holds up nothing else of its thread: its answers count as what tokio's own resources
    // give, of which a task takes so many before it lets others run.
    consume_budget().await;
    match stream.get_or_insert_with(open).next().await {
        Ok(WatchNews::Opened) => Event { input: Input::Opened, reason: None },
        Ok(WatchNews::Answer(answer)) => Event::of(Ok(answer), options),
        Err(end) => Event::of(Err(end), options),
    }
}

impl Event {
    fn not_supported(reason: String) -> Self {
        Self { input: Input::NotSupported, reason: Some(reason) }
    }

    /// From what the stream has given.
    fn of(answer: Result<ServingStatus, WatchEnd>, options: &CheckOptions) -> Self {
        let (input, reason) = match answer {
            Ok(ServingStatus::Serving) => (Input::Answered { serving: true }, None),
            Ok(status) => {
                let text = format!("the health service says {}", status.name());
                (Input::Answered { serving: false }, Some(options.with_service(&text)))
            }
            Err(WatchEnd::NotSupported(text)) => return Self::not_supported(format!("UNIMPLEMENTED: {text}")),
            Err(WatchEnd::Disconnected) => (Input::Disconnected, None),
            Err(WatchEnd::Ended(text)) => {
                (Input::Ended, Some(options.with_service(&format!("the health check has ended: {text}"))))
            }
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
