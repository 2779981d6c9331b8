#!/usr/bin/env bash
# The program for macOS (wrapper/macos), checked as far as that goes without a Mac: it is type-checked and linked for
# aarch64-apple-darwin, with Debian's compiler, a std that is built here, and zig's stubs of libSystem; what it needs of the
# system is looked at; its launchd template is read. Then a name that libSystem lacks must be refused, or the link shows nothing.
# Never runs what it has built. With --tools it only fetches what it needs; a failure then says why it can't be done here.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD target=aarch64-apple-darwin
tools=.cache/darwin-tools
out=$(realpath -m "${CARGO_TARGET_DIR:-target}/darwin")

# --- The tools: zig as a linker, Debian's Rust with the sources of std.
[ -x "$tools/bin/python" ] || python3 -m venv "$tools"
"$tools/bin/python" -c 'import ziglang' 2>/dev/null || "$tools/bin/pip" -q install ziglang==0.17.1 || {
  echo 'no ziglang from PyPI, which links for macOS'
  exit 1
}
rust=''
has_rust() { [ -x "$1/usr/bin/cargo" ] && [ -x "$1/usr/bin/rustc" ] && [ -e "$1/usr/lib/rustlib/src/rust/library/vendor" ]; }
if ! has_rust ''; then
  rust=$root/.cache/toolchain
  has_rust "$rust" || debian/static/toolchain.sh "$rust" || { echo 'no Rust with the sources of std'; exit 1; }
fi
[ "${1:-}" != --tools ] || exit 0
version() { sed -n 's/^version = "\(.*\)"$/\1/p' "$1" | head -n 1; }
[ "$(version Cargo.toml)" = "$(version wrapper/macos/Cargo.toml)" ] || { echo 'wrapper/macos has another version'; exit 1; }
mkdir -p "$out/home"
linker=$out/linker
printf '#!/bin/sh\nexec "%s" -m ziglang cc -target aarch64-macos.13.0 "$@"\n' "$(realpath "$tools/bin")/python" >"$linker"
chmod 755 "$linker"

build() { # folder with the crate, command of cargo...
  local crate=$1
  shift
  (
    cd / # no cargo configuration of the user's
    env -i PATH=/usr/bin:/bin HOME="$out/home" CARGO_HOME="$out/home" LC_ALL=C.UTF-8 ZIG_GLOBAL_CACHE_DIR="$out/zig" \
      LD_LIBRARY_PATH="${rust:+$rust/usr/lib/$(uname -m)-linux-gnu}" RUSTC="$rust/usr/bin/rustc" RUSTC_BOOTSTRAP=1 \
      CARGO_TERM_COLOR=never CARGO_INCREMENTAL=0 RUSTFLAGS="-Dwarnings -Clinker=$linker" \
      "$rust/usr/bin/cargo" "$@" --quiet --manifest-path "$crate/Cargo.toml" --target-dir "$out" --target $target \
      --offline --locked -Zbuild-std=std,panic_abort \
      --config 'source.crates-io.replace-with="here"' \
      --config "source.here.directory=\"$rust/usr/lib/rustlib/src/rust/library/vendor\""
  )
}

build "$root/wrapper/macos" check
build "$root/wrapper/macos" build
program=$out/$target/debug/claude-safectl
[ "$(head -c 4 "$program" | od -An -tx1 | tr -d ' ')" = cffaedfe ] || { echo "$program is no Mach-O of 64 bits"; exit 1; }
for name in proc_listpids proc_pidinfo proc_pidfdinfo proc_pidpath sysctlbyname libSystem; do
  grep -aqF "$name" "$program" || { echo "$program does not ask for $name"; exit 1; }
done
echo "linked for $target: $(stat -c %s "$program") bytes"

python3 - wrapper/macos/*.plist <<'PYTHON'
import plistlib, sys
with open(sys.argv[1], "rb") as file:
    agent = plistlib.load(file)
assert agent["ProgramArguments"][1:] == ["pty", "--notify"], agent
assert agent["StartInterval"] > 0 and sys.argv[1].endswith(f"/{agent['Label']}.plist"), agent
print("template:", agent["Label"])
PYTHON

# The proof that the link proves something.
broken=$(mktemp -d)
trap 'rm -rf "$broken"' EXIT
mkdir -p "$broken/wrapper"
cp -r wrapper/macos "$broken/wrapper/"
cp -r wrapper/src "$broken/wrapper/"
sed -i 's/proc_pidpath/proc_pidpath_that_is_not_there/g' "$broken/wrapper/macos/src/libproc.rs"
if build "$broken/wrapper/macos" build >"$broken/said" 2>&1; then
  echo 'a function that macOS does not have was linked'
  exit 1
fi
grep -q proc_pidpath_that_is_not_there "$broken/said" || { cat "$broken/said"; exit 1; }
echo 'a function that macOS does not have: refused'
