# shellcheck shell=bash
# Counting checks, for the shell programs that test packages. Source it; it starts nothing.
#
#   check TITLE COMMAND…            passes if COMMAND does
#   refuses TITLE PATTERN COMMAND…  passes if COMMAND fails and says PATTERN (grep -E): for deliberate
#                                   breakages, each of which must be caught, and for its own reason
#   skip TITLE REASON               counted and named, never passed
#   tally                           prints `N skipped` and `N passed, N failed`; its status is the verdict
#
# The output of a check is shown only if it does not come out as it should.

passed=0 failed=0 skipped=0
tally_log=$(mktemp) || exit 1

_passed() { # title, seconds
  passed=$((passed + 1))
  printf 'ok      %s (%s s)\n' "$1" "$2"
}

_failed() { # title, why
  failed=$((failed + 1))
  tail -n 60 "$tally_log"
  printf 'FAILED  %s: %s\n' "$1" "$2"
}

# Commands run in this shell, not in a condition: `set -e` inside a function that is tested by `if` would
# be ignored. Each gets a subshell with -e of its own.
_run() {
  (
    set -e
    "$@"
  ) >"$tally_log" 2>&1
}

check() {
  local title=$1 began=$SECONDS status
  shift
  _run "$@"
  status=$?
  if [ "$status" = 0 ]; then _passed "$title" $((SECONDS - began)); else _failed "$title" "status $status"; fi
}

refuses() {
  local title=$1 pattern=$2 began=$SECONDS status
  shift 2
  _run "$@"
  status=$?
  if [ "$status" = 0 ]; then
    _failed "$title" 'it was accepted'
  elif ! grep -qE -- "$pattern" "$tally_log"; then
    _failed "$title" "status $status, but not a word of $pattern"
  else
    _passed "$title" $((SECONDS - began))
  fi
}

skip() {
  skipped=$((skipped + 1))
  printf 'skipped: %s: %s\n' "$1" "$2"
}

tally() {
  rm -f "$tally_log"
  printf '%s skipped\n%s passed, %s failed\n' "$skipped" "$passed" "$failed"
  [ "$failed" = 0 ] && [ "$passed" != 0 ]
}
