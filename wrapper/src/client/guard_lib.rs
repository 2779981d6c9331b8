//! Where the guard library is, and whether it may be used.
//!
//! Decides only; `LD_PRELOAD` is set elsewhere. A library that somebody else can change is never
//! used: it would run inside the client, with the user's rights.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::elf_file::ElfFile;
use super::kind::has_mark;
use crate::config::GuardLib;
use crate::os::files::{Distrust, Trust, is_on_noexec_mount, trusted_open};
use crate::os::marker;

/// The file name of the library.
pub const FILE_NAME: &str = "libclaude_guard.so";

/// Another name, of earlier installations in `/usr/local/lib`: used only if it carries our mark.
pub const EARLIER_NAME: &str = "claude_malloc_guard.so";

/// The outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuardFile {
    /// It can be preloaded.
    Usable {
        /// The library.
        path: PathBuf,
        /// `LD_PRELOAD` can't name this path, because `:` and blanks separate its entries: it takes
        /// a link elsewhere.
        needs_link: bool,
    },
    /// No guard, and why.
    NotUsed {
        /// In words that follow "guard: ".
        reason: String,
        /// The user asked for none, so there is nothing to complain about.
        on_purpose: bool,
    },
}

/// Looks for the library: where the configuration says, else beside this program (`own_folder`, its
/// resolved folder), in `../lib/claude-safe`, and in the system's places below `root` (`/`).
pub fn locate(
    setting: &GuardLib,
    own_folder: Option<&Path>,
    root: &Path,
    trust: &Trust,
) -> GuardFile {
    let not_used = |reason: String| GuardFile::NotUsed {
        reason,
        on_purpose: false,
    };
    let (places, must_be_there): (Vec<PathBuf>, bool) = match setting {
        GuardLib::NoGuard => {
            return GuardFile::NotUsed {
                reason: "switched off by an empty CLAUDE_MALLOC_GUARD_LIB".to_owned(),
                on_purpose: true,
            };
        }
        GuardLib::At(path) => (vec![path.clone()], true),
        GuardLib::UsualPlaces => (usual_places(own_folder, root), false),
    };
    for path in &places {
        match judge(path, trust) {
            Ok(usable) => return usable,
            // Nothing there: on to the next place. Anything else is said, not passed over: a library
            // further down the list may be an older one.
            Err(Refusal::NotThere) if !must_be_there => {}
            Err(Refusal::NotThere) => {
                return not_used(format!("{} does not exist", path.display()));
            }
            Err(Refusal::Because(reason)) => {
                return not_used(format!("{} is not used: {reason}", path.display()));
            }
        }
    }
    not_used(format!("{FILE_NAME} is in none of the usual places"))
}

fn usual_places(own_folder: Option<&Path>, root: &Path) -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Some(own) = own_folder {
        places.push(own.join(FILE_NAME));
        if let Some(above) = own.parent() {
            places.push(above.join("lib/claude-safe").join(FILE_NAME));
        }
    }
    places.push(root.join("usr/lib/claude-safe").join(FILE_NAME));
    places.push(root.join("usr/local/lib").join(FILE_NAME));
    places.push(root.join("usr/local/lib").join(EARLIER_NAME));
    places
}

enum Refusal {
    NotThere,
    Because(String),
}

fn judge(path: &Path, trust: &Trust) -> Result<GuardFile, Refusal> {
    let because = |reason: &str| Err(Refusal::Because(reason.to_owned()));
    let file = trusted_open(path, trust).map_err(|reason| match reason {
        Distrust::Missing => Refusal::NotThere,
        other => Refusal::Because(other.to_string()),
    })?;
    let Some(elf) = ElfFile::open(&file) else {
        return because("it is no library");
    };
    if !elf.is_for_this_machine() {
        return because("it is made for another machine");
    }
    if !elf.is_shared_object() || elf.interpreter().is_some() {
        return because("it is a program, not a library");
    }
    if path.file_name().is_some_and(|name| name == EARLIER_NAME) && !has_mark(path, marker::GUARD) {
        // Somebody else's library of the same name is no news.
        return Err(Refusal::NotThere);
    }
    if is_on_noexec_mount(&file) {
        return because("it lies on a file system mounted noexec");
    }
    let separates = |byte: &u8| matches!(byte, b':' | b' ' | b'\t' | b'\n');
    Ok(GuardFile::Usable {
        path: path.to_path_buf(),
        needs_link: path.as_os_str().as_bytes().iter().any(separates),
    })
}

