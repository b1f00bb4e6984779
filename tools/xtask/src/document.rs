//! Documents with parts that a command writes: what stands between `<!-- begin: COMMAND -->` and `<!-- end: COMMAND -->`.

use crate::error::Error;
use std::path::Path;

/// Replaces the part of a document that `command` writes.
pub fn fill(path: &Path, command: &str, part: &str) -> Result<(), Error> {
    let fail = |source| Error::File {
        path: path.to_path_buf(),
        source,
    };
    let text = std::fs::read_to_string(path).map_err(fail)?;
    std::fs::write(path, replaced(&text, command, part, path)?).map_err(fail)
}

/// The text with everything between the marker lines replaced.
fn replaced(text: &str, command: &str, part: &str, path: &Path) -> Result<String, Error> {
    let (begin, end) = (
        format!("<!-- begin: {command} -->"),
        format!("<!-- end: {command} -->"),
    );
    let missing = |marker: &str| Error::Marker {
        path: path.to_path_buf(),
        marker: marker.into(),
    };
    let (head, rest) = text.split_once(&begin).ok_or_else(|| missing(&begin))?;
    let (_, tail) = rest.split_once(&end).ok_or_else(|| missing(&end))?;
    Ok(format!("{head}{begin}\n{part}{end}{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_between_markers_only() {
        let (begin, end) = (
            "<!-- begin: cargo xtask docs -->",
            "<!-- end: cargo xtask docs -->",
        );
        let text = format!("a\n{begin}\nold\n{end}\nb\n");
        let path = Path::new("README.md");
        assert_eq!(
            replaced(&text, "cargo xtask docs", "new\n", path).expect("markers"),
            format!("a\n{begin}\nnew\n{end}\nb\n")
        );
        let missing = |text: &str, command| match replaced(text, command, "new", path) {
            Err(Error::Marker { marker, .. }) => marker,
            other => panic!("{other:?}"),
        };
        assert_eq!(missing("a", "cargo xtask docs"), begin);
        assert_eq!(missing(begin, "cargo xtask docs"), end);
        assert_eq!(
            missing(&text, "cargo xtask bench"),
            "<!-- begin: cargo xtask bench -->"
        );
    }

    #[test]
    fn writes_the_file() {
        let path = std::env::temp_dir().join(format!("rsqc-xtask-document-{}.md", std::process::id()));
        std::fs::write(&path, "x<!-- begin: a b -->1<!-- end: a b -->y").expect("written");
        fill(&path, "a b", "2").expect("filled");
        let text = std::fs::read_to_string(&path).expect("read");
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(text, "x<!-- begin: a b -->\n2<!-- end: a b -->y");
    }
}
