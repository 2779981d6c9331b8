//! What is resident of a process now, and in which of the page's regions: `/proc/PID/smaps` (proc_pid_smaps(5)), read
//! line by line, for it may be long. Swapped out memory counts as resident: it is the process's all the same.
//!
//! Dear (the kernel walks the page tables): for one look on request, never for the watcher.

use crate::stats_page::{KINDS, PoolState, RegionState};
use crate::watch::ProcessId;
use crate::watch::proc_fs::Proc;
use std::io::{self, BufRead, BufReader};

/// Longest line that is kept: a path of PATH_MAX whose bytes are all escaped, and what stands before it.
const LONGEST_LINE: usize = 5 * 4096;

/// Part of one region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    /// What is resident in it, bytes.
    pub(super) bytes: u64,
    /// The kernel has it in one mapping with something else: a share by length, not a count.
    pub(super) is_share: bool,
}

/// Private memory of a process, in bytes; each byte is in one place only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Resident {
    /// In the page's regions, in their order.
    pub(super) regions: Vec<Part>,
    /// The same by kind.
    pub(super) kinds: [u64; KINDS],
    /// `[heap]`: what libc's malloc takes by brk.
    pub(super) heap: u64,
    /// `[stack]`: of the first thread.
    pub(super) stack: u64,
    /// Written pages of mapped files: data of programs and libraries.
    pub(super) files: u64,
    /// In the guard's pool.
    pub(super) pool: u64,
    /// All other: regions that the page does not list, further heaps of libc, stacks of threads.
    pub(super) rest: u64,
}

impl Resident {
    /// All of it.
    pub(super) fn total(&self) -> u64 {
        let outside = [self.heap, self.stack, self.files, self.pool, self.rest];
        let all = self.kinds.iter().chain(&outside);
        all.fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }
}

/// Of a process. `None`: it has ended, or it is not to be read.
pub(super) fn of(
    processes: &mut Proc,
    process: ProcessId,
    regions: &[RegionState],
    pool: &PoolState,
) -> Option<Resident> {
    let smaps = processes.open(process.pid, "smaps").ok()?;
    // The handle stays with the address space that it was opened on: it is this one's.
    let stat = processes.stat(process.pid, None).ok()?;
    if stat.id != process {
        return None;
    }
    attribute(BufReader::with_capacity(64 << 10, smaps), regions, pool).ok()?
}

/// One mapping, as far as it was told.
struct Mapping {
    start: u64,
    end: u64,
    is_private: bool,
    place: Place,
    anonymous_kib: u64,
    swap_kib: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Heap,
    Stack,
    File,
    /// Without a name, or with one that says nothing: the regions tell.
    Unnamed,
}

/// From the text of `smaps`. `None`: it tells of no mapping (a zombie, a kernel thread).
fn attribute(
    mut smaps: impl BufRead,
    regions: &[RegionState],
    pool: &PoolState,
) -> io::Result<Option<Resident>> {
    let mut sum = Sum::new(regions, pool);
    let mut current: Option<Mapping> = None;
    let mut is_empty = true;
    let mut line = Vec::new();
    while read_line(&mut smaps, &mut line)? {
        if let Some(next) = mapping_of(&line) {
            is_empty = false;
            if let Some(done) = current.replace(next) {
                sum.add(&done);
            }
        } else if let Some(mapping) = &mut current {
            if let Some(kib) = kib_after(&line, b"Anonymous:") {
                mapping.anonymous_kib = kib;
            } else if let Some(kib) = kib_after(&line, b"Swap:") {
                mapping.swap_kib = kib;
            }
        }
    }
    if let Some(last) = current {
        sum.add(&last);
    }
    Ok((!is_empty).then_some(sum.resident))
}

