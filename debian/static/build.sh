#!/bin/bash
# build.sh [--arch x86_64|aarch64] [--out DIR] [--toolchain DIR] [--jobs N]: leaves DIR/claude-safe, a static program, and
# DIR/libclaude_guard.so, a shared object for any glibc from 2.17 on.
#
#   --arch       default: this machine's
#   --out        default: target/static/ARCH ($CARGO_TARGET_DIR/static/ARCH)
#   --jobs       default: parallel=N of $DEB_BUILD_OPTIONS, or as many as there are processors
#   --toolchain  a folder for toolchain.sh to fill. Without it: the machine's own rustc-web, cargo-web, rust-web-src,
#                lld-22 (or another lld) and musl-dev, or .cache/toolchain if it lacks one of them
#
# Owns the way from the sources to the same bytes everywhere, with Debian's compilers alone: no rustup, no cargo
# configuration of the user's, nothing of the caller's environment reaches the compiler. The network is used by one
# step, `cargo vendor`, and not at all where a folder vendor/ (as `cargo vendor` makes it) lies beside Cargo.toml.
#
# How the program gets small: std is compiled here, for size, with panics that end at once: nothing formats
# a message or unwinds, so the tables for that go as well. The guard sits in other people's processes: it keeps its
# unwind tables (profilers and crash reporters walk through it), its own panic handler, and its speed.
#
# The program is linked at a fixed address. A static PIE would be placed at random as a whole; it costs 16 KiB of
# relocations and longer code, the work on them at each start, and readers of ELF files take it for a shared object.
# Stack, heap, mappings and vDSO are at random either way.
#
# lld links both, for both machines: it leaves no padding between segments where pages may be of 64 KiB (aarch64; GNU ld:
# 34 and 51 KiB), and it needs no C compiler for the other machine.
set -euo pipefail

root=$(realpath "$(dirname "$0")/../..")
host=$(uname -m)
arch=$host out='' jobs=$(sed -n 's/.*\bparallel=\([0-9]*\).*/\1/p' <<<"${DEB_BUILD_OPTIONS:-}") toolchain=''
while [ $# -gt 0 ]; do
  case $1 in
  --arch) arch=$2 ;;
  --out) out=$2 ;;
  --toolchain) toolchain=$2 ;;
  --jobs) jobs=$2 ;;
  *) sed -n '2,3s/^# //p' "$0" >&2 && exit 2 ;;
  esac
  shift 2
done
die() { echo "build.sh: $*" >&2 && exit 1; }
case $arch in x86_64 | aarch64) ;; *) die "no recipe for $arch" ;; esac
target=${CARGO_TARGET_DIR:-$root/target}
out=${out:-$target/static/$arch}
umask 022
mkdir -p "$out" "$target/static"
out=$(realpath "$out")
work=$(realpath "$target/static")/build/$arch

# --- The tools: the machine's, if it has all of Debian's packages, else the unpacked ones.

libraries() { echo "${1:+$1/usr/lib/$host-linux-gnu}"; } # of the programs below that root
# The panics that end at once are in Rust since 1.91; the recipe is tried with 1.96.
has_rust() {
  [ -x "$1/usr/bin/cargo" ] && [ -e "$1/usr/lib/rustlib/src/rust/library/vendor" ] &&
    [[ $(LD_LIBRARY_PATH=$(libraries "$1") "$1/usr/bin/rustc" --version 2>/dev/null) =~ ^rustc\ 1\.([0-9]+) ]] &&
    [ "${BASH_REMATCH[1]}" -ge 96 ]
}
lld_of() { # the newest
  local found
  found=$(printf '%s\n' "$1"/usr/bin/ld.lld* | sort -V | tail -n 1)
  [ -x "$found" ] && echo "$found"
}
libc_of() { # the machine's own is never unpacked
  if [ "$arch" = "$host" ]; then echo "/usr/lib/$host-linux-gnu/libc.so.6"; else echo "$1/usr/$arch-linux-gnu/lib/libc.so.6"; fi
}
has_all() { has_rust "$1" && lld_of "$1" >/dev/null && [ -e "$1/usr/lib/$arch-linux-musl/libc.a" ] && [ -e "$(libc_of "$1")" ]; }

if [ -z "$toolchain" ] && has_all ''; then
  tools=
else
  tools=$(realpath -m "${toolchain:-$root/.cache/toolchain}")
  has_all "$tools" || "${0%/*}/toolchain.sh" "$tools" "$host" "$arch"
  has_all "$tools" || die "$tools lacks a part of the toolchain"
fi
rust=$tools/usr/lib/rustlib/src/rust
cargo() { # with the environment of the caller
  LD_LIBRARY_PATH=$(libraries "$tools") RUSTC=$tools/usr/bin/rustc "$tools/usr/bin/cargo" "$@"
}

