//! The files that README shows: each stands in a fenced block after a comment that names it.

use crate::error::{Error, Result};

/// The comment that names the file of the block which follows.
const MARK: &str = "<!-- file: ";

pub(super) struct File {
    pub(super) path: String,
    pub(super) text: String,
}

/// Every file that the text shows, in its order.
///
/// # Errors
/// When a mark has no block after it, or a block no end.
pub(super) fn files(text: &str) -> Result<Vec<File>> {
    let mut lines = text.lines();
    let mut files = Vec::new();
    while let Some(line) = lines.next() {
        let Some(path) = line.strip_prefix(MARK).and_then(|rest| rest.strip_suffix(" -->")) else { continue };
        let incomplete = || Error::new(format!("README.md: no whole code block follows the mark of {path}"));
        let fence = lines.find(|line| !line.is_empty()).ok_or_else(incomplete)?;
        if !fence.starts_with("```") {
            return Err(incomplete());
        }
        let mut text = String::new();
        loop {
            match lines.next().ok_or_else(incomplete)? {
                "```" => break,
                line => {
                    text.push_str(line);
                    text.push('\n');
                }
            }
        }
        files.push(File { path: path.to_owned(), text });
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_each_file_and_refuses_half_of_one() {
        let text = "text\n<!-- file: a/b.rs -->\n\n```rust\nfn a() {}\n\nfn b() {}\n```\n\n```toml\nno = 1\n```\n";
        let found = files(text).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((&*found[0].path, &*found[0].text), ("a/b.rs", "fn a() {}\n\nfn b() {}\n"));
        assert!(files("<!-- file: a -->\ntext\n").is_err());
        assert!(files("<!-- file: a -->\n```\ntext\n").is_err());
    }
}
