#!/usr/bin/env bash
# Runs the public BPF conformance suite with rtbpf_plugin and prints a line of counts for each CPU version.
#
#   BPF_CONFORMANCE=DIR tests/conformance-suite.sh [--interpret|--jit]
#
# DIR is a checkout of github.com/Alan-Jowett/bpf_conformance with its submodule (ELFIO). The runner is built outside
# this tree, with cmake and boost, unless BPF_CONFORMANCE_RUNNER names one. Group `packet` is included, `callx` is not:
# no version of Linux takes it.
set -eu

if [ -z "${BPF_CONFORMANCE:-}" ]; then
    echo "skipped: BPF_CONFORMANCE does not name a checkout of the public conformance suite"
    exit 0
fi
root=$(cd "$(dirname "$0")/.." && pwd)
mode=${1:---interpret}
suite=$(cd "$BPF_CONFORMANCE" && pwd)

runner=${BPF_CONFORMANCE_RUNNER:-}
if [ -z "$runner" ]; then
    build=${TMPDIR:-/tmp}/rtbpf-conformance-build
    cmake -S "$suite" -B "$build" -DCMAKE_BUILD_TYPE=Release >"$build.log" 2>&1 || { tail "$build.log"; exit 1; }
    cmake --build "$build" --target bpf_conformance_runner >>"$build.log" 2>&1 || { tail "$build.log"; exit 1; }
    runner=$build/bin/bpf_conformance_runner
fi

cargo build --release --quiet --manifest-path "$root/Cargo.toml" -p rtbpf-cli --bin rtbpf_plugin
target=$(cargo metadata --format-version 1 --no-deps --manifest-path "$root/Cargo.toml" |
    sed 's/.*"target_directory":"\([^"]*\)".*/\1/')

status=0
for version in v1 v2 v3 v4; do
    out=$("$runner" --test_file_directory "$suite/tests" --plugin_path "$target/release/rtbpf_plugin" \
        --plugin_options "$mode" --cpu_version "$version" --include_groups packet 2>&1) || status=1
    echo "$version $mode: $(grep -o '^Passed.*tests' <<<"$out" || echo 'the runner failed'), $(grep -c '^SKIP' <<<"$out" || true) skipped"
    grep -E '^(FAIL|ERROR)' <<<"$out" || true
done
exit $status
