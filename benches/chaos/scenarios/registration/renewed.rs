//! Certificates are renewed on disk while etcd and the servers start again with roots that refuse the old ones.

use crate::findings::Findings;
use crate::world::{Result, World};

/// F19: etcd's and the servers' certificates, and those of their clients, under 64 callers.
pub(in crate::scenarios) fn run(world: &World, findings: &mut Findings) -> Result<()> {
    #[cfg(feature = "tls-ring")]
    return world.block_on(renewal::run(findings));
    #[cfg(not(feature = "tls-ring"))]
    {
        let _ = (world, findings);
        Err("built without the feature tls-ring, which `cargo xtask chaos` enables".into())
    }
}

#[cfg(feature = "tls-ring")]
mod renewal {
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::time::{Duration, Instant};

    use greeter_proto::greeter_client::GreeterClient;
    use greeter_proto::greeter_server::{Greeter, GreeterServer};
    use greeter_proto::{HelloReply, HelloRequest};
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use tempfile::TempDir;
    use test_support::{Bar, Etcd};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;
    use tokio::time::sleep;
    use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
    use tonic::{Request, Response, Status};
    use tonic_etcd::{BalancedChannel, ClientTls, Error, EtcdOptions, Registrar, Resolution, Resolver, ServeControl};

    use super::{Findings, Result};

    const CALLERS: usize = 64;
    const SERVERS: usize = 3;
    const ROUNDS: usize = 3;
    const PATIENCE: Duration = Duration::from_secs(30);
    const TTL: Duration = Duration::from_secs(5);

    struct Authority(CertifiedIssuer<'static, KeyPair>);

    impl Authority {
        fn new(number: usize) -> Result<Self> {
            let mut params = CertificateParams::new(Vec::new())?;
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(rcgen::DnType::CommonName, format!("authority {number}"));
            Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
        }

        fn pair(&self) -> Result<(String, String)> {
            let key = KeyPair::generate()?;
            let certificate = CertificateParams::new(vec!["localhost".into()])?.signed_by(&key, &self.0)?;
            Ok((certificate.pem(), key.serialize_pem()))
        }
    }

    /// What somebody who speaks TLS has on disk.
    struct Files(TempDir);

    impl Files {
        fn new(trusted: &str, pair: &(String, String)) -> Result<Self> {
            let files = Self(TempDir::new()?);
            files.renew(trusted, pair)?;
            Ok(files)
        }

        fn renew(&self, trusted: &str, (certificate, key): &(String, String)) -> Result<()> {
            for (name, text) in [("ca.crt", trusted), ("tls.crt", certificate), ("tls.key", key)] {
                std::fs::write(self.path(name), text)?;
            }
            Ok(())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn tls(&self) -> ClientTls {
            ClientTls::new()
                .ca_certificates_file(self.path("ca.crt"))
                .identity_files(self.path("tls.crt"), self.path("tls.key"))
        }
    }

    struct Me;

    #[tonic::async_trait]
    impl Greeter for Me {
        async fn say_hello(&self, _: Request<HelloRequest>) -> std::result::Result<Response<HelloReply>, Status> {
            Ok(Response::new(HelloReply::default()))
        }
    }

    type Running = (ServeControl, JoinHandle<std::result::Result<(), Error>>);

    /// A server that refuses clients without a certificate of this authority.
    async fn serve(registrar: &Registrar, authority: &Authority) -> Result<Running> {
        let (certificate, key) = authority.pair()?;
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key));
        let tls = tls.client_ca_root(Certificate::from_pem(authority.0.pem()));
        let router = Server::builder().tls_config(tls)?.add_service(GreeterServer::new(Me));
        let service = registrar.service("renewed").https().advertise("localhost");
        let service = service.propagation_delay(Duration::from_millis(500));
        let control = service.control();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let task = tokio::spawn(service.serve(router, listener, std::future::pending()));
        control.ready(PATIENCE).await?;
        Ok((control, task))
    }

    async fn has(resolution: &Resolution, count: usize) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while resolution.snapshot().len() != count {
            if Instant::now() > end {
                return Err(format!("{count} servers are not resolved: {:?}", resolution.last_error()).into());
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    #[derive(Default)]
    struct Count {
        answered: AtomicU64,
        failed: AtomicU64,
        is_over: AtomicBool,
    }

    async fn call(mut greeter: GreeterClient<BalancedChannel>, count: Arc<Count>) {
        while !count.is_over.load(Ordering::Relaxed) {
            match greeter.say_hello(HelloRequest::default()).await {
                Ok(_) => count.answered.fetch_add(1, Ordering::Relaxed),
                Err(status) => {
                    eprintln!("  {status}");
                    count.failed.fetch_add(1, Ordering::Relaxed)
                }
            };
        }
    }

    pub(super) async fn run(findings: &mut Findings) -> Result<()> {
        let mut present = Authority::new(0)?;
        let etcds = Files::new(&present.0.pem(), &present.pair()?)?;
        let etcd = Etcd::builder().tls(etcds.path("tls.crt"), etcds.path("tls.key"), etcds.path("ca.crt")).start();
        let clients = Files::new(&present.0.pem(), &present.pair()?)?;
        let options = EtcdOptions::from([etcd.tls_endpoint()]).tls(clients.tls());
        let registrar = Registrar::builder(options.clone()).ttl(TTL).connect_lazy()?;
        let mut running = Vec::new();
        for _ in 0..SERVERS {
            running.push(serve(&registrar, &present).await?);
        }
        let lease = registrar.lease_id();
        let resolution = Resolver::builder(options).connect_lazy()?.resolve("renewed")?;
        has(&resolution, SERVERS).await?;
        let channel = BalancedChannel::builder().tls(clients.tls()).build(&resolution)?;
        let greeter = GreeterClient::new(channel.clone());
        greeter.clone().say_hello(HelloRequest::default()).await?;
        let count = Arc::new(Count::default());
        let callers: Vec<_> = (0..CALLERS).map(|_| tokio::spawn(call(greeter.clone(), count.clone()))).collect();
        for round in 1..=ROUNDS {
            let next = Authority::new(round)?;
            sleep(Duration::from_millis(300)).await;
            clients.renew(&format!("{}{}", present.0.pem(), next.0.pem()), &next.pair()?)?;
            etcd.kill();
            etcds.renew(&next.0.pem(), &next.pair()?)?;
            etcd.start_again();
            for _ in 0..SERVERS {
                running.push(serve(&registrar, &next).await?);
                has(&resolution, SERVERS + 1).await?;
                let (control, task) = running.remove(0);
                control.stop();
                task.await??;
                has(&resolution, SERVERS).await?;
            }
            present = next;
        }
        count.is_over.store(true, Ordering::Relaxed);
        for caller in callers {
            caller.await?;
        }
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64;
        findings.ours("renewals of all certificates", ROUNDS as f64, "", None);
        findings.ours("calls", of(&count.answered), "", None);
        findings.ours("failed calls", of(&count.failed), "", Bar::Equal(0.0));
        let has_changed = registrar.lease_id() != lease || lease.is_none();
        findings.ours("leases beside the first", f64::from(u8::from(has_changed)), "", Bar::Equal(0.0));
        Ok(())
    }
}
