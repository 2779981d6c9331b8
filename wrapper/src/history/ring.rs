//! The samples of one session: a header, then records of 64 bytes in a ring. A record has a number of its own and a
//! checksum: after a SIGKILL or a power cut each one is whole or left out, and the numbers tell their order. Never
//! reads a file that is not a regular one of ours with one name.

use crate::os::private::{self, Access};
use crate::watch::ProcessId;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

const MAGIC: &[u8; 8] = b"CSHIST1\n";
const HEADER_LEN: usize = 512;
/// Text in the header: which claude-safe, which client.
const ABOUT_AT: usize = 64;
const ABOUT_LEN: usize = HEADER_LEN - ABOUT_AT;
const RECORD_LEN: usize = 64;
/// The most that one session takes, bytes.
pub const MOST_BYTES: usize = 512 << 10;
/// Records of a full ring: 22 hours at one each 10 s, more than two at one a second.
pub const CAPACITY: usize = (MOST_BYTES - HEADER_LEN) / RECORD_LEN;

/// The session that the samples are of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Its claude-safe.
    pub wrapper: ProcessId,
    /// Its start, seconds since 1970.
    pub since_unix_s: u64,
    /// Limit of tier 1; 0: never.
    pub tier_1_kib: u64,
    /// The user is warned from here on.
    pub warn_kib: u64,
    /// Limit of tier 2.
    pub tier_2_kib: u64,
    /// Version of claude-safe and file of the client, for people.
    pub about: String,
}

/// One sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// When, milliseconds since 1970.
    pub at_unix_ms: u64,
    /// Memory of the whole tree.
    pub total_kib: u64,
    /// Of it in swap, as far as the kernel tells.
    pub swap_kib: u64,
    /// Given back by tier 1 since this client began.
    pub given_kib: u64,
    /// In files of the session on tmpfs.
    pub tmp_kib: u64,
    /// Open descriptors of the tree; 0: not counted.
    pub fds: u32,
    /// Of them pseudo-terminals.
    pub ptys: u32,
    /// How often the client was started again until now.
    pub restarts: u16,
    /// [`CONTAINED`] and its like.
    pub flags: u16,
    /// The client's pid.
    pub client_pid: i32,
}

/// [`Point::flags`]: the session is in a cgroup of its own.
pub const CONTAINED: u16 = 1;
/// [`Point::flags`]: tier 1 is giving memory back.
pub const RECLAIMING: u16 = 2;
/// [`Point::flags`]: the client is being ended.
pub const ENDING: u16 = 4;

/// FNV-1a, 32 bits; never 0 for a record that is all zero.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// Writes fields one behind the other; all numbers are little-endian.
struct Fields<'a>(&'a mut [u8]);

impl Fields<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let (field, rest) = std::mem::take(&mut self.0).split_at_mut(bytes.len());
        field.copy_from_slice(bytes);
        self.0 = rest;
    }
}

/// Takes them off again. Past the end they are zero.
struct Taken<'a>(&'a [u8]);

impl Taken<'_> {
    fn u64(&mut self) -> u64 {
        let (low, high) = (self.u32(), self.u32());
        u64::from(high) << 32 | u64::from(low)
    }

    fn u32(&mut self) -> u32 {
        let (low, high) = (self.u16(), self.u16());
        u32::from(high) << 16 | u32::from(low)
    }

    fn u16(&mut self) -> u16 {
        let Some((field, rest)) = self.0.split_first_chunk::<2>() else {
            return 0;
        };
        self.0 = rest;
        u16::from_le_bytes(*field)
    }
}

