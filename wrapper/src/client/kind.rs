//! What kind of program the client is, where a start of it ends up, and what a preload reaches there.
//!
//! Reads files; starts nothing. Measured at well under a millisecond for a client of 370 MB, because
//! it runs at each start.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::elf_file::{Binding, ElfFile, read_most};
use super::script;
use crate::os::files::{FileId, has_capabilities, is_executable_file};
use crate::os::marker;

/// What the last file is of those that a start goes through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// A dynamic ELF program for glibc.
    GlibcElf,
    /// A dynamic ELF program for musl.
    MuslElf,
    /// A static ELF program.
    StaticElf,
    /// An ELF program for another dynamic linker than those of glibc and musl.
    OtherElf(String),
    /// An ELF program for another machine; the number is that of its header.
    ForeignElf(u16),
    /// A shell script that does not show what it starts in the end.
    ShellScript,
    /// A script of another interpreter.
    OtherScript(PathBuf),
    /// It can't be read, or it is no program at all; the reason.
    Unknown(String),
}

impl fmt::Display for Program {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Program::GlibcElf => write!(out, "dynamic program (glibc)"),
            Program::MuslElf => write!(out, "dynamic program (musl)"),
            Program::StaticElf => write!(out, "static program"),
            Program::OtherElf(linker) => write!(out, "dynamic program ({linker})"),
            Program::ForeignElf(machine) => write!(out, "program for another machine ({machine})"),
            Program::ShellScript => write!(out, "shell script"),
            Program::OtherScript(by) => write!(out, "script of {}", by.display()),
            Program::Unknown(reason) => write!(out, "unknown: {reason}"),
        }
    }
}

/// Can the guard be preloaded into it?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuardLoad {
    /// Yes.
    CanLoad,
    /// No, and why.
    CanNot(String),
}

/// How a program comes by a family of functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// It asks the dynamic linker for it: a preload is called.
    Imported,
    /// It offers its own, which win over a preload's.
    Exported,
    /// Neither: it has its own inside, or none.
    Absent,
}

impl Family {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Family::Imported => "imported",
            Family::Exported => "exported by the client",
            Family::Absent => "absent",
        }
    }
}

/// What a preload reaches in a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// malloc, calloc, realloc.
    pub malloc: Family,
    /// mmap, munmap, madvise.
    pub mmap: Family,
    /// sigaction.
    pub sigaction: Family,
}

/// What is known about a client's file.
#[derive(Clone, Debug)]
pub struct Kind {
    /// What the last file of `chain` is.
    pub program: Program,
    /// Every file that a start goes through, the given one first.
    pub chain: Vec<PathBuf>,
    /// The program that stays: the one to watch and to guard. `None`: it can't be known.
    pub final_program: Option<PathBuf>,
    /// Programs that only go on to the next one, in the same process: env, a shell, a Nix wrapper.
    pub launchers: Vec<FileId>,
    /// The client's own text, in which its option names stand: the script of a JavaScript client,
    /// else the final program.
    pub text: Option<PathBuf>,
    /// Can the guard be preloaded?
    pub guard: GuardLoad,
    /// What it reaches there. `None`: not a dynamic program, or its symbol table is gone.
    pub reach: Option<Reach>,
}

impl Kind {
    /// Does a start of it go through other programs first?
    pub fn is_launcher(&self) -> bool {
        self.chain.len() > 1 || self.final_program.is_none()
    }

    /// What the guard can do about the allocator, in words for `claude-safectl doctor`.
    pub fn guard_in_words(&self) -> String {
        match (&self.guard, self.reach) {
            (GuardLoad::CanNot(reason), _) => format!("can't be loaded: {reason}"),
            (GuardLoad::CanLoad, None) => {
                "loads; what it reaches is unknown, the client has no symbol table".to_owned()
            }
            (GuardLoad::CanLoad, Some(reach)) => match reach.malloc {
                Family::Imported => "malloc reachable".to_owned(),
                Family::Exported => {
                    "malloc unreachable, this client exports its own allocator".to_owned()
                }
                Family::Absent => {
                    "malloc unreachable, this client carries its own allocator".to_owned()
                }
            },
        }
    }
}

