# bash completion for claude-safectl. Made by wrapper/src/manual.rs.
_claude_safectl() {
    local word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]-} words=
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W 'config doctor stats status --help --version' -- "$word")
        return
    fi
    case $command in
    config)
        words='--json'
        ;;
    doctor)
        words='--json'
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
