//! The files that may hold unsafe code: mapping, foreign functions, loading, relocation, callers of kernels.

use super::Finding;
use super::lexed::Lexed;

/// File and what the unsafe code is for. A row whose file has none left is itself a finding.
pub const UNSAFE_FILES: &[(&str, &str)] = &[
    (
        "backends/cpu/src/llvm/disassemble.rs",
        "LLVM's disassembler, which inkwell lacks",
    ),
    (
        "backends/cpu/src/llvm/machine.rs",
        "calls of the LLVM C interface that inkwell lacks",
    ),
    (
        "backends/cpu/src/llvm/memory.rs",
        "executable memory for generated code",
    ),
    ("backends/cpu/tests/common/mod.rs", "calls of generated kernels"),
    ("backends/cpu/tests/common/guarded.rs", "buffers with guard pages"),
    (
        "backends/cpu/tests/common/kernel.rs",
        "calls of generated kernels",
    ),
    (
        "backends/runtime/src/abi/export.rs",
        "the exported function and the anchor in the file",
    ),
    ("backends/runtime/src/abi/handles.rs", "handles that callers hold"),
    ("backends/runtime/src/abi/model_fns.rs", "the C interface: models"),
    (
        "backends/runtime/src/abi/session_fns.rs",
        "the C interface: sessions",
    ),
    (
        "backends/runtime/src/cpu.rs",
        "control registers and CPU identification",
    ),
    (
        "backends/runtime/src/dylib.rs",
        "loading artifacts and calling their interface",
    ),
    ("backends/runtime/src/exec.rs", "calls of kernels"),
    (
        "backends/runtime/src/image.rs",
        "the artifact's own image in memory",
    ),
    ("backends/runtime/src/memory.rs", "mapped memory"),
    (
        "backends/runtime/src/model.rs",
        "kernel entries inside mapped code",
    ),
    (
        "backends/runtime/src/pool.rs",
        "work shared with threads by pointer, futex",
    ),
    ("backends/runtime/src/weights.rs", "mapped weights"),
    (
        "backends/runtime/tests/damaged_plans.rs",
        "kernels written by hand",
    ),
    ("backends/runtime/tests/session.rs", "kernels written by hand"),
    ("frontends/onnx/src/source.rs", "mapped model files"),
];

/// True if `path` may hold unsafe code.
pub fn is_listed(path: &str) -> bool {
    UNSAFE_FILES.iter().any(|(file, _)| *file == path)
}

/// Rows that are no longer needed.
pub fn check_rows(files: &[(String, String)]) -> Vec<Finding> {
    let own = "tools/xtask/src/tidy/unsafe_files.rs";
    let needed = |path: &str| {
        let text = files
            .iter()
            .find(|(file, _)| file == path)
            .map(|(_, text)| text.as_str());
        let lexed = text.and_then(|text| Lexed::new(path, text).ok());
        lexed.is_some_and(|lexed| (0..lexed.tokens.len()).any(|at| lexed.is(at, "unsafe")))
    };
    let stale = UNSAFE_FILES.iter().filter(|(path, _)| !needed(path));
    stale
        .map(|(path, _)| Finding::new(own, 0, format!("{path} holds no unsafe code: drop the row")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_rows_are_found() {
        assert_eq!(check_rows(&[]).len(), UNSAFE_FILES.len());
        let path = UNSAFE_FILES[0].0.to_owned();
        let used = check_rows(&[(path.clone(), "fn a() { unsafe { b() } }".into())]);
        assert_eq!(used.len(), UNSAFE_FILES.len() - 1);
        let only_spoken_of = check_rows(&[(path, "// unsafe\nfn a() { \"unsafe\" }".into())]);
        assert_eq!(only_spoken_of.len(), UNSAFE_FILES.len());
    }
}
