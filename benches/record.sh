#!/bin/sh
# Records programs/NAME.bpf from programs.c: the instructions of each program's section. Needs clang and llvm of one version.
set -eu
cd "$(dirname "$0")/programs"
version="${LLVM_VERSION:--19}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"clang$version" -target bpf -mcpu=v4 -O2 -fno-builtin -c programs.c -o "$work/programs.o"
for name in $(sed -n 's/^PROG(\([a-z_]*\)).*/\1/p' programs.c); do
    "llvm-objcopy$version" -O binary --only-section="p.$name" "$work/programs.o" "$name.bpf"
done
