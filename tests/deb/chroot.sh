# shellcheck shell=bash
# Makes clean Debian systems in folders, and runs commands in them: own mounts, own processes, nothing left behind.
# Source it with `cache` set. Never names a mirror: it takes the one that this machine's apt uses.

debian_mirror() {
  local uri
  # shellcheck disable=SC2016 # apt's words
  uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' 'Component: main' | head -n 1)
  [ -n "$uri" ] || { echo 'apt on this machine knows no bookworm main' >&2; return 1; }
  echo "$uri"
}

# Packs SUITE into ARCHIVE: Debian's minimal system and PACKAGES.
# shellcheck disable=SC2154 # cache is the caller's
make_chroot() { # suite, archive, folder to work in, packages...
  local suite=$1 archive=$2 folder=$3 mirror
  shift 3
  [ ! -s "$archive" ] || return 0
  mirror=$(debian_mirror)
  mkdir -p "$cache/debs"
  debootstrap --variant=minbase --cache-dir="$cache/debs" "$suite" "$folder" "$mirror"
  if [ $# -gt 0 ]; then
    inside "$folder" apt-get -qq update
    inside "$folder" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "$@"
  fi
  rm -rf "$folder"/var/lib/apt/lists/* "$folder"/var/cache/apt/* "$folder"/etc/resolv.conf
  # Packages come from where a test says, from nowhere else.
  rm -f "$folder/etc/apt/sources.list"
  tar --create --numeric-owner --one-file-system --directory "$folder" --file "$archive.new" .
  mv "$archive.new" "$archive"
  rm -rf "$folder"
}

unpack_chroot() { # archive, folder
  mkdir "$2"
  tar --extract --numeric-owner --preserve-permissions --directory "$2" --file "$1"
}

# Runs COMMAND, which uses the system in FOLDER, with that system's mounts. What it starts ends with it.
mounted() { # folder, command...
  # shellcheck disable=SC2016 # the inner shell's
  unshare --mount --pid --fork --kill-child --mount-proc bash -euc '
    mount -t proc proc "$0/proc"
    mount -t devpts -o newinstance,ptmxmode=666 devpts "$0/dev/pts"
    [ -z "${BIND:-}" ] || mount --bind "$BIND" "$0/mnt"
    unset BIND
    exec "$@"' "$@"
}

# Runs COMMAND as root in FOLDER; BIND (a folder here) is /mnt there.
inside() { # folder, command...
  local folder=$1
  shift
  mounted "$folder" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 ${http_proxy:+http_proxy="$http_proxy"} \
    chroot "$folder" "$@"
}

# Everything in FOLDER that a package could have left: path, kind and mode, owner, and what is in it. Not looked at:
# apt's and dpkg's own books and logs, and the homes of users.
snapshot() { # folder
  (
    cd "$1" || exit
    find . -xdev \( -path ./proc -o -path ./sys -o -path ./dev -o -path ./run -o -path ./home \
      -o -path ./var/cache/debconf/tmp.ci -o -path ./var/lib/apt -o -path ./var/cache/apt -o -path ./var/log/apt -o -path ./var/log/dpkg.log \
      -o -path './var/lib/dpkg/status*' -o -path './var/lib/dpkg/lock*' -o -path ./var/lib/dpkg/triggers \
      -o -path './var/lib/dpkg/diversions*' -o -path './var/lib/dpkg/statoverride*' -o -path './var/lib/dpkg/available*' \) -prune \
      -o -printf '%P %M %U:%G %l\n' | sort
    find . -xdev \( -path ./proc -o -path ./sys -o -path ./dev -o -path ./run -o -path ./home \
      -o -path './var/*' \) -prune -o -type f -print0 | sort -z | xargs -0 sha256sum
    # The books themselves must not know it any more.
    grep -rl claude-safe var/lib/dpkg etc || true
  )
}
