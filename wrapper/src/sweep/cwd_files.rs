//! `claude-XXXX-cwd`: a shell command of the client ends with writing its folder there, and the client reads and
//! removes it. One that a kill left behind is nobody's after that. Never touches another name.

use super::account::{Kept, Outcome, Section};
use super::age::FileClock;
use super::{Sweep, objection};
use crate::os::folder::{Folder, Kind, Refusal};
use std::ffi::CStr;

/// A file that was not written for so long is stale: the client reads it as soon as the command has ended.
pub(super) const STALE_MS: u64 = 60_000;

/// The length of such a name.
pub(super) const NAME_BYTES: usize = 15;

/// How often the clock is asked while names are listed.
const NAMES_A_LOOK: u32 = 1024;

/// The share of the time in which names are listed, percent.
const LISTING_PERCENT: u64 = 50;

/// The number in such a name: exactly four lowercase hexadecimal digits.
pub(super) fn number_of(name: &[u8]) -> Option<u16> {
    let digits = name.strip_prefix(b"claude-")?.strip_suffix(b"-cwd")?;
    if digits.len() != 4 {
        return None;
    }
    digits.iter().try_fold(0_u16, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u16::from(value))
    })
}

/// The name with that number, ended by a zero byte.
fn name_of(number: u16) -> [u8; NAME_BYTES + 1] {
    let mut name = *b"claude-0000-cwd\0";
    for (at, digit) in name[7..11].iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[usize::from(number >> (12 - 4 * at) & 15)];
    }
    name
}

/// A set of all numbers that there can be: 8 KiB, however long the folder is.
struct Numbers(Vec<u64>);

impl Numbers {
    fn new() -> Numbers {
        Numbers(vec![0; 1024])
    }

    fn insert(&mut self, number: u16) {
        self.0[usize::from(number) / 64] |= 1 << (number % 64);
    }

    /// Those from `first` on.
    fn from(&self, first: u16) -> impl Iterator<Item = u16> {
        (first..=u16::MAX)
            .filter(|number| self.0[usize::from(*number) / 64] >> (number % 64) & 1 == 1)
    }
}

/// Removes the stale ones from the temporary folder, as far as the time lasts; the next sweep goes on there.
pub(super) fn sweep(sweep: &mut Sweep<'_>, folder: &Folder) {
    let mut waiting = Numbers::new();
    let (mut listed, mut cut) = (0_u32, false);
    // Listed first, removed then: what a listing shows while names vanish differs from file system to file system.
    let listing = folder.each_name(&mut |name| {
        if let Some(number) = number_of(name.to_bytes()) {
            waiting.insert(number);
        }
        listed = listed.wrapping_add(1);
        cut = listed.is_multiple_of(NAMES_A_LOOK) && sweep.is_over(LISTING_PERCENT);
        !cut
    });
    if listing.is_err() {
        let shown = sweep.places.temporary.display();
        sweep.report.trouble = Some(format!("{shown} can't be listed"));
    }
    sweep.report.is_unfinished |= cut;
    let mut clock = sweep.rough_clock();
    let mut is_prepared = false;
    for number in waiting.from(sweep.next_cwd_file) {
        if sweep.is_over(100) {
            sweep.next_cwd_file = number;
            sweep.report.is_unfinished = true;
            return;
        }
        let name = name_of(number);
        let Ok(name) = CStr::from_bytes_with_nul(&name) else {
            continue;
        };
        let mut seen = look(folder, name, sweep.places.uid, &clock);
        if matches!(seen, Seen::Stale(_)) && !is_prepared {
            // What takes time comes before the last look: between that and the end lie a few microseconds.
            is_prepared = true;
            clock = sweep.exact_clock(folder);
            sweep.command_lines();
            seen = look(folder, name, sweep.places.uid, &clock);
        }
        let outcome = match seen {
            Seen::Gone => None,
            Seen::Stays(why) => Some(Outcome::Kept(why)),
            Seen::Stale(_) if sweep.command_lines().may_use_cwd_file(number) => {
                Some(Outcome::Kept(Kept::InUse))
            }
            Seen::Stale(_) => sweep.remove(|| folder.remove(name)),
        };
        let bytes = match seen {
            Seen::Stale(bytes) => bytes,
            _ => 0,
        };
        if let Some(outcome) = outcome {
            sweep.note(Section::CwdFiles, &[name], bytes, outcome);
        }
    }
    sweep.next_cwd_file = 0;
}

/// One of them, at one moment.
enum Seen {
    Gone,
    Stays(Kept),
    /// It may go, and takes so many bytes.
    Stale(u64),
}

fn look(folder: &Folder, name: &CStr, uid: u32, clock: &FileClock) -> Seen {
    let entry = match folder.look(name) {
        Ok(entry) => entry,
        Err(Refusal::Gone) => return Seen::Gone,
        Err(_) => return Seen::Stays(Kept::Failed),
    };
    match objection(&entry, Kind::File, uid) {
        Some(why) => Seen::Stays(why),
        None if !clock.is_older(entry.written_ms, STALE_MS) => Seen::Stays(Kept::Fresh),
        None => Seen::Stale(entry.bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_four_lowercase_hexadecimal_digits_make_a_name() {
        for number in 0..=u16::MAX {
            let name = name_of(number);
            let name = CStr::from_bytes_with_nul(&name).unwrap();
            assert_eq!(number_of(name.to_bytes()), Some(number));
        }
        for other in [
            "claude-ABCD-cwd",
            "claude-abcde-cwd",
            "claude-abc-cwd",
            "claude-my-backup-cwd",
            "claude--cwd",
            "claude-12g4-cwd",
            "claude-+123-cwd",
            "claude-1234-cwd ",
            " claude-1234-cwd",
            "claude-1234-cwd\n",
            "Claude-1234-cwd",
            "claude-1234_cwd",
            "claude-1234-cwd.bak",
            "",
        ] {
            assert_eq!(number_of(other.as_bytes()), None, "{other:?}");
        }
    }

    #[test]
    fn a_sweep_goes_on_where_the_last_one_ended() {
        let mut numbers = Numbers::new();
        for number in [0, 7, 64, u16::MAX] {
            numbers.insert(number);
        }
        let from = |first| numbers.from(first).collect::<Vec<_>>();
        assert_eq!(from(0), [0, 7, 64, u16::MAX]);
        assert_eq!(from(8), [64, u16::MAX]);
        assert_eq!(from(u16::MAX), [u16::MAX]);
    }
}
