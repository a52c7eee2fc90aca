//! What a service config asks of the pool.

use std::sync::Arc;

use crate::balance::config;
use crate::balance::config::policy::Balancing;
use crate::balance::pool::Pool;
use crate::balance::subchannel::health::CheckedHealth;
use crate::balance::subchannel::outlier::OutlierDetector;

impl Pool {
    /// Uses what the service config says of the pool.
    pub(super) fn follow_service_config(&mut self) {
        self.follow_load_balancing();
        self.follow_health_check();
        self.follow_connection_scaling();
    }

    /// Uses the policy and the outlier detection that the service config asks for, if the code lets it.
    fn follow_load_balancing(&mut self) {
        let settings = &self.shared.settings;
        let document = self.shared.config.document().filter(|_| settings.policy_from_service_config);
        let wanted = document.and_then(|document| document.load_balancing.clone());
        if wanted == self.load_balancing {
            return;
        }
        let code = || Balancing {
            policy: settings.policy.clone(),
            outlier_detection: settings.outlier_detection,
            subset: None,
        };
        let Balancing { policy, outlier_detection: options, subset } =
            wanted.as_ref().map_or_else(code, config::policy::of);
        match (&mut self.outlier_detector, options) {
            (Some(detector), Some(options)) => {
                detector.set_options(options);
                detector.look_at_once(); // some may return
            }
            (detector, options) => {
                *detector = options.map(|options| OutlierDetector::new(options, self.began.elapsed()));
                for entry in self.servers.values().filter_map(|server| server.entry.as_ref()) {
                    entry.subchannel.set_ejected(false);
                    entry.subchannel.set_on_probation(false);
                }
            }
        }
        self.shared.outlier_detection.store(options.map(Arc::new));
        (self.policy, self.load_balancing, self.policy_changed) = (policy, wanted, true);
        self.follow_policy(subset);
    }

    /// Checks the health that the code asks for, else the service config; none, if the policy does without.
    fn follow_health_check(&mut self) {
        let document = self.shared.config.document();
        let of_document = || document.as_ref()?.health_check_service.as_deref().map(Arc::from);
        let wanted: Option<Arc<str>> = self.shared.settings.health_check.clone().or_else(of_document);
        let (checked, unchecked) = if self.policy.checks_health() { (wanted, None) } else { (None, wanted) };
        if unchecked.is_some() && unchecked != self.unchecked_health {
            let service = &*self.shared.connect_context.service;
            tracing::info!(parent: None, service, policy = ?self.policy, "health not checked, the policy does without");
        }
        self.unchecked_health = unchecked;
        self.shared.connect_context.health.follow(checked.map_or(CheckedHealth::None, CheckedHealth::Of));
    }

    /// Permits as many connections to a server as the code says, else the service config.
    fn follow_connection_scaling(&self) {
        let document = self.shared.config.document();
        let of_document = || document.as_ref()?.max_connections_per_subchannel.map(|most| most as usize);
        let wanted = self.shared.settings.connections_per_server.or_else(of_document).unwrap_or(1);
        let connections = &self.shared.connect_context.connections_per_server;
        connections.send_if_modified(|known| std::mem::replace(known, wanted) != wanted);
    }
}
