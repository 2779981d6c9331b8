#!/usr/bin/env bash
# Builds source and binary package of TREE, which stays as it is, into OUT: as an ordinary user, in a new folder, without
# network, with Debian's tools. Time zone, locale, umask and CARGO_HOME are the caller's; BUILD_CLOCK (+400d) sets the
# clock of what packs. Runs as root.
# usage: package.sh TREE OUT [options of dpkg-buildpackage]
set -euo pipefail
tree=$1 out=$2
shift 2
builder=64321 # an id that belongs to nobody
folder=$(mktemp -d "${TMPDIR:-/tmp}/cs-deb-build.XXXXXX")
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
mkdir -p "$out"
cp -a "$tree" "$folder/claude-safe"
[ -z "${CARGO_HOME:-}" ] || export CARGO_HOME="$folder/${CARGO_HOME##*/}"
chown -R $builder:$builder "$folder"
cd "$folder/claude-safe"
env -u CARGO_TARGET_DIR -u RUSTFLAGS -u RUSTUP_TOOLCHAIN HOME=/nonexistent TMPDIR="$folder" \
  PATH="${BUILD_PATH:-/usr/sbin:/usr/bin:/sbin:/bin}" \
  unshare --net setpriv --reuid $builder --regid $builder --clear-groups --no-new-privs \
  ${BUILD_CLOCK:+faketime -f "$BUILD_CLOCK"} dpkg-buildpackage --no-sign "$@"
find "$folder" -maxdepth 1 -type f -exec install -m 644 -t "$out" {} +
