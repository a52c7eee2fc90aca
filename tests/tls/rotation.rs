//! F19: certificates that are renewed while everything runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::Client;
use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair};
use tempfile::TempDir;
use test_support::Etcd;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};
use tonic_etcd::{
    BalancedChannel, ClientTls, EtcdOptions, Instance, Registrar, ResolutionState, Resolver, ServeControl,
};

use super::{Authority, PATIENCE};

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: String,
    pub(super) der: Vec<u8>,
}

impl Authority {
    /// A certificate for `localhost`, of a server and of a client.
    pub(super) fn pair(&self) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem(), der: certificate.der().to_vec() }
    }
}

/// Files of somebody who speaks TLS: what is trusted, the certificate and the key.
struct Files {
    folder: TempDir,
}

impl Files {
    fn new(trusted: &str, pair: &Pair) -> Self {
        let files = Self { folder: TempDir::new().unwrap() };
        files.renew(trusted, pair);
        files
    }

    fn renew(&self, trusted: &str, pair: &Pair) {
        for (name, text) in [("ca.crt", trusted), ("tls.crt", &pair.certificate), ("tls.key", &pair.key)] {
            std::fs::write(self.path(name), text).unwrap();
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn tls(&self) -> ClientTls {
        ClientTls::new()
            .ca_certificates_file(self.path("ca.crt"))
            .identity_files(self.path("tls.crt"), self.path("tls.key"))
    }
}

struct Me(&'static str);

#[tonic::async_trait]
impl Greeter for Me {
    async fn say_hello(&self, _: Request<HelloRequest>) -> Result<Response<greeter_proto::HelloReply>, Status> {
        Ok(Response::new(greeter_proto::HelloReply { message: self.0.into() }))
    }
}

/// A server that asks for certificates of this authority.
async fn serve(
    registrar: &Registrar,
    trusted: &str,
    pair: &Pair,
    name: &'static str,
) -> (ServeControl, JoinHandle<Result<(), tonic_etcd::Error>>) {
    let identity = Identity::from_pem(&pair.certificate, &pair.key);
    let tls = ServerTlsConfig::new().identity(identity).client_ca_root(Certificate::from_pem(trusted));
    let router = Server::builder().tls_config(tls).unwrap().add_service(GreeterServer::new(Me(name)));
    let service = registrar.service("s").https().advertise("localhost").propagation_delay(Duration::from_millis(300));
    let control = service.control();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let task = tokio::spawn(service.serve(router, listener, std::future::pending()));
    control.ready(PATIENCE).await.unwrap();
    (control, task)
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < end, "not in time: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// F19: etcd's certificates and those of servers and clients are renewed; etcd and the servers start again and refuse the old ones.
#[tokio::test(flavor = "multi_thread")]
async fn no_lease_is_lost_and_no_call_fails_while_all_certificates_are_renewed() {
    let (old, new) = (Authority::new(), Authority::new());
    let etcds = Files::new(&old.0.pem(), &old.pair());
    let etcd = Etcd::builder().tls(etcds.path("tls.crt"), etcds.path("tls.key"), etcds.path("ca.crt")).start();
    let admin = Client::connect([etcd.endpoint()], None).await.unwrap();
    let (clients, client) = (Files::new(&old.0.pem(), &old.pair()), old.pair());
    let options = EtcdOptions::from([etcd.tls_endpoint()]).tls(clients.tls());
    let registrar = Registrar::builder(options.clone()).ttl(Duration::from_secs(10)).connect_lazy().unwrap();
    let kept = registrar.register("kept", Instance::new("h:1").unwrap()).unwrap();
    kept.ready(PATIENCE).await.unwrap();
    let lease = kept.lease_id();
    assert!(lease.is_some());
    let before = serve(&registrar, &old.0.pem(), &old.pair(), "before").await;
    let resolution = Resolver::builder(options).connect_lazy().unwrap().resolve("s").unwrap();
    let channel = BalancedChannel::builder().tls(clients.tls()).build(&resolution).unwrap();
    let mut greeter = GreeterClient::new(channel);
    // From here on there is a connection, by the old certificates.
    assert_eq!(greeter.say_hello(HelloRequest::default()).await.unwrap().into_inner().message, "before");
    let (stop, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (mut greeter, stop, failed) = (greeter.clone(), stop.clone(), failed.clone());
            tokio::spawn(async move {
                let mut last = String::new();
                while !stop.load(Ordering::Relaxed) {
                    match greeter.say_hello(HelloRequest::default()).await {
                        Ok(answer) => last = answer.into_inner().message,
                        Err(status) => {
                            eprintln!("{status}");
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    sleep(Duration::from_millis(2)).await;
                }
                last
            })
        })
        .collect();
    // What was said once stays what it was.
    let fixed = ClientTls::new().ca_certificates(old.0.pem()).identity(&*client.certificate, &*client.key);
    let fixed = EtcdOptions::from([etcd.tls_endpoint()]).tls(fixed);
    let fixed = Resolver::builder(fixed).connect_lazy().unwrap().resolve("s").unwrap();
    fixed.ready(PATIENCE).await.unwrap();

    let both = format!("{}{}", old.0.pem(), new.0.pem());
    clients.renew(&both, &new.pair());
    etcd.kill();
    etcds.renew(&new.0.pem(), &new.pair());
    etcd.start_again();
    let after = serve(&registrar, &new.0.pem(), &new.pair(), "after").await;
    // The watch is there again: whoever stops before that stops before clients know of the other.
    until("both servers", async || resolution.snapshot().len() == 2).await;
    before.0.stop();
    before.1.await.unwrap().unwrap();
    until("only the new server", async || resolution.snapshot().len() == 1).await;
    admin.kv_client().put("s/h:2", r#"{"Op":0,"Addr":"h:2"}"#, None).await.unwrap();
    until("the watch is there again", async || resolution.snapshot().len() == 2).await;
    let is_refused =
        |error: tonic_etcd::Error| error.to_string().contains("TLS") || error.to_string().contains("alert");
    until("what was given as text is refused", async || {
        matches!(fixed.state(), ResolutionState::Stale { .. }) && fixed.last_error().is_some_and(is_refused)
    })
    .await;
    admin.kv_client().delete("s/h:2", None).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        assert_eq!(caller.await.unwrap(), "after");
    }
    assert_eq!(failed.load(Ordering::Relaxed), 0);
    assert_eq!(kept.lease_id(), lease);
    let held = admin.kv_client().get("kept/h:1", None).await.unwrap();
    assert_eq!(held.kvs().first().map(etcd_client::KeyValue::lease), lease);
    after.0.stop();
    after.1.await.unwrap().unwrap();
}

/// F19: files that are gone or wrong at the beginning are an error that names them.
#[tokio::test]
async fn files_that_cannot_be_used_are_named_at_once() {
    let (authority, folder) = (Authority::new(), TempDir::new().unwrap());
    let pair = authority.pair();
    let files = Files::new(&authority.0.pem(), &pair);
    std::fs::write(files.path("other.key"), authority.pair().key).unwrap();
    std::fs::write(files.path("empty"), "").unwrap();
    let gone = folder.path().join("gone.crt");
    let of = |ca: &Path, certificate: &Path, key: &Path| {
        ClientTls::new().ca_certificates_file(ca).identity_files(certificate, key)
    };
    let (ca, certificate, key) = (files.path("ca.crt"), files.path("tls.crt"), files.path("tls.key"));
    for (tls, name) in [
        (of(&gone, &certificate, &key), "gone.crt"),
        (of(&ca, &gone, &key), "gone.crt"),
        (of(&ca, &certificate, &files.path("other.key")), "other.key"),
        (of(&files.path("empty"), &certificate, &key), "empty"),
        (of(&ca, &files.path("empty"), &key), "empty"),
        (of(&ca, &certificate, &files.path("empty")), "empty"),
    ] {
        let error = Resolver::builder(EtcdOptions::from(["https://localhost:1"]).tls(tls)).connect_lazy().unwrap_err();
        assert!(error.is_invalid_argument() && error.to_string().contains(name), "{error}");
    }
    let error = ClientTls::rustls_with(|| Err::<_, std::io::Error>(std::io::Error::other("not there yet")));
    // It may be there when a connection is made.
    Resolver::builder(EtcdOptions::from(["https://localhost:1"]).tls(error)).connect_lazy().unwrap();
}
