#!/usr/bin/env bash
# Serves FOLDER at http://127.0.0.1:8000/ while COMMAND runs, in a network that has only the loopback device.
# usage: serve.sh FOLDER COMMAND…
set -euo pipefail
if [ -z "${SERVE_ALONE:-}" ]; then
  SERVE_ALONE=1 exec unshare --net --mount --pid --fork --kill-child --mount-proc "$0" "$@"
fi
unset SERVE_ALONE
folder=$1
shift
ip link set lo up
python3 -m http.server --bind 127.0.0.1 --directory "$folder" 8000 >/dev/null 2>&1 &
deadline=$((SECONDS + 20))
until (exec 3<>/dev/tcp/127.0.0.1/8000) 2>/dev/null; do
  [ $SECONDS -lt $deadline ] || { echo 'the server does not answer' >&2; exit 1; }
  kill -0 $! || exit 1
  sleep 0.05
done
"$@"
