//! A greeter whose metrics Prometheus reads from `/metrics`: `cargo xtask example observability`. With
//! `--opentelemetry` it prints OpenTelemetry's metrics every five seconds instead.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use observability::greeter;
use observability::opentelemetry::OpenTelemetryRecorder;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use tokio::signal::unix::{SignalKind, signal};
use tonic_etcd::metrics::Metrics;
use tonic_etcd_metrics::MetricsRecorder;

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    greeter: greeter::GreeterOptions,
    /// The address of `/metrics`
    #[arg(long, default_value = "127.0.0.1:9464")]
    metrics: SocketAddr,
    /// Prints OpenTelemetry's metrics instead of serving `/metrics`
    #[arg(long)]
    opentelemetry: bool,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let options = Options::parse();
    let shutdown = shutdown()?;
    if options.opentelemetry {
        let exporter = opentelemetry_stdout::MetricExporter::default();
        let reader = PeriodicReader::builder(exporter).with_interval(Duration::from_secs(5)).build();
        let provider = SdkMeterProvider::builder().with_reader(reader).build();
        let recorder = OpenTelemetryRecorder::new(provider.meter("tonic-etcd"));
        greeter::run(options.greeter, Metrics::new(recorder).experimental(), shutdown).await?;
        provider.shutdown()?; // prints once more
    } else {
        serve_metrics(options.metrics)?; // before anything is built that records
        println!("metrics on http://{}/metrics", options.metrics);
        greeter::run(options.greeter, Metrics::new(MetricsRecorder::new()).experimental(), shutdown).await?;
    }
    println!("stopped");
    Ok(())
}

/// Installs the exporter for Prometheus, with a listener for `/metrics`.
fn serve_metrics(address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let mut exporter = PrometheusBuilder::new().with_http_listener(address);
    for (name, bounds) in tonic_etcd_metrics::buckets() {
        exporter = exporter.set_buckets_for_metric(Matcher::Full(name), bounds)?; // else the page has summaries
    }
    exporter.install()?;
    Ok(())
}

/// Completes at SIGINT or SIGTERM.
fn shutdown() -> std::io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
    })
}
