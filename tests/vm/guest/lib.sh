# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034 # payload and work are the caller's; some variables are the scenarios'
# What scenarios have in common: the client and the mock, neighbours, cgroups, conditions with a deadline.

client=$payload/client/claude

within() { # seconds, command...
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    # The last try is the one that is shown.
    [ $SECONDS -lt $end ] || { "$@"; return; }
    sleep 0.2
  done
}

ended() { # pid...
  local pid
  for pid in "$@"; do [ ! -e "/proc/$pid" ] || grep -q '^State:.[ZX]' "/proc/$pid/status" 2>/dev/null || return 1; done
}

# A number of a line of JSON without depth.
number() { # name, of stdin
  sed -n "s/.*\"$1\":\(-\{0,1\}[0-9]*\)[,}].*/\1/p" | tail -n 1
}

# A figure for whoever reads the log; nothing is judged by it.
measured() { # what, figure
  printf 'measured: %s: %s\n' "$1" "$2"
}

at_most() { # what, value, limit
  echo "$1: $2, at most $3"
  [ -n "$2" ] && [ "$2" -le "$3" ]
}

at_least() { # what, value, limit
  echo "$1: $2, at least $3"
  [ -n "$2" ] && [ "$2" -ge "$3" ]
}

# Whether only the halves without claude-safe are wanted: a scenario returns then.
controls_only() { [ -e "$payload/controls-only" ]; }

# An emulated machine computes ten times slower, and its clock does not: what is promised of times is not judged there, and
# leaks get slower with it, else a client is full before it has said its first word.
emulated() { [ "$(systemd-detect-virt)" = qemu ]; }
leak_speed() { # MiB/s, and where it is emulated
  if [ -n "${LEAK_MIB_PER_S:-}" ]; then echo "$LEAK_MIB_PER_S"; elif emulated; then echo "$2"; else echo "$1"; fi
}

# How fast this machine's kernel gives memory to swap when nothing else runs, MiB/s: 96 MiB of a program that sleeps, asked
# for in one piece after the other. A control without any of ours.
swap_speed() {
  local group=/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice/speed.scope began pid piece
  in_scope speed.scope vm-probe allocate --mib 160 --mib-per-s 1000 --hold-ms 600000 --say "$work/speed" >/dev/null 2>&1 &
  pid=$!
  # shellcheck disable=SC2317 # within runs it
  allocated() { at_least 'bytes' "$(cat "$group/memory.current")" $((160 << 20)); }
  within 60 allocated >/dev/null || return 1
  # The first time the kernel goes through all of it once.
  echo '8M swappiness=200' >$group/memory.reclaim
  began=$(date +%s%N)
  for piece in 1 2 3 4 5 6; do echo '16M swappiness=200' >$group/memory.reclaim || return 1; done
  echo $((96 * 1000000000 / ($(date +%s%N) - began)))
  systemctl --user kill --signal KILL speed.scope
  within 30 ended "$pid"
}

# --- cgroups ---------------------------------------------------------------------------------------------------------

cgroup_of() { # pid
  sed -n 's/^0:://p' "/proc/$1/cgroup" 2>/dev/null
}

is_contained() { # pid
  local group
  group=$(cgroup_of "$1")
  echo "$group"
  [[ $group =~ /claude\.slice/claude-safe\.slice/claude-safe-[0-9]+_[0-9]+\.slice/ ]]
}

# The folder that holds a whole session: the parent of the client's scope. A name that does not exist if there is none.
slice_of() { # pid
  local group
  if is_contained "$1" >/dev/null; then
    group=$(cgroup_of "$1")
    echo "/sys/fs/cgroup${group%/*}"
  else
    echo /sys/fs/cgroup/none
  fi
}

# --- sessions --------------------------------------------------------------------------------------------------------

children() { # pid
  cat "/proc/$1/task/"*/children 2>/dev/null
}

# The client of a wrapper that was started here: the child that runs the client's own file.
client_of() { # pid of the wrapper
  local pid
  for pid in $(children "$1"); do
    [ "$(readlink "/proc/$pid/exe")" != "$client" ] || { echo "$pid"; return 0; }
  done
  return 1
}