/// The most files that a start may go through: as many scripts as the kernel follows, and a few
/// wrappers.
const MAX_CHAIN: usize = 8;

/// Examines the client at `path`. `search` is the `PATH` in which env(1) and shells look.
pub fn examine(path: &Path, search: Option<&OsStr>) -> Kind {
    let mut walk = Walk {
        search,
        chain: Vec::new(),
        launchers: Vec::new(),
        script: None,
    };
    let mut next = path.to_path_buf();
    loop {
        if walk.chain.len() == MAX_CHAIN || walk.chain.contains(&next) {
            walk.chain.push(next);
            return walk.unknown("it goes round in a circle of scripts".to_owned());
        }
        walk.chain.push(next.clone());
        match walk.step(&next) {
            Step::On(path) => next = path,
            Step::End(kind) => return *kind,
        }
    }
}

enum Step {
    On(PathBuf),
    End(Box<Kind>),
}

struct Walk<'a> {
    search: Option<&'a OsStr>,
    chain: Vec<PathBuf>,
    launchers: Vec<FileId>,
    /// The JavaScript file on the way.
    script: Option<PathBuf>,
}

impl Walk<'_> {
    fn step(&mut self, path: &Path) -> Step {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) => return self.end_unknown(format!("{}: {error}", path.display())),
        };
        let mut start = vec![0; script::MAX_SHIM_BYTES];
        let have = read_most(&file, &mut start[..512]);
        if let Some(shebang) = script::shebang(&start[..have]) {
            let have = read_most(&file, &mut start);
            return self.script_step(path, &shebang, &start[..have]);
        }
        let Some(elf) = ElfFile::open(&file) else {
            return self.end_unknown(format!("{} is no program", path.display()));
        };
        if let Some(wrapped) = wrapped_program(path) {
            self.launchers.extend(FileId::of(path));
            return Step::On(wrapped);
        }
        self.elf_end(path, &file, &elf)
    }

    fn script_step(&mut self, path: &Path, shebang: &script::Shebang, text: &[u8]) -> Step {
        let mut interpreter = shebang.interpreter.clone();
        if file_name(&interpreter) == "env" {
            self.launchers.extend(FileId::of(&interpreter));
            let name = shebang.argument.as_deref().and_then(script::env_program);
            let Some(name) = name else {
                let why = format!("what env starts for {} is not clear", path.display());
                return self.end_unknown(why);
            };
            match script::find_program(&name, self.search) {
                Some(found) => interpreter = found,
                None => {
                    let name = name.to_string_lossy();
                    return self.end_unknown(format!("{name} is not on PATH"));
                }
            }
        }
        let name = file_name(&interpreter);
        if script::is_javascript_runtime(&name) {
            self.script = Some(path.to_path_buf());
            return Step::On(interpreter);
        }
        if script::is_shell(&name) {
            self.launchers.extend(FileId::of(&interpreter));
            let whole = text.len() < script::MAX_SHIM_BYTES;
            let onward = whole
                .then(|| script::handed_over_to(text))
                .flatten()
                .and_then(|program| script::find_program(&program, self.search))
                .or_else(|| wrapped_program(path));
            return match onward {
                Some(onward) => Step::On(onward),
                None => self.end(
                    Program::ShellScript,
                    None,
                    GuardLoad::CanNot(
                        "which program a shell script ends in can't be known".to_owned(),
                    ),
                    None,
                ),
            };
        }
        // The kernel follows an interpreter that is a script itself.
        let mut start = [0; 2];
        let is_script = File::open(&interpreter)
            .is_ok_and(|file| read_most(&file, &mut start) == 2 && &start == b"#!");
        if is_script {
            return Step::On(interpreter);
        }
        self.launchers.extend(FileId::of(&interpreter));
        let why = format!(
            "which program a script of {} ends in can't be known",
            interpreter.display()
        );
        self.end(
            Program::OtherScript(interpreter),
            None,
            GuardLoad::CanNot(why),
            None,
        )
    }

    fn elf_end(&mut self, path: &Path, file: &File, elf: &ElfFile<'_>) -> Step {
        let whole = Some(path.to_path_buf());
        if !elf.is_for_this_machine() {
            let program = Program::ForeignElf(elf.machine());
            let why = "it is a program for another machine".to_owned();
            return self.end(program, whole, GuardLoad::CanNot(why), None);
        }
        let Some(linker) = elf.interpreter() else {
            let why = "it is a static program".to_owned();
            return self.end(Program::StaticElf, whole, GuardLoad::CanNot(why), None);
        };
        let linker_name = file_name(Path::new(OsStr::from_bytes(&linker)));
        let linker_name = linker_name.to_string_lossy();
        let program = if linker_name.starts_with("ld-musl-") {
            Program::MuslElf
        } else if linker_name.starts_with("ld-linux") || linker_name.starts_with("ld64.so") {
            Program::GlibcElf
        } else {
            let program = Program::OtherElf(linker_name.clone().into_owned());
            let why = format!("its dynamic linker is {linker_name}");
            return self.end(program, whole, GuardLoad::CanNot(why), None);
        };
        let is_privileged = has_capabilities(file)
            || file
                .metadata()
                .is_ok_and(|metadata| metadata.mode() & 0o6000 != 0);
        let guard = if is_privileged {
            GuardLoad::CanNot("it runs with raised privileges, which forbid a preload".to_owned())
        } else {
            GuardLoad::CanLoad
        };
        self.end(program, whole, guard, reach_of(elf))
    }

    fn end(
        &mut self,
        program: Program,
        final_program: Option<PathBuf>,
        guard: GuardLoad,
        reach: Option<Reach>,
    ) -> Step {
        let text = self.script.take().or_else(|| final_program.clone());
        Step::End(Box::new(Kind {
            program,
            chain: std::mem::take(&mut self.chain),
            final_program,
            launchers: std::mem::take(&mut self.launchers),
            text,
            guard,
            reach,
        }))
    }

    fn end_unknown(&mut self, why: String) -> Step {
        let guard = GuardLoad::CanNot(why.clone());
        self.end(Program::Unknown(why), None, guard, None)
    }

    fn unknown(&mut self, why: String) -> Kind {
        match self.end_unknown(why) {
            Step::End(kind) => *kind,
            Step::On(_) => unreachable!("end_unknown ends"),
        }
    }
}

