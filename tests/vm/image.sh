#!/usr/bin/env bash
# Builds the machine that tests/vm boots, a Debian trixie with systemd, and prints the folder that holds it: `vmlinuz`,
# `initrd.img` and `root.img` (sparse ext4). Only programs of Debian are in it, and one unit that runs what is on the
# second disk; the project comes to it as a package, by apt. Root, Debian's registry; no loop device, no own mount.
#
# A folder is named by the hash of everything that says what is in it, so that it can't be an older one's; it is made
# under another name, and never changed after.
#
#   tests/vm/image.sh          the machine's folder; builds it if it is not there
#   tests/vm/image.sh --where  the name alone; status 1 if it is not there
set -euo pipefail
cd "$(dirname "$0")/../.."
here=$PWD/tests/vm cache=$PWD/.cache/vm
# shellcheck source=tests/deb/chroot.sh
. tests/deb/chroot.sh

packages=(
  # The machine: Debian's init and what comes with it on a workstation.
  systemd systemd-sysv systemd-oomd dbus dbus-user-session libpam-systemd login udev
  # zram, ext4 and virtio are modules of this kernel.
  linux-image-cloud-amd64 initramfs-tools zstd kmod
  # What the tests use.
  procps tmux python3-minimal libpython3-stdlib
)
user=u # an ordinary one, whose id is 1000

name=$(cat "$0" tests/deb/chroot.sh "$here/guest/machine.service" "$here/guest/machine" | sha256sum | cut -c 1-16)
image=$cache/$name
if [ "${1:-}" = --where ]; then
  echo "$image"
  [ -e "$image/root.img" ]
  exit
fi
[ ! -e "$image/root.img" ] || { echo "$image"; exit 0; }

mkdir -p "$cache"
work=$(mktemp -d "$cache/building.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
root=$work/root
make() {
  debootstrap --variant=minbase trixie "$root" "$(debian_mirror)"
  # A small initrd, made once.
  mkdir -p "$root/etc/initramfs-tools/conf.d"
  printf 'MODULES=list\nCOMPRESS=zstd\nRESUME=none\n' >"$root/etc/initramfs-tools/conf.d/vm"
  printf 'virtio_pci\nvirtio_blk\next4\n' >"$root/etc/initramfs-tools/modules"
  # What a person never reads in there. Nor do services start in a folder.
  printf 'path-exclude=/usr/share/doc/*\npath-exclude=/usr/share/man/*\npath-exclude=/usr/share/locale/*\n' \
    >"$root/etc/dpkg/dpkg.cfg.d/vm"
  inside "$root" apt-get -qq update
  inside "$root" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
    apt-get -y --no-install-recommends install "${packages[@]}"

  echo vm >"$root/etc/hostname"
  printf '127.0.0.1 localhost vm\n' >"$root/etc/hosts"
  printf '/dev/vda / ext4 rw,noatime,discard 0 1\n' >"$root/etc/fstab"
  inside "$root" useradd --uid 1000 --create-home --shell /bin/bash "$user"
  inside "$root" passwd --delete "$user"
  # Packages come from where a test says, from nowhere else.
  rm -f "$root/etc/apt/sources.list" "$root/etc/resolv.conf"
  install -m 644 "$here/guest/machine.service" "$root/etc/systemd/system/machine.service"
  install -m 755 "$here/guest/machine" "$root/usr/local/sbin/machine"
  inside "$root" systemctl enable machine.service systemd-oomd.service
  # They would work in the background, while something is measured.
  inside "$root" systemctl disable apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer
  # Nobody sits there; the console is the tests'.
  inside "$root" systemctl mask e2scrub_reap.service systemd-firstboot.service getty@tty1.service serial-getty@ttyS0.service
  # Else the first boot, which every boot of it is, does again what the packages did.
  inside "$root" journalctl --update-catalog
  touch "$root/etc/.updated" "$root/var/.updated"
  rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*
  cp "$root"/boot/vmlinuz-* "$work/vmlinuz"
  cp "$root"/boot/initrd.img-* "$work/initrd.img"
  mke2fs -q -t ext4 -O ^has_journal -E lazy_itable_init=1,nodiscard -m 0 -d "$root" "$work/root.img" 3G
}
(make) >"$work/log" 2>&1 </dev/null || { tail -n 40 "$work/log" >&2; exit 1; }
rm -rf "$root"
rm -rf "$image"
mv "$work" "$image"
# Whatever was the machine before is not any more.
find "$cache" -mindepth 1 -maxdepth 1 -type d -regex '.*/[0-9a-f]*' ! -path "$image" -exec rm -rf {} +
echo "$image"
