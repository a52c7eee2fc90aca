//! F19: what a server sees of clients whose certificates change, over connections that are cut.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use tempfile::TempDir;
use test_support::Log;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tonic_etcd::{BalancedChannel, ClientTls, Instance};
use tower::discover::Change;

use super::Authority;
use super::channel::server;
use super::rotation::Pair;

/// Asks for client certificates, with a greeter behind it; notes them, and cuts connections when it is told to.
struct Guard {
    port: u16,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Guard {
    async fn start(authority: &Authority, host: &str) -> Self {
        let (own, inner) = (authority.pair(), server());
        let mut roots = RootCertStore::empty();
        roots.add(authority.0.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
        let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
        let mut config = ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![CertificateDer::from(own.der)], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let guard = Self { port, seen: Arc::default(), connections: Arc::default() };
        let (seen, connections) = (guard.seen.clone(), guard.connections.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, seen) = (acceptor.clone(), seen.clone());
                let task = tokio::spawn(forward(acceptor, seen, stream, inner));
                connections.lock().unwrap().push(task.abort_handle());
            }
        });
        guard
    }

    /// Ends all connections, and gives the certificate that the next one shows.
    async fn next(&self, greeter: &GreeterClient<BalancedChannel>) -> Vec<u8> {
        let count = self.seen.lock().unwrap().len();
        self.connections.lock().unwrap().drain(..).for_each(|connection| connection.abort());
        let mut greeter = greeter.clone();
        for _ in 0..600 {
            // A call may be over the connection that has just been cut.
            let _ = greeter.say_hello(HelloRequest::default()).await;
            if let Some(seen) = self.seen.lock().unwrap().get(count) {
                return seen.clone();
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("no further connection");
    }
}

async fn forward(
    acceptor: TlsAcceptor,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    stream: TcpStream,
    to: SocketAddr,
) -> io::Result<(u64, u64)> {
    let mut outside = acceptor.accept(stream).await?;
    let certificate = outside.get_ref().1.peer_certificates().map(|chain| chain[0].to_vec());
    seen.lock().unwrap().push(certificate.unwrap_or_default());
    let mut inside = TcpStream::connect(to).await?;
    tokio::io::copy_bidirectional(&mut outside, &mut inside).await
}

fn greeter(tls: ClientTls, addresses: impl IntoIterator<Item = String>) -> GreeterClient<BalancedChannel> {
    let insert = |(key, address): (usize, String)| {
        Ok::<_, Infallible>(Change::Insert(key, Instance::new(address.as_str()).unwrap()))
    };
    let changes: Vec<_> = addresses.into_iter().enumerate().map(insert).collect();
    let builder = BalancedChannel::builder().tls(tls).wait_for_ready(true).timeout(Duration::from_secs(10));
    GreeterClient::new(builder.build_with_discovery("greeter", tokio_stream::iter(changes)).unwrap())
}

/// A volume as Kubernetes mounts a secret: `tls.crt` → `..data/tls.crt`, and `..data` → a folder that is swapped as a whole.
struct Volume {
    folder: TempDir,
    swaps: usize,
}

impl Volume {
    fn new(authority: &Authority, pair: &Pair) -> Self {
        let mut volume = Self { folder: TempDir::new().unwrap(), swaps: 0 };
        for name in ["ca.crt", "tls.crt", "tls.key"] {
            symlink(Path::new("..data").join(name), volume.path(name)).unwrap();
        }
        volume.swap(&authority.0.pem(), pair);
        volume
    }

    fn swap(&mut self, trusted: &str, pair: &Pair) {
        self.swaps += 1;
        let name = format!("..{}", self.swaps);
        let folder = self.path(&name);
        std::fs::create_dir(&folder).unwrap();
        for (name, text) in [("ca.crt", trusted), ("tls.crt", &pair.certificate), ("tls.key", &pair.key)] {
            std::fs::write(folder.join(name), text).unwrap();
        }
        symlink(name, self.path("..data_tmp")).unwrap();
        std::fs::rename(self.path("..data_tmp"), self.path("..data")).unwrap();
        let _ = std::fs::remove_dir_all(self.path(&format!("..{}", self.swaps - 1)));
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

/// F19: the certificate of the next connection is the one that is there; while it does not belong to its key, or is gone, it is the
/// last good one, which is said once.
#[tokio::test]
async fn files_are_read_again_and_the_last_good_ones_stay() {
    let (log, _guard) = Log::begin();
    let authority = Authority::new();
    let (first, second, third) = (authority.pair(), authority.pair(), authority.pair());
    let guard = Guard::start(&authority, "127.0.0.1").await;
    let mut volume = Volume::new(&authority, &first);
    let greeter = greeter(volume.tls(), [format!("https://localhost:{}", guard.port)]);
    assert_eq!(guard.next(&greeter).await, first.der);
    volume.swap(&authority.0.pem(), &second);
    assert_eq!(guard.next(&greeter).await, second.der);
    assert_eq!(log.warned("TLS"), 0);
    // Another key than that of the certificate, three times.
    std::fs::write(volume.path("tls.key"), &third.key).unwrap();
    for _ in 0..3 {
        assert_eq!(guard.next(&greeter).await, second.der);
    }
    assert_eq!(log.warned("TLS settings invalid, keeping the last valid ones"), 1);
    std::fs::write(volume.path("tls.crt"), &third.certificate).unwrap();
    assert_eq!(guard.next(&greeter).await, third.der);
    assert_eq!(log.count("TLS settings valid again"), 1);
    std::fs::remove_file(volume.path("..data")).unwrap();
    for _ in 0..2 {
        assert_eq!(guard.next(&greeter).await, third.der);
    }
    assert_eq!(log.warned("TLS settings invalid, keeping the last valid ones"), 2);
    assert_eq!(log.count("PRIVATE KEY"), 0);
}

/// F19: a file that is written again in place, with the same length and at the same moment, is read again too.
#[tokio::test]
async fn a_change_that_no_time_tells_is_seen() {
    let authority = Authority::new();
    let (first, second) = (authority.pair(), authority.pair());
    let guard = Guard::start(&authority, "127.0.0.1").await;
    let volume = Volume::new(&authority, &first);
    let times = std::fs::metadata(volume.path("tls.crt")).unwrap().modified().unwrap();
    let greeter = greeter(volume.tls(), [format!("https://localhost:{}", guard.port)]);
    assert_eq!(guard.next(&greeter).await, first.der);
    for (name, text) in [("tls.crt", &second.certificate), ("tls.key", &second.key)] {
        std::fs::write(volume.path(name), text).unwrap();
        std::fs::File::options().write(true).open(volume.path(name)).unwrap().set_modified(times).unwrap();
    }
    assert_eq!(guard.next(&greeter).await, second.der);
}

fn configuration(authority: &Authority, pair: &Pair) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.0.der().clone()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let chain = vec![CertificateDer::from(pair.der.clone())];
    let config = ClientConfig::builder().with_root_certificates(roots);
    Arc::new(config.with_client_auth_cert(chain, key).unwrap())
}

/// F19: a function is asked for each connection. Where it panics or fails, the last settings are used and one warning is logged;
/// before it has given any, that attempt has failed.
#[tokio::test]
async fn a_function_gives_the_present_settings() {
    let authority = Authority::new();
    let (first, second) = (authority.pair(), authority.pair());
    let guard = Guard::start(&authority, "127.0.0.1").await;
    let settings = [configuration(&authority, &first), configuration(&authority, &second)];
    let (log, _guard) = Log::begin();
    // What the function does from now on.
    let step = Arc::new(AtomicUsize::new(0));
    let present = step.clone();
    let tls = ClientTls::rustls_with(move || match present.load(Ordering::SeqCst) {
        0 => {
            present.store(1, Ordering::SeqCst);
            panic!("before there are any")
        }
        1 => Ok(settings[0].clone()),
        2 => panic!("a bug of the user's"),
        3 => Err("not now"),
        _ => Ok(settings[1].clone()),
    });
    let greeter = greeter(tls, [format!("https://localhost:{}", guard.port)]);
    let warned = || log.warned("TLS settings invalid, keeping the last valid ones");
    assert_eq!(guard.next(&greeter).await, first.der);
    assert_eq!(warned(), 0, "{}", log.text());
    for (next, seen, warnings) in [(2, &first, 1), (3, &first, 1), (4, &second, 1), (2, &second, 2)] {
        step.store(next, Ordering::SeqCst);
        assert_eq!(guard.next(&greeter).await, seen.der, "step {next}: {}", log.text());
        assert_eq!(warned(), warnings, "step {next}: {}", log.text());
    }
    assert_eq!(log.warned("panicked: a bug of the user's"), 2, "{}", log.text());
}

/// F19: connections that are made at once share one call.
#[tokio::test]
async fn many_connections_at_once_ask_few_times() {
    let authority = Authority::new();
    let pair = authority.pair();
    let guard = Guard::start(&authority, "0.0.0.0").await;
    let (settings, calls) = (configuration(&authority, &pair), Arc::new(AtomicUsize::new(0)));
    let counted = calls.clone();
    let tls = ClientTls::rustls_with(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(200));
        Ok::<_, Infallible>(settings.clone())
    });
    let addresses = (1..=100).map(|host| format!("https://127.0.0.{host}:{}", guard.port));
    let greeter = greeter(tls.server_name("localhost"), addresses);
    for _ in 0..600 {
        if guard.seen.lock().unwrap().len() >= 100 {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    // On a busy machine some connect again; with each on its own there would be a call for each.
    let (connections, calls) = (guard.seen.lock().unwrap().len(), calls.load(Ordering::Relaxed));
    assert!(connections >= 100 && calls <= connections / 2, "{calls} calls for {connections} connections");
    drop(greeter);
}
