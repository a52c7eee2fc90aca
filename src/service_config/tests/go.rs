//! The documents of `tests/corpus/service_configs.jsonl`, and what grpc-go says of them (`service_configs_go.jsonl`, which
//! `cargo xtask test --interop go` compares with Go).

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::parse;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What it shows.
    id: String,
    /// Its text.
    document: String,
    /// `valid`, or the error.
    ours: String,
    /// Why Go says something else of it, if it does.
    #[serde(default)]
    differs: Option<String>,
}

/// What Go says of a document.
#[derive(Deserialize)]
struct Verdict {
    id: String,
    valid: bool,
}

fn lines<T: DeserializeOwned>(name: &str) -> Vec<T> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name);
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn each_document_is_as_go_says_or_differs_for_a_reason() {
    let (cases, verdicts) = (lines::<Case>("service_configs.jsonl"), lines::<Verdict>("service_configs_go.jsonl"));
    assert_eq!(cases.len(), verdicts.len());
    for (case, go) in cases.iter().zip(&verdicts) {
        assert_eq!(case.id, go.id);
        let parsed = parse(&case.document);
        let ours = parsed.as_ref().map_or_else(ToString::to_string, |_| "valid".to_owned());
        assert_eq!(ours, case.ours, "{}: {}", case.id, case.document);
        let agrees = parsed.is_ok() == go.valid;
        assert_eq!(agrees, case.differs.is_none(), "{}: {}, and to Go it is valid: {}", case.id, ours, go.valid);
    }
    let agreed = cases.iter().filter(|case| case.differs.is_none()).count();
    assert!(agreed >= 60, "{agreed}");
}
