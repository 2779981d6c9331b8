#!/usr/bin/env bash
# twice.sh [--in DIR] COMMAND...: runs COMMAND in two copies of this checkout, in two surroundings that differ in all
# that a build must not depend on, and compares the files that it leaves in $OUT. Prints their sha256; status 1 if one
# differs, or if there is none.
#
#             first                 second
#   folder    short                 longer, and its files were made in the opposite order
#   home      its own, HOME, CARGO_HOME (only the configuration of the registry is the user's), TMPDIR
#   umask     022                   027
#   locale    C                     C.UTF-8
#   time      now, UTC              400 days on (libfaketime, where it is installed), Asia/Kathmandu
#   names     alice at this host    bob at another one
#   jobs      1                     3 (DEB_BUILD_OPTIONS)
#
# The two run at the same time. What they share is the unpacked toolchain, .cache/toolchain.
# --in: keeps the two places there, and uses them again; COMMAND finds what it built the last time.
set -euo pipefail

root=$(realpath "$(dirname "$0")/../..")
scratch=$(mktemp -d "${TMPDIR:-/tmp}/cs-twice-XXXXXX")
trap 'rm -rf "$scratch"' EXIT
place=$scratch
if [ "${1-}" = --in ]; then
  mkdir -p "$2"
  place=$(realpath "$2")
  shift 2
fi
[ $# -gt 0 ] || { sed -n '2,4s/^# //p' "$0" >&2 && exit 2; }
registry=${CARGO_HOME:-$HOME/.cargo}
faketime=$(find /usr/lib -path '*/faketime/libfaketime.so.1' -print -quit)

surrounding() { # name, path of the checkout, order of its files
  local home=$place/$1-home tree=$place/$2 name
  mkdir -p "$home/cargo" "$home/tmp" "$tree/.cache" "$place/$1-out"
  rm -rf "${place:?}/$1-out"/*
  for name in config.toml config credentials.toml; do
    [ ! -e "$registry/$name" ] || cp "$registry/$name" "$home/cargo/"
  done
  (cd "$root" && git ls-files -z --cached --others --exclude-standard | sort -z "$3" | tar -c --null -T - --ignore-failed-read) |
    tar -x -m -C "$tree" # as new: cargo must not take a file for the one of the last time
  ln -sfn "$root/.cache/toolchain" "$tree/.cache/toolchain"
}
surrounding first a --
surrounding second a-folder/with-a-longer-name/claude-safe --reverse

within() { # name, path of the checkout, umask, settings... -- command...
  local home=$place/$1-home out=$place/$1-out settings=()
  cd "$place/$2"
  umask "$3"
  shift 3
  while [ "$1" != -- ]; do
    settings+=("$1")
    shift
  done
  shift
  env -u SOURCE_DATE_EPOCH -u CARGO_TARGET_DIR HOME="$home" CARGO_HOME="$home/cargo" TMPDIR="$home/tmp" OUT="$out" \
    "${settings[@]}" "$@"
}
within first a 022 LC_ALL=C TZ=UTC USER=alice LOGNAME=alice DEB_BUILD_OPTIONS=parallel=1 -- "$@" \
  >"$scratch/first.log" 2>&1 &
jobs_of=("$!")
second=(LC_ALL=C.UTF-8 TZ=Asia/Kathmandu USER=bob LOGNAME=bob DEB_BUILD_OPTIONS=parallel=3)
[ -z "$faketime" ] || second+=(LD_PRELOAD="$faketime" FAKETIME=+400d)
elsewhere=()
[ "$(id -u)" != 0 ] || elsewhere=(unshare --uts sh -c 'hostname another-host && exec "$@"' sh)
within second a-folder/with-a-longer-name/claude-safe 027 "${second[@]}" -- "${elsewhere[@]}" "$@" \
  >"$scratch/second.log" 2>&1 &
jobs_of+=("$!")
failed=0
for name in first second; do
  wait "${jobs_of[0]}" || {
    failed=1
    echo "the $name run failed:"
    tail -n 40 "$scratch/$name.log"
  }
  jobs_of=("${jobs_of[@]:1}")
done
[ "$failed" = 0 ]
"$root/tests/reproducible/compare_builds" "$place/first-out" "$place/second-out"
