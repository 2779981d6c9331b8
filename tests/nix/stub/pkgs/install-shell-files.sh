# shellcheck shell=bash
# Manual pages and completions to their places, as nixpkgs' installShellFiles does.
installManPage() {
  local page
  for page in "$@"; do
    install -Dm644 -t "${out:?}/share/man/man${page##*.}" "$page"
    gzip -9n "$out/share/man/man${page##*.}/${page##*/}"
  done
}

installShellCompletion() {
  local name=''
  while [ $# != 0 ]; do
    case $1 in
    --cmd) name=$2 ;;
    --bash) install -Dm644 "$2" "${out:?}/share/bash-completion/completions/$name.bash" ;;
    --zsh) install -Dm644 "$2" "${out:?}/share/zsh/site-functions/_$name" ;;
    --fish) install -Dm644 "$2" "${out:?}/share/fish/vendor_completions.d/$name.fish" ;;
    *)
      echo "installShellCompletion: what is $1?" >&2
      return 1
      ;;
    esac
    shift 2
  done
}
