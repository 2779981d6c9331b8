//! What the kernel says about the memory of one session (the files of its slice folder) and about swap on this machine.
//! Reads and parses; never writes, never judges. Formats: Linux `Documentation/admin-guide/cgroup-v2.rst`,
//! `admin-guide/blockdev/zram.rst`, `accounting/psi.rst`; proc_swaps(5), proc_meminfo(5).

use crate::contain::group::number_after;
use crate::os::proc::page_kib;
use crate::watch::pressure;
use std::path::Path;

/// One look at a session and its machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// When, milliseconds of the monotonic clock.
    pub at_ms: u64,
    /// All memory that is charged to the session (`memory.current`), KiB.
    pub current_kib: u64,
    /// Its part in swap, KiB. `None`: this kernel does not count swap per cgroup.
    pub swap_kib: Option<u64>,
    /// The part of that which is in memory as well, KiB.
    pub swap_cached_kib: u64,
    /// The most it may have there (`memory.swap.max`), KiB. `None`: no limit.
    pub swap_max_kib: Option<u64>,
    /// Pages of files, KiB: those that the kernel drops or writes back when somebody needs memory. Without tmpfs.
    pub file_kib: u64,
    /// Anonymous pages that came back from swap since the slice exists, in KiB.
    pub back_kib: u64,
    /// Pages of files that had to be read again since the slice exists, in KiB.
    pub file_back_kib: u64,
    /// Time in which a task of the session waited for memory, microseconds since the slice exists.
    /// `None`: no pressure information here.
    pub some_us: Option<u64>,
    /// The same for time in which all that had work waited.
    pub full_us: Option<u64>,
    /// The machine.
    pub machine: Machine,
}

/// Swap and pressure of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// All swap, KiB. 0: none.
    pub swap_total_kib: u64,
    /// What of it is free, KiB.
    pub swap_free_kib: u64,
    /// What lies in swap, KiB: on zram, what was put in; elsewhere, what is used.
    pub stored_kib: u64,
    /// What that costs, KiB: on zram, the memory for it; elsewhere the same as `stored_kib`.
    pub cost_kib: u64,
    /// All active swap is on zram.
    pub all_zram: bool,
    /// Time in which all tasks of the machine that had work waited for memory, microseconds since boot.
    pub full_us: Option<u64>,
}

/// Where the kernel's files are: another place in tests.
#[derive(Clone, Copy, Debug)]
pub struct Roots<'a> {
    /// `/proc`.
    pub proc: &'a Path,
    /// `/sys`.
    pub sys: &'a Path,
}

impl Roots<'static> {
    /// The real ones.
    #[must_use]
    pub fn real() -> Self {
        Self {
            proc: Path::new("/proc"),
            sys: Path::new("/sys"),
        }
    }
}

impl Reading {
    /// Reads the slice folder and the machine. `None`: the folder is gone, or has no memory controller.
    #[must_use]
    pub fn take(slice: &Path, roots: Roots<'_>, at_ms: u64) -> Option<Reading> {
        let stat = text(slice, "memory.stat")?;
        let kib = |key| number_after(&stat, key).unwrap_or(0) / 1024;
        let pages = |key| {
            number_after(&stat, key)
                .unwrap_or(0)
                .saturating_mul(page_kib())
        };
        let pressure = pressure::read(&slice.join("memory.pressure"));
        Some(Reading {
            at_ms,
            current_kib: file_kib(slice, "memory.current")?,
            swap_kib: file_kib(slice, "memory.swap.current"),
            swap_cached_kib: kib("swapcached"),
            swap_max_kib: file_kib(slice, "memory.swap.max"),
            file_kib: kib("active_file").saturating_add(kib("inactive_file")),
            // Newer kernels count swap-ins as well, also of pages whose eviction nobody remembers.
            back_kib: pages("workingset_refault_anon").max(pages("pswpin")),
            file_back_kib: pages("workingset_refault_file"),
            some_us: pressure.map(|pressure| pressure.some.total_us),
            full_us: pressure.map(|pressure| pressure.full.total_us),
            machine: Machine::read(roots),
        })
    }

    /// What the session takes from others, KiB: its charge without pages of files. Those are anybody's already: the
    /// kernel counts them as available (MemAvailable of proc_meminfo(5)) and drops them when memory is asked for. With
    /// them, a session that builds or searches a big tree would lose its own memory to swap for a cache.
    #[must_use]
    pub fn held_kib(&self) -> u64 {
        self.current_kib.saturating_sub(self.file_kib)
    }
}