/// The next line without its end; no more than [`LONGEST_LINE`] of it is kept. False: there is none, or it is cut off.
fn read_line(text: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    loop {
        let chunk = match text.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            chunk => chunk?,
        };
        if chunk.is_empty() {
            return Ok(false);
        }
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let part = &chunk[..end.unwrap_or(chunk.len())];
        let room = LONGEST_LINE.saturating_sub(line.len());
        line.extend_from_slice(&part[..part.len().min(room)]);
        let taken = end.map_or(chunk.len(), |end| end + 1);
        text.consume(taken);
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// `START-END PERMISSIONS OFFSET DEVICE INODE [NAME]`; the lines of figures begin with a capital letter.
fn mapping_of(line: &[u8]) -> Option<Mapping> {
    let mut rest = line;
    let addresses = word(&mut rest)?;
    let dash = addresses.iter().position(|byte| *byte == b'-')?;
    let (start, end) = (hex(&addresses[..dash])?, hex(&addresses[dash + 1..])?);
    let permissions = word(&mut rest)?;
    for _ in 0..3 {
        word(&mut rest)?;
    }
    Some(Mapping {
        start,
        end: end.max(start),
        is_private: permissions.get(3) == Some(&b'p'),
        place: match rest.trim_ascii_start() {
            b"[heap]" => Place::Heap,
            b"[stack]" => Place::Stack,
            name if name.starts_with(b"/") => Place::File,
            _ => Place::Unnamed,
        },
        anonymous_kib: 0,
        swap_kib: 0,
    })
}

/// Takes the next word off.
fn word<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let text = rest.trim_ascii_start();
    let end = text.iter().position(|byte| *byte == b' ');
    let (word, after) = text.split_at(end.unwrap_or(text.len()));
    *rest = after;
    (!word.is_empty()).then_some(word)
}

/// Digits in lower case, as the kernel writes them.
fn hex(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u64::from(digit))
    })
}

