#!/usr/bin/env bash
# Loads and runs BPF objects that nobody here wrote: those in Debian's packages, plain files and ones carved out of
# programs that carry them (libbpf skeletons). Prints a table; fails when an object does not load, or when an xdp, tc
# or lirc program does not run on examples/mixed.pcap.
#
#   tests/real-objects.sh [DIR]
#
# Needs apt-get with a Debian mirror (nothing is installed), dpkg-deb and python3. DIR keeps the objects; a folder that
# has some already is used as it is. RTBPF names the program, else it is built.
set -eu

packages="libxdp1 xdp-tools xdp-tests ir-keytable libbpf-tools qemu-system-x86"
root=$(cd "$(dirname "$0")/.." && pwd)
objects=${1:-}
if [ -z "$objects" ]; then
    objects=$(mktemp -d)
    trap 'rm -rf "$objects"' EXIT
fi
mkdir -p "$objects"
objects=$(cd "$objects" && pwd)

if [ -z "$(ls "$objects")" ]; then
    debs=$(mktemp -d)
    for package in $packages; do
        (cd "$debs" && apt-get download -q "$package" >/dev/null 2>&1) || echo "not downloaded: $package" >&2
    done
    for deb in "$debs"/*.deb; do
        package=$(basename "$deb" | sed 's/_.*//')
        mkdir -p "$debs/$package"
        dpkg-deb -x "$deb" "$debs/$package"
        python3 "$root/tests/carve-objects.py" "$debs/$package" "$objects" "$package"
    done
    rm -rf "$debs"
fi

rtbpf=${RTBPF:-}
if [ -z "$rtbpf" ]; then
    cargo build --release --quiet --manifest-path "$root/Cargo.toml" -p rtbpf-cli --bin rtbpf
    target=$(cargo metadata --format-version 1 --no-deps --manifest-path "$root/Cargo.toml" |
        sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
    rtbpf=$target/release/rtbpf
fi
exec python3 "$root/tests/real-objects.py" "$rtbpf" "$objects" "$root/examples/mixed.pcap"
