#!/bin/sh
# Runs what was just built, as the package lays it out: the version, the guard that it finds, a client.
# usage: try-built.sh FOLDER VERSION
set -eu
built=$(realpath "$1") version=$2
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT

mkdir -p "$here/bin" "$here/lib/claude-safe" "$here/client" "$here/home"
cp "$built/claude-safe" "$here/bin/"
ln -s claude-safe "$here/bin/claude-safectl"
cp "$built/libclaude_guard.so" "$here/lib/claude-safe/"
chmod -R go-w "$here"
printf '#!/bin/sh\necho "client: $*"\nexit 7\n' >"$here/client/claude"
chmod 755 "$here/client/claude"
run() {
	env -i PATH="$here/client:/usr/bin:/bin" HOME="$here/home" TMPDIR="$here/home" XDG_RUNTIME_DIR="$here/home" "$@"
}

said=$(run "$here/bin/claude-safectl" --version)
case " $said " in
*" $version "*) ;;
*) echo "claude-safectl is '$said', not $version" >&2; exit 1 ;;
esac

# doctor's status is 1 where not all is in force that could be.
report=$(run "$here/bin/claude-safectl" doctor) || [ $? = 1 ]
case $report in
*'is not used: / belongs to'*) echo 'a user namespace, whose root folder is foreign: no guard is trusted here' ;;
*"$here/lib/claude-safe/libclaude_guard.so"*) ;;
*) printf 'doctor does not name the guard:\n%s\n' "$report" >&2; exit 1 ;;
esac

status=0
said=$(run "$here/bin/claude-safe" --a 'b c') || status=$?
[ "$said $status" = 'client: --a b c 7' ] || { echo "the client said '$said', status $status" >&2; exit 1; }
