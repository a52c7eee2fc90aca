//! F5: learners among the endpoints, in the words of 3.4, 3.5 and 3.6.

use tonic::Status;
use tonic_etcd::{EtcdOptions, Instance, Registrar, Resolver};

use crate::server::Fake;
use crate::server::message::{learner, old_learner};
use crate::support::{PATIENCE, SLOW, servers_are, until};

/// The next member is used at once; the learner when it is promoted, and there is no other.
async fn one_of_two_is_a_learner(words: fn() -> Status) {
    let (first, second) = (Fake::start().await, Fake::start().await);
    for fake in [&first, &second] {
        fake.store(|store| store.put("s/1", "h:1"));
    }
    first.learner(Some(words));
    let options = EtcdOptions::from([first.endpoint(), second.endpoint()]);
    let (mut resolutions, mut registrations) = (Vec::new(), Vec::new());
    for port in 1..=12 {
        let resolver = Resolver::builder(options.clone()).connect_lazy().unwrap();
        let resolution = resolver.resolve("s").unwrap();
        resolution.ready(SLOW).await.unwrap();
        resolutions.push(resolution);
        let registrar = Registrar::builder(options.clone()).connect_lazy().unwrap();
        let registration = registrar.register("r", Instance::new(format!("h:{port}")).unwrap()).unwrap();
        registration.ready(SLOW).await.unwrap();
        registrations.push(registration);
    }
    until("the watches", || second.rpcs(|rpcs| rpcs.watch.seen.len() >= 24)).await;
    assert!(first.rpcs(|rpcs| rpcs.turned_away) >= 1, "some began at the learner");
    assert_eq!(first.rpcs(|rpcs| rpcs.lists()), 0);
    // The one is promoted, and the other starts anew.
    first.learner(None);
    second.learner(Some(words));
    second.cut();
    first.store(|store| store.put("s/2", "h:2"));
    for resolution in &resolutions {
        servers_are(resolution, &["h:1", "h:2"]).await;
    }
    drop(registrations);
}

#[tokio::test]
async fn a_learner_is_passed_over_until_it_is_promoted() {
    tokio::join!(one_of_two_is_a_learner(learner), one_of_two_is_a_learner(old_learner));
}

#[tokio::test]
async fn where_all_are_learners_that_is_said() {
    for words in [learner as fn() -> Status, old_learner] {
        let fake = Fake::start().await;
        fake.store(|store| store.put("s/1", "h:1"));
        fake.learner(Some(words));
        let options = EtcdOptions::from([fake.endpoint()]);
        let resolution = Resolver::builder(options.clone()).connect_lazy().unwrap().resolve("s").unwrap();
        let registrar = Registrar::builder(options).connect_lazy().unwrap();
        let registration = registrar.register("s", Instance::new("h:9").unwrap()).unwrap();
        let said = |text: Option<String>| text.is_some_and(|text| text.contains("not supported for learner"));
        until("said", || said(resolution.last_error().map(|error| error.to_string()))).await;
        until("said", || said(registrar.health().last_error().map(ToString::to_string))).await;
        fake.learner(None);
        registration.ready(PATIENCE).await.unwrap();
        servers_are(&resolution, &["h:1", "h:9"]).await;
    }
}
