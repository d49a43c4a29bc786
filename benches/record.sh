#!/bin/sh
# Records programs/NAME.bpf from programs.c: the instructions of each program's section; and NAME.v3 where version 3 of the
# instruction set, which is what other engines know, makes another program of it. Needs clang and llvm of one version.
set -eu
cd "$(dirname "$0")/programs"
version="${LLVM_VERSION:--19}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for cpu in v3 v4; do "clang$version" -target bpf -mcpu=$cpu -O2 -fno-builtin -c programs.c -o "$work/$cpu.o"; done
for name in $(sed -n 's/^PROG(\([a-z0-9_]*\)).*/\1/p' programs.c); do
    for cpu in v3 v4; do "llvm-objcopy$version" -O binary --only-section="p.$name" "$work/$cpu.o" "$work/$name.$cpu"; done
    mv "$work/$name.v4" "$name.bpf"
    if cmp -s "$work/$name.v3" "$name.bpf"; then rm -f "$name.v3"; else mv "$work/$name.v3" "$name.v3"; fi
done
