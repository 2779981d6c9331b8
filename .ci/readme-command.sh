#!/usr/bin/env bash
# The README's own command: `readme-command.sh demo` or `test`. Its first two `cargo` lines are those.
set -euo pipefail
case $1 in demo) line=1 ;; test) line=2 ;; *) exit 2 ;; esac
command=$(sed -n 's/^\(cargo [a-z-]*\)\( .*\)\?$/\1/p' README.md | sed -n "${line}p")
[ -n "$command" ] || { echo "README.md has no such command" >&2; exit 1; }
echo "$command"
