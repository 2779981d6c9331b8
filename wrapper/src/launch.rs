//! From the command line to the running session: read the configuration, find the client, see what
//! it is, then supervise it. Each step that fails leaves out what depends on it, and nothing else.

use crate::client::args::{Invocation, StartsSession};
use crate::client::capabilities::Capabilities;
use crate::client::find::{self, Client, Search};
use crate::client::guard_lib::{self, GuardFile};
use crate::client::kind::{GuardLoad, Kind};
use crate::config::{self, Config, Sources};
use crate::notice;
use crate::os::files::Trust;
use crate::os::{process, signals};
use crate::state::{self, Hooks, SessionFolder};
use crate::stats_page;
use crate::supervise::conversation::client_folder;
use crate::supervise::handover::Handover;
use crate::supervise::{self, Setup};
use crate::sweep::Places;
use crate::watch::proc_fs::Proc;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Exit status when no client is found, as a shell has it for a command that is not there.
const NO_CLIENT: u8 = 127;

/// `claude-safe`; `claude-safectl` if called by that name. The result is the exit status.
pub fn main(arguments: &[OsString]) -> u8 {
    process::occupy_standard_descriptors();
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    if name == Some(OsStr::new("claude-safectl")) {
        return control(arguments);
    }
    let loaded = config::load(&Sources::of_this_process());
    for complaint in &loaded.complaints {
        notice::line(complaint);
    }
    let config = &loaded.config;
    let words = arguments.get(1..).unwrap_or_default();
    let search = Search::of_this_process(config.client_bin.clone());
    let client = match find::find(&search) {
        Ok(client) => client,
        Err(not_found) => {
            not_found
                .explanation
                .iter()
                .for_each(|line| notice::line(line));
            return NO_CLIENT;
        }
    };
    client.complaints.iter().for_each(|line| notice::line(line));
    let mut environment = process::environment();
    if config.disable {
        return exec_plainly(&search, &client, words, &mut environment);
    }
    let invocation = Invocation::parse(words);
    let again = || find::find(&search).ok();
    let setup = set_up(config, &invocation, &client, &again, environment);
    supervise::run(&setup, client)
}

/// `CLAUDE_SAFE_DISABLE=1`: this process becomes claude. Returns only if that can't be.
fn exec_plainly(
    search: &Search,
    client: &Client,
    words: &[OsString],
    environment: &mut Vec<OsString>,
) -> u8 {
    let tried = format!("{}=", find::TRIED_VARIABLE);
    environment.retain(|entry| !entry.as_bytes().starts_with(tried.as_bytes()));
    if let Some(value) = find::tried_value(search, client, std::process::id()) {
        let mut entry = OsString::from(tried);
        entry.push(value);
        environment.push(entry);
    }
    let argv = client.argv(words);
    let failure = process::exec(client.path.as_os_str(), &argv, environment);
    supervise::cannot_execute(client, &failure)
}

/// `claude-safectl`.
pub fn control(arguments: &[OsString]) -> u8 {
    crate::ctl::run(arguments.iter().skip(1).cloned())
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

fn set_up<'a>(
    config: &'a Config,
    invocation: &'a Invocation,
    client: &Client,
    find_client: &'a dyn Fn() -> Option<Client>,
    mut environment: Vec<OsString>,
) -> Setup<'a> {
    let kind = &client.kind;
    let starts_session = invocation.starts_session() == StartsSession::Yes;
    let capabilities = match kind.text.as_deref().filter(|_| starts_session) {
        Some(text) => Capabilities::of(text, cache_file().as_deref()),
        None => Capabilities::default(),
    };
    let state_base = state::base(variable, process::own_ids().euid);
    let us = Proc::new(Path::new("/proc")).stat(process::own_pid(), None);
    let us = us.ok().map(|us| us.id);
    let folder = us.and_then(|us| SessionFolder::create(&state_base, us.pid, us.start_ticks).ok());
    let hooks = Hooks {
        conversation: invocation.is_interactive() && !capabilities.follows_session,
        // A program that reads the events would find our plugin in the first one.
        sweep: config.sweep && !invocation.writes_stream_json(),
    };
    let wants_hooks = starts_session && capabilities.plugin_dir && hooks != Hooks::default();
    let hook_plugin = folder.as_ref().filter(|_| wants_hooks).and_then(|folder| {
        let us = std::env::current_exe().ok()?;
        folder.make_hook_plugin(&us, hooks).ok()
    });
    if starts_session && invocation.is_interactive() {
        tell_statusline(&mut environment, folder.as_ref());
    }
    Setup {
        config,
        us,
        invocation,
        find_client,
        handover: handover(config, kind, folder.as_ref()),
        knows_session_id: capabilities.session_id,
        hook_plugin,
        folder,
        state_base,
        client_folder: client_folder(variable),
        sweeps: (config.sweep && starts_session).then(|| Places::of(variable)),
        launchers: kind.launchers.clone(),
        environment,
        inherited: signals::block_all(),
    }
}

/// Tells a client that draws on a screen where the line for its `statusLine` is; of a session around us, no more.
fn tell_statusline(environment: &mut Vec<OsString>, folder: Option<&SessionFolder>) {
    let name = format!("{}=", state::STATUSLINE_VARIABLE);
    environment.retain(|entry| !entry.as_bytes().starts_with(name.as_bytes()));
    if let Some(folder) = folder {
        let mut entry = OsString::from(name);
        entry.push(folder.path().join(state::STATUSLINE));
        environment.push(entry);
    }
}

/// The guard for this client, where it can be loaded; a line where one was wanted and can't be had.
fn handover(config: &Config, kind: &Kind, folder: Option<&SessionFolder>) -> Option<Handover> {
    if matches!(kind.guard, GuardLoad::CanNot(_)) {
        // Not the user's fault, and nothing to mend: `claude-safectl doctor` says so.
        return None;
    }
    let own_folder = guard_lib::own_folder();
    let trust = Trust::of_this_process();
    let library = match guard_lib::locate(
        &config.guard_lib,
        own_folder.as_deref(),
        Path::new("/"),
        &trust,
    ) {
        GuardFile::Usable {
            path,
            needs_link: false,
        } => path,
        GuardFile::Usable {
            path,
            needs_link: true,
        } => match folder?.link_guard(&path) {
            Ok(link) => link,
            Err(failure) => {
                notice::line(&format!(
                    "no guard: its path has a blank or a colon, and no link to it can be made: {failure}"
                ));
                return None;
            }
        },
        GuardFile::NotUsed { reason, on_purpose } => {
            if !on_purpose {
                notice::line(&format!("no guard: {reason}"));
            }
            return None;
        }
    };
    Some(Handover {
        library,
        launchers: kind.launchers.clone(),
        page: folder.and_then(|f| f.make_page(stats_page::LEN).ok()),
        log: config.guard_log.clone(),
        sizes: config.guard_sizes.text(),
        threshold_mib: config.pool_threshold_mib(),
    })
}

/// Where the answers of [`Capabilities`] are kept.
fn cache_file() -> Option<PathBuf> {
    Some(config::own_folder(&variable, "XDG_CACHE_HOME", ".cache")?.join("clients"))
}
