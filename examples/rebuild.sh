#!/bin/sh
# Rebuilds the objects beside their sources and shows what differs from those in the tree.
#
# Needs clang and llvm-strip 19 (Debian: clang-19, llvm-19), and libbpf's headers (libbpf-dev).
set -eu
cd "$(dirname "$0")"
clang=${CLANG:-clang-19} strip=${LLVM_STRIP:-llvm-strip-19}
include=/usr/include/$(uname -m)-linux-gnu
status=0
for source in *.bpf.c; do
	object=${source%.c}.o
	# The same path for everybody: it stands in the line information.
	"$clang" -O2 -g -target bpf -mcpu=v3 -Wall -Werror -fdebug-prefix-map="$PWD"=. -ffile-prefix-map="$PWD"=. \
		-I "$include" -c "$source" -o "$object.new"
	# Drops DWARF; BTF stays.
	"$strip" -g "$object.new"
	if [ -f "$object" ] && cmp -s "$object" "$object.new"; then
		echo "same     $object"
		rm "$object.new"
	else
		if [ -f "$object" ]; then
			echo "CHANGED  $object"
			status=1
		else
			echo "new      $object"
		fi
		mv "$object.new" "$object"
	fi
done
exit $status
