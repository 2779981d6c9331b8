//! The constructor: decides once, before main, what the guard is in this process, and does it.
//!
//! | found in the environment | this process | the guard | what is taken out of the environment |
//! |---|---|---|---|
//! | handover, our pid, program not in `launch` | the client | armed | handover, own preload entry |
//! | handover, our pid, program in `launch` | will become the client | inert | nothing |
//! | handover, another pid | a child that it leaked into | inert | handover, own preload entry |
//! | handover that can't be read | unknown | inert | handover, own preload entry |
//! | no handover | preloaded by hand | armed | own preload entry |
//!
//! Inert: calls are passed on, and that is all. Nothing here can fail: what can't be done is left
//! out, and the program starts.

use crate::{
    abi_pages,
    config::{self, Handover, PathBuffer, Role, Sizes, Threshold},
    elf,
    elf::ProgramMalloc,
    environ, look, next, os, page, pool,
    report::{self, Destinations},
    route,
    stats_page::State,
    thread,
};

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = start;

/// What an armed guard works with.
struct Settings {
    sizes: Sizes,
    threshold: Threshold,
    page: Option<PathBuffer>,
    destinations: Destinations,
}

extern "C" fn start() {
    #[cfg(feature = "inject")]
    environ::with_value(os::injection::VARIABLE, os::injection::set);
    next::resolve();
    next::try_header();
    let role = environ::with_value(config::HANDOVER, |value| {
        let handover = Handover::parse(value)?;
        let role = handover.role(os::pid(), os::program_id());
        Some((
            role,
            (role == Role::Client).then(|| Settings::of(Some(&handover))),
        ))
    });
    let settings = match role {
        None => Some(Settings::of(None)),
        Some(Some((Role::Client, settings))) => settings,
        Some(Some((Role::Launcher, _))) => {
            stand_aside();
            return;
        }
        Some(Some((Role::Bystander, _)) | None) => None,
    };
    clean_environment();
    match settings {
        Some(settings) => arm(settings),
        None => stand_aside(),
    }
}

fn arm(settings: Settings) {
    let pid = os::pid();
    let shared = settings
        .page
        .and_then(|path| os::map_stats_page(path.as_c_str()));
    if settings.sizes.as_slice() != Sizes::DEFAULT.as_slice() {
        // Counts of the class watched so far are no counts of another.
        page::current().clear_counters();
    }
    match shared {
        Some(page) => {
            page::take(page, pid);
            page::count_on(page);
        }
        None => page::current().name(pid),
    }
    report::answer_usr1(settings.destinations);
    next::run_around_fork([
        pool::before_fork,
        pool::after_fork_in_parent,
        in_forked_child,
    ]);
    abi_pages::watch();
    if next::can_pass_on() && next::can_classify() {
        thread::make_ready(pool::thread_ends);
        look::watch(&settings.sizes);
    } else {
        // What was counted so far can't be told from other chunks.
        page::current().clear_counters();
        look::name(&settings.sizes);
        stand_aside();
    }
    if elf::program_malloc() == ProgramMalloc::Imported && next::can_classify() {
        page::current().set_state(State::Standby);
        look::start(settings.threshold);
    } else {
        page::current().set_state(State::Unreachable);
    }
}

/// Passes every call on, and that is all.
fn stand_aside() {
    if next::can_pass_on() {
        route::watch(&[]);
    }
}

/// The child counts for itself, on a page of its own: the parent's is shared memory.
extern "C" fn in_forked_child() {
    page::start_afresh_in_private(os::pid());
    let own_number = thread::forget_the_others();
    pool::after_fork_in_child(own_number);
}

/// Takes the handover and our own preload entry out of the environment.
fn clean_environment() {
    environ::remove(config::HANDOVER);
    let Some(own_path) = elf::own_path() else {
        return;
    };
    let own_id = os::file_id(own_path);
    environ::remove_from_preload(|entry| {
        if entry == own_path.to_bytes() {
            return true;
        }
        if !entry.contains(&b'/') {
            // A bare name was searched for by the loader: `own_path` is where it was found.
            return own_path.to_bytes().rsplit(|&byte| byte == b'/').next() == Some(entry);
        }
        own_id.is_some()
            && PathBuffer::of(&[entry]).is_some_and(|path| os::file_id(path.as_c_str()) == own_id)
    });
}

impl Settings {
    /// From the handover; what it doesn't say, and everything without one, from the variables.
    fn of(handover: Option<&Handover<'_>>) -> Self {
        let sizes = match handover.and_then(Handover::sizes) {
            Some(spec) => Sizes::parse(spec),
            None => environ::with_value(config::SIZES, Sizes::parse).flatten(),
        };
        let threshold = match handover.and_then(Handover::threshold) {
            Some(value) => Some(Threshold::parse(value)),
            None => environ::with_value(config::THRESHOLD, Threshold::parse),
        };
        let log = handover
            .and_then(Handover::log)
            .or_else(|| environ::with_value(config::LOG, absolute).flatten())
            .or_else(|| folder(b"TMPDIR", b"/claude_malloc_guard.log"))
            .or_else(|| PathBuffer::of(&[b"/tmp/claude_malloc_guard.log"]));
        let fallback =
            folder(b"XDG_STATE_HOME", b"/claude-safe/claude_malloc_guard.log").or_else(|| {
                folder(
                    b"HOME",
                    b"/.local/state/claude-safe/claude_malloc_guard.log",
                )
            });
        Self {
            sizes: sizes.unwrap_or(Sizes::DEFAULT),
            threshold: threshold.unwrap_or(Threshold::Default),
            page: handover.and_then(Handover::page),
            destinations: Destinations {
                log: log.unwrap_or(PathBuffer::new()),
                fallback: fallback.unwrap_or(PathBuffer::new()),
            },
        }
    }
}

/// A file below the folder that a variable names; `None` unless that is absolute.
fn folder(variable: &[u8], file: &[u8]) -> Option<PathBuffer> {
    environ::with_value(variable, |value| {
        if !value.starts_with(b"/") {
            return None;
        }
        PathBuffer::of(&[value.strip_suffix(b"/").unwrap_or(value), file])
    })
    .flatten()
}

/// The path as seen from here and now: the program may change its folder later.
fn absolute(path: &[u8]) -> Option<PathBuffer> {
    if path.is_empty() {
        return None;
    }
    if path.starts_with(b"/") {
        return PathBuffer::of(&[path]);
    }
    let mut buffer = [0; os::PATH_MAX];
    let here = os::current_folder(&mut buffer)?;
    PathBuffer::of(&[here, b"/", path])
}
