//! What Go's `endpoints.Manager` lists of the corpus: as it was recorded.

use std::path::Path;
use std::process::Command;

use etcd_client::Client;
use test_support::{Etcd, go_program};

#[path = "../corpus/mod.rs"]
#[allow(dead_code, reason = "what this crate makes of the corpus is another test's")]
mod records;

/// F70: the record of what Go's client lists is true. `CORPUS=record` writes it anew.
#[tokio::test(flavor = "multi_thread")]
async fn go_lists_what_was_recorded() {
    let program = tokio::task::spawn_blocking(|| go_program("./corpus", "corpus-interop")).await.unwrap().unwrap();
    let etcd = Etcd::start();
    let mut kv = Client::connect([etcd.endpoint()], None).await.unwrap().kv_client();
    for record in records::records() {
        kv.put(record.key(), record.value(), None).await.unwrap();
    }
    let output = Command::new(program).args(["-etcd", &etcd.endpoint(), "-target", records::SERVICE]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let listed = String::from_utf8(output.stdout).unwrap();
    if std::env::var_os("CORPUS").is_some_and(|wanted| wanted == "record") {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/go.jsonl");
        std::fs::write(file, &listed).unwrap();
        return;
    }
    assert_eq!(listed, include_str!("../corpus/go.jsonl"));
    assert!(records::listed_by_go().len() > 60);
}
