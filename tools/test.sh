#!/usr/bin/env bash
# Everything that must pass: sets up, then runs `cargo xtask ci` (arguments are passed on, e.g. --only test).
#
# RSQC_SHARED   folder with further models and conformance data; tests that need it are left out without it
# RSQC_PYTHON   the Python with numpy, onnx, onnxruntime; without it an environment is made in target/venv
set -euo pipefail
cd "$(dirname "$0")/.."

tools/setup.sh

target=${CARGO_TARGET_DIR:-$PWD/target}
mkdir -p "$target"
export PATH="$target/tools/bin:$PATH"

if ! cargo nextest --version >/dev/null 2>&1; then
    echo "test: installing cargo-nextest into $target/tools" >&2
    # A quick build is enough; where it cannot be had in time, xtask falls back to cargo test.
    CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
        timeout 480 cargo install --quiet --locked --root "$target/tools" cargo-nextest >&2 ||
        echo "test: no cargo-nextest; using cargo test" >&2
fi

if [ -z "${RSQC_PYTHON:-}" ] && command -v python3 >/dev/null 2>&1; then
    venv=$target/venv
    [ -x "$venv/bin/python" ] || python3 -m venv "$venv" >&2 || true
    for package in numpy onnx onnxruntime; do
        "$venv/bin/python" -c "import $package" >/dev/null 2>&1 ||
            "$venv/bin/python" -m pip install --quiet "$package" >&2 ||
            echo "test: $package cannot be installed; tests that need it are left out" >&2
    done
    if [ -x "$venv/bin/python" ]; then export RSQC_PYTHON=$venv/bin/python; fi
fi

cargo xtask ci "$@"
