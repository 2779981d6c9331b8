#!/bin/bash
# tarball.sh [--arch x86_64|aarch64] [--out DIR] [--built DIR]: leaves DIR/claude-safe-VERSION-ARCH-linux.tar.gz and
# its .sha256, for any Linux. Unpacked anywhere, its folder is a PREFIX as /usr is in the package.
#
#   --out    default: target/static ($CARGO_TARGET_DIR/static)
#   --built  where build.sh left its two files; without it, build.sh is run
#
# The same files give the same bytes: sorted, of nobody, as old as the newest entry of debian/changelog (or
# SOURCE_DATE_EPOCH).
set -euo pipefail

here=$(dirname "$(realpath "$0")")
root=$(realpath "$here/../..")
out=${CARGO_TARGET_DIR:-$root/target}/static
arch=$(uname -m) built=''
die() { echo "tarball.sh: $*" >&2 && exit 1; }
while [ $# -gt 0 ]; do
  case $1 in
  --arch) arch=$2 ;;
  --out) out=$2 ;;
  --built) built=$2 ;;
  *) die "unknown: $1" ;;
  esac
  shift 2
done
if [ -z "$built" ]; then
  built=${CARGO_TARGET_DIR:-$root/target}/static/$arch
  "$here/build.sh" --arch "$arch" --out "$built"
fi
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$root/Cargo.toml" | head -n 1)
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
  released=$(sed -n 's/^ -- .*>  //p' "$root/debian/changelog" | head -n 1)
  [ -n "$released" ] || die 'debian/changelog says no time'
  SOURCE_DATE_EPOCH=$(date -d "$released" +%s)
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
name=claude-safe-$version-$arch-linux
prefix=$scratch/$name
put() { # mode, file, folder below the prefix
  [ -f "$2" ] || die "$2 is missing"
  install -D -m "$1" "$2" "$prefix/$3/${2##*/}"
}

put 755 "$built/claude-safe" bin
ln -s claude-safe "$prefix/bin/claude-safectl"
put 644 "$built/libclaude_guard.so" lib/claude-safe
mkdir -p "$prefix/lib/claude-safe/bin"
ln -s ../../../bin/claude-safe "$prefix/lib/claude-safe/bin/claude"
put 644 "$root/wrapper/doc/claude-safe.1" share/man/man1
put 644 "$root/wrapper/doc/claude-safectl.1" share/man/man1
put 644 "$root/wrapper/doc/claude-safe.conf.5" share/man/man5
put 644 "$root/wrapper/doc/claude-safe.conf" share/doc/claude-safe
put 644 "$root/wrapper/completions/claude-safectl.bash" share/bash-completion/completions
mv "$prefix/share/bash-completion/completions/claude-safectl"{.bash,}
put 644 "$root/wrapper/completions/_claude-safectl" share/zsh/site-functions
put 644 "$root/wrapper/completions/claude-safectl.fish" share/fish/vendor_completions.d
for file in .claude-plugin/plugin.json .claude-plugin/marketplace.json hooks/hooks.json README.md; do
  put 644 "$root/wrapper/plugin/$file" "share/claude-safe/plugin/$(dirname "$file")"
done
put 644 "$root/LICENSE" share/doc/claude-safe
put 644 "$root/README.md" share/doc/claude-safe

mkdir -p "$out"
export LC_ALL=C TZ=UTC
tar --create --directory="$scratch" --format=ustar --sort=name --owner=0 --group=0 --numeric-owner \
  --mode=u=rwX,go=rX --mtime="@$SOURCE_DATE_EPOCH" "$name" | gzip -9n >"$out/$name.tar.gz"
(cd "$out" && sha256sum "$name.tar.gz" >"$name.tar.gz.sha256")
echo "$out/$name.tar.gz"
