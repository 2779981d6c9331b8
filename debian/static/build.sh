#!/bin/bash
# build.sh [--arch x86_64|aarch64] [--out DIR] [--toolchain DIR]: leaves DIR/claude-safe, a static program, and
# DIR/libclaude_guard.so, a shared object for any glibc from 2.17 on.
#
#   --arch       default: this machine's
#   --out        default: target/static/ARCH ($CARGO_TARGET_DIR/static/ARCH)
#   --toolchain  a folder filled by toolchain.sh; default: .cache/toolchain, filled if the machine has not all of
#                rustc-web, cargo-web, rust-web-src, musl-dev and, for the other architecture,
#                gcc-ARCH-linux-gnu, libc6-*-cross, musl-dev:*
#
# Owns the way from the sources to the same bytes everywhere, with Debian's compilers alone: no rustup, no cargo
# configuration of the user's, nothing of the caller's environment reaches the compiler. The network is used by one
# step, `cargo vendor`, and not at all where a folder vendor/ (as `cargo vendor` makes it) lies beside Cargo.toml.
#
# How the program gets small: std is compiled here, for size, with panics that end at once: nothing formats
# a message or unwinds, so the tables for that go as well. The guard sits in other people's processes: it keeps its
# unwind tables (profilers and crash reporters walk through it), its own panic handler, and its speed.
#
# The program is linked at a fixed address. A static PIE would be placed at random as a whole, and costs 16 KiB of
# relocations and longer code, at each start the work on them, and file(1) and readers take it for a shared object.
# Stack, heap, mappings and vDSO are at random either way.
set -euo pipefail

root=$(realpath "$(dirname "$0")/../..")
host=$(uname -m)
arch=$host out='' toolchain=$root/.cache/toolchain
while [ $# -gt 0 ]; do
  case $1 in
  --arch) arch=$2 ;;
  --out) out=$2 ;;
  --toolchain) toolchain=$2 ;;
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
work=$(realpath "$target/static")/build

# --- The compilers: the machine's, if Debian's package is there, else the unpacked ones.

# std can be built with panics that end at once since Rust 1.91; the recipe is tried with 1.96.
right_rust() { # folder that stands for /
  [ -x "$1/usr/bin/cargo" ] && [ -e "$1/usr/lib/rustlib/src/rust/library/vendor" ] &&
    [[ $(LD_LIBRARY_PATH=${1:+$1/usr/lib/$host-linux-gnu} "$1/usr/bin/rustc" --version 2>/dev/null) =~ ^rustc\ 1\.([0-9]+) ]] &&
    [ "${BASH_REMATCH[1]}" -ge 96 ]
}
if [ "$arch" = "$host" ]; then cc=usr/bin/gcc libc=lib/$host-linux-gnu; else cc=usr/bin/$arch-linux-gnu-gcc libc=usr/$arch-linux-gnu/lib; fi
musl=usr/lib/$arch-linux-musl
complete() { right_rust "$1" && [ -e "$1/$musl/libc.a" ] && { [ "$arch" = "$host" ] || [ -x "$1/$cc" ] && [ -e "$1/$libc/libc.so.6" ]; }; }
if ! complete ''; then
  toolchain=$(realpath -m "$toolchain")
  complete "$toolchain" || "${0%/*}/toolchain.sh" "$toolchain" "$host" "$arch"
  complete "$toolchain" || die "$toolchain lacks a part of the toolchain"
else
  toolchain=
fi
# The machine's own C compiler is never unpacked.
if [ "$arch" = "$host" ]; then cc=/$cc libc=/$libc; else cc=$toolchain/$cc libc=$toolchain/$libc; fi
rust=$toolchain/usr/lib/rustlib/src/rust

# --- The crates: ours and those of std's own sources, in one folder.

if [ -d "$root/vendor" ]; then
  ours=$root/vendor
