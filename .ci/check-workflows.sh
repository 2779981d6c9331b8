#!/usr/bin/env bash
# The workflows of the project's public life, which can't run here: their form (GitHub's own schema), what they
# may do and what they pull in (zizmor: pinned actions, permissions, injections), and that each program of ours that
# they start is there. Then a copy with an unpinned action, and one with a misspelt key, must be refused.
set -euo pipefail
tools=.cache/workflow-tools
[ -x "$tools/bin/zizmor" ] || {
  python3 -m venv "$tools"
  "$tools/bin/pip" -q install check-jsonschema==0.39.0 zizmor==1.32.0
}

judge() { # folder
  "$tools/bin/check-jsonschema" --builtin-schema vendor.github-workflows "$1"/*.yml &&
    "$tools/bin/zizmor" --offline --persona pedantic --min-severity low "$1"
}

judge .github/workflows
grep -hoE '(^|[ "])(\.ci|tests|debian)/[a-z/.-]+' .github/workflows/*.yml | tr -d ' "' | sort -u | while read -r program; do
  [ -x "$program" ] || { echo "a workflow starts $program, which is not there"; exit 1; }
  echo "there: $program"
done

broken=$(mktemp -d)
trap 'rm -rf "$broken"' EXIT
refused() { # what, sed expression
  rm -f "$broken"/*.yml
  cp .github/workflows/*.yml "$broken"
  sed -i "$2" "$broken/check.yml"
  cmp -s "$broken/check.yml" .github/workflows/check.yml && { echo "$1: the copy is unbroken"; exit 1; }
  if judge "$broken" >"$broken/said" 2>&1; then echo "$1: not seen"; exit 1; fi
  echo "refused: $1"
}
refused 'an action by tag instead of commit' 's/@3d3c42e[0-9a-f]*/@v7/'
refused 'a misspelt key' 's/runs-on:/run-on:/'