fn kib_after(line: &[u8], name: &[u8]) -> Option<u64> {
    let text = line.strip_prefix(name)?;
    let digits = text.strip_suffix(b" kB")?.trim_ascii();
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// A part of the address space that one region has to itself.
struct Slot {
    start: u64,
    end: u64,
    region: usize,
    /// [`Resident::kinds`]; none for a kind that is not known.
    kind: Option<usize>,
}

struct Sum {
    slots: Vec<Slot>,
    pool: std::ops::Range<u64>,
    resident: Resident,
}

impl Sum {
    fn new(regions: &[RegionState], pool: &PoolState) -> Sum {
        let mut slots: Vec<Slot> = regions
            .iter()
            .enumerate()
            .map(|(number, region)| Slot {
                start: region.start,
                end: region.start.saturating_add(region.bytes),
                region: number,
                kind: usize::try_from(region.kind)
                    .ok()
                    .filter(|kind| *kind < KINDS),
            })
            .collect();
        slots.sort_by_key(|slot| slot.start);
        // A page that is just being written may show two regions at one place: the first one has it.
        let mut from = 0;
        for slot in &mut slots {
            slot.start = slot.start.max(from);
            slot.end = slot.end.max(slot.start);
            from = slot.end;
        }
        Sum {
            slots,
            pool: pool.start..pool.start.saturating_add(pool.reserved_bytes),
            resident: Resident {
                regions: vec![Part::default(); regions.len()],
                ..Resident::default()
            },
        }
    }

    fn add(&mut self, mapping: &Mapping) {
        let len = mapping.end - mapping.start;
        // Swap of shared memory is the file's.
        let swap_kib = if mapping.is_private {
            mapping.swap_kib
        } else {
            0
        };
        let kib = mapping.anonymous_kib.saturating_add(swap_kib);
        let bytes = kib.saturating_mul(1024).min(len);
        let resident = &mut self.resident;
        let add = |sum: &mut u64, bytes: u64| *sum = sum.saturating_add(bytes);
        match mapping.place {
            Place::Heap => return add(&mut resident.heap, bytes),
            Place::Stack => return add(&mut resident.stack, bytes),
            Place::File => return add(&mut resident.files, bytes),
            // No mapping crosses its border: it has flags that its neighbours lack.
            Place::Unnamed if self.pool.contains(&mapping.start) => {
                return add(&mut resident.pool, bytes);
            }
            Place::Unnamed => {}
        }
        // What is left of the mapping, and of its bytes: shares of what is left lose nothing to rounding.
        let (mut len_left, mut bytes_left) = (len, bytes);
        for slot in &self.slots {
            let overlap = mapping.end.min(slot.end);
            let overlap = overlap.saturating_sub(mapping.start.max(slot.start));
            if overlap == 0 {
                continue;
            }
            let share = u128::from(bytes_left) * u128::from(overlap) / u128::from(len_left);
            // No more than what is left: an overlap is part of that.
            let share = share as u64;
            let part = &mut resident.regions[slot.region];
            add(&mut part.bytes, share);
            part.is_share |= overlap < len && bytes > 0;
            match slot.kind {
                Some(kind) => add(&mut resident.kinds[kind], share),
                None => add(&mut resident.rest, share),
            }
            len_left -= overlap;
            bytes_left -= share;
        }
        add(&mut resident.rest, bytes_left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::process::own_pid;
    use crate::stats_page::RegionKind;
    use std::path::Path;

    const MIB: u64 = 1 << 20;

    fn region(start: u64, bytes: u64, kind: u64) -> RegionState {
        RegionState {
            start,
            bytes,
            kind,
            resident_bytes: 0,
        }
    }

    /// One mapping as the kernel tells it (Linux 6.18).
    fn mapping(start: u64, end: u64, mode: &str, name: &str, anonymous: u64, swap: u64) -> String {
        let (size, rss) = ((end - start) >> 10, anonymous);
        format!(
            "{start:08x}-{end:08x} {mode} 00000000 00:00 0 {name:>20}\n\
             Size: {size:>14} kB\nKernelPageSize: 4 kB\nMMUPageSize: 4 kB\nRss: {rss:>15} kB\n\
             Pss: 1 kB\nPss_Dirty: 1 kB\nShared_Clean: 0 kB\nPrivate_Dirty: 9 kB\nReferenced: 9 kB\n\
             Anonymous: {anonymous:>9} kB\nKSM: 0 kB\nLazyFree: 0 kB\nAnonHugePages: 4096 kB\n\
             ShmemPmdMapped: 0 kB\nSwap: {swap:>14} kB\nSwapPss: 77 kB\nLocked: 0 kB\n\
             THPeligible:           0\nProtectionKey:         0\nVmFlags: rd wr mr mw me ac sd\n"
        )
    }

    #[test]
    fn the_pool_is_told_apart_from_what_lies_beside_it() {
        let pool = PoolState {
            start: 0x10_0000,
            reserved_bytes: 0x10_0000,
            ..PoolState::default()
        };
        let text = [
            mapping(0x0f_0000, 0x10_0000, "rw-p", "", 1, 0),
            mapping(0x10_0000, 0x14_0000, "rw-p", "", 2, 1),
            mapping(0x18_0000, 0x20_0000, "rw-p", "", 4, 0),
            mapping(0x20_0000, 0x21_0000, "rw-p", "", 8, 0),
        ]
        .concat();
        let found = attribute(text.as_bytes(), &[], &pool).unwrap().unwrap();
        assert_eq!((found.pool, found.rest), (7 << 10, 9 << 10));
        assert_eq!(found.total(), 16 << 10);
    }

    fn told(text: &str, regions: &[RegionState]) -> Resident {
        attribute(text.as_bytes(), regions, &PoolState::default())
            .unwrap()
            .unwrap()
    }

    #[test]
    fn each_mapping_goes_to_its_place_and_swap_with_it() {
        let regions = [
            region(0x4000_0000, 64 * MIB, RegionKind::Arena as u64),
            region(0x7000_0000, 4 * MIB, RegionKind::JsHeap as u64),
        ];
        let text = [
            mapping(0x1000_0000, 0x1010_0000, "rw-p", "[heap]", 100, 1),
            mapping(
                0x2000_0000,
                0x2010_0000,
                "rw-p",
                "/usr/lib/libc.so.6",
                20,
                2,
            ),
            mapping(0x2010_0000, 0x2020_0000, "rw-s", "/dev/shm/x", 0, 500),
            mapping(0x4000_0000, 0x4400_0000, "rw-p", "", 3000, 72),
            mapping(0x5000_0000, 0x5010_0000, "rw-p", "[anon:JSC]", 40, 4),
            mapping(0x7000_0000, 0x7040_0000, "rw-p", "[anon:v8]", 50, 5),
            mapping(0x8000_0000, 0x8010_0000, "rw-p", "[stack]", 60, 6),
        ]
        .concat();
        let found = told(&text, &regions);
        let mut kinds = [0; KINDS];
        kinds[RegionKind::Arena as usize] = 3072 << 10;
        kinds[RegionKind::JsHeap as usize] = 55 << 10;
        let part = |kib: u64| Part {
            bytes: kib << 10,
            is_share: false,
        };
        let wanted = Resident {
            regions: vec![part(3072), part(55)],
            kinds,
            heap: 101 << 10,
            stack: 66 << 10,
            files: 22 << 10,
            pool: 0,
            rest: 44 << 10,
        };
        assert_eq!(found, wanted);
        assert_eq!(found.total(), (3072 + 55 + 101 + 66 + 22 + 44) << 10);
    }

    #[test]
    fn a_mapping_of_several_regions_is_shared_by_length_and_nothing_is_lost() {
        let regions = [
            region(0x4200_0000, 32 * MIB, RegionKind::Other as u64),
            region(0x4000_0000, 16 * MIB, RegionKind::Arena as u64),
            region(0x9000_0000, MIB, RegionKind::Arena as u64),
        ];
        // 16 MiB of the arena, 16 of nobody, 32 of the other one.
        let text = mapping(0x4000_0000, 0x4400_0000, "rw-p", "", 1001, 0);
        let found = told(&text, &regions);
        let part = |bytes| Part {
            bytes,
            is_share: true,
        };
        assert_eq!(found.regions[1], part((1001 << 10) / 4));
        assert_eq!(found.regions[2], Part::default());
        let others = found.regions[0].bytes;
        assert!(others.abs_diff(1001 << 9) <= 1 && found.regions[0].is_share);
        assert!(found.rest.abs_diff((1001 << 10) / 4) <= 1);
        assert_eq!(found.total(), 1001 << 10);
        // One region in two mappings is no share.
        let parts = [
            mapping(0x4000_0000, 0x4080_0000, "rw-p", "", 8, 0),
            mapping(0x4080_0000, 0x4100_0000, "---p", "", 4, 0),
        ];
        let found = told(&parts.concat(), &regions);
        let whole = Part {
            bytes: 12 << 10,
            is_share: false,
        };
        assert_eq!((found.regions[1], found.rest), (whole, 0));
        // Twice at one place: it is told once.
        let twice = [region(0x4000_0000, 64 * MIB, 0); 2];
        let found = told(&text, &twice);
        assert_eq!((found.kinds[0], found.rest), (1001 << 10, 0));
    }

    #[test]
    fn names_that_look_like_something_else_are_names() {
        for (name, place) in [
            ("/tmp/[heap]", "files"),
            ("/memfd:[stack] (deleted)", "files"),
            ("/a\\012Anonymous: 9 kB", "files"),
            ("/dev/zero (deleted)", "files"),
            ("[heap] ", "rest"),
            ("[anon:[heap]]", "rest"),
            ("[anon:/tmp]", "rest"),
            ("anon_inode:[x]", "rest"),
            ("[stack]", "stack"),
            ("[heap]", "heap"),
        ] {
            let found = told(&mapping(0x1000, 0x9000, "rw-p", name, 4, 0), &[]);
            let places = [
                ("heap", found.heap),
                ("stack", found.stack),
                ("files", found.files),
                ("rest", found.rest),
            ];
            for (other, bytes) in places {
                let wanted = if other == place { 4096 } else { 0 };
                assert_eq!(bytes, wanted, "{name:?}: {other}");
            }
        }
        let raw = b"1000-9000 rw-p 0 00:00 0 /\xff\xfe\nAnonymous: 4 kB\n";
        let found = attribute(&raw[..], &[], &PoolState::default())
            .unwrap()
            .unwrap();
        assert_eq!(found.files, 4096);
        let long = format!(
            "1000-9000 rw-p 0 00:00 0 /{}\nAnonymous: 4 kB\n",
            "x".repeat(100_000)
        );
        assert_eq!(told(&long, &[]).files, 4096);
    }

    #[test]
    fn a_text_that_ends_anywhere_tells_what_was_whole() {
        let regions = [region(0x4000_0000, 64 * MIB, 0)];
        let text = [
            mapping(0x1000_0000, 0x1010_0000, "rw-p", "[heap]", 100, 0),
            mapping(0x4000_0000, 0x4400_0000, "rw-p", "", 3072, 0),
        ]
        .concat();
        let mut last = 0;
        for cut in 0..=text.len() {
            let found =
                attribute(&text.as_bytes()[..cut], &regions, &PoolState::default()).unwrap();
            let total = found.map_or(0, |found| found.total());
            assert!(total >= last, "cut at {cut}");
            assert!([0, 100 << 10, 3172 << 10].contains(&total), "cut at {cut}");
            last = total;
        }
        assert_eq!(last, 3172 << 10);
        for nothing in ["", "\n", "Anonymous: 4 kB\n", "junk\n"] {
            assert_eq!(
                attribute(nothing.as_bytes(), &[], &PoolState::default()).unwrap(),
                None
            );
        }
    }

    #[test]
    fn numbers_that_no_kernel_would_write_break_nothing() {
        let all = u64::MAX;
        let regions = [
            region(all, all, all),
            region(1, all, 0),
            region(0x1000, 0, 1),
        ];
        let text = format!(
            "0-ffffffffffffffff rw-p 0 00:00 0\nAnonymous: {all} kB\nSwap: {all} kB\n\
             9000-1000 rw-p 0 00:00 0\nAnonymous: 4 kB\n\
             1000-9000 rw-p 0 00:00 0\nAnonymous: 99999999999999999999 kB\nSwap: -1 kB\nAnonymous: 4\n\
             1fffffffffffffffff-2 rw-p 0 00:00 0\nAnonymous: x kB\n\
             0-ffffffffffffffff rw-p 0 00:00 0 [heap]\nAnonymous: {all} kB\n\
             0-ffffffffffffffff rw-p 0 00:00 0 [heap]\nAnonymous: {all} kB\n"
        );
        let found = told(&text, &regions);
        assert_eq!(found.heap, all);
        assert_eq!(found.total(), all);
    }

    #[test]
    fn of_this_process_it_is_what_the_kernel_counts() {
        let mut processes = Proc::new(Path::new("/proc"));
        let us = processes.stat(own_pid(), None).unwrap().id;
        let memory = vec![1_u8; 64 << 20];
        let at = memory.as_ptr() as u64;
        let found = of(
            &mut processes,
            us,
            &[region(at, 64 * MIB, 0)],
            &PoolState::default(),
        )
        .unwrap();
        assert!(found.kinds[0] >= 64 * MIB - 8192, "{found:?}");
        let (kib, _) = processes.anon_and_swap_kib(us.pid).unwrap();
        // Other tests run in this process.
        assert!(
            found.total().abs_diff(kib << 10) < 256 * MIB,
            "{found:?} {kib} KiB"
        );
        let another = ProcessId {
            start_ticks: us.start_ticks + 1,
            ..us
        };
        assert_eq!(
            of(&mut processes, another, &[], &PoolState::default()),
            None
        );
        drop(memory);
    }
}
