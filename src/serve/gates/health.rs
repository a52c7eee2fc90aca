//! What the server's health service says of itself, followed within the process.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::sleep;
use tokio_stream::StreamExt;
use tonic::Request;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus as Said;
use tonic_health::pb::health_server::Health as _;
use tonic_health::server::{HealthReporter, HealthService};

/// A name that the reporter was told nothing of yet is looked for again so often: it tells nobody when there is one.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The name of the whole server (gRPC's health checking protocol).
pub(crate) const SERVER: &str = "";

/// What the server says of one of its services.
pub(crate) struct Followed {
    service: HealthService,
    name: String,
}

impl Followed {
    pub(crate) fn new(reporter: &HealthReporter, name: impl Into<String>) -> Self {
        Self { service: HealthService::from_health_reporter(reporter.clone()), name: name.into() }
    }

    fn request(&self) -> Request<HealthCheckRequest> {
        Request::new(HealthCheckRequest { service: self.name.clone() })
    }

    /// Of a name that it was told nothing of: a service does not serve, and of the whole server that says nothing.
    fn unknown(&self) -> bool {
        self.name == SERVER
    }

    /// Whether it serves now.
    pub(crate) async fn serves(&self) -> bool {
        match self.service.check(self.request()).await {
            Ok(answer) => answer.get_ref().status == i32::from(Said::Serving),
            Err(_) => self.unknown(),
        }
    }

    /// Tells whether it serves, now and with each change.
    pub(crate) async fn follow(self, tell: impl Fn(bool)) -> Infallible {
        let mut said = false;
        loop {
            if let Ok(answers) = self.service.watch(self.request()).await {
                let mut answers = answers.into_inner();
                while let Some(Ok(answer)) = answers.next().await {
                    tell(answer.status == i32::from(Said::Serving));
                }
            }
            tell(self.unknown());
            if !self.unknown() && !std::mem::replace(&mut said, true) {
                let name = &self.name;
                tracing::warn!(name, "the health service was told nothing of it: its service is not in the directory");
            }
            sleep(LOOK_AGAIN).await;
        }
    }
}

/// Says that nothing serves any more.
pub(crate) async fn say_not_serving<'a>(reporter: &HealthReporter, names: impl Iterator<Item = &'a str>) {
    for name in names.chain([SERVER]) {
        reporter.set_service_status(name, ServingStatus::NotServing).await;
    }
}
