#!/bin/bash
# Runs a command in two copies of the same tree, in as different surroundings as two builders have, and compares what it
# leaves. The command finds itself in the copy, and $OUT is where its results go. What differs: the place and its length,
# HOME, CARGO_HOME, TMPDIR, user name, umask, locale, time zone, the number of jobs, the order of files in folders as far as it
# follows from when they were made, and the clock: by as long as the first run takes, and for what is started with the
# caller's environment (build.sh gives compilers one of its own) by more than a year.
#
# usage: twice.sh TREE WORK COMMAND…     WORK: an empty folder; leaves WORK/1, WORK/2
#   FAKETIME=1   the second run has another clock
# Exit status: 0 the same, 1 not (which files, with their hashes, on stderr), 2 a run failed.
set -euo pipefail
tree=$(realpath "$1") work=$(realpath "$2")
shift 2

run() { # number, place, then env arguments up to --, then the command
  local number=$1 place=$work/$2 environment=()
  shift 2
  while [ "$1" != -- ]; do environment+=("$1") && shift; done
  shift
  mkdir -p "$place" "$work/$number" "$work/home-$number" "$work/tmp-$number"
  cp -a "$tree/." "$place/"
  (
    cd "$place"
    env -u CARGO_TARGET_DIR -u RUSTFLAGS OUT="$work/$number" HOME="$work/home-$number" TMPDIR="$work/tmp-$number" \
      CARGO_HOME="$work/cargo-of-builder-$number" "${environment[@]}" "$@"
  ) >"$work/log-$number" 2>&1 || {
    cat "$work/log-$number" >&2
    echo "twice.sh: run $number failed" >&2
    exit 2
  }
}

clock=()
[ "${FAKETIME:-}" != 1 ] || clock=(faketime -f '+400d')
umask 022
run 1 a LC_ALL=C TZ=UTC USER=one LOGNAME=one MAKEFLAGS=-j1 -- "$@"
umask 077
run 2 another/much-longer/place.for/the-tree LC_ALL=C.UTF-8 TZ=Asia/Kathmandu USER=two LOGNAME=two MAKEFLAGS=-j2 -- "${clock[@]}" "$@"

hashes() { (cd "$work/$1" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum --); }
[ -n "$(ls -A "$work/1")" ] || { echo 'twice.sh: nothing was left in OUT' >&2 && exit 2; }
if ! diff <(hashes 1) <(hashes 2) >&2; then
  echo 'twice.sh: the two runs differ' >&2
  exit 1
fi
hashes 1
