#!/usr/bin/env bash
# Makes sure that what the build needs is there; installs LLVM 19 where apt can. Safe to run again and again.
set -euo pipefail

missing=()

have() { command -v "$1" >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; elif have sudo; then sudo "$@"; else return 1; fi
}

install_llvm() {
    echo "setup: installing llvm-19-dev" >&2
    as_root apt-get install -y --no-install-recommends llvm-19-dev >&2 && return
    # The package lists may be old or absent.
    as_root apt-get update >&2 && as_root apt-get install -y --no-install-recommends llvm-19-dev >&2
}

llvm_found() {
    have llvm-config-19 && return
    [ -n "${LLVM_SYS_191_PREFIX:-}" ] && [ -x "$LLVM_SYS_191_PREFIX/bin/llvm-config" ]
}

if ! llvm_found && have apt-get; then install_llvm || true; fi
llvm_found ||
    missing+=("LLVM 19 with its development files (Debian and Ubuntu: llvm-19-dev; elsewhere set LLVM_SYS_191_PREFIX)")

wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml")
if have cargo && have rustc; then
    found=$(rustc --version | cut -d' ' -f2)
    oldest=$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n 1)
    [ "$oldest" = "$wanted" ] || missing+=("Rust $wanted or newer (found $found): rustup update")
else
    missing+=("Rust $wanted or newer (https://rustup.rs)")
fi
have cc || have gcc || missing+=("a C compiler as linker (Debian and Ubuntu: gcc)")
have git || missing+=("git")
have python3 || echo "setup: no python3: the Python callers cannot be tested" >&2

if [ ${#missing[@]} -gt 0 ]; then
    printf 'setup: missing: %s\n' "${missing[@]}" >&2
    exit 1
fi
