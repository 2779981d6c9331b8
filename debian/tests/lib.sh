# shellcheck shell=sh
# A home of its own and a stand-in for claude, for the tests of the installed package. Source it.
set -eu

test_folder=${AUTOPKGTEST_TMP:-$(mktemp -d)}
HOME=$test_folder/home
TMPDIR=$test_folder/tmp
XDG_RUNTIME_DIR=$test_folder/run
CLIENT=$test_folder/client
export HOME TMPDIR XDG_RUNTIME_DIR
unset XDG_CONFIG_HOME XDG_STATE_HOME XDG_DATA_HOME XDG_CACHE_HOME
mkdir -p "$HOME" "$TMPDIR" "$CLIENT" "$XDG_RUNTIME_DIR"
chmod 700 "$XDG_RUNTIME_DIR"

fail() {
	printf 'FAILED: %s\n' "$*" >&2
	exit 1
}

# Runs COMMAND, and wants exactly this on stdout and as status.
wants() { # stdout, status, command...
	wanted=$1 wanted_status=$2 status=0
	shift 2
	said=$("$@") || status=$?
	[ "$said" = "$wanted" ] || fail "$* said '$said', not '$wanted'"
	[ "$status" = "$wanted_status" ] || fail "$* ended with $status, not $wanted_status"
	printf 'ok: %s\n' "$*"
}
