//! The service configs that the documentation shows can be put as they are.

use super::{read, rust_files};

/// The documents of all `etcdctl put tonic-etcd/config/…` in a text.
fn documents(text: &str) -> Vec<String> {
    let puts = text.split("etcdctl put tonic-etcd/config/").skip(1);
    let quoted = puts.filter_map(|put| put.split_once(" '")?.1.split_once('\'')).map(|(document, _)| document);
    let without_comments = |document: &str| {
        let lines = document.lines().map(|line| line.trim_start().trim_start_matches('/'));
        lines.collect::<Vec<_>>().join("\n")
    };
    quoted.map(without_comments).collect()
}

#[test]
fn documents_are_valid_and_nothing_is_to_be_warned_of() {
    let sources = rust_files("src").into_iter().map(|path| std::fs::read_to_string(path).unwrap());
    let mut found = 0;
    for document in sources.chain([read("README.md")]).flat_map(|text| documents(&text)) {
        let warnings =
            tonic_etcd::check_service_config(&document).unwrap_or_else(|error| panic!("{error}: {document}"));
        assert!(warnings.is_empty(), "{warnings:?}: {document}");
        found += 1;
    }
    assert!(found >= 2, "{found}");
}
