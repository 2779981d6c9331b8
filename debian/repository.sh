#!/usr/bin/env bash
# Makes a signed apt repository, a folder to be served as it is, from .deb files. The key stays in the keyring of
# gpg (GNUPGHOME); only its public part is written.
#
#   debian/repository.sh --key KEYID --out DIR [--suite stable] [--valid-days N] FILE.deb…
#
# DIR must not exist. With SOURCE_DATE_EPOCH the same files give the same bytes, signatures included where the key
# is ed25519 (the key must not be younger than that time).
#
# There is no Valid-Until unless --valid-days asks for one: it protects from being served an old state for ever,
# but a folder that nobody signs anew in time makes `apt update` fail for every user. Ask for it where a timer signs.
#
# For users, with URL in place of where DIR is served:
#   wget -O /etc/apt/keyrings/claude-safe.asc URL/claude-safe.asc
#   echo 'deb [signed-by=/etc/apt/keyrings/claude-safe.asc] URL stable main' >/etc/apt/sources.list.d/claude-safe.list
set -euo pipefail
export LC_ALL=C
umask 022

usage() {
  echo "usage: ${0##*/} --key KEYID --out DIR [--suite stable] [--valid-days N] FILE.deb…" >&2
  exit 2
}

key='' out='' suite=stable valid_days='' debs=()
while [ $# -gt 0 ]; do
  case $1 in
  --key | --out | --suite | --valid-days)
    [ $# -ge 2 ] || usage
    case $1 in --key) key=$2 ;; --out) out=$2 ;; --suite) suite=$2 ;; --valid-days) valid_days=$2 ;; esac
    shift 2
    ;;
  -*) usage ;;
  *)
    debs+=("$(realpath -e -- "$1")")
    shift
    ;;
  esac
done
[[ -n $key && -n $out && ${#debs[@]} -gt 0 && $suite =~ ^[a-z][a-z0-9.-]*$ && $valid_days =~ ^[0-9]*$ ]] || usage
out=$(realpath -- "$out")
[ ! -e "$out" ] || { echo "$out exists" >&2; exit 1; }

stamp() { # seconds
  date -u -d "@$1" '+%a, %d %b %Y %H:%M:%S UTC'
}
now=${SOURCE_DATE_EPOCH:-$(date +%s)}
gpg=(gpg --batch --no-tty --local-user "$key" --digest-algo SHA512 --no-emit-version)
[ -z "${SOURCE_DATE_EPOCH:-}" ] || gpg+=(--faked-system-time "$SOURCE_DATE_EPOCH!")

# Finished under another name: a half repository is never at DIR.
building=$(mktemp -d "$(dirname "$out")/.repository.XXXXXX")
trap 'rm -rf "$building"' EXIT
chmod 755 "$building"
cd "$building"

mkdir -p pool "dists/$suite/main"
architectures=()
for deb in "${debs[@]}"; do
  name=$(dpkg-deb -f "$deb" Package)
  version=$(dpkg-deb -f "$deb" Version)
  architecture=$(dpkg-deb -f "$deb" Architecture)
  file=pool/$name/${name}_${version#*:}_$architecture.deb
  [ ! -e "$file" ] || { echo "$name $version $architecture is given twice" >&2; exit 1; }
  install -D -m 644 "$deb" "$file"
  architectures+=("$architecture")
done
mapfile -t architectures < <(printf '%s\n' "${architectures[@]}" | sort -u)

for architecture in "${architectures[@]}"; do
  index=dists/$suite/main/binary-$architecture
  mkdir -p "$index/by-hash/SHA256"
  dpkg-scanpackages --multiversion --arch "$architecture" pool >"$index/Packages" 2>"$building/.scan" ||
    { cat "$building/.scan" >&2; exit 1; }
  # xz in one thread: the bytes of its output don't depend on the machine.
  gzip -9nk "$index/Packages"
  xz -9k --threads=1 "$index/Packages"
  for file in "$index"/Packages*; do
    cp "$file" "$index/by-hash/SHA256/$(sha256sum <"$file" | cut -d' ' -f1)"
  done
done
rm -f "$building/.scan"

{
  echo 'Origin: claude-safe'
  echo 'Label: claude-safe'
  echo "Suite: $suite"
  echo "Codename: $suite"
  echo "Date: $(stamp "$now")"
  [ -z "$valid_days" ] || echo "Valid-Until: $(stamp $((now + valid_days * 86400)))"
  echo "Architectures: ${architectures[*]}"
  echo 'Components: main'
  echo 'Acquire-By-Hash: yes'
  echo 'SHA256:'
  for file in "dists/$suite"/main/binary-*/Packages*; do
    printf ' %s %s %s\n' "$(sha256sum <"$file" | cut -d' ' -f1)" "$(stat -c %s "$file")" "${file#"dists/$suite/"}"
  done
} >"dists/$suite/Release"
"${gpg[@]}" --clearsign --output "dists/$suite/InRelease" "dists/$suite/Release"
"${gpg[@]}" --armor --detach-sign --output "dists/$suite/Release.gpg" "dists/$suite/Release"
# export-minimal: nobody else's signatures on the key.
gpg --batch --no-tty --no-emit-version --armor --export-options export-minimal --export "$key" >claude-safe.asc
[ -s claude-safe.asc ] || { echo "no public key $key" >&2; exit 1; }

find . -exec touch -h -d "@$now" {} +
mv "$building" "$out"
