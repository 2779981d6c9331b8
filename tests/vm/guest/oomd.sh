# shellcheck shell=bash
# shellcheck disable=SC2154 # lib.sh's variables
# A terminal in a scope of the user's manager, as desktops start one; in it a session that leaks without end. Around it a
# neighbour. Whoever goes, kernel or oomd, takes a tool or the session, never the terminal's scope, the neighbour's or the
# manager's own. Sourced by the scenarios oomd-….

leak_mib_per_s=$(leak_speed 200 25) tier_1_mib=700 tier_2_mib=1500

scope_is() { systemctl --user is-active --quiet "$1"; }
# The result that a scope ended with; kept by the manager for those that failed.
result_of() { systemctl --user show --property ActiveState,Result "$1" | tr '\n' ' '; }

# A shell in the scope TERMINAL runs COMMAND and then waits, as a terminal's shell does.
start_terminal() { # unit, command...
  terminal=$1
  shift
  said=$world/said
  cat >"$world/shell" <<'SHELL'
#!/bin/bash
# The shell of the terminal: one command, whose end is written down; then the prompt, so to speak.
echo $$ >"$WORLD/shell.pid"
cd "$WORK" || exit 1
"$@" -p 'Go on.' --dangerously-skip-permissions >"$WORLD/said" 2>&1 </dev/null
echo $? >"$WORLD/ended"
while [ ! -e "$WORLD/close" ]; do sleep 0.5; done
SHELL
  chmod 755 "$world/shell"
  in_scope "$terminal" env "${client_env[@]}" "$world/shell" "$@" &
  terminal_pid=$!
  within 60 test -s "$world/shell.pid"
}

command_ended() { [ -e "$world/ended" ]; }
terminal_is_gone() { ended "$terminal_pid" && [ ! -e "$world/close" ]; }

# Control: the bare client in the terminal. The whole scope goes, shell and all.
world bare --leak-mib-per-s "$leak_mib_per_s" --leak-cap-mib 6000
mock '{"rounds": 2000, "command": "echo round-{n} >>rounds; sleep 0.2"}'
start_terminal terminal-bare.scope "$client"
began=$SECONDS
check 'control: the bare client takes the scope of the terminal with it' within 900 terminal_is_gone
measured 'seconds until the terminal was gone' $((SECONDS - began))
is_over() { ! scope_is terminal-bare.scope; }
within 20 is_over
measured 'how' "$(result_of terminal-bare.scope)"
systemctl --user reset-failed terminal-bare.scope 2>/dev/null
touch "$world/close"
within 30 ended "$terminal_pid"
controls_only && return

start_neighbour
check 'a neighbour with 500 MB has settled' grep -q ready "$neighbour"
sleep 5
touch "$neighbour.mark"
world guarded --leak-mib-per-s "$leak_mib_per_s" --leak-cap-mib 6000 --leak-first 2
mock '{"rounds": 20, "command": "echo round-{n} >>rounds; sleep 2", "final_text": "ALL DONE"}'
client_env+=("CLAUDE_MALLOC_GUARD_THRESHOLD_MB=$tier_1_mib" "CLAUDE_WATCHDOG_THRESHOLD_MB=$tier_2_mib")
manager=$(systemctl --user show --property ActiveEnterTimestampMonotonic init.scope)
start_terminal terminal-guarded.scope claude-safe
finished() { command_ended || was_answered_finally || terminal_is_gone; }
within 600 finished
check 'the terminal is there to the end' scope_is terminal-guarded.scope
check 'the conversation goes to its end' within 60 was_answered_finally
within 60 command_ended
sed 's/^/    /' "$said"
# By tier 2 at its limit, or, where oomd is not so patient, after oomd has ended it.
restarted() { at_least 'restarts' "$(grep -cE 'memory reached|systemd-oomd killed claude' "$said")" 1; }
check 'it was restarted for its memory' restarted
check 'its shell still runs' kill -0 "$(cat "$world/shell.pid")"
check 'the neighbour lives' scope_is neighbour.scope
same_manager() { [ "$(systemctl --user show --property ActiveEnterTimestampMonotonic init.scope)" = "$manager" ]; }
check 'the manager of the user is the same' same_manager
no_other_victim() {
  local victims
  # The user sees his own part of the journal only; oomd's word is on the slices themselves.
  victims=$(systemctl --user list-units --all --failed --no-legend --plain | awk '$1 !~ /^claude-safe-/ { print $1 }')
  echo "$victims"
  [ -z "$victims" ]
}
check 'nothing of the user failed but what is ours' no_other_victim
touch "$world/close"
end_neighbour
