# fish completion for claude-safectl. Made by wrapper/src/manual.rs.
complete -c claude-safectl -f
complete -c claude-safectl -n __fish_use_subcommand -s h -l help -d 'Show the commands and the variables'
complete -c claude-safectl -n __fish_use_subcommand -s V -l version -d 'Show the version'
complete -c claude-safectl -n __fish_use_subcommand -a config -d 'Every variable in force, and where its value comes from'
complete -c claude-safectl -n '__fish_seen_subcommand_from config' -l json -d 'For programs: plain numbers, sizes in bytes'
complete -c claude-safectl -n __fish_use_subcommand -a doctor -d 'Which client, guard and mechanisms are in force on this machine'
complete -c claude-safectl -n '__fish_seen_subcommand_from doctor' -l json -d 'For programs: plain numbers, sizes in bytes'
complete -c claude-safectl -n __fish_use_subcommand -a stats -d 'What the guard counts and where memory is, in the running sessions or in the one of process PID'
complete -c claude-safectl -n '__fish_seen_subcommand_from stats' -a '(__fish_complete_pids)'
complete -c claude-safectl -n '__fish_seen_subcommand_from stats' -l json -d 'For programs: plain numbers, sizes in bytes'
complete -c claude-safectl -n __fish_use_subcommand -a status -d 'The running sessions: memory, limits, guard, restarts, conversation'
complete -c claude-safectl -n '__fish_seen_subcommand_from status' -l json -d 'For programs: plain numbers, sizes in bytes'
