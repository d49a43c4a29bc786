#!/usr/bin/env bash
# The long runs behind what docs/locking.md says of concurrency; each prints what it counted. `proofs.sh NAME...` runs some.
#
#   models     random operations on maps against std's collections: 10^7
#   histories  histories of threads, each linearizable: 10^4
#   schedules  whole maps under schedules that shuttle chooses, each history linearizable: 10^6
#   loom       all interleavings of the lock-free parts
#   asan       the tests of locks and maps under AddressSanitizer
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
host=$(rustc -vV | sed -n 's/^host: //p')
counted() { grep -v '^$\|^running\|^test \|RTBPF_SEED'; }

# Nine maps get so many operations each.
models() { RTBPF_MODEL_OPS=1200000 cargo test -q --release -p rtbpf-maps --test model -- --nocapture | counted; }
# Eight maps get so many each.
histories() { RTBPF_HISTORIES=1500 cargo test -q --release -p rtbpf-maps --test linearizable -- --nocapture | counted; }
# Eleven maps get so many each, and so do five parts of the runtime.
schedules() {
  RTBPF_SCHEDULES=${SCHEDULES:-125000} RUSTFLAGS='--cfg shuttle' cargo test -q --release --target-dir "$target/shuttle" \
    -p rtbpf-rt -p rtbpf-maps --test shuttle -- --nocapture --test-threads=1 | counted
}
loom() {
  RUSTFLAGS='--cfg loom' cargo test --release --target-dir "$target/loom" -p rtbpf-rt --test loom | grep '^test '
}
# The sanitizer is a nightly feature; its runtime comes with the stable toolchain.
asan() {
  RUSTC_BOOTSTRAP=1 RUSTFLAGS='-Zsanitizer=address --cfg asan' cargo test --target "$host" --target-dir "$target/asan" --lib \
    --tests -p rtbpf-rt -p rtbpf-maps | grep '^test result'
}

steps=("$@")
[ ${#steps[@]} -gt 0 ] || steps=(models histories schedules loom asan)
for step in "${steps[@]}"; do
  echo "== $step"
  start=$SECONDS
  "$step"
  echo "== $step: $((SECONDS - start)) s"
done
