# bash completion for claude-safectl. Made by wrapper/src/manual.rs.
_claude_safectl() {
    local word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]-} words=
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W 'config doctor shim stats status --help --version' -- "$word")
        return
    fi
    case ${COMP_WORDS[COMP_CWORD - 1]} in
    --dir)
        mapfile -t COMPREPLY < <(compgen -d -- "$word")
        return
        ;;
    esac
    case $command in
    config)
        words='--json'
        ;;
    doctor)
        words='--json'
        ;;
    shim)
        if ((COMP_CWORD == 2)); then words='install remove status'; else words='--dir --dry-run --json'; fi
        ;;
    stats)
        words='--json'
        ;;
    status)
        words='--json'
        ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}
complete -F _claude_safectl claude-safectl