else
  lock=$(sha256sum <"$root/Cargo.lock")
  ours=$root/.cache/crates-${lock:0:16}
  if ! [ -d "$ours" ]; then
    rm -rf "$ours.part"
    # The user's own cargo configuration counts here: it knows the registry.
    (cd "$root" && LD_LIBRARY_PATH=${toolchain:+$toolchain/usr/lib/$host-linux-gnu} RUSTC="$toolchain/usr/bin/rustc" \
      "$toolchain/usr/bin/cargo" vendor --quiet --locked --versioned-dirs "$ours.part" >/dev/null)
    mv "$ours.part" "$ours"
  fi
fi
rm -rf "$work/crates" "$work/link"
mkdir -p "$work/crates" "$work/link/static" "$work/link/shared" "$work/home"
ln -s "$(realpath "$rust")"/library/vendor/* "$work/crates/"
ln -sfn "$ours"/* "$work/crates/"

# --- What the linker finds: this and nothing else.

# std asks for an unwinder. Nothing calls it where panics end at once: an empty archive will do, and if it ever did
# not, the link would fail and say which function is missing.
ar rcD "$work/link/static/libunwind.a"
ln -s "$toolchain/$musl"/{crt1.o,libc.a} "$work/link/static/"
# The library itself, not the linker script beside it, which names files by absolute paths.
ln -s "$libc/libc.so.6" "$work/link/shared/libc.so"

# --- The build.

build() { # crate, target, flags...; the rest of cargo's arguments is in $cargo_arguments
  local crate=$1 triple=$2 flags
  shift 2
  printf -v flags '%s\037' "$@" \
    --remap-path-prefix="$root=/claude-safe" --remap-path-prefix="$work=/build" \
    --remap-path-prefix="$(realpath "$rust")=/rust" --remap-path-prefix="$rust=/rust" \
    -Clinker="$cc" -Zunstable-options -Zlocation-detail=none
  (
    # Cargo reads .cargo/config.toml in every folder from here up: there is none above /.
    cd /
    env -i PATH=/usr/bin:/bin HOME="$work/home" CARGO_HOME="$work/home" LC_ALL=C.UTF-8 TZ=UTC \
      LD_LIBRARY_PATH="${toolchain:+$toolchain/usr/lib/$host-linux-gnu}" RUSTC="$toolchain/usr/bin/rustc" \
      RUSTC_BOOTSTRAP=1 CARGO_INCREMENTAL=0 CARGO_TERM_COLOR=never CARGO_ENCODED_RUSTFLAGS="${flags%?}" \
      ${opt_level:+CARGO_PROFILE_RELEASE_OPT_LEVEL=$opt_level} ${MAKEFLAGS:+MAKEFLAGS="$MAKEFLAGS"} \
      "$toolchain/usr/bin/cargo" rustc --quiet --manifest-path "$root/Cargo.toml" --target-dir "$work/$crate" \
      --config 'source.crates-io.replace-with="here"' --config "source.here.directory=\"$work/crates\"" \
      --offline --locked --release --target "$triple" -p "$crate" "${cargo_arguments[@]}"
  )
}

opt_level=z cargo_arguments=(--bin claude-safe -Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size --
  "-Zpre-link-args=$work/link/static/crt1.o" -Lnative="$work/link/static" -Clink-arg=-nostdlib -Clink-arg=-Wl,-z,noseparate-code
  -Cllvm-args=-enable-machine-outliner=always)
build claude-safe "$arch-unknown-linux-musl" -Cpanic=immediate-abort -Cforce-unwind-tables=no \
  -Crelocation-model=static -Ctarget-feature=+crt-static -Clink-self-contained=no

opt_level='' cargo_arguments=(--lib -Zbuild-std=core -- -Lnative="$work/link/shared")
build claude-guard "$arch-unknown-linux-gnu" -Cforce-unwind-tables=yes

install -m 755 "$work/claude-safe/$arch-unknown-linux-musl/release/claude-safe" "$out/claude-safe"
install -m 644 "$work/claude-guard/$arch-unknown-linux-gnu/release/libclaude_guard.so" "$out/libclaude_guard.so"