fn file_name(path: &Path) -> OsString {
    path.file_name().unwrap_or_default().to_os_string()
}

/// The program behind one of Nix's wrappers, by its name: `claude` goes on to `.claude-wrapped`
/// beside it, and a second wrapping puts `.claude-wrapped_` between the two.
fn wrapped_program(path: &Path) -> Option<PathBuf> {
    // A profile is a tree of symlinks, one a file: the neighbours are beside the real file.
    let real = std::fs::canonicalize(path).ok()?;
    let (folder, name) = (real.parent()?, real.file_name()?.to_str()?);
    let behind = |name: String| Some(folder.join(name)).filter(|path| is_executable_file(path));
    if let Some(shorter) = name.strip_suffix('_') {
        return behind(shorter.to_owned()).filter(|_| name.contains("-wrapped"));
    }
    if name.starts_with('.') {
        return None;
    }
    // The outermost wrapper goes on to the one with the most underscores.
    let hidden = |underscores: usize| behind(format!(".{name}-wrapped{}", "_".repeat(underscores)));
    (0..4).rev().find_map(hidden)
}

fn reach_of(elf: &ElfFile<'_>) -> Option<Reach> {
    let [
        malloc,
        calloc,
        realloc,
        mmap,
        mmap64,
        munmap,
        madvise,
        sigaction,
    ] = elf.bindings([
        b"malloc",
        b"calloc",
        b"realloc",
        b"mmap",
        b"mmap64",
        b"munmap",
        b"madvise",
        b"sigaction",
    ])?;
    // One function of its own is enough: a family is of no use in halves.
    let family = |functions: &[Option<Binding>]| {
        if functions.contains(&Some(Binding::Exported)) {
            Family::Exported
        } else if functions.contains(&Some(Binding::Imported)) {
            Family::Imported
        } else {
            Family::Absent
        }
    };
    let mut reach = Reach {
        malloc: family(&[malloc, calloc, realloc]),
        mmap: family(&[mmap, mmap64, munmap, madvise]),
        sigaction: family(&[sigaction]),
    };
    // Distributions build node as a small program around libnode, which then does the asking.
    if reach.malloc == Family::Absent && elf.needs_library(b"libnode.so") {
        reach.malloc = Family::Imported;
        reach.mmap = Family::Imported;
    }
    Some(reach)
}

