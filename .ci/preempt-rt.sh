#!/usr/bin/env bash
# preempt-rt.sh CACHE_DIR PROGRAM...: runs static x86_64 programs, one after another, on Debian's PREEMPT_RT kernel under
# qemu (software emulation). Fails when one fails, or when the kernel is not a real-time one.
#
# The kernel is downloaded once, to CACHE_DIR. The guest has two CPUs, /proc, /sys, /dev and /tmp, root's rights, no disk
# and no network. Times mean nothing there: what it shows is behaviour under real-time locks and scheduling.
# RT_LIMIT is the most seconds it may take (900), TEST_ARGS what each program is called with; RTBPF_MODEL_OPS and
# RTBPF_HISTORIES are passed on.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 CACHE_DIR PROGRAM..." >&2; exit 2; }
mkdir -p "$1"
dir=$(cd "$1" && pwd)
shift
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo

need=()
command -v qemu-system-x86_64 >/dev/null || need+=(qemu-system-x86 seabios)
command -v busybox >/dev/null && ! ldd "$(command -v busybox)" >/dev/null 2>&1 || need+=(busybox-static)
command -v cpio >/dev/null || need+=(cpio)
if [ ${#need[@]} -gt 0 ]; then
  $sudo apt-get -q update
  DEBIAN_FRONTEND=noninteractive $sudo apt-get -qy install --no-install-recommends "${need[@]}"
fi

if [ ! -s "$dir/vmlinuz" ]; then
  [ -n "$(apt-cache pkgnames linux-image-rt-amd64)" ] || $sudo apt-get -q update
  package=$(apt-cache depends linux-image-rt-amd64 | sed -n 's/.*Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
  rm -rf "$dir/deb"
  mkdir -p "$dir/deb"
  (cd "$dir/deb" && apt-get -q -o APT::Sandbox::User=root download "$package")
  dpkg-deb --fsys-tarfile "$dir"/deb/*.deb | tar -xO --wildcards './boot/vmlinuz-*' >"$dir/vmlinuz.new"
  mv "$dir/vmlinuz.new" "$dir/vmlinuz"
  rm -rf "$dir/deb"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/root/{bin,proc,sys,dev,tmp,programs}
cp "$(command -v busybox)" "$work/root/bin/busybox"
for program in "$@"; do
  # Debug information is of no use there, and most of the size.
  strip -g -o "$work/root/programs/$(basename "$program")" "$program"
done
cat >"$work/root/init" <<EOF
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/tmp RUST_BACKTRACE=0
export RTBPF_MODEL_OPS=${RTBPF_MODEL_OPS:-} RTBPF_HISTORIES=${RTBPF_HISTORIES:-}
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
uname -srv
[ "\$(cat /sys/kernel/realtime)" = 1 ] || { echo "not a PREEMPT_RT kernel"; poweroff -f; }
ulimit -l unlimited
cd /tmp
failed=0
for program in /programs/*; do
  echo "== \${program##*/}"
  "\$program" ${TEST_ARGS:-} || failed=1
done
echo "guest-status=\$failed"
poweroff -f
EOF
chmod +x "$work/root/init"
(cd "$work/root" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initrd"

status=0
timeout -k 5 "${RT_LIMIT:-900}" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 1024 -nic none \
  -display none -monitor none -serial "file:$work/log" -no-reboot -kernel "$dir/vmlinuz" -initrd "$work/initrd" \
  -append 'console=ttyS0 quiet panic=-1 mitigations=off' </dev/null || status=$?
tr -d '\r' <"$work/log" | grep -av '^guest-status=' || true
[ "$status" = 0 ] || { echo "qemu: status $status (124: it took too long)" >&2; exit "$status"; }
tr -d '\r' <"$work/log" | grep -aqx 'guest-status=0' || { echo "a program failed, or the guest died" >&2; exit 1; }
