# shellcheck shell=bash
# Builds one package: the phases of nixpkgs' setup.sh in their order, as far as the flake's packages use them.
set -eo pipefail
export PATH=/usr/local/bin:/usr/bin:/bin HOME=/homeless-shelter LC_ALL=C TZ=UTC SOURCE_DATE_EPOCH=1

runHook() { # NAME: the function of that name, or the text in the variable
  if declare -F "$1" >/dev/null; then "$1"; elif [ -n "${!1:-}" ]; then eval "${!1}"; fi
}

linkTree() { # FROM TO: the folders of FROM, with links to everything else in it
  local entry
  (cd "$1" && find . -mindepth 1 -type d) | while read -r entry; do mkdir -p "$2/$entry"; done
  (cd "$1" && find . ! -type d) | while read -r entry; do
    if [ -L "$1/$entry" ]; then cp -P "$1/$entry" "$2/$entry"; else ln -s "$1/$entry" "$2/$entry"; fi
  done
}

for input in ${nativeBuildInputs:-} ${packages:-}; do
  PATH=$input/bin:$PATH
  # shellcheck disable=SC1091
  [ ! -f "$input/nix-support/setup-hook" ] || . "$input/nix-support/setup-hook"
done

if [ -n "${buildCommand:-}" ]; then
  eval "$buildCommand"
  exit
fi

cp -r "${src:?}" source
chmod -R u+w source
cd source
runHook postUnpack
for phase in configurePhase buildPhase checkPhase installPhase; do
  case $phase in
  checkPhase) [ "${doCheck:-}" = 1 ] || continue ;;
  esac
  echo "Running phase: $phase"
  runHook "$phase"
done
runHook postInstall
runHook postFixup
if [ "${doInstallCheck:-}" = 1 ]; then
  echo 'Running phase: installCheckPhase'
  runHook installCheckPhase
fi
