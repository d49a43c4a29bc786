#!/usr/bin/env bash
# Runs the test of each row of tests/realtime-rows.txt and prints row, test, result. Fails when one fails.
set -euo pipefail
cd "$(dirname "$0")/.."

# The package and target that a source file belongs to, as arguments of cargo test.
target() {
  local room=${1%%/*} package
  case $room in vm) package=rtbpf ;; *) package=rtbpf-$room ;; esac
  case $1 in
    */tests/*) echo "-p $package --test $(basename "$1" .rs)" ;;
    *) echo "-p $package --lib" ;;
  esac
}

failed=0
while IFS='|' read -r row file name rule; do
  read -r row file name <<<"$row $file $name"
  if [ "$file" = - ]; then
    printf '%2s  %-9s %s\n' "$row" 'no test' "${rule# }"
    continue
  fi
  # shellcheck disable=SC2046 # the arguments are words
  if output=$(timeout "${SECONDS_PER_TEST:-300}" cargo test -q $(target "$file") -- "$name" --nocapture 2>&1 </dev/null) &&
    grep -q 'test result: ok. 1 passed' <<<"$output"; then
    result=ok
    grep -q '^skipped' <<<"$output" && result=skipped
  else
    result=FAILED failed=1
  fi
  printf '%2s  %-9s %s: %s\n' "$row" "$result" "$file" "$name"
done < <(grep '^[0-9]' tests/realtime-rows.txt)
exit $failed