/// The folder of this program, through symlinks: packages link `bin/` to elsewhere.
pub fn own_folder() -> Option<PathBuf> {
    let own = std::fs::read_link("/proc/self/exe").ok()?;
    own.parent().map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::files::scratch::Scratch;
    use std::os::unix::fs::PermissionsExt;

    /// A library of this machine, as far as its headers go: this test's own program with the
    /// header of its dynamic linker blanked out.
    fn library() -> Vec<u8> {
        let mut bytes = vec![0u8; 64];
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        bytes.copy_from_slice(&own[..64]);
        // No segments, no sections.
        bytes[56..58].fill(0);
        bytes[60..64].fill(0);
        assert_eq!(
            bytes[16], 3,
            "this test needs to be built as a position independent program"
        );
        bytes
    }

    fn trust(scratch: &Scratch) -> Trust {
        Trust::of_this_process().accepting_base(scratch.path())
    }

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A tree of folders with mode 755 and libraries at these places.
    fn tree(names: &[&str]) -> Scratch {
        let scratch = Scratch::new();
        for name in names {
            let path = scratch.write(name, library());
            for folder in path
                .ancestors()
                .skip(1)
                .take_while(|at| *at != scratch.path())
            {
                mode(folder, 0o755);
            }
        }
        scratch
    }

    fn used(scratch: &Scratch) -> String {
        let own = scratch.path().join("app/bin");
        match locate(
            &GuardLib::UsualPlaces,
            Some(&own),
            scratch.path(),
            &trust(scratch),
        ) {
            GuardFile::Usable { path, .. } => path
                .strip_prefix(scratch.path())
                .unwrap()
                .display()
                .to_string(),
            GuardFile::NotUsed { reason, .. } => reason,
        }
    }

    #[test]
    fn the_places_are_asked_in_their_order() {
        let places = [
            "app/bin/libclaude_guard.so",
            "app/lib/claude-safe/libclaude_guard.so",
            "usr/lib/claude-safe/libclaude_guard.so",
            "usr/local/lib/libclaude_guard.so",
        ];
        for from in 0..places.len() {
            let scratch = tree(&places[from..]);
            assert_eq!(used(&scratch), places[from]);
        }
        assert!(used(&tree(&[])).contains("in none of the usual places"));
    }

    #[test]
    fn a_library_of_the_earlier_name_without_our_mark_is_somebody_elses() {
        let scratch = tree(&["usr/local/lib/claude_malloc_guard.so"]);
        assert!(used(&scratch).contains("in none of the usual places"));
    }

    #[test]
    fn what_others_may_write_is_refused_with_the_reason() {
        let scratch = tree(&[
            "app/bin/libclaude_guard.so",
            "usr/lib/claude-safe/libclaude_guard.so",
        ]);
        mode(&scratch.path().join("app/bin"), 0o775);
        assert!(
            used(&scratch).contains("can be written by its group"),
            "{}",
            used(&scratch)
        );
    }

    #[test]
    fn a_setting_is_final() {
        let scratch = tree(&["app/bin/libclaude_guard.so"]);
        let own = scratch.path().join("app/bin");
        let at = |setting: &GuardLib| locate(setting, Some(&own), scratch.path(), &trust(&scratch));
        let missing = at(&GuardLib::At(scratch.path().join("none.so")));
        assert!(
            matches!(missing, GuardFile::NotUsed { on_purpose: false, reason } if reason.contains("none.so does not exist"))
        );
        let off = at(&GuardLib::NoGuard);
        assert!(matches!(
            off,
            GuardFile::NotUsed {
                on_purpose: true,
                ..
            }
        ));
    }

    #[test]
    fn a_path_that_ld_preload_cannot_name_needs_a_link() {
        for (name, wants) in [
            ("plain/x.so", false),
            ("with blank/x.so", true),
            ("a:b/x.so", true),
        ] {
            let scratch = tree(&[name]);
            let path = scratch.path().join(name);
            let setting = GuardLib::At(path.clone());
            assert_eq!(
                locate(&setting, None, scratch.path(), &trust(&scratch)),
                GuardFile::Usable {
                    path,
                    needs_link: wants
                }
            );
        }
    }

    #[test]
    fn programs_texts_and_libraries_of_other_machines_are_refused() {
        let scratch = tree(&[]);
        let mut foreign = library();
        foreign[18] = 0xf7;
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        for (bytes, says) in [
            (foreign, "another machine"),
            (b"text".to_vec(), "no library"),
            (Vec::new(), "no library"),
            (own, "a program"),
        ] {
            let path = scratch.write("x.so", bytes);
            let outcome = locate(&GuardLib::At(path), None, scratch.path(), &trust(&scratch));
            assert!(
                matches!(&outcome, GuardFile::NotUsed { reason, .. } if reason.contains(says)),
                "{outcome:?}"
            );
        }
    }
}
