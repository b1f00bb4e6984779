#!/usr/bin/env bash
# Builds rsqc, compiles the example models without and with quantization, evaluates both on held-out digits and
# prints one table. With --json: one JSON object per row on stdout instead, everything else on stderr.
set -euo pipefail
cd "$(dirname "$0")/.."

json=
case "${1:-}" in
    "") ;;
    --json) json=1 ;;
    *) echo "usage: tools/quickstart.sh [--json]" >&2; exit 2 ;;
esac

tools/setup.sh
echo "quickstart: building rsqc (release)" >&2
cargo build --release --package rsqc >&2
rsqc=${CARGO_TARGET_DIR:-target}/release/rsqc
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# field NAME: the first value of that name in the JSON lines on stdin.
field() {
    local value
    value=$(sed -n "s/.*\"$1\"[[:space:]]*:[[:space:]]*\"\{0,1\}\([^,\"}]*\).*/\1/p" | head -n 1)
    if [ -z "$value" ]; then
        echo "quickstart: rsqc printed no \"$1\"" >&2
        return 1
    fi
    echo "$value"
}

[ -n "$json" ] ||
    printf '%-6s %-12s %8s %10s %15s %15s %15s\n' model scheme top-1 agreement "artifact bytes" "ms, batch 1" "ms, batch 32"
for model in vit cnn mlp; do
    schemes="none w8a8"
    [ "$model" != cnn ] || schemes="$schemes w8a8-static"
    for scheme in $schemes; do
        source=examples/digits/$model.onnx
        artifact=$out/$model-$scheme.so
        echo "quickstart: $model $scheme" >&2
        calib=()
        [ "$scheme" != w8a8-static ] || calib=(--calib examples/digits/calib.npz)
        "$rsqc" compile "$source" --scheme "$scheme" "${calib[@]}" -o "$artifact" --json >"$out/compile.json"
        "$rsqc" eval "$artifact" --data examples/digits/eval.npz --task classify --against "$source" --json >"$out/eval.json"
        "$rsqc" bench "$artifact" --shapes 1 --threads 1 --json >"$out/bench1.json"
        "$rsqc" bench "$artifact" --shapes 32 --threads 1 --json >"$out/bench32.json"
        top1=$(field top1 <"$out/eval.json")
        agreement=$(field agreement <"$out/eval.json")
        bytes=$(wc -c <"$artifact")
        ms_1=$(field median_ms <"$out/bench1.json")
        ms_32=$(field median_ms <"$out/bench32.json")
        if [ -n "$json" ]; then
            printf '{"model":"%s","scheme":"%s","top1":%s,"agreement":%s,"bytes":%s,"ms_1":%s,"ms_32":%s}\n' \
                "$model" "$scheme" "$top1" "$agreement" "$bytes" "$ms_1" "$ms_32"
        else
            LC_ALL=C printf '%-6s %-12s %8.4f %10.4f %15d %15.4f %15.4f\n' \
                "$model" "$scheme" "$top1" "$agreement" "$bytes" "$ms_1" "$ms_32"
        fi
    done
done
