//! Rules over `Cargo.toml`: a version of a dependency stands once, in the root; every crate takes the
//! workspace's lints.

use super::Finding;
use toml::{Table, Value};

/// Dependencies that do not take their version from the workspace.
fn own_versions(path: &str, table: &Table, section: &str) -> Vec<Finding> {
    let Some(Value::Table(dependencies)) = table.get(section) else {
        return Vec::new();
    };
    let shared = |value: &Value| value.get("workspace").and_then(Value::as_bool) == Some(true);
    let own = dependencies.iter().filter(|(_, value)| !shared(value));
    own.map(|(name, _)| {
        Finding::new(
            path,
            0,
            format!("{section}: {name} must be `{name}.workspace = true`, its version in the root"),
        )
    })
    .collect()
}

/// Checks one manifest.
pub fn check(path: &str, text: &str) -> Vec<Finding> {
    let table: Table = match text.parse() {
        Ok(table) => table,
        Err(error) => return vec![Finding::new(path, 0, format!("not TOML: {}", error.message()))],
    };
    if !table.contains_key("package") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        findings.extend(own_versions(path, &table, section));
        let Some(Value::Table(targets)) = table.get("target") else {
            continue;
        };
        for target in targets.values().filter_map(Value::as_table) {
            findings.extend(own_versions(path, target, section));
        }
    }
    let lints = table
        .get("lints")
        .and_then(|lints| lints.get("workspace"))
        .and_then(Value::as_bool);
    if lints != Some(true) {
        findings.push(Finding::new(
            path,
            0,
            "does not take the workspace's lints: [lints] workspace = true",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_lints() {
        let good =
            "[package]\nname = \"a\"\n[lints]\nworkspace = true\n[dependencies]\nhalf.workspace = true\n";
        assert_eq!(check("a/Cargo.toml", good), []);
        let bad = "[package]\nname = \"a\"\n[dependencies]\nhalf = \"2\"\n\
            [target.'cfg(unix)'.dev-dependencies]\nlibc = { version = \"0.2\" }\n";
        let found = check("a/Cargo.toml", bad);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(
            found[0].what.contains("half")
                && found[1].what.contains("libc")
                && found[2].what.contains("lints")
        );
        assert_eq!(
            check(
                "Cargo.toml",
                "[workspace]\nmembers = []\n[workspace.dependencies]\nhalf = \"2\"\n"
            ),
            []
        );
        assert!(
            check("a/Cargo.toml", "[")
                .first()
                .is_some_and(|finding| finding.what.contains("not TOML"))
        );
    }
}
