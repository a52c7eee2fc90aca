//! README shows whole files, each after a comment that names it: those that are examples here are the same.

use super::read;

/// The block that follows the mark of a file.
fn shown(readme: &str, path: &str) -> String {
    let mark = format!("<!-- file: {path} -->");
    let (_, rest) = readme.split_once(&mark).unwrap_or_else(|| panic!("README.md has no {mark}"));
    let (_, block) = rest.split_once("```").unwrap();
    let (_, block) = block.split_once('\n').unwrap();
    block.split_once("\n```").unwrap().0.to_owned() + "\n"
}

#[test]
fn the_client_and_the_server_are_the_examples() {
    let readme = read("README.md");
    for name in ["greeter_client", "greeter_server"] {
        let shown = shown(&readme, &format!("src/bin/{name}.rs"));
        assert_eq!(shown, read(&format!("examples/{name}.rs")), "README.md does not show examples/{name}.rs as it is");
    }
}

#[test]
fn the_proto_is_the_one_of_the_repository() {
    let readme = read("README.md");
    let shown = shown(&readme, "proto/helloworld.proto");
    let ours = read("proto/helloworld.proto");
    let code = |text: &str| {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    for line in code(&shown) {
        assert!(code(&ours).contains(&line), "proto/helloworld.proto has no line {line:?}");
    }
}

/// Outside of rustdoc a line that begins with `# ` in a block of Rust is shown as it is.
#[test]
fn no_line_of_code_is_hidden() {
    let readme = read("README.md");
    let mut is_rust = false;
    for line in readme.lines() {
        match line.strip_prefix("```") {
            Some(language) => is_rust = language.starts_with("rust"),
            None => assert!(!is_rust || !line.starts_with("# "), "README.md shows a line for rustdoc alone: {line}"),
        }
    }
}
