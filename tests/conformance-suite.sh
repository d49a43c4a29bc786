#!/usr/bin/env bash
# Runs the public BPF conformance suite with rtbpf_plugin and prints a line of counts for each CPU version.
#
#   BPF_CONFORMANCE=DIR tests/conformance-suite.sh [--interpret|--threaded|--jit] [aarch64]
#
# DIR is a checkout of github.com/Alan-Jowett/bpf_conformance with its submodule (ELFIO). The runner is built outside
# this tree, with cmake and boost, unless BPF_CONFORMANCE_RUNNER names one. Group `packet` is included, `callx` is not:
# no version of Linux takes it. With `aarch64` the plugin runs under qemu's user mode, built by what
# .ci/aarch64-toolchain.sh sets up (in CI_CACHE, or target/ci).
set -eu

if [ -z "${BPF_CONFORMANCE:-}" ]; then
    echo "skipped: BPF_CONFORMANCE does not name a checkout of the public conformance suite"
    exit 0
fi
root=$(cd "$(dirname "$0")/.." && pwd)
mode=${1:---interpret}
arch=${2:-$(uname -m)}
suite=$(cd "$BPF_CONFORMANCE" && pwd)

runner=${BPF_CONFORMANCE_RUNNER:-}
if [ -z "$runner" ]; then
    build=${TMPDIR:-/tmp}/rtbpf-conformance-build
    cmake -S "$suite" -B "$build" -DCMAKE_BUILD_TYPE=Release >"$build.log" 2>&1 || { tail "$build.log"; exit 1; }
    cmake --build "$build" --target bpf_conformance_runner >>"$build.log" 2>&1 || { tail "$build.log"; exit 1; }
    runner=$build/bin/bpf_conformance_runner
fi

plugin=(build --release --quiet --manifest-path "$root/Cargo.toml" -p rtbpf-cli --bin rtbpf_plugin)
if [ "$arch" = "$(uname -m)" ]; then
    cargo "${plugin[@]}"
    target=$(cargo metadata --format-version 1 --no-deps --manifest-path "$root/Cargo.toml" |
        sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
    path=$target/release/rtbpf_plugin
else
    cache=${CI_CACHE:-$root/target/ci}
    "$root/.ci/aarch64-toolchain.sh" "$cache/aarch64"
    . "$cache/aarch64/env.sh"
    triple=aarch64-unknown-linux-gnu
    cargo "${plugin[@]}" --target "$triple" --target-dir "$cache/aarch64-target"
    # The runner starts one program, without arguments before the suite's.
    path=$(mktemp)
    trap 'rm -f "$path"' EXIT
    printf '#!/bin/sh\nexec %s %s "$@"\n' "$CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER" \
        "$cache/aarch64-target/$triple/release/rtbpf_plugin" >"$path"
    chmod +x "$path"
fi

status=0
for version in v1 v2 v3 v4; do
    out=$("$runner" --test_file_directory "$suite/tests" --plugin_path "$path" \
        --plugin_options "$mode" --cpu_version "$version" --include_groups packet 2>&1) || status=1
    passed=$(grep -o '^Passed.*tests' <<<"$out" || echo 'the runner failed')
    echo "$version $mode $arch: $passed, $(grep -c '^SKIP' <<<"$out" || true) skipped"
    grep -E '^(FAIL|ERROR)' <<<"$out" || true
done
exit $status
