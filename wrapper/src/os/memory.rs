//! Our own memory: what only the start needed is given back.
//!
//! # Safety
//! madvise(2) on ranges that `/proc/self/maps` names as executable, file-backed and not writable:
//! their pages are the file's own, and the next touch maps them again.
#![allow(unsafe_code)]

/// Drops the mapped pages of program text, ours and the C library's: 1.5 MiB of the start, of which
/// the loop comes back for a third. Executable mappings only: read-only ones can hold pages that
/// the dynamic linker wrote before it protected them (RELRO), and those would be lost.
pub fn release_text() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else {
        return;
    };
    for (start, end) in maps.lines().filter_map(text_range) {
        // SAFETY: see the header; the numbers are the kernel's own.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    }
}

/// The range of a line of `/proc/PID/maps` (proc_pid_maps(5)), if it is text from a file.
fn text_range(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let is_text = words.next()? == "r-xp";
    // Offset and device; an inode of 0 is no file (vdso).
    let from_file = words.nth(2)? != "0";
    (is_text && from_file).then_some(())?;
    Some((
        usize::from_str_radix(start, 16).ok()?,
        usize::from_str_radix(end, 16).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_of_files_is_released() {
        let text = "55d0a000-55d0b000 r-xp 00002000 fd:00 1234   /usr/bin/claude-safe";
        assert_eq!(text_range(text), Some((0x55d0_a000, 0x55d0_b000)));
        for kept in [
            "55d0a000-55d0b000 r--p 00002000 fd:00 1234   /usr/bin/claude-safe",
            "55d0a000-55d0b000 rwxp 00002000 fd:00 1234   /usr/bin/claude-safe",
            "55d0a000-55d0b000 rw-p 00000000 00:00 0      [heap]",
            "7ffc1000-7ffc2000 r-xp 00000000 00:00 0      [vdso]",
            "",
            "junk",
        ] {
            assert_eq!(text_range(kept), None, "{kept}");
        }
    }

    #[test]
    fn the_program_runs_on_without_its_text_in_memory() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status
                .lines()
                .find_map(|l| l.strip_prefix("RssFile:"))
                .unwrap()
                .to_owned();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        let before = resident();
        release_text();
        let after = resident();
        assert!(after < before, "{after} of {before} KiB");
    }
}