impl Machine {
    /// Reads swap and pressure of the machine. What can't be read counts as not there.
    #[must_use]
    pub fn read(roots: Roots<'_>) -> Machine {
        let meminfo = text(roots.proc, "meminfo").unwrap_or_default();
        let mut machine = Machine {
            swap_total_kib: number_after(&meminfo, "SwapTotal:").unwrap_or(0),
            swap_free_kib: number_after(&meminfo, "SwapFree:").unwrap_or(0),
            full_us: pressure::read(&roots.proc.join("pressure/memory"))
                .map(|pressure| pressure.full.total_us),
            ..Machine::default()
        };
        let mut others = 0;
        let mut devices = 0;
        for (name, used_kib) in swaps(&text(roots.proc, "swaps").unwrap_or_default()) {
            devices += 1;
            let (stored_kib, cost_kib) = match zram_kib(roots.sys, name) {
                Some(zram) => zram,
                None => {
                    others += 1;
                    (used_kib, used_kib)
                }
            };
            machine.stored_kib = machine.stored_kib.saturating_add(stored_kib);
            machine.cost_kib = machine.cost_kib.saturating_add(cost_kib);
        }
        machine.all_zram = devices > 0 && others == 0;
        machine
    }

    /// What 1 KiB in swap costs in memory, thousandths: 100..=1000. For zram, what its devices take for what
    /// they hold. 1000 while they hold nothing, and for what is on a disk: that is no memory, but neither is it
    /// free, and nobody gets more of it for a session's sake.
    #[must_use]
    pub fn swap_weight_permille(&self) -> u64 {
        let weight = self
            .cost_kib
            .saturating_mul(1000)
            .checked_div(self.stored_kib);
        weight.unwrap_or(1000).clamp(100, 1000)
    }
}

/// Out of line, as the next one: the program is small.
#[inline(never)]
fn text(folder: &Path, name: &str) -> Option<String> {
    std::fs::read_to_string(folder.join(name)).ok()
}

/// A file of one number, bytes, in KiB; `None` for `max` and for what is no number.
#[inline(never)]
fn file_kib(folder: &Path, name: &str) -> Option<u64> {
    let bytes: u64 = text(folder, name)?.trim_ascii().parse().ok()?;
    Some(bytes / 1024)
}

/// The active swap areas: name as written there, KiB used.
fn swaps(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().skip(1).filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        Some((words.next()?, words.nth(2)?.parse().ok()?))
    })
}

