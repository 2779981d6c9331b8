#!/bin/sh
# Tries what was installed below a folder, without a real client and without network.
#
#   install-check.sh guard PREFIX            the guard can be preloaded, answers, and harms nothing
#   install-check.sh program PREFIX VERSION  the program stands in for a claude; all its files are there
#
# The first thing that is wrong is named, and ends it.
set -eu
what=$1 prefix=$2

here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
fail() {
  echo "install-check: $*" >&2
  exit 1
}
same() { # what, got, wanted
  [ "$2" = "$3" ] || fail "$1: got '$2', wanted '$3'"
}
there() { # one of these
  for file in "$@"; do
    [ ! -s "$file" ] || return 0
  done
  fail "missing: $*"
}

guard() {
  library=$prefix/lib/claude-safe/libclaude_guard.so
  there "$library"
  # Without guard/build.rs it would come out with another name and more to load.
  needs=$("${READELF:-readelf}" -dW "$library" | sed -n 's/.*(\(NEEDED\|SONAME\|RPATH\|RUNPATH\)).*\[\(.*\)\]/\1 \2/p' | sort | tr '\n' ';')
  same 'what the guard loads, and its name' "$needs" 'NEEDED libc.so.6;SONAME libclaude_guard.so;'
  # shellcheck disable=SC2016 # its own pid
  said=$(LD_PRELOAD=$library CLAUDE_MALLOC_GUARD_LOG=$here/log sh -c 'kill -USR1 $$; echo "$? ${LD_PRELOAD-none}"')
  same 'a program under the guard' "$said" '0 none'
  grep -q '^\[malloc-guard\] 160B alloc=.* guard=' "$here/log" || fail 'the guard wrote no line on SIGUSR1'
}

program() {
  mkdir "$here/bin" "$here/home"
  cat >"$here/bin/claude" <<'FAKE'
#!/bin/sh
case ${1-} in
--version) echo '2.1.999 (a stand-in)' ;;
args) shift; for word in "$@"; do printf '<%s>' "$word"; done; echo; exit 7 ;;
esac
FAKE
  chmod 755 "$here/bin/claude"
  bin=$prefix/bin
  # Nothing of the builder's own: no configuration, no client, no terminal.
  run() { env -i PATH="$here/bin:$PATH" HOME="$here/home" TMPDIR="$here" "$@" </dev/null; }

  same 'the version' "$(run "$bin/claude-safectl" --version)" "claude-safe $1"
  same 'claude on PATH' "$(run "$bin/claude-safe" --version)" '2.1.999 (a stand-in)'
  same 'claude by name' "$(run CLAUDE_SAFE_BIN="$here/bin/claude" PATH="$PATH" "$bin/claude-safe" --version)" '2.1.999 (a stand-in)'
  same 'the shim folder' "$(run PATH="$prefix/lib/claude-safe/bin:$here/bin:$PATH" claude --version)" '2.1.999 (a stand-in)'
  same 'switched off' "$(run CLAUDE_SAFE_DISABLE=1 "$bin/claude-safe" --version)" '2.1.999 (a stand-in)'
  status=0
  said=$(run "$bin/claude-safe" args -- 'two words' '' --resume) || status=$?
  same 'the arguments' "$said" '<--><two words><><--resume>'
  same 'the exit status' "$status" 7
  status=0
  run PATH=/nowhere "$bin/claude-safe" --version >"$here/said" 2>&1 || status=$?
  same 'without any claude' "$status" 127
  grep -q 'no claude found' "$here/said" || fail 'it does not say that there is no claude'

  for page in man1/claude-safe.1 man1/claude-safectl.1 man5/claude-safe.conf.5; do
    there "$prefix/share/man/$page" "$prefix/share/man/$page.gz"
  done
  there "$prefix/share/bash-completion/completions/claude-safectl.bash" "$prefix/share/bash-completion/completions/claude-safectl"
  there "$prefix/share/zsh/site-functions/_claude-safectl"
  there "$prefix/share/fish/vendor_completions.d/claude-safectl.fish"
  there "$prefix/share/claude-safe/plugin/.claude-plugin/plugin.json"
  there "$prefix/share/claude-safe/plugin/.claude-plugin/marketplace.json"
  there "$prefix/share/claude-safe/plugin/hooks/hooks.json"
  there "$prefix/share/doc/claude-safe/claude-safe.conf"
}

shift 2
case $what in
guard) guard ;;
program) program "$@" ;;
*) fail "guard or program, not $what" ;;
esac
