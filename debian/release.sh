#!/bin/bash
# What a release consists of, made from HEAD of this clone: the tarballs of both architectures, and the Debian package of
# this machine's. Root on Debian (it installs the Build-Depends). Leaves nothing but files in DIR, the same bytes each time.
# usage: debian/release.sh --out DIR
set -euo pipefail
if [ $# != 2 ] || [ "$1" != --out ]; then
  sed -n '4s/^# //p' "$0" >&2
  exit 2
fi
root=$(realpath "$(dirname "$0")/..")
mkdir -p "$2"
out=$(realpath "$2")
work=$(mktemp -d "${TMPDIR:-/tmp}/cs-release.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/claude-safe"
git -C "$root" archive HEAD | tar -x -C "$work/claude-safe"
cd "$work/claude-safe"

apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends build-dep ./
for arch in x86_64 aarch64; do
  debian/static/tarball.sh --arch "$arch" --out "$out"
done
# Debian's compilers before any other, as on its own builders.
PATH=/usr/sbin:/usr/bin:/sbin:/bin dpkg-buildpackage --build=binary --no-sign
install -m 644 ../*.deb "$out/"
ls -l "$out"
