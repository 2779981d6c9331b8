#!/bin/bash
# toolchain.sh DIR [ARCH...]: Debian's own compilers for build.sh, unpacked below DIR, for machines on which they
# are not installed. ARCH: x86_64, aarch64 (default: this machine's); what a foreign one needs comes with it.
#
# Owns DIR and nothing else. Never installs, never writes to the machine's apt or dpkg: it reads their
# configuration and runs apt with state and cache of its own.
set -euo pipefail

dir=${1:?usage: toolchain.sh DIR [ARCH...]}
shift
host=$(uname -m)
[ $# -gt 0 ] || set -- "$host"

# Debian's names of a machine: of its packages, and of its compilers.
debian_arch() { case $1 in x86_64) echo amd64 ;; aarch64) echo arm64 ;; *) echo "toolchain.sh: no recipe for $1" >&2 && return 1 ;; esac; }

# `-web` is the branch of rustc that bookworm-security keeps current for browsers; trixie has it in main.
packages=(rustc-web cargo-web rust-web-src)
architectures=("$(debian_arch "$host")")
for arch in "$@"; do
  debian=$(debian_arch "$arch")
  packages+=("musl-dev:$debian")
  [ "$arch" != "$host" ] || continue
  architectures+=("$debian")
  # To link against: the same files as in libc6:$debian, where they can't meet those of this machine.
  packages+=("libc6-$debian-cross")
done

# What an earlier call unpacked stays; only the rest is fetched.
unpacked=$(cat "$dir/complete" 2>/dev/null || true)
missing=()
for package in "${packages[@]}"; do
  [[ " $unpacked " = *" $package "* ]] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0
[ -n "$unpacked" ] || rm -rf "$dir"
rm -rf "$dir/apt"
mkdir -p "$dir"/apt/{state/lists/partial,cache/archives/partial}
dir=$(realpath "$dir")
apt=$dir/apt

# As if none of the compilers were installed: what is unpacked is whole, whatever the machine has. Of what they
# need (libc6, gcc, libraries) only that is unpacked which the machine lacks. Nothing of what is installed makes
# demands: it stays as it is.
compilers='rust|cargo|libstd-rust|libllvm|lld|musl|libc6-(arm64|amd64)-cross'
awk -v RS= -v ORS='\n\n' -v skip="^Package: ($compilers)" '$0 !~ skip' /var/lib/dpkg/status |
  sed -E '/^(Pre-Depends|Depends|Recommends|Suggests|Conflicts|Breaks|Replaces|Enhances):/d' >"$apt/status"
{
  # Some images clean their package cache by a hook of apt's: not from here.
  printf '#clear %s;\n' APT::Update::Post-Invoke APT::Update::Post-Invoke-Success DPkg::Post-Invoke DPkg::Pre-Install-Pkgs
  printf 'Dir::State "%s";\nDir::State::status "%s";\nDir::Cache "%s";\n' "$apt/state" "$apt/status" "$apt/cache"
  printf 'APT::Architecture "%s";\n' "${architectures[0]}"
  printf '#clear APT::Architectures;\n'
  printf 'APT::Architectures:: "%s";\n' "${architectures[@]}"
  # The user _apt can't be expected to read a checkout.
  printf 'APT::Sandbox::User "root";\nAPT::Install-Recommends "false";\nAcquire::Languages "none";\n'
} >"$apt/conf"
apt-get -c "$apt/conf" -qq update
if [ -z "$unpacked" ]; then # with the compiler the newest lld, which is of the same LLVM
  lld=$(apt-cache -c "$apt/conf" search --names-only '^lld-[0-9]+$' | sed 's/ .*//' | sort -V | tail -n 1)
  missing+=("${lld:-lld}")
fi
apt-get -c "$apt/conf" -qq -y --download-only install "${missing[@]}" >/dev/null

for deb in "$apt"/cache/archives/*.deb; do
  dpkg-deb -x "$deb" "$dir"
done
# Of the sources only those of std are compiled.
rm -rf "$apt" "$dir"/usr/src/rustc-*/{compiler,src} "${dir:?}"/usr/share
echo "$unpacked ${missing[*]}" >"$dir/complete"
