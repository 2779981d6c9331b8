#!/usr/bin/env bash
# `cargo build --release` at the root makes both artifacts, and the wrapper finds the guard beside itself.
set -euo pipefail
rm -f target/release/claude-safe target/release/claude-safectl target/release/libclaude_guard.so
cargo build --locked --release
for file in claude-safe claude-safectl libclaude_guard.so; do
  test -s "target/release/$file" || { echo "$file was not built"; exit 1; }
done
report=$(target/release/claude-safectl doctor) || true
grep -q "$(realpath target/release/libclaude_guard.so)" <<<"$report" || { echo "doctor does not name the guard:"; echo "$report"; exit 1; }
size=$(stat -c %s target/release/claude-safe)
echo "claude-safe (dynamic): $size bytes"
