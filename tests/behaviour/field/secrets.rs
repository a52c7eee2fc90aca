//! Users and passwords in texts where they have no place.

use std::convert::Infallible;

use etcd_client::Client;
use test_support::{Etcd, Log};
use tonic_etcd::codec::{Codec, Detect, GrpcNaming, Plain};
use tonic_etcd::{
    Address, BalancedChannel, Conflict, EtcdOptions, Instance, Registrar, RegistrationOptions, Resolver, Target,
};
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
    let registrar = Registrar::connect_lazy([etcd.endpoint()]).unwrap();
    let resolver = Resolver::connect_lazy([etcd.endpoint()]).unwrap();
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
            error("resolver", resolver.resolve(&*target).unwrap_err());
            error("registrar", registrar.register(&*target, Instance::new("h:1").unwrap()).unwrap_err());
            debug.push(format!("{:?}", registrar.service(&*target)));
        }
        let options = EtcdOptions::from([text]);
        debug.push(format!("{options:?}"));
        debug.push(format!("{:?} {:?}", Resolver::builder(options.clone()), Registrar::builder(options.clone())));
        error("resolver", Resolver::connect_lazy(options.clone()).unwrap_err());
        error("registrar", Registrar::connect_lazy(options).unwrap_err());
        let none = tokio_stream::iter(Vec::<Result<Change<(), Instance>, Infallible>>::new());
        let builder = BalancedChannel::builder().authority(text);
        debug.push(format!("{builder:?}"));
        error("channel", builder.build_with_discovery("s", none).unwrap_err());
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
    let resolution = Resolver::connect_lazy([etcd.endpoint()]).unwrap().resolve("s").unwrap();
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

/// F18: nor does the warning of a part of a record that is not understood.
#[tokio::test]
async fn what_is_not_understood_of_a_record_shows_no_password() {
    let (log, _guard) = Log::begin();
    let etcd = Etcd::start();
    let admin = Client::connect([etcd.endpoint()], None).await.unwrap();
    let resolver = Resolver::connect_lazy([etcd.endpoint()]).unwrap();
    let cut_off = format!("http://root:secret{}@h:2379", "x".repeat(100));
    let texts = TEXTS.iter().map(|text| (*text).to_owned()).chain([cut_off]);
    for (number, text) in texts.enumerate() {
        let value = format!(r#"{{"Op":0,"Addr":"h:1","Metadata":{{"weight":"{text}"}}}}"#);
        admin.kv_client().put(format!("{number}/h:1"), value, None).await.unwrap();
        let resolution = resolver.resolve(number.to_string()).unwrap();
        resolved(&resolution, "one", |snapshot| snapshot.len() == 1).await;
        assert!(log.warned("not understood") > number, "{}", log.text());
    }
    // Metadata are the user's, and are shown by who asks for them.
    let misread = log.text().lines().filter(|line| line.contains("not understood")).collect::<Vec<_>>().join("\n");
    assert!(!misread.contains("secret"), "{misread}");
}

/// F18: nor does the error that names who holds a key.
#[tokio::test]
async fn who_holds_a_key_shows_no_password() {
    let (log, _guard) = Log::begin();
    let etcd = Etcd::start();
    let admin = Client::connect([etcd.endpoint()], None).await.unwrap();
    let value = r#"{"Addr":"h:1","Metadata":{"id":"http://root:secret@pod-1"}}"#;
    admin.kv_client().put("s/h:1", value, None).await.unwrap();
    let registrar = Registrar::connect_lazy([etcd.endpoint()]).unwrap();
    let options = RegistrationOptions::new().conflict(Conflict::Wait);
    let registration = registrar.register_with("s", Instance::new("h:1").unwrap(), options).unwrap();
    let error = registration.ready(PATIENCE).await.unwrap_err();
    for text in [format!("{error} {error:?}"), format!("{registration:?}"), log.text()] {
        assert!(!text.contains("secret"), "{text}");
    }
    assert!(error.is_conflict() && error.to_string().contains("pod-1"), "{error}");
}
