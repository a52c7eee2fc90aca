//! What grpc-go says of the service configs of the corpus: as it was recorded.

use std::path::Path;
use std::process::Command;

use test_support::go_program;

/// The record of which documents Go takes is true. `CORPUS=record` writes it anew. A test beside the parser
/// (`src/service_config/tests/go.rs`) compares it with what this crate takes.
#[tokio::test(flavor = "multi_thread")]
async fn go_says_of_service_configs_what_was_recorded() {
    let program = tokio::task::spawn_blocking(|| go_program("./configs", "configs-interop")).await.unwrap().unwrap();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let output = Command::new(program).arg("-file").arg(corpus.join("service_configs.jsonl")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let verdicts = String::from_utf8(output.stdout).unwrap();
    if std::env::var_os("CORPUS").is_some_and(|wanted| wanted == "record") {
        return std::fs::write(corpus.join("service_configs_go.jsonl"), &verdicts).unwrap();
    }
    assert_eq!(verdicts, include_str!("../corpus/service_configs_go.jsonl"));
}
