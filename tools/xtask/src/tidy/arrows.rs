//! Which crate may import which, and the one crate that names each heavy dependency, from `cargo metadata`.

use super::Finding;
use crate::error::Error;
use serde_json::Value;

/// Crate and the crates of the workspace that it may import; no row, no import.
const ARROWS: &[(&str, &[&str])] = &[
    ("rsqc-ir", &[]),
    ("rsqc-passes", &["rsqc-ir"]),
    ("rsqc-onnx", &["rsqc-ir"]),
    ("rsqc-artifact", &[]),
    ("rsqc-backend", &["rsqc-ir", "rsqc-artifact"]),
    ("rsqc-cpu", &["rsqc-backend", "rsqc-ir", "rsqc-artifact"]),
    ("rsqc-ptx", &["rsqc-backend", "rsqc-ir", "rsqc-artifact"]),
    ("rsqc-runtime", &["rsqc-artifact"]),
    ("rsqc", LIBRARIES),
    ("rsqc-tests", EVERYTHING),
    ("xtask", &[]),
];

const LIBRARIES: &[&str] = &[
    "rsqc-ir",
    "rsqc-passes",
    "rsqc-onnx",
    "rsqc-artifact",
    "rsqc-backend",
    "rsqc-cpu",
    "rsqc-ptx",
    "rsqc-runtime",
];

const EVERYTHING: &[&str] = &[
    "rsqc-ir",
    "rsqc-passes",
    "rsqc-onnx",
    "rsqc-artifact",
    "rsqc-backend",
    "rsqc-cpu",
    "rsqc-ptx",
    "rsqc-runtime",
    "rsqc",
];

/// Dependency and the only crate that names it.
const SOLE_NAMERS: &[(&str, &str)] = &[
    ("petgraph", "rsqc-ir"),
    ("inkwell", "rsqc-cpu"),
    ("cudarc", "rsqc-runtime"),
    ("onnx-protobuf", "rsqc-onnx"),
    ("prost", "rsqc-artifact"),
];

fn check_package(name: &str, dependencies: &[&str], members: &[&str]) -> Vec<Finding> {
    let Some((_, allowed)) = ARROWS.iter().find(|(package, _)| *package == name) else {
        return vec![Finding::new(
            name,
            0,
            "a crate without a row in the import table of tools/xtask",
        )];
    };
    let mut findings = Vec::new();
    for dependency in dependencies {
        if members.contains(dependency) && !allowed.contains(dependency) {
            findings.push(Finding::new(name, 0, format!("may not import {dependency}")));
        }
        let sole = SOLE_NAMERS.iter().find(|(package, _)| package == dependency);
        if let Some((package, only)) = sole.filter(|(_, only)| *only != name) {
            findings.push(Finding::new(name, 0, format!("only {only} may name {package}")));
        }
    }
    findings
}

/// Checks the output of `cargo metadata --no-deps`: all kinds of dependencies, dev and build included.
pub fn check(metadata: &Value) -> Result<Vec<Finding>, Error> {
    let wrong = |reason: &str| Error::Output {
        command: "cargo metadata".into(),
        reason: reason.into(),
    };
    let packages = metadata["packages"]
        .as_array()
        .ok_or_else(|| wrong("no packages"))?;
    let name = |value: &Value| value["name"].as_str().map(str::to_owned);
    let members: Vec<String> = packages.iter().filter_map(name).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    let mut findings = Vec::new();
    for (package, own) in packages.iter().zip(&members) {
        let listed = package["dependencies"]
            .as_array()
            .ok_or_else(|| wrong("no dependencies"))?;
        let dependencies: Vec<&str> = listed.iter().filter_map(|value| value["name"].as_str()).collect();
        findings.extend(check_package(own, &dependencies, &members));
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn wrong_arrows_are_found() {
        let metadata = json!({"packages": [
            {"name": "rsqc-ir", "dependencies": [{"name": "petgraph"}, {"name": "half"}]},
            {"name": "rsqc-passes", "dependencies": [{"name": "rsqc-ir"}, {"name": "rsqc-cpu"}]},
            {"name": "rsqc-cpu", "dependencies": [{"name": "rsqc-ir"}, {"name": "petgraph"}, {"name": "inkwell"}]},
            {"name": "rsqc-runtime", "dependencies": [{"name": "rsqc-ir", "kind": "dev"}]},
            {"name": "rsqc-new", "dependencies": []},
        ]});
        let found: Vec<_> = check(&metadata)
            .expect("complete")
            .into_iter()
            .map(|f| (f.path, f.what))
            .collect();
        let expected = [
            ("rsqc-passes", "may not import rsqc-cpu"),
            ("rsqc-cpu", "only rsqc-ir may name petgraph"),
            ("rsqc-runtime", "may not import rsqc-ir"),
            (
                "rsqc-new",
                "a crate without a row in the import table of tools/xtask",
            ),
        ];
        assert_eq!(
            found,
            expected.map(|(path, what)| (path.to_owned(), what.to_owned()))
        );
    }

    #[test]
    fn the_table_has_no_cycle() {
        let mut done: Vec<&str> = Vec::new();
        while done.len() < ARROWS.len() {
            let ready = |(name, imports): &&(&str, &[&str])| {
                !done.contains(name) && imports.iter().all(|import| done.contains(import))
            };
            let (name, _) = ARROWS
                .iter()
                .find(ready)
                .expect("some crate imports only what is done");
            done.push(name);
        }
    }

    #[test]
    fn output_of_another_shape_is_an_error() {
        assert!(matches!(check(&json!({})), Err(Error::Output { .. })));
    }
}
