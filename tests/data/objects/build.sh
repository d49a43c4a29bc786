#!/usr/bin/env bash
# Compiles the objects beside this script with clang 19 and says which ones differ from those that are checked in.
# `build.sh --keep` replaces them.
set -eu
cd "$(dirname "$0")"
out=$(mktemp -d)
trap 'rm -r "$out"' EXIT
status=0
for source in *.bpf.c; do
    object=${source%.c}.o
    debug=-g
    [ "$source" = legacy.bpf.c ] && debug=
    "${CLANG:-clang-19}" --target=bpf -mcpu=v3 -O2 $debug -Wall -fdebug-prefix-map="$PWD=." \
        -I "/usr/include/$(uname -m)-linux-gnu" -c "$source" -o "$out/$object"
    [ -z "$debug" ] || "${LLVM_STRIP:-llvm-strip-19}" -g "$out/$object"
    if ! cmp -s "$out/$object" "$object"; then
        echo "$object differs"
        status=1
        [ "${1:-}" = --keep ] && cp "$out/$object" "$object" && status=0
    fi
done
exit $status