fn sealed<const N: usize>(fill: impl FnOnce(&mut Fields<'_>), from: usize) -> [u8; N] {
    let mut bytes = [0; N];
    fill(&mut Fields(&mut bytes[from + 4..]));
    let sum = checksum(&bytes[from + 4..]);
    bytes[from..from + 4].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// What stands behind the checksum, if that is right.
fn unsealed(bytes: &[u8]) -> Option<&[u8]> {
    let (sum, rest) = bytes.split_first_chunk::<4>()?;
    (u32::from_le_bytes(*sum) == checksum(rest)).then_some(rest)
}

impl Header {
    fn bytes(&self) -> [u8; HEADER_LEN] {
        let mut about = self.about.as_bytes();
        if about.len() > ABOUT_LEN {
            let end = (0..=ABOUT_LEN)
                .rev()
                .find(|at| self.about.is_char_boundary(*at));
            about = &about[..end.unwrap_or(0)];
        }
        let mut bytes: [u8; HEADER_LEN] = sealed(
            |fields| {
                fields.put(&self.wrapper.pid.to_le_bytes());
                fields.put(&self.wrapper.start_ticks.to_le_bytes());
                for number in [
                    self.since_unix_s,
                    self.tier_1_kib,
                    self.warn_kib,
                    self.tier_2_kib,
                ] {
                    fields.put(&number.to_le_bytes());
                }
                fields.put(&[0; ABOUT_AT - MAGIC.len() - 4 - 4 - 5 * 8]);
                fields.put(about);
            },
            MAGIC.len(),
        );
        bytes[..MAGIC.len()].copy_from_slice(MAGIC);
        bytes
    }

    fn of_bytes(bytes: &[u8]) -> Option<Header> {
        let about = bytes.get(ABOUT_AT..)?;
        let mut fields = Taken(unsealed(bytes.strip_prefix(MAGIC)?)?);
        let end = about.iter().position(|byte| *byte == 0);
        Some(Header {
            wrapper: ProcessId {
                pid: fields.u32().cast_signed(),
                start_ticks: fields.u64(),
            },
            since_unix_s: fields.u64(),
            tier_1_kib: fields.u64(),
            warn_kib: fields.u64(),
            tier_2_kib: fields.u64(),
            about: String::from_utf8_lossy(&about[..end.unwrap_or(about.len())]).into_owned(),
        })
    }
}

impl Point {
    fn bytes(&self, number: u32) -> [u8; RECORD_LEN] {
        sealed(
            |fields| {
                fields.put(&number.to_le_bytes());
                for number in [
                    self.at_unix_ms,
                    self.total_kib,
                    self.swap_kib,
                    self.given_kib,
                    self.tmp_kib,
                ] {
                    fields.put(&number.to_le_bytes());
                }
                fields.put(&self.fds.to_le_bytes());
                fields.put(&self.ptys.to_le_bytes());
                fields.put(&self.restarts.to_le_bytes());
                fields.put(&self.flags.to_le_bytes());
                fields.put(&self.client_pid.to_le_bytes());
            },
            0,
        )
    }

    fn of_bytes(bytes: &[u8]) -> Option<(u32, Point)> {
        let mut fields = Taken(unsealed(bytes)?);
        let number = fields.u32();
        Some((
            number,
            Point {
                at_unix_ms: fields.u64(),
                total_kib: fields.u64(),
                swap_kib: fields.u64(),
                given_kib: fields.u64(),
                tmp_kib: fields.u64(),
                fds: fields.u32(),
                ptys: fields.u32(),
                restarts: fields.u16(),
                flags: fields.u16(),
                client_pid: fields.u32().cast_signed(),
            },
        ))
    }
}

/// Where samples are written.
#[derive(Debug)]
pub struct Writer {
    file: File,
    next: u32,
}

impl Writer {
    /// Makes the file. One of that name is of an earlier boot: it is removed.
    ///
    /// # Errors
    /// It can't be made or written.
    pub fn create(path: &Path, header: &Header) -> io::Result<Writer> {
        let _ = fs::remove_file(path);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        let written = file.write_all_at(&header.bytes(), 0);
        if written.is_err() {
            let _ = fs::remove_file(path);
        }
        written.map(|()| Writer { file, next: 0 })
    }

    /// Adds a sample: one write.
    ///
    /// # Errors
    /// Disk full, quota.
    pub fn append(&mut self, point: &Point) -> io::Result<()> {
        let slot = self.next as usize % CAPACITY;
        let at = HEADER_LEN + slot * RECORD_LEN;
        self.file.write_all_at(&point.bytes(self.next), at as u64)?;
        self.next = self.next.wrapping_add(1);
        Ok(())
    }
}

/// What a file tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// Of which session.
    pub header: Header,
    /// The samples that are whole, in their order.
    pub points: Vec<Point>,
    /// Records that are not.
    pub damaged: usize,
}

/// Reads a file.
///
/// # Errors
/// It is not there, is not ours, is not such a file. The message follows the file's name.
pub fn read(path: &Path) -> io::Result<Past> {
    let file = private::file(path, Access::Read)?;
    let mut bytes = Vec::new();
    file.take(MOST_BYTES as u64).read_to_end(&mut bytes)?;
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "is no history of a session");
    let header = bytes.get(..HEADER_LEN).and_then(Header::of_bytes);
    let header = header.ok_or_else(damaged)?;
    let records = bytes[HEADER_LEN..].chunks(RECORD_LEN);
    let slots = records.len();
    let mut numbered: Vec<(u32, Point)> = records.filter_map(Point::of_bytes).collect();
    numbered.sort_unstable_by_key(|(number, _)| *number);
    Ok(Past {
        header,
        damaged: slots - numbered.len(),
        points: numbered.into_iter().map(|(_, point)| point).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::files::scratch::Scratch;

    fn header() -> Header {
        Header {
            wrapper: ProcessId {
                pid: 4711,
                start_ticks: u64::MAX - 1,
            },
            since_unix_s: 1_700_000_000,
            tier_1_kib: 1,
            warn_kib: 2,
            tier_2_kib: u64::MAX,
            about: "claude-safe 0.1.0, ä".to_owned(),
        }
    }

    fn point(number: u64) -> Point {
        Point {
            at_unix_ms: 1_700_000_000_000 + number * 1000,
            total_kib: number,
            swap_kib: number + 1,
            given_kib: number + 2,
            tmp_kib: number + 3,
            fds: 4,
            ptys: 5,
            restarts: 6,
            flags: CONTAINED | ENDING,
            client_pid: 7,
        }
    }

    fn written(scratch: &Scratch, points: u64) -> std::path::PathBuf {
        let path = scratch.path().join("4711.9");
        let mut writer = Writer::create(&path, &header()).unwrap();
        (0..points).for_each(|number| writer.append(&point(number)).unwrap());
        path
    }

    #[test]
    fn what_was_written_is_read() {
        let scratch = Scratch::new();
        let path = written(&scratch, 3);
        let past = read(&path).unwrap();
        assert_eq!((past.header, past.damaged), (header(), 0));
        assert_eq!(past.points, [point(0), point(1), point(2)]);
    }

    #[test]
    fn a_full_ring_keeps_the_newest_in_their_order_and_grows_no_more() {
        let scratch = Scratch::new();
        let all = CAPACITY as u64 + 10;
        let path = written(&scratch, all);
        assert!(fs::metadata(&path).unwrap().len() <= MOST_BYTES as u64);
        let past = read(&path).unwrap();
        let wanted: Vec<Point> = (10..all).map(point).collect();
        assert_eq!((past.points, past.damaged), (wanted, 0));
    }

    #[test]
    fn a_file_cut_anywhere_tells_what_was_whole() {
        let scratch = Scratch::new();
        let path = written(&scratch, 2);
        let whole = fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            match read(&path) {
                Err(error) => {
                    assert!(cut < HEADER_LEN && error.to_string().contains("no history"));
                }
                Ok(past) => {
                    let records = (cut - HEADER_LEN) / RECORD_LEN;
                    let rest = usize::from(!(cut - HEADER_LEN).is_multiple_of(RECORD_LEN));
                    assert_eq!((past.points.len(), past.damaged), (records, rest));
                }
            }
        }
    }

    #[test]
    fn a_record_with_one_wrong_bit_or_of_zeros_is_left_out() {
        let scratch = Scratch::new();
        let path = written(&scratch, 2);
        let whole = fs::read(&path).unwrap();
        for bit in 0..8 * RECORD_LEN {
            let mut bytes = whole.clone();
            bytes[HEADER_LEN + bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, bytes).unwrap();
            let past = read(&path).unwrap();
            assert_eq!(
                (past.points, past.damaged),
                (vec![point(1)], 1),
                "bit {bit}"
            );
        }
        for bit in 0..8 * HEADER_LEN {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, bytes).unwrap();
            assert!(read(&path).is_err(), "bit {bit}");
        }
        let mut zeros = whole.clone();
        zeros[HEADER_LEN..].fill(0);
        fs::write(&path, zeros).unwrap();
        assert_eq!(read(&path).unwrap().damaged, 2);
    }

    #[test]
    fn what_is_not_ours_alone_is_refused_by_its_name() {
        let scratch = Scratch::new();
        let path = written(&scratch, 1);
        let refused = |name: &str| read(&scratch.path().join(name)).unwrap_err().to_string();
        std::os::unix::fs::symlink(&path, scratch.path().join("link")).unwrap();
        assert_eq!(refused("link"), "is a symbolic link");
        scratch.write("text", "some text\n".repeat(100));
        assert_eq!(refused("text"), "is no history of a session");
        assert_eq!(refused("."), "is no regular file");
        fs::hard_link(&path, scratch.path().join("second")).unwrap();
        assert_eq!(refused("second"), "has more than one name");
    }

    #[test]
    fn what_is_told_about_a_session_is_cut_between_letters() {
        let long = Header {
            about: format!("x{}", "ä".repeat(ABOUT_LEN)),
            ..header()
        };
        let read = Header::of_bytes(&long.bytes()).unwrap();
        assert!(long.about.starts_with(&read.about));
        assert_eq!(read.about.len(), ABOUT_LEN - 1);
    }
}
