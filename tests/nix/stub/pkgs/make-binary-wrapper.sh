# shellcheck shell=bash
# makeWrapper PROGRAM WRAPPER [--argv0 NAME] [--set-default VARIABLE VALUE]…: a compiled program that sets its
# environment and becomes PROGRAM.
makeWrapper() {
  local program=$1 wrapper=$2 argv0=$1 body=''
  if ! [ -f "$program" ] || ! [ -x "$program" ]; then
    echo "Cannot wrap '$program' because it is not an executable file" >&2
    return 1
  fi
  shift 2
  while [ $# != 0 ]; do
    case $1 in
    --argv0)
      argv0=$2
      shift 2
      ;;
    --set-default)
      body+="if (setenv(\"$2\", \"$3\", 0)) abort();"
      shift 3
      ;;
    *)
      echo "makeWrapper: what is $1?" >&2
      return 1
      ;;
    esac
  done
  printf '#include <stdlib.h>\n#include <unistd.h>\nint main(int argc, char **argv) { (void)argc; %s argv[0] = "%s"; return execv("%s", argv); }\n' \
    "$body" "$argv0" "$program" | gcc -Wall -Werror -Os -x c -o "$wrapper" -
}
