#!/bin/sh
# Makes vendor/: the sources of every crate in Cargo.lock, so that the package builds without network. Run it
# before `dpkg-buildpackage -S`; it needs cargo and network. (Those of std come with Debian's rust-web-src.)
#
# Crates that no artifact of ours contains (those of the tests, and for other systems) are reduced to their
# Cargo.toml: cargo wants to see them in the folder to resolve Cargo.lock, and never compiles them. The others
# stay byte for byte as published; cargo checks their checksums at each build.
#
# usage: debian/vendor.sh      in the source folder; vendor/ must not exist
set -eu
cd "$(dirname "$0")/.."
[ ! -e vendor ] || { echo 'vendor/ is there: remove it first' >&2; exit 1; }

scratch=$(mktemp -d)
trap 'rm -rf "$scratch" vendor.new' EXIT
cargo vendor --quiet --locked --versioned-dirs vendor.new >"$scratch/source.toml"

# Lines `NAME-VERSION` of what is compiled, for every machine and C library.
for package in claude-safe claude-guard; do
	cargo tree --quiet --locked --package $package \
		--target x86_64-unknown-linux-musl --target aarch64-unknown-linux-musl \
		--target x86_64-unknown-linux-gnu --target aarch64-unknown-linux-gnu \
		--edges normal,build --prefix none --format '{p}'
done | sed -n '/(\//d; s/^\([^ ]*\) v\([^ ]*\).*/\1-\2/p' | sort -u >"$scratch/compiled"
grep -q '^rustix-' "$scratch/compiled" || { echo 'what is compiled was not understood' >&2; exit 1; }

for crate in vendor.new/*; do
	name=${crate##*/}
	! grep -qxF "$name" "$scratch/compiled" || continue
	checksum=$(grep -o '"package":"[0-9a-f]*"' "$crate/.cargo-checksum.json")
	mv "$crate/Cargo.toml" "$scratch/Cargo.toml"
	rm -rf "$crate"
	mkdir -p "$crate/src"
	mv "$scratch/Cargo.toml" "$crate/Cargo.toml"
	printf '{"files":{},%s}\n' "$checksum" >"$crate/.cargo-checksum.json"
	# A target that a manifest names must be there for cargo to read the manifest.
	sed -n 's/^\(path\|build\) = "\(.*\.rs\)"$/\2/p' "$crate/Cargo.toml" | while read -r file; do
		mkdir -p "$crate/$(dirname "$file")"
		: >"$crate/$file"
	done
	: >"$crate/src/lib.rs"
done
# The owner's umask is no part of the source.
chmod -R u=rwX,go=rX vendor.new
mv vendor.new vendor
echo "vendor: $(find vendor -mindepth 1 -maxdepth 1 | wc -l) crates, $(wc -l <"$scratch/compiled") of them compiled, $(du -sk vendor | cut -f1) KiB"
