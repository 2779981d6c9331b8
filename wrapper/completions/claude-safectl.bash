# bash completion for claude-safectl. Made by wrapper/src/manual.rs.
_claude_safectl() {
    local word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]-} words=
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W 'clean config doctor pty report shim stats status top --help --version' -- "$word")
        return
    fi
    case ${COMP_WORDS[COMP_CWORD - 1]} in
    --dir)
        mapfile -t COMPREPLY < <(compgen -d -- "$word")
        return
        ;;
    --svg | --prom)
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        return
        ;;
    esac
    case $command in
    clean)
        words='--orphans --dry-run --json'
        ;;
    config)
        words='--json'
        ;;
    doctor)
        words='--json'
        ;;
    pty)
        words='--json'
        ;;
    report)
        words='--svg'
        ;;
    shim)
        if ((COMP_CWORD == 2)); then words='install remove status'; else words='--dir --dry-run --json'; fi
        ;;
    stats)
        words='--json'
        ;;
    status)
        words='--json --prom'
        ;;
    top)
        words=''
        ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}
complete -F _claude_safectl claude-safectl
