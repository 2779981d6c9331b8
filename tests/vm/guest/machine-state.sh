# shellcheck shell=bash
# The states of the machine that scenarios ask for, switched while it runs. Root's; sourced by `main`.

# Swap on zram, of so many MiB; 0: none at all.
set_swap() { # MiB
  local device end=$((SECONDS + 30))
  swapoff --all
  for device in /sys/block/zram*; do
    [ -e "$device" ] || continue
    # udev still looks at what has just stopped being swap.
    until zramctl --reset "/dev/${device##*/}" 2>/dev/null; do
      [ $SECONDS -lt $end ] || { echo "$device can't be reset"; return 1; }
      sleep 0.3
    done
  done
  [ "$1" != 0 ] || return 0
  modprobe zram || return 1
  # udev looks at a new device, too.
  until device=$(zramctl --find --size "$1M" --algorithm lz4 2>/dev/null); do
    [ $SECONDS -lt $end ] || { echo 'no zram device can be had'; return 1; }
    sleep 0.3
  done
  mkswap --quiet "$device" >/dev/null && swapon --priority 100 "$device"
}

# default: as Debian ships it. tight: a tenth of its patience, and swap counts too. off.
set_oomd() { # state
  rm -rf /etc/systemd/oomd.conf.d /etc/systemd/system/user@.service.d
  case $1 in
  default) ;;
  tight)
    mkdir -p /etc/systemd/oomd.conf.d /etc/systemd/system/user@.service.d
    printf '[OOM]\nSwapUsedLimit=60%%\nDefaultMemoryPressureDurationSec=2s\n' >/etc/systemd/oomd.conf.d/tight.conf
    printf '[Service]\nManagedOOMSwap=kill\nManagedOOMMemoryPressureLimit=10%%\n' >/etc/systemd/system/user@.service.d/tight.conf
    ;;
  off) ;;
  *) return 1 ;;
  esac
  systemctl daemon-reload || return 1
  if [ "$1" = off ]; then systemctl stop systemd-oomd.socket systemd-oomd.service; else systemctl restart systemd-oomd.socket systemd-oomd.service; fi
}

# The user's own systemd: it comes with his first login.
set_manager() { # on or off
  case $1 in
  on) systemctl --quiet --runtime unmask user@1000.service ;;
  off) systemctl --quiet --runtime mask user@1000.service ;;
  esac
}

# After a scenario nobody is logged in, and nothing of the user runs.
end_user() {
  local end=$((SECONDS + 60))
  loginctl --quiet terminate-user u 2>/dev/null || true
  while [ -n "$(ps -u u -o pid=)" ] || systemctl --quiet is-active user@1000.service; do
    [ $SECONDS -lt $end ] || { systemctl kill --signal KILL user-1000.slice; break; }
    sleep 0.3
  done
  rm -rf /tmp/u /tmp/.[!.]*
}
