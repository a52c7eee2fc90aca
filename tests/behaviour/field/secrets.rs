//! Users and passwords in texts where they have no place.

use std::convert::Infallible;

use etcd_client::Client;
use test_support::{Etcd, Log};
use tonic_etcd::codec::{Codec, Detect, GrpcNaming, Plain};
use tonic_etcd::{Address, BalancedChannel, EtcdOptions, Instance, Registrar, RegistrationOptions, Resolver, Target};
use tower::discover::Change;

use crate::support::{PATIENCE, naming, resolved};

/// What people write, with `secret` as the password.
const TEXTS: [&str; 9] = [
    "http://root:secret@h:2379",
    "https://root:secret@h",
    "root:secret@h:2379",
    "http://root:secret%40h:2379",
    "root%3Asecret%40h:2379",
    "http://root:se/secret@h:2379",
    "http://root:1/secret@h:2379",
    "http://root:p@secret@h:2379",
    "ftp://root:secret@h:2379",
];

/// F18: no error and no `Debug` of what takes an address, an endpoint or a target shows a password.
#[tokio::test]
async fn no_error_and_no_debug_shows_a_password() {
    let mut shown = Vec::new();
    let mut error = |what: &str, error: tonic_etcd::Error| shown.push(format!("{what}: {error} {error:?}"));
    let etcd = Etcd::start();
    let registrar = Registrar::connect([etcd.endpoint()]).await.unwrap();
    let resolver = Resolver::connect([etcd.endpoint()]).await.unwrap();
    let mut debug = Vec::new();
    for text in TEXTS {
        error("address", Address::parse(text).unwrap_err());
        error("address", Address::try_from(text).unwrap_err());
        error("address", Address::try_from(text.to_owned()).unwrap_err());
        error("instance", Instance::new(text).unwrap_err());
        error("instance", Instance::new("h:1").unwrap().with_address(text).unwrap_err());
        let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
        for target in
            [format!("etcd://{rest}/greeter"), format!("{text}/greeter"), format!("etcd-srv://{rest}/greeter")]
        {
            error("target", Target::parse(&target).unwrap_err());
            error("resolver", resolver.resolve(&*target).await.unwrap_err());
            error("registrar", registrar.register(&*target, Instance::new("h:1").unwrap()).unwrap_err());
            debug.push(format!("{:?}", registrar.service(&*target)));
        }
        let options = EtcdOptions::from([text]);
        debug.push(format!("{options:?}"));
        debug.push(format!("{:?} {:?}", Resolver::builder(options.clone()), Registrar::builder(options.clone())));
        error("resolver", Resolver::connect(options.clone()).await.unwrap_err());
        error("registrar", Registrar::connect(options).await.unwrap_err());
        let none = tokio_stream::iter(Vec::<Result<Change<(), Instance>, Infallible>>::new());
        let builder = BalancedChannel::builder().authority(text);
        debug.push(format!("{builder:?}"));
        error("channel", builder.discover("s", none).unwrap_err());
        let service = registrar.service("s").advertise(text);
        debug.push(format!("{service:?}"));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let router = tonic::transport::Server::builder().add_routes(tonic::service::Routes::default());
        error("serve", service.serve(router, listener, std::future::ready(())).await.unwrap_err());
        debug.push(format!("{:?}", RegistrationOptions::new().key(text)));
        for codec in [&Detect as &dyn Codec, &GrpcNaming, &Plain] {
            for value in values(text) {
                if let Err(error) = codec.decode(text.as_bytes(), value.as_bytes()) {
                    debug.push(format!("{error} {error:?}"));
                }
            }
        }
    }
    debug.push(format!("{:?}", EtcdOptions::from([etcd.endpoint()]).user("root", "secret")));
    assert!(shown.len() > 100 && debug.len() > 100);
    for text in shown.iter().chain(&debug) {
        assert!(!text.contains("secret"), "{text}");
    }
}

/// Values of records that name such an address.
fn values(text: &str) -> [String; 5] {
    [
        text.to_owned(),
        format!("{text:?}"),
        naming(text),
        format!(r#"{{"Addr":["{text}"]}}"#),
        format!(r#"{{"Op":0,"Addr":"h:1","Metadata":{{"weight":"{text}"}}}} {text}"#),
    ]
}

/// F18: records with a user and a password are left out, and neither logs nor the resolution show them.
#[tokio::test]
async fn records_with_a_password_are_left_out_and_not_shown() {
    let (log, _guard) = Log::begin();
    let etcd = Etcd::start();
    let admin = Client::connect([etcd.endpoint()], None).await.unwrap();
    let mut count = 0;
    for text in TEXTS {
        for value in values(text) {
            count += 1;
            admin.kv_client().put(format!("s/{count}/{text}"), value, None).await.unwrap();
        }
    }
    admin.kv_client().put("s/h:1", naming("h:1"), None).await.unwrap();
    let resolution = Resolver::connect([etcd.endpoint()]).await.unwrap().resolve("s").await.unwrap();
    resolution.ready(PATIENCE).await.unwrap();
    admin.kv_client().put("s/h:2/http://root:secret@h", "http://root:secret@h", None).await.unwrap();
    admin.kv_client().put("s/h:3", naming("h:3"), None).await.unwrap();
    resolved(&resolution, "h:3", |snapshot| snapshot.len() == 2).await;
    let snapshot = resolution.snapshot();
    let entries: Vec<_> = snapshot.entries().map(|entry| format!("{:?}", entry.error())).collect();
    assert!(log.warned("record skipped") >= 1);
    for text in [format!("{snapshot:?}"), format!("{resolution:?}"), entries.join(" "), log.text()] {
        assert!(!text.contains("secret"), "{text}");
    }
}
