#!/bin/sh
# Looks at a built static wrapper: what it needs, how it is laid out, what it tells of the machine that built it.
# Usage: check-wrapper.sh PATH-OF-claude-safe [TEXT...]: none of the TEXTs (paths of the build) may be in it.
# Every fault is one line on stderr; exit status 1 if there was any, 2 if the file can't be read.
set -u
export LC_ALL=C

program=${1:?usage: check-wrapper.sh PATH-OF-claude-safe [TEXT...]}
shift
# The aim was 300 KiB, for the supervisor alone. With tiers 0 and 1, the sweeper and the whole control plane it is 534.
max_bytes=$((576 * 1024))

header=$(readelf -hW "$program") || exit 2
segments=$(readelf -lW "$program") || exit 2
size=$(wc -c <"$program") || exit 2

faults=0
fault() {
	printf '%s: %s\n' "$program" "$*" >&2
	faults=$((faults + 1))
}

[ "$size" -le "$max_bytes" ] || fault "has $size bytes, more than $max_bytes"
printf '%s\n' "$header" | grep -q 'Type: .*EXEC' || fault 'is no program at a fixed address'
if printf '%s\n' "$segments" | grep -Eq '^ +(INTERP|DYNAMIC) '; then
	fault 'is not static: it asks for a dynamic linker'
fi
printf '%s\n' "$segments" | grep -Eq '^ +LOAD .* R E ' || fault 'has no code: the segments were not understood'
if printf '%s\n' "$segments" | grep -Eq '^ +(LOAD|GNU_STACK) .* RWE '; then
	fault 'has a segment that is writable and executable'
fi
printf '%s\n' "$segments" | grep -Eq '^ +GNU_STACK ' || fault 'does not ask for a stack without execution'
printf '%s\n' "$segments" | grep -Eq '^ +GNU_RELRO ' || fault 'has no tables that are read-only after the start'
# The marks by which a claude-safe knows another one, and takes it for no claude.
readelf -SW "$program" | grep -q ' \.claude_safe ' || fault 'does not carry the mark of claude-safe'
for text in "$@"; do
	if grep -aqF -e "$text" "$program"; then
		fault "tells where it was built: $text"
	fi
done

[ "$faults" -eq 0 ]
