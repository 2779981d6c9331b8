#!/bin/bash
# The release as a tarball for any Linux: the static program, the guard, and everything else in the layout that
# packages have, to be unpacked into a folder such as ~/.local. The same bytes from the same sources.
#
# usage: tarball.sh [--arch x86_64|aarch64] [--out DIR] [--built DIR]
#   --out    gets claude-safe-VERSION-ARCH-linux.tar.gz and its .sha256; default: target/static
#   --built  where build.sh left the two artifacts; default: it is run
set -euo pipefail

root=$(realpath "$(dirname "$0")/../..")
arch=$(uname -m) out='' built=''
while [ $# -gt 1 ]; do
  case $1 in
  --arch) arch=$2 ;;
  --out) out=$2 ;;
  --built) built=$2 ;;
  *) break ;;
  esac
  shift 2
done
if [ $# != 0 ]; then
  sed -n '5,7s/^# //p' "$0" >&2
  exit 2
fi
umask 022
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml")
target=${CARGO_TARGET_DIR:-$root/target}
out=${out:-$target/static}
mkdir -p "$out"
out=$(realpath "$out")
work=$(mktemp -d "${TMPDIR:-/tmp}/cs-tarball.XXXXXX")
trap 'rm -rf "$work"' EXIT

if [ -z "$built" ]; then
  built=$work/built
  "$root/debian/static/build.sh" --arch "$arch" --out "$built"
fi

# The time of everything in it is that of the changelog, in UTC: no file of the archive knows when it was made.
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
  stamp=$(sed -n 's/^ -- .*>  //p' "$root/debian/changelog" | head -n 1)
  SOURCE_DATE_EPOCH=$(date -u -d "$stamp" +%s)
fi

name=claude-safe-$version-$arch-linux
put() { install -D -m "$1" "$2" "$work/$name/$3"; }
put 755 "$built/claude-safe" bin/claude-safe
ln -s claude-safe "$work/$name/bin/claude-safectl"
put 644 "$built/libclaude_guard.so" lib/claude-safe/libclaude_guard.so
mkdir "$work/$name/lib/claude-safe/bin"
ln -s ../../../bin/claude-safe "$work/$name/lib/claude-safe/bin/claude"
for page in claude-safe.1 claude-safectl.1 claude-safe.conf.5; do
  put 644 "$root/wrapper/doc/$page" "share/man/man${page##*.}/$page"
done
put 644 "$root/wrapper/completions/claude-safectl.bash" share/bash-completion/completions/claude-safectl
put 644 "$root/wrapper/completions/_claude-safectl" share/zsh/site-functions/_claude-safectl
put 644 "$root/wrapper/completions/claude-safectl.fish" share/fish/vendor_completions.d/claude-safectl.fish
for file in .claude-plugin/plugin.json hooks/hooks.json README.md; do
  put 644 "$root/wrapper/plugin/$file" "share/claude-safe/plugin/$file"
done
for file in README.md LICENSE wrapper/doc/claude-safe.conf; do
  put 644 "$root/$file" "share/doc/claude-safe/${file##*/}"
done

LC_ALL=C tar -C "$work" --create --sort=name --format=ustar --mtime="@$SOURCE_DATE_EPOCH" \
  --owner=0 --group=0 --numeric-owner "$name" | gzip -9n >"$out/$name.tar.gz"
cd "$out"
sha256sum "$name.tar.gz" >"$name.tar.gz.sha256"
