#!/usr/bin/env bash
# Boots the machine once, without any network: a folder goes in on a read-only disk, results come out as a tar on another,
# what it says and its console into files. What the machine does is the folder's affair (guest/machine). The machine's own disk is never
# written: what it changes is thrown away. qemu ends when the machine does, or at the time limit, by its own pid.
#
#   boot.sh IMAGE PAYLOAD RESULTS [--memory MIB] [--cpus N] [--seconds LIMIT] [--append 'words for the kernel']
#   boot.sh --accelerator IMAGE     `kvm` if a probe boot with it comes to user space in time, else `tcg`
#
# VM_ACCELERATOR=kvm|tcg says which, without a probe. Its words come to RESULTS/said as they are said, the kernel's to
# RESULTS/console. Status: 0 if the machine ran to its end
# and left results, whatever they say; else 1, and a line on stderr says what happened.
set -euo pipefail
umask 022

emulator='qemu-system-x86_64'
command -v $emulator >/dev/null || { echo "boot: no $emulator" >&2; exit 1; }
work=$(mktemp -d "${TMPDIR:-/tmp}/cs-vm.XXXXXX")
qemu=''
finish() {
  [ -z "$qemu" ] || kill -KILL "$qemu" 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

# Runs qemu for at most so long; its status is 0 when it ended by itself.
emulate() { # seconds, arguments of qemu...
  local deadline=$((SECONDS + $1)) status=0
  shift
  TMPDIR=$work $emulator -machine q35 -nodefaults -no-user-config -display none -no-reboot -nic none "$@" \
    >"$work/qemu.log" 2>&1 </dev/null &
  qemu=$!
  while kill -0 "$qemu" 2>/dev/null; do
    if [ $SECONDS -ge "$deadline" ]; then
      kill -KILL "$qemu"
      wait "$qemu" 2>/dev/null || true
      qemu=''
      return 124
    fi
    sleep 0.2
  done
  wait "$qemu" || status=$?
  qemu=''
  return "$status"
}

# Emulated, the processors take turns in one thread (tests/vm/run gives one: with two, whatever asks all of them, as each
# batch of pages that goes to swap does, waits for a turn). With a thread for each, QEMU up to 8.0 lets one run code that another
# has just replaced, as the kernel does with its own all the time; seen here with 7.2, the more often the busier the host:
# `Oops: int3`, and a panic (bugzilla.redhat.com/2216496). With cx16 it did not boot reliably either.
#
# -icount: the machine's clock goes by what its processor has done, 2 ns an instruction, and by ours only while it sleeps. It
# is then a slow computer, not one whose every second is too short: a page from zram cost 349 us a KiB without, on a busy host,
# and what steers by time and pressure rightly gave up.
options_of() { # accelerator
  case $1 in
  kvm) options=(-accel kvm -cpu host) ;;
  tcg) options=(-accel 'tcg,thread=single' -cpu 'max,cx16=off' -icount shift=1 -rtc clock=vm) ;;
  *) echo "boot: no accelerator $1" >&2 && return 1 ;;
  esac
}

disks() { # image
  kernel=(-kernel "$1/vmlinuz" -initrd "$1/initrd.img")
  root=(-drive "file=$1/root.img,format=raw,if=virtio,snapshot=on,discard=unmap")
}
# A panic ends it: -no-reboot.
words='root=/dev/vda rw console=ttyS0 loglevel=4 panic=-1 psi=1 systemd.show_status=false'

# KVM may be there and yet be no good: some hypervisors lend one in which a stock kernel dies. A boot tells.
accelerator() { # image
  local options kernel root
  if [ -n "${VM_ACCELERATOR:-}" ]; then
    echo "$VM_ACCELERATOR"
    return 0
  fi
  if [ -w /dev/kvm ]; then
    disks "$1"
    options_of kvm
    if emulate 15 "${options[@]}" -m 512 -smp 1 "${kernel[@]}" "${root[@]}" -serial "file:$work/probe" \
      -append "$words init=/usr/local/sbin/machine" && grep -q 'machine: user space' "$work/probe"; then
      echo kvm
      return 0
    fi
  fi
  echo tcg
}

if [ "${1:-}" = --accelerator ]; then
  accelerator "$2"
  exit 0
fi

[ $# -ge 3 ] || { sed -n '/^#   boot.sh/s/^# *//p' "$0" >&2; exit 2; }
image=$1 payload=$2 results=$3 memory=2048 cpus=2 limit=300 more=''
shift 3
while [ $# -gt 0 ]; do
  case $1 in
  --memory) memory=$2 ;;
  --cpus) cpus=$2 ;;
  --seconds) limit=$2 ;;
  --append) more=$2 ;;
  *) echo "boot: what is $1?" >&2 && exit 2 ;;
  esac
  shift 2
done
mkdir -p "$results"
results=$(realpath "$results")
rm -f "$results/status"

# Sparse, and what is not used of them costs nothing.
truncate -s "$(($(du -sm "$payload" | cut -f1) * 11 / 10 + 32))M" "$work/payload.img"
mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$payload" "$work/payload.img"
truncate -s 256M "$work/results.img"
disks "$image"
options_of "$(accelerator "$image")"
: >"$results/console"
: >"$results/said"

status=0
emulate "$limit" "${options[@]}" -m "$memory" -smp "$cpus" "${kernel[@]}" "${root[@]}" \
  -drive "file=$work/payload.img,format=raw,if=virtio,readonly=on" -drive "file=$work/results.img,format=raw,if=virtio" \
  -device virtio-rng-pci -serial "file:$results/console" -serial "file:$results/said" -append "$words machine $more" || status=$?

wrong() {
  echo "boot: $*; the ends of what it said and of its console:" >&2
  tail -n 15 "$results/said" "$results/console" >&2
  exit 1
}
tar --extract --no-same-owner --file "$work/results.img" --directory "$results" 2>/dev/null || true
[ "$status" != 124 ] || wrong "the machine was not done after $limit s, it was stopped"
[ "$status" = 0 ] || wrong "qemu ended with $status: $(tail -n 3 "$work/qemu.log")"
! grep -q 'Kernel panic' "$results/console" || wrong 'the kernel panicked'
[ -e "$results/status" ] || wrong 'the machine ended without results'