/// Of a swap area on zram: KiB that were put in, KiB of memory that this takes (`mm_stat`: orig_data_size,
/// compr_data_size, mem_used_total). `None`: it is not on zram.
fn zram_kib(sys: &Path, area: &str) -> Option<(u64, u64)> {
    let device = area.strip_prefix("/dev/")?;
    let number = device.strip_prefix("zram")?;
    if number.is_empty() || !number.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let stat = text(&sys.join("block").join(device), "mm_stat")?;
    let mut words = stat.split_ascii_whitespace();
    let stored: u64 = words.next()?.parse().ok()?;
    let cost: u64 = words.nth(1)?.parse().ok()?;
    Some((stored / 1024, cost / 1024))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::fixture::{Folder, Random};

    const STAT: &str = "anon 209715200\nfile 41943040\nkernel 8388608\nswapcached 4096\nshmem 1048576\n\
        inactive_anon 104857600\nactive_anon 104857600\ninactive_file 20971520\nactive_file 10485760\n\
        workingset_refault_anon 100\nworkingset_refault_file 7\nworkingset_activate_anon 1\npgscan 3\n";
    const PRESSURE: &str = "some avg10=0.00 avg60=0.00 avg300=0.00 total=5000\n\
        full avg10=0.00 avg60=0.00 avg300=0.00 total=4000\n";
    const SWAPS: &str = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
        /dev/zram0                              partition\t2097148\t\t40960\t\t100\n";

    struct Made(Folder);

    impl Made {
        fn new() -> Made {
            let made = Made(Folder::new());
            made.write("slice/memory.current", "262144000\n");
            made.write("slice/memory.swap.current", "52428800\n");
            made.write("slice/memory.swap.max", "max\n");
            made.write("slice/memory.stat", STAT);
            made.write("slice/memory.pressure", PRESSURE);
            made.write(
                "proc/meminfo",
                "MemTotal: 8000000 kB\nSwapTotal:  2097148 kB\nSwapFree: 2056188 kB\n",
            );
            made.write("proc/swaps", SWAPS);
            made.write("proc/pressure/memory", PRESSURE);
            made.write(
                "sys/block/zram0/mm_stat",
                " 41943040 12582912 13631488 0 13631488 12 0 0 0\n",
            );
            made
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.0.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn remove(&self, name: &str) {
            std::fs::remove_file(self.0.path().join(name)).unwrap();
        }

        fn take(&self) -> Option<Reading> {
            let (proc, sys) = (self.0.path().join("proc"), self.0.path().join("sys"));
            let roots = Roots {
                proc: &proc,
                sys: &sys,
            };
            Reading::take(&self.0.path().join("slice"), roots, 77)
        }
    }

    #[test]
    fn every_figure_is_where_it_belongs() {
        let page = page_kib();
        assert_eq!(
            Made::new().take().unwrap(),
            Reading {
                at_ms: 77,
                current_kib: 256_000,
                swap_kib: Some(51_200),
                swap_cached_kib: 4,
                swap_max_kib: None,
                file_kib: 30_720,
                back_kib: 100 * page,
                file_back_kib: 7 * page,
                some_us: Some(5000),
                full_us: Some(4000),
                machine: Machine {
                    swap_total_kib: 2_097_148,
                    swap_free_kib: 2_056_188,
                    stored_kib: 40_960,
                    cost_kib: 13_312,
                    all_zram: true,
                    full_us: Some(4000),
                },
            }
        );
        assert_eq!(Made::new().take().unwrap().held_kib(), 256_000 - 30_720);
    }

    #[test]
    fn a_kernel_that_counts_swap_ins_is_believed() {
        let made = Made::new();
        made.write(
            "slice/memory.stat",
            &format!("{STAT}pswpin 3000\npswpout 9\n"),
        );
        assert_eq!(made.take().unwrap().back_kib, 3000 * page_kib());
    }

    #[test]
    fn what_a_kernel_lacks_is_told_from_zero() {
        let made = Made::new();
        for name in [
            "slice/memory.swap.current",
            "slice/memory.pressure",
            "proc/swaps",
            "proc/pressure/memory",
        ] {
            made.remove(name);
        }
        made.write("slice/memory.swap.max", "1048576\n");
        let reading = made.take().unwrap();
        assert_eq!((reading.swap_kib, reading.swap_max_kib), (None, Some(1024)));
        assert_eq!((reading.some_us, reading.full_us), (None, None));
        assert_eq!(reading.machine.full_us, None);
        assert!(!reading.machine.all_zram);
        assert_eq!(reading.machine.swap_weight_permille(), 1000);
        made.remove("slice/memory.current");
        assert_eq!(made.take(), None);
        let made = Made::new();
        made.remove("slice/memory.stat");
        assert_eq!(made.take(), None);
    }

    fn weight(swaps: &str, mm_stat: &str) -> (u64, bool) {
        let made = Made::new();
        made.write("proc/swaps", swaps);
        made.write("sys/block/zram0/mm_stat", mm_stat);
        let machine = made.take().unwrap().machine;
        (machine.swap_weight_permille(), machine.all_zram)
    }

    #[test]
    fn what_swap_costs_is_measured_on_zram_and_full_on_a_disk() {
        assert_eq!(weight(SWAPS, "41943040 1 13631488"), (325, true));
        assert_eq!(weight(SWAPS, "0 0 0"), (1000, true));
        assert_eq!(weight(SWAPS, "41943040 1 41999999"), (1000, true));
        assert_eq!(weight(SWAPS, "18446744073709551615 1 1"), (100, true));
        assert_eq!(
            weight(SWAPS, "1048576 1 18446744073709551615"),
            (1000, true)
        );
        for junk in [
            "",
            "1",
            "1 2",
            "x y z",
            "1048576 1 -5",
            "1048576 1 18446744073709551616",
        ] {
            // Then it is a device like any other.
            assert_eq!(weight(SWAPS, junk), (1000, false), "{junk:?}");
        }
        let disk = "head\n/dev/sda2 partition 100 50 -2\n";
        assert_eq!(weight(disk, ""), (1000, false));
        let both = format!("{SWAPS}/swap\\040file file 1000000 40960 -2\n");
        assert_eq!(weight(&both, "41943040 1 13631488"), (662, false));
        for name in [
            "/dev/zram",
            "/dev/zram0x",
            "/dev/zram../zram0",
            "zram0",
            "/dev/mapper/zram0",
        ] {
            let text = SWAPS.replace("/dev/zram0", name);
            assert_eq!(
                weight(&text, "41943040 1 13631488"),
                (1000, false),
                "{name}"
            );
        }
    }

    #[test]
    fn every_cut_and_any_junk_is_survived() {
        let files = [
            ("slice/memory.current", "262144000\n"),
            ("slice/memory.stat", STAT),
            ("slice/memory.pressure", PRESSURE),
            ("proc/swaps", SWAPS),
            ("proc/meminfo", "SwapTotal: 1 kB\nSwapFree: 1 kB\n"),
        ];
        let mut random = Random::new(11);
        let made = Made::new();
        for (name, text) in files {
            for round in 0..200 {
                let cut = random.below(text.len() as u64 + 1) as usize;
                let mut bytes = text.as_bytes()[..cut].to_vec();
                if round % 2 == 1 {
                    for byte in &mut bytes {
                        if random.below(8) == 0 {
                            *byte = random.next() as u8;
                        }
                    }
                }
                std::fs::write(made.0.path().join(name), &bytes).unwrap();
                if let Some(reading) = made.take() {
                    assert!((100..=1000).contains(&reading.machine.swap_weight_permille()));
                    assert!(reading.held_kib() <= reading.current_kib);
                }
            }
            made.write(name, text);
        }
    }

    #[test]
    fn a_number_is_found_under_its_whole_name_only() {
        assert_eq!(number_after("active_anon 1\nanon 2\n", "anon"), Some(2));
        assert_eq!(number_after("anon_thp 1\n", "anon"), None);
        for text in ["anon", "anon x", "anon -1", "anon 18446744073709551616", ""] {
            assert_eq!(number_after(text, "anon"), None, "{text:?}");
        }
    }
}