/// Is the file at `path` a copy of claude-safe, of whatever version and under whatever name?
pub fn is_claude_safe(path: &Path) -> bool {
    has_mark(path, &marker::own()[..marker::WRAPPER.len()])
}

/// Does the file at `path` carry this mark?
pub(super) fn has_mark(path: &Path, mark: &[u8]) -> bool {
    let Ok(file) = File::open(path) else {
        return false;
    };
    let Some(elf) = ElfFile::open(&file) else {
        return false;
    };
    elf.section_start(marker::SECTION)
        .is_some_and(|start| start.starts_with(mark))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::files::scratch::Scratch;
    use std::os::unix::fs::symlink;

    /// A program of this machine that is dynamic: the one that runs this test.
    fn dynamic_program() -> PathBuf {
        std::env::current_exe().unwrap()
    }

    /// A minimal ELF file of this machine, with or without a dynamic linker.
    fn forged_elf(linker: Option<&str>, machine: u16) -> Vec<u8> {
        let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        elf.extend(2u16.to_le_bytes());
        elf.extend(machine.to_le_bytes());
        elf.extend(1u32.to_le_bytes());
        elf.extend(0u64.to_le_bytes());
        elf.extend(64u64.to_le_bytes());
        elf.extend(0u64.to_le_bytes());
        elf.extend(0u32.to_le_bytes());
        for half in [64u16, 56, u16::from(linker.is_some()), 64, 0, 0] {
            elf.extend(half.to_le_bytes());
        }
        if let Some(linker) = linker {
            let at = 64 + 56;
            elf.extend(3u32.to_le_bytes());
            elf.extend(4u32.to_le_bytes());
            let len = linker.len() as u64 + 1;
            for word in [at, at, at, len, len, 1] {
                elf.extend(word.to_le_bytes());
            }
            elf.extend(linker.as_bytes());
            elf.push(0);
        }
        elf
    }

    #[cfg(target_arch = "x86_64")]
    const HERE: u16 = elf::abi::EM_X86_64;
    #[cfg(target_arch = "aarch64")]
    const HERE: u16 = elf::abi::EM_AARCH64;

    fn id(path: &Path) -> FileId {
        FileId::of(path).unwrap()
    }

    #[test]
    fn a_dynamic_program_is_read_to_its_symbols() {
        let kind = examine(&dynamic_program(), None);
        assert_eq!(kind.program, Program::GlibcElf);
        assert_eq!(kind.guard, GuardLoad::CanLoad);
        assert_eq!(kind.final_program, Some(dynamic_program()));
        assert_eq!(kind.launchers, []);
        // Rust programs take malloc and mmap from libc.
        let reach = kind.reach.unwrap();
        assert_eq!(reach.malloc, Family::Imported);
        assert_eq!(reach.mmap, Family::Imported);
        assert_eq!(kind.guard_in_words(), "malloc reachable");
    }

    #[test]
    fn what_a_file_offers_is_found_by_its_hash() {
        // The C library that this test runs with offers all three families.
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let libc = maps
            .lines()
            .filter_map(|line| line.split_ascii_whitespace().nth(5))
            .find(|path| path.contains("/libc.so") || path.contains("/ld-musl"))
            .expect("a dynamic test program has its C library mapped");
        let reach = examine(Path::new(libc), None).reach.unwrap_or_else(|| {
            reach_of(&ElfFile::open(&File::open(libc).unwrap()).unwrap()).unwrap()
        });
        let exported = Family::Exported;
        assert_eq!(
            reach,
            Reach {
                malloc: exported,
                mmap: exported,
                sigaction: exported
            }
        );
    }

    #[test]
    fn musl_static_and_foreign_programs_are_told_apart() {
        let scratch = Scratch::new();
        for (linker, machine, program, loads) in [
            (
                Some("/lib/ld-musl-x86_64.so.1"),
                HERE,
                Program::MuslElf,
                true,
            ),
            (
                Some("/nix/store/x/lib/ld-linux-x86-64.so.2"),
                HERE,
                Program::GlibcElf,
                true,
            ),
            (
                Some("/system/bin/linker64"),
                HERE,
                Program::OtherElf("linker64".into()),
                false,
            ),
            (None, HERE, Program::StaticElf, false),
            (None, 1, Program::ForeignElf(1), false),
        ] {
            let path = scratch.write_program("claude", forged_elf(linker, machine));
            let kind = examine(&path, None);
            assert_eq!(kind.program, program);
            assert_eq!(kind.guard == GuardLoad::CanLoad, loads, "{program:?}");
            assert_eq!(kind.final_program, Some(path));
        }
    }

    #[test]
    fn a_privileged_program_takes_no_preload() {
        let scratch = Scratch::new();
        let path = scratch.write_program("claude", forged_elf(Some("/lib/ld-linux.so.2"), HERE));
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o4755))
            .unwrap();
        assert!(matches!(examine(&path, None).guard, GuardLoad::CanNot(_)));
    }

    #[test]
    fn a_node_script_ends_in_node_by_way_of_env() {
        let scratch = Scratch::new();
        let node = scratch.path().join("bin/node");
        std::fs::create_dir_all(node.parent().unwrap()).unwrap();
        symlink(dynamic_program(), &node).unwrap();
        let search = node.parent().unwrap().as_os_str();
        for line in [
            "#!/usr/bin/env node",
            "#!/usr/bin/env -S node --max-old-space-size=9",
        ] {
            let path = scratch.write_program("cli.js", format!("{line}\nfoo()\n"));
            let kind = examine(&path, Some(search));
            assert_eq!(kind.final_program.as_deref(), Some(node.as_path()));
            assert_eq!(kind.text, Some(path.clone()));
            assert_eq!(kind.launchers, [id(Path::new("/usr/bin/env"))]);
            assert_eq!(kind.guard, GuardLoad::CanLoad);
            assert_eq!(kind.chain, [path, node.clone()]);
        }
        let direct = format!("#!{}\n", node.display());
        let path = scratch.write_program("cli.js", direct);
        assert_eq!(examine(&path, None).launchers, []);
        let lost = scratch.write_program("cli.js", "#!/usr/bin/env node\n");
        assert!(matches!(examine(&lost, None).program, Program::Unknown(_)));
    }

    #[test]
    fn a_shell_script_is_followed_only_when_it_shows_where_it_goes() {
        let scratch = Scratch::new();
        let real = scratch.write_program("real/claude", forged_elf(Some("/l/ld-linux.so"), HERE));
        let plain = format!(
            "#!/bin/sh\nexport A=1\nexec \"{}\" \"$@\"\n",
            real.display()
        );
        let shim = scratch.write_program("shim", plain);
        let kind = examine(&shim, None);
        assert_eq!(kind.final_program, Some(real));
        assert_eq!(kind.launchers, [id(Path::new("/bin/sh"))]);
        assert!(kind.is_launcher());
        let clever = scratch.write_program("clever", "#!/bin/sh\nnode_or_bun \"$@\"\n");
        let kind = examine(&clever, None);
        assert_eq!(kind.program, Program::ShellScript);
        assert_eq!(kind.final_program, None);
        assert!(matches!(kind.guard, GuardLoad::CanNot(_)));
    }

    #[test]
    fn nix_wrappers_are_followed_to_the_innermost_program() {
        let scratch = Scratch::new();
        let elf = forged_elf(Some("/l/ld-linux.so"), HERE);
        let outer = scratch.write_program("store/bin/claude", &elf);
        let middle = scratch.write_program("store/bin/.claude-wrapped_", &elf);
        let inner = scratch.write_program("store/bin/.claude-wrapped", &elf);
        let profile = scratch.path().join("profile");
        symlink(&outer, &profile).unwrap();
        let kind = examine(&profile, None);
        assert_eq!(kind.final_program.as_deref(), Some(inner.as_path()));
        assert_eq!(kind.launchers, [id(&outer), id(&middle)]);
        // The other form of the wrapper is a script.
        let text = format!(
            "#!/bin/sh -e\nexec -a \"$0\" \"{}\" \"$@\"\n",
            inner.display()
        );
        let script = scratch.write_program("other/claude", text);
        assert_eq!(examine(&script, None).final_program, Some(inner));
    }

    #[test]
    fn circles_other_interpreters_and_junk_end_in_words() {
        let scratch = Scratch::new();
        let a = scratch.path().join("claude-a");
        let b = scratch.write_program(
            "claude-b",
            format!("#!/bin/sh\nexec {} \"$@\"\n", a.display()),
        );
        scratch.write_program(
            "claude-a",
            format!("#!/bin/sh\nexec {} \"$@\"\n", b.display()),
        );
        assert!(examine(&a, None).guard_in_words().contains("circle"));
        let perl = scratch.write_program("perl-script", "#!/no/such/perl\n");
        assert_eq!(
            examine(&perl, None).program,
            Program::OtherScript("/no/such/perl".into())
        );
        let nested = scratch.write_program("nested", format!("#!{}\n", perl.display()));
        assert_eq!(
            examine(&nested, None).program,
            Program::OtherScript("/no/such/perl".into())
        );
        for junk in [
            &b""[..],
            b"text",
            b"\x7fELF",
            b"#!\n",
            &[0x7f, b'E', b'L', b'F', 2, 1, 1, 0],
        ] {
            let path = scratch.write_program("junk", junk);
            assert!(
                matches!(examine(&path, None).program, Program::Unknown(_)),
                "{junk:?}"
            );
        }
        assert!(matches!(
            examine(&scratch.path().join("none"), None).program,
            Program::Unknown(_)
        ));
    }

    #[test]
    fn an_elf_file_with_any_byte_changed_breaks_nothing() {
        let scratch = Scratch::new();
        let good = forged_elf(Some("/lib/ld-linux.so.2"), HERE);
        for at in 0..good.len() {
            for byte in [0, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = byte;
                examine(&scratch.write_program("claude", &bad), None);
            }
        }
    }

    #[test]
    fn a_copy_of_this_program_is_known_by_its_mark() {
        let scratch = Scratch::new();
        let copy = scratch.path().join("some-other-name");
        std::fs::copy(dynamic_program(), &copy).unwrap();
        assert!(is_claude_safe(&copy));
        assert!(!is_claude_safe(Path::new("/bin/sh")));
        assert!(!is_claude_safe(&scratch.write("text", "claude-safe")));
    }
}
