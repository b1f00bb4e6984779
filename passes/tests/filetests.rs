//! Golden files of passes: `tests/filetests/<pass>/<case>.rsq`.
//!
//! A file is a comment that says what it shows, `# run: PASSES`, a module, then `# becomes` and the module that the
//! passes make of it, or `# keeps` if nothing may change. Both modules must be canonical text, valid after every pass,
//! and numerically what the passes declare. `RSQC_BLESS=1` writes what is found.

use rsqc_ir::diag::Diag;
use rsqc_ir::eval::{Data, ReferenceExecutor, Tensor};
use rsqc_ir::{Module, text};
use rsqc_passes::registry;
use rsqc_passes::{Env, ManagerOptions, PassManager, Samples};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

struct Case {
    path: PathBuf,
    comment: String,
    passes: String,
    before: String,
    /// `None`: nothing may change.
    after: Option<String>,
}

/// Two samples of fixed values in -1..1 (0 for integers), in which every symbol is 2, then 3.
struct Seeded(Vec<Vec<Tensor>>);

impl Seeded {
    fn new(m: &Module) -> Self {
        let sample = |size: i64| {
            let tensor = |p: &rsqc_ir::Port| {
                let ty = m.graph.ty(p.value);
                let extent =
                    |d: &rsqc_ir::Dim| d.eval(&|_| Some(size)).expect("symbols have values") as usize;
                let shape: Vec<usize> = ty.shape.iter().map(extent).collect();
                let n: usize = shape.iter().product();
                let value = |i: usize| ((i * 37 + size as usize * 11) % 101) as f32 / 50.0 - 1.0;
                let data = match ty.storage() {
                    rsqc_ir::ScalarType::F32 => Data::F32((0..n).map(value).collect()),
                    t => Data::from_bytes(t, &vec![0; n * t.size()]).expect("zeros fill the shape"),
                };
                Tensor { shape, data }
            };
            m.graph.inputs().iter().map(tensor).collect()
        };
        Seeded(vec![sample(2), sample(3)])
    }
}

impl Samples for Seeded {
    fn count(&self) -> usize {
        self.0.len()
    }
    fn sample(&self, i: usize) -> Result<Vec<Tensor>, Diag> {
        Ok(self.0[i].clone())
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/filetests")
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|e| e.expect("a readable folder").path())
        .collect();
    all.sort();
    all
}

fn read(path: &Path) -> Case {
    let all = std::fs::read_to_string(path).expect("a readable file");
    let (mut comment, mut passes, mut before, mut after) =
        (String::new(), None, String::new(), None::<String>);
    let mut ended = false;
    for line in all.lines() {
        match (line, &mut after) {
            ("# becomes", None) => (after, ended) = (Some(String::new()), true),
            ("# keeps", None) => ended = true,
            (l, Some(text)) => writeln!(text, "{l}").expect("memory"),
            (l, None) if l.starts_with("# run:") => {
                passes = l.strip_prefix("# run:").map(|p| p.trim().to_string())
            }
            (l, None) if l.starts_with('#') && before.is_empty() => writeln!(comment, "{l}").expect("memory"),
            (l, None) => writeln!(before, "{l}").expect("memory"),
        }
    }
    assert!(ended, "{}: neither `# becomes` nor `# keeps`", path.display());
    assert!(!comment.is_empty(), "{}: say what the file shows", path.display());
    let passes = passes.unwrap_or_else(|| panic!("{}: no `# run:`", path.display()));
    Case {
        path: path.into(),
        comment,
        passes,
        before,
        after,
    }
}

fn parse(c: &Case, text: &str) -> Module {
    text::parse(text).unwrap_or_else(|e| panic!("{}: {e}", c.path.display()))
}

fn run(c: &Case) {
    let name = c.path.display();
    let bless = std::env::var_os("RSQC_BLESS").is_some();
    let mut m = parse(c, &c.before);
    let before = text::print(&m);
    let passes = registry::parse(&c.passes).unwrap_or_else(|d| panic!("{name}: {d}"));
    let options = ManagerOptions {
        verify_each: true,
        check_numeric: true,
        seed: 1,
        ..ManagerOptions::default()
    };
    let samples = Seeded::new(&m);
    let env = Env {
        executor: Some(&ReferenceExecutor),
        samples: Some(&samples),
        ..Env::default()
    };
    let report = PassManager::new(env, options)
        .run(&mut m, &passes)
        .unwrap_or_else(|d| panic!("{name}: {d}"));
    let notes: Vec<&String> = report
        .passes
        .iter()
        .flat_map(|p| &p.notes)
        .filter(|n| n.contains("not checked"))
        .collect();
    assert!(notes.is_empty(), "{name}: {notes:?}");
    let found = text::print(&m);
    let (mark, after) = match &c.after {
        Some(text) => ("becomes", text.as_str()),
        None => ("keeps", ""),
    };
    if c.after.is_none() {
        assert_eq!(found, before, "{name}: nothing may change");
    } else {
        assert_ne!(found, before, "{name}: nothing changes");
    }
    if bless {
        let body = if c.after.is_some() { found.as_str() } else { "" };
        let all = format!("{}# run: {}\n{before}# {mark}\n{body}", c.comment, c.passes);
        std::fs::write(&c.path, all).expect("a writable file");
        return;
    }
    assert_eq!(c.before, before, "{name}: the input is not canonical text");
    if c.after.is_some() {
        assert_eq!(after, found, "{name}");
        assert_eq!(
            text::print(&parse(c, after)),
            after,
            "{name}: the result does not read back"
        );
    }
}

#[test]
fn golden_files() {
    let mut failures = Vec::new();
    for dir in entries(&root()).into_iter().filter(|p| p.is_dir()) {
        for path in entries(&dir)
            .into_iter()
            .filter(|p| p.extension().is_some_and(|e| e == "rsq"))
        {
            let result = std::panic::catch_unwind(|| run(&read(&path)));
            failures.extend(result.err().map(|_| path.display().to_string()));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn folders_are_passes_and_show_what_must_not_change() {
    let mut kinds: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for dir in entries(&root()).into_iter().filter(|p| p.is_dir()) {
        let name = dir.file_name().expect("a folder").to_string_lossy().into_owned();
        assert!(
            registry::PASSES.iter().any(|p| p.name == name),
            "there is no pass `{name}`"
        );
        let count = kinds.entry(name.clone()).or_default();
        for path in entries(&dir)
            .into_iter()
            .filter(|p| p.extension().is_some_and(|e| e == "rsq"))
        {
            let c = read(&path);
            let runs = c
                .passes
                .split(',')
                .any(|p| p.split(':').next().is_some_and(|p| p.trim() == name));
            assert!(runs, "{}: does not run `{name}`", path.display());
            match c.after {
                Some(_) => count.0 += 1,
                None => count.1 += 1,
            }
        }
    }
    for row in registry::PASSES.iter().filter(|p| p.name != "enter-canonical") {
        assert!(
            kinds.contains_key(row.name),
            "pass `{}` has no golden files",
            row.name
        );
    }
    for (name, (changed, kept)) in kinds {
        // A pass that moves the module to another phase always changes something.
        let pass = registry::parse(&name).unwrap_or_else(|d| panic!("{name}: {d}"));
        let always = pass.iter().any(|p| p.phases().then.is_some());
        assert!(
            changed > 0 && (kept > 0 || always),
            "{name}: {changed} files that change, {kept} that must not"
        );
    }
}
