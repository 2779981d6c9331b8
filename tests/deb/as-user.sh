#!/bin/bash
# What an ordinary user does with the installed package. Run as that user, in a new system.
set -euo pipefail
[ "$(id -u)" != 0 ]
cd
mkdir -p client
printf '#!/bin/sh\nprintf "<%%s>" "$@"\ncat\nexit 9\n' >client/claude
chmod 755 client/claude
# As a login makes it: what a session leaves there goes with it.
export XDG_RUNTIME_DIR=$HOME/run
mkdir -p -m 700 run
export PATH=$HOME/client:/usr/bin:/bin

wants() { # words, command...
  local wanted=$1 status=0 said
  shift
  said=$(echo line | "$@") || status=$?
  [ "$said $status" = "$wanted 9" ] || { echo "$* said '$said', status $status" >&2; exit 1; }
}
wants '<mcp><a b>line' claude-safe mcp 'a b'
PATH=/usr/lib/claude-safe/bin:$PATH wants '<mcp><a b>line' claude mcp 'a b'

# A client that a preload reaches.
mkdir -p dynamic
cp /bin/cat dynamic/claude
report=$(PATH=$HOME/dynamic:$PATH claude-safectl doctor) || [ $? = 1 ]
grep -F '/usr/lib/claude-safe/libclaude_guard.so' <<<"$report"
grep -F 'malloc reachable' <<<"$report"
# The guard is in the client's own map of its memory.
PATH=$HOME/dynamic:$PATH claude-safe /proc/self/maps | grep -F '/usr/lib/claude-safe/libclaude_guard.so'
claude-safectl --version

# `claude` in every new shell, by the package's own folder; and as it was before.
new_shell() {
  env -i HOME="$HOME" PATH="$PATH" XDG_RUNTIME_DIR="$XDG_RUNTIME_DIR" bash -ic "$1" 2>/dev/null
}
sha256sum .bashrc .profile >run/before
claude-safectl shim install
[ "$(new_shell 'command -v claude')" = /usr/lib/claude-safe/bin/claude ]
wants '<mcp><a b>line' new_shell 'claude mcp "a b"'
claude-safectl shim remove
[ "$(new_shell 'command -v claude')" = "$HOME/client/claude" ]
sha256sum --check --quiet run/before
