//! Rules over every text file: no paths of one particular machine, no marks of unfinished work.

use super::Finding;

/// Top folders that exist on somebody's machine only.
const FOLDERS: [&str; 4] = ["work", "root", "home", "farm"];

/// Words that promise later work. In two parts, so that this file does not hold them.
const MARKS: [(&str, &str); 4] = [("FIX", "ME"), ("XX", "X"), ("HA", "CK"), ("TO", "DO")];

/// Files that are only checked for paths: documents may speak of the marks.
fn is_document(path: &str) -> bool {
    path.ends_with(".md") || path.ends_with(".lock") || path == "LICENSE"
}

/// True if `line` holds an absolute path below one of `FOLDERS`.
fn machine_path(line: &str) -> Option<String> {
    FOLDERS.iter().map(|folder| format!("/{folder}/")).find(|needle| {
        line.match_indices(needle.as_str()).any(|(at, _)| {
            // "a/work/b" is relative: only a path that starts here counts.
            let before = line[..at].chars().next_back();
            !before.is_some_and(|before| before.is_alphanumeric() || "_-.)}>]*".contains(before))
        })
    })
}

/// True if `line` holds `word` with no letter beside it.
fn holds_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let beside = |character: Option<char>| character.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !beside(line[..at].chars().next_back()) && !beside(line[at + word.len()..].chars().next())
    })
}

/// Checks one file.
pub fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if let Some(needle) = machine_path(line) {
            findings.push(Finding::new(
                path,
                index + 1,
                format!("a path of one machine: {needle}..."),
            ));
        }
        for mark in MARKS.iter().map(|(head, tail)| format!("{head}{tail}")) {
            if !is_document(path) && holds_word(line, &mark) {
                findings.push(Finding::new(
                    path,
                    index + 1,
                    format!("`{mark}`: finish it or leave it out"),
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_paths() {
        for folder in FOLDERS {
            assert_eq!(check("a.py", &format!("open('/{folder}/x')\n")).len(), 1);
            assert_eq!(check("a.md", &format!("see /{folder}/x\n")).len(), 1);
            assert_eq!(
                check("a.py", &format!("open('here/{folder}/x')\nopen('/{folder}s')\n")),
                []
            );
        }
    }

    #[test]
    fn marks() {
        for (head, tail) in MARKS {
            let text = format!("fine\n// {head}{tail}: later\n");
            assert_eq!(check("a.rs", &text).first().map(|finding| finding.line), Some(2));
            assert_eq!(check("a.md", &text), []);
            assert_eq!(check("a.rs", &format!("let {head}{tail}S = x_{head}{tail};")), []);
        }
    }
}
