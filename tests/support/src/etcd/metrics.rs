//! etcd's own counters, in Prometheus' text form.

use super::Etcd;

impl Etcd {
    /// All metrics, as etcd prints them.
    ///
    /// # Panics
    /// When etcd does not answer.
    pub fn metrics(&self) -> String {
        self.get("/metrics").unwrap_or_else(|error| panic!("{error}"))
    }

    /// The sum over all series of a metric; `None` when there is none of that name, or etcd does not answer.
    ///
    /// `etcd.metric("etcd_debugging_mvcc_watcher_total")`
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.metric_with(name, "")
    }

    /// As [`Etcd::metric`], over the series whose labels contain `label`.
    ///
    /// `etcd.metric_with("grpc_server_started_total", "grpc_method=\"Range\"")`
    pub fn metric_with(&self, name: &str, label: &str) -> Option<f64> {
        sum(&self.get("/metrics").ok()?, name, label)
    }
}

fn sum(metrics: &str, name: &str, label: &str) -> Option<f64> {
    let values = metrics.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (series_name, labels) = series.split_once('{').unwrap_or((series, ""));
        (series_name == name && labels.contains(label)).then(|| value.parse::<f64>().ok())?
    });
    values.reduce(|total, value| total + value)
}

#[cfg(test)]
mod tests {
    use super::sum;

    const METRICS: &str = "# TYPE watchers gauge\nwatchers 3\nwatchers_slow 1\n\
        calls{code=\"OK\",method=\"Put it\"} 2\ncalls{code=\"OK\",method=\"Range\"} 5e+01\n";

    #[test]
    fn sums_over_series() {
        assert_eq!(sum(METRICS, "watchers", ""), Some(3.0));
        assert_eq!(sum(METRICS, "calls", ""), Some(52.0));
        assert_eq!(sum(METRICS, "calls", "method=\"Put it\""), Some(2.0));
        assert_eq!(sum(METRICS, "calls", "method=\"Delete\""), None);
        assert_eq!(sum(METRICS, "call", ""), None);
    }
}
