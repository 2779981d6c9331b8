#!/usr/bin/env bash
# get-nix.sh FOLDER: leaves FOLDER/nix, a nix that needs no /nix, no daemon and no installation, with FOLDER/patchelf/
# beside it. Both are Debian's own packages (trixie), unpacked and pointed at their own libraries.
set -euo pipefail
folder=$1 suite=trixie
[ ! -x "$folder/nix" ] || exit 0
mkdir -p "$folder"
folder=$(realpath "$folder")
apt=$folder/apt root=$folder/root
rm -rf "$apt" "$root"
mkdir -p "$apt"/{etc,state/lists/partial,cache/archives/partial,log} "$root"
: >"$apt/status"

# From where this machine has its own Debian packages.
# shellcheck disable=SC2016 # apt's own words
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -n 1)
if [ -z "$mirror" ]; then
  apt-get -qq update
  # shellcheck disable=SC2016
  mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -n 1)
fi
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$apt/etc/sources.list"
cat >"$apt/apt.conf" <<END
Dir::Etc::sourcelist "$apt/etc/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "$apt/state";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
Dir::Log "$apt/log";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
Acquire::Languages "none";
END
export APT_CONFIG=$apt/apt.conf
apt-get -qq update
apt-get -qq -y --download-only install nix-bin patchelf
unset APT_CONFIG
for package in "$apt"/cache/archives/*.deb; do dpkg-deb -x "$package" "$root"; done

machine=$(uname -m)
lib=$root/usr/lib/$machine-linux-gnu
loader=$(echo "$lib"/ld-linux-*.so.*)
cp "$root/usr/bin/nix" "$folder/nix.new"
"$loader" --library-path "$lib" "$root/usr/bin/patchelf" \
  --set-interpreter "$loader" --force-rpath --set-rpath "$lib" "$folder/nix.new"

mkdir -p "$folder/patchelf"
cp -L "$root/usr/bin/patchelf" "$loader" "$lib"/{libc.so.6,libm.so.6,libstdc++.so.6,libgcc_s.so.1} "$folder/patchelf/"
rm -rf "$apt"
mv "$folder/nix.new" "$folder/nix"
