//! The server's gRPC health service, followed within the process.
//!
//! `tonic_health`'s reporter can be written but not read, so a health service of our own is made
//! from it and asked as a client would ask it, without a connection. Its `Watch` ends with
//! `NOT_FOUND` for a name that the reporter was told nothing of, so such a name is asked again and
//! again.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::sleep;
use tokio_stream::StreamExt;
use tonic::Request;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus as WireStatus;
use tonic_health::pb::health_server::Health as _;
use tonic_health::server::{HealthReporter, HealthService};

/// How often a name that the reporter was told nothing of is looked up again: the reporter does not
/// announce new names.
const LOOK_UP_AGAIN: Duration = Duration::from_millis(100);
/// The name of the whole server, in gRPC's health checking protocol.
pub(crate) const SERVER: &str = "";

/// One name of the health service.
pub(crate) struct FollowedName {
    /// Reads the reporter as a client of the health service would.
    service: HealthService,
    /// As gRPC's health protocol names it; empty for the whole server.
    name: String,
}

impl FollowedName {
    pub(crate) fn new(reporter: &HealthReporter, name: impl Into<String>) -> Self {
        Self { service: HealthService::from_health_reporter(reporter.clone()), name: name.into() }
    }

    /// A request of the health service for this name.
    fn request(&self) -> Request<HealthCheckRequest> {
        Request::new(HealthCheckRequest { service: self.name.clone() })
    }

    /// Whether a name that the reporter was told nothing of counts as serving: only the whole
    /// server does.
    fn serves_if_unknown(&self) -> bool {
        self.name == SERVER
    }

    /// Whether the name serves now.
    pub(crate) async fn serves(&self) -> bool {
        match self.service.check(self.request()).await {
            Ok(response) => response.get_ref().status == i32::from(WireStatus::Serving),
            Err(_) => self.serves_if_unknown(),
        }
    }

    /// Reports whether the name serves, now and with each change. Never ends.
    pub(crate) async fn follow(self, report: impl Fn(bool)) -> Infallible {
        let mut warned = false;
        loop {
            if let Ok(responses) = self.service.watch(self.request()).await {
                let mut responses = responses.into_inner();
                while let Some(Ok(response)) = responses.next().await {
                    report(response.status == i32::from(WireStatus::Serving));
                }
            }
            report(self.serves_if_unknown());
            if !self.serves_if_unknown() && !std::mem::replace(&mut warned, true) {
                let name = &self.name;
                tracing::warn!(name, "health service does not know the name, keeping its service out of the directory");
            }
            sleep(LOOK_UP_AGAIN).await;
        }
    }
}

/// Tells the health service that nothing serves any more.
pub(crate) async fn set_not_serving<'a>(reporter: &HealthReporter, names: impl Iterator<Item = &'a str>) {
    for name in names.chain([SERVER]) {
        reporter.set_service_status(name, ServingStatus::NotServing).await;
    }
}