# --- The crates: ours and those of std's own sources, in one folder.

if [ -d "$root/vendor" ]; then
  ours=$root/vendor
else
  lock=$(sha256sum <"$root/Cargo.lock")
  ours=$root/.cache/crates-${lock:0:16}
  if ! [ -d "$ours" ]; then
    rm -rf "$ours.part"
    # The user's own cargo configuration counts here: it knows the registry.
    (cd "$root" && cargo vendor --quiet --locked --versioned-dirs "$ours.part" >/dev/null)
    mv "$ours.part" "$ours"
  fi
fi
mkdir -p "$work"
exec {lock}>"$work/lock"
flock "$lock" # until the end: two builds at once share all of this
rm -rf "$work/crates" "$work/link"
mkdir -p "$work/crates" "$work/link/static" "$work/link/shared" "$work/home"
ln -s "$(realpath "$rust")"/library/vendor/* "$work/crates/"
ln -sfn "$ours"/* "$work/crates/"

# --- What the linker finds: this and nothing else.

# std asks for an unwinder. Nothing calls it where panics end at once: an empty archive will do, and if it ever did
# not, the link would fail and say which function is missing.
printf '!<arch>\n' >"$work/link/static/libunwind.a"
ln -s "$tools/usr/lib/$arch-linux-musl"/{crt1.o,libc.a} "$work/link/static/"
# The library itself, not the linker script of that name, which leads to files by absolute paths.
ln -s "$(libc_of "$tools")" "$work/link/shared/libc.so"
# The libc crate asks for these as well. Nothing of theirs is used: the guard may need libc.so.6 alone.
for name in m rt pthread; do printf '!<arch>\n' >"$work/link/shared/lib$name.a"; done

# --- The build.

# What libfaketime(1) sets: the tests build at another time.
time=()
for name in LD_PRELOAD FAKETIME FAKETIME_SHARED; do [ -z "${!name:-}" ] || time+=("$name=${!name}"); done

build() { # crate, target, options of cargo and of the last rustc ($last), flags for all of it...
  local crate=$1 triple=$2 flags
  shift 2
  printf -v flags '%s\037' "$@" -Zunstable-options -Zlocation-detail=none -Clinker-flavor=gcc -Clinker="$root/debian/static/linker" \
    --remap-path-prefix="$root=/claude-safe" --remap-path-prefix="$work=/build" \
    --remap-path-prefix="$(realpath "$rust")=/rust" --remap-path-prefix="$rust=/rust"
  (
    # Cargo reads .cargo/config.toml in every folder from here up: there is none above /.
    cd /
    env -i PATH=/usr/bin:/bin HOME="$work/home" CARGO_HOME="$work/home" LC_ALL=C.UTF-8 TZ=UTC \
      LD_LIBRARY_PATH="$(libraries "$tools")" RUSTC="$tools/usr/bin/rustc" CLAUDE_SAFE_LLD="$(lld_of "$tools")" \
      "${time[@]}" RUSTC_BOOTSTRAP=1 CARGO_INCREMENTAL=0 CARGO_TERM_COLOR=never CARGO_ENCODED_RUSTFLAGS="${flags%?}" "${settings[@]}" \
      "$tools/usr/bin/cargo" rustc --quiet --manifest-path "$root/Cargo.toml" --target-dir "$work/$crate" ${jobs:+--jobs "$jobs"} \
      --config 'source.crates-io.replace-with="here"' --config "source.here.directory=\"$work/crates\"" \
      --offline --locked --release --target "$triple" -p "$crate" "${last[@]}"
  )
}

# Half a minute of the compiler's, for 20 KiB: smallest code, equal functions and equal tails of functions once,
# no loops that count in more than one way.
settings=(CARGO_PROFILE_RELEASE_OPT_LEVEL=z)
last=(--bin claude-safe "-Zbuild-std=std,panic_abort" -Zbuild-std-features=optimize_for_size --
  -Zpre-link-args="$work/link/static/crt1.o" -Lnative="$work/link/static" "-Clink-arg=-Wl,--icf=all,-O2"
  -Cllvm-args=-enable-machine-outliner=always -Cllvm-args=-disable-lsr)
build claude-safe "$arch-unknown-linux-musl" -Cpanic=immediate-abort -Cforce-unwind-tables=no \
  -Crelocation-model=static -Ctarget-feature=+crt-static -Clink-self-contained=no

settings=() last=(--lib -Zbuild-std=core -- -Lnative="$work/link/shared")
build claude-guard "$arch-unknown-linux-gnu" -Cforce-unwind-tables=yes

install -m 755 "$work/claude-safe/$arch-unknown-linux-musl/release/claude-safe" "$out/claude-safe"
install -m 644 "$work/claude-guard/$arch-unknown-linux-gnu/release/libclaude_guard.so" "$out/libclaude_guard.so"