# Homes in which the client starts without a question, and the variables for it, in the list `client_env`.
world() { # name, options of vm-probe world...
  local line folder=$work/$1
  shift
  mkdir -m 700 "$folder"
  client_env=(ANTHROPIC_API_KEY=sk-ant-dummy-dummy-dummy-dummy-0123456789 CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1
    DISABLE_AUTOUPDATER=1 SHELL=/bin/sh TERM=xterm-256color)
  while read -r line; do
    client_env+=("$line")
    case $line in WORLD=*) world=${line#*=} ;; WORK=*) world_work=${line#*=} ;; HOME=*) world_home=${line#*=} ;; esac
  done < <(TMPDIR=$folder vm-probe world "$folder" "$@")
}

# The mock of the API; it ends with the scenario, which holds its stdin.
mock() { # scenario as JSON
  mock_log=$world/mock.log
  printf '%s' "$1" >"$world/mock.json"
  mkfifo "$world/mock.in"
  mock-api --scenario "$world/mock.json" --log "$mock_log" <"$world/mock.in" >"$world/mock.out" 2>&1 &
  exec {mock_holds}>"$world/mock.in"
  within 30 grep -q '^listening' "$world/mock.out" || { cat "$world/mock.out"; return 1; }
  client_env+=("ANTHROPIC_BASE_URL=$(sed -n 's/^listening //p' "$world/mock.out")")
}

was_answered_finally() { grep -q '"final":true' "$mock_log"; }

# A session without a screen, in the background: its pid in `session`, what it says in `said`.
start_print() { # command...
  said=$world/said
  (cd "$world_work" && exec env "${client_env[@]}" "$@" -p 'Go on.' --dangerously-skip-permissions >"$said" 2>&1 </dev/null) &
  session=$!
}

# --- others ----------------------------------------------------------------------------------------------------------

# Starts COMMAND as a desktop starts a program: in a scope of its own, of the user's manager.
in_scope() { # unit, command...
  local unit=$1
  shift
  systemd-run --user --quiet --scope --unit "$unit" "$@"
}

# Somebody else's program with 500 MB, in its own scope: its findings are the last line of the file `neighbour`.
start_neighbour() {
  neighbour=$work/neighbour
  rm -f "$neighbour" "$neighbour".*
  in_scope neighbour.scope vm-probe neighbour --mib 500 --mark "$neighbour.mark" --until "$neighbour.end" >"$neighbour" 2>&1 &
  neighbour_pid=$!
  within 120 grep -q ready "$neighbour"
}

end_neighbour() {
  touch "$neighbour.end"
  within 60 ended "$neighbour_pid"
  measured 'neighbour' "$(tail -n 1 "$neighbour")"
}

# The time in which it stood still for memory is compared, not that of its walks: those get slower whenever anybody else
# computes, and in an emulated machine much.
neighbour_is_well() {
  local told stalled elapsed
  told=$(tail -n 1 "$neighbour")
  echo "$told"
  stalled=$(number stalled_us <<<"$told") elapsed=$(number elapsed_us <<<"$told")
  at_most 'its swap, KiB' "$(number swap_kib <<<"$told")" 0
  at_most 'its major faults' "$(number major_faults <<<"$told")" 50
  at_most 'stood still for memory, us' "$stalled" $((elapsed / 10))
}

start_ticker() {
  ticker=$work/ticker
  rm -f "$ticker" "$ticker.end"
  vm-probe ticker --until "$ticker.end" >"$ticker" 2>&1 &
  ticker_pid=$!
}

end_ticker() {
  touch "$ticker.end"
  within 30 ended "$ticker_pid"
  measured 'ticker' "$(tail -n 1 "$ticker")"
}

# What the session took over its life, from outside: the last line of the file `record`.
start_record() { # pid, options of vm-probe record...
  record=$work/record
  rm -f "$record" "$record".*
  vm-probe record --root "$@" --until "$record.end" --log "$record.samples" >"$record" 2>&1 &
  record_pid=$!
}

end_record() {
  touch "$record.end"
  within 30 ended "$record_pid"
  measured 'session' "$(tail -n 1 "$record")"
}

in_record() { number "$1" <"$record"; }
