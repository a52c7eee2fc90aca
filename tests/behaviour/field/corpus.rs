//! Records as others write them, all under one prefix of a real etcd.

use tonic_etcd::Address;

use crate::corpus::{SERVICE, listed_by_go, records, shown};
use crate::support::{World, naming, resolved};

/// F70, F68, F21: of each record the right instance or the reason why not; none spoils another.
#[tokio::test(flavor = "multi_thread")]
async fn every_record_of_the_corpus_is_read_or_refused_for_itself() {
    let (world, records) = (World::start().await, records());
    let mut kv = world.admin.kv_client();
    // Half of them are listed, and half come by the watch.
    let (listed, watched) = records.split_at(records.len() / 2);
    for record in listed {
        kv.put(record.key(), record.value(), None).await.unwrap();
    }
    let resolution = world.resolver().await.resolve(SERVICE).unwrap();
    resolved(&resolution, "the list", |snapshot| snapshot.entries().count() == listed.len()).await;
    for record in watched {
        kv.put(record.key(), record.value(), None).await.unwrap();
    }
    world.put("corpus/zz-last/h:1", &naming("h:1")).await;
    resolved(&resolution, "all", |snapshot| snapshot.get(b"corpus/zz-last/h:1").is_some()).await;
    let snapshot = resolution.snapshot();
    assert_eq!(snapshot.entries().count(), records.len() + 1, "each of them");
    let wrong: Vec<_> = records
        .iter()
        .filter_map(|record| {
            let read = shown(snapshot.get(&record.key()).unwrap());
            (read != record.ours).then(|| format!("{}\n  expected {}\n  read     {read}", record.id, record.ours))
        })
        .collect();
    if let Some(path) = std::env::var_os("CORPUS_OURS") {
        let ours: std::collections::BTreeMap<_, _> =
            records.iter().map(|record| (&record.id, shown(snapshot.get(&record.key()).unwrap()))).collect();
        std::fs::write(path, serde_json::to_string(&ours).unwrap()).unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// F70: what Go's client lists is read here, with the same address, but for what is said to differ.
#[test]
fn what_go_lists_is_read() {
    let (records, go) = (records(), listed_by_go());
    assert!(records.len() >= 60);
    let mut both = 0;
    for record in &records {
        let listed = go.get(String::from_utf8_lossy(&record.key()).as_ref());
        let is_read = !record.ours.starts_with("unreadable: ");
        let same = match listed {
            Some(listed) if is_read => {
                let address = Address::parse(&listed.addr).map(|address| address.to_string());
                record.ours.split(' ').next().unwrap() == address.unwrap_or_default()
            }
            listed => listed.is_some() == is_read,
        };
        assert_eq!(same, record.differs.is_none(), "{}: Go lists {:?}", record.id, listed.map(|listed| &listed.addr));
        both += usize::from(listed.is_some() && is_read);
    }
    assert!(both >= 60, "{both}");
}
