//! What the guard is told: the wrapper's handover, and the variables of a preload by hand. Pure:
//! takes bytes, gives decisions. Knows no environment, opens nothing.

use core::ffi::CStr;

use crate::{
    os::{FileId, PATH_MAX},
    size_class::{DEFAULT_SIZE, MAX_SIZE, SizeClass},
    stats_page::CLASSES,
};

/// Variable by which the wrapper hands the client over to the guard.
pub(crate) const HANDOVER: &[u8] = b"CLAUDE_SAFE_HANDOVER";
/// Size(s) to watch.
pub(crate) const SIZES: &[u8] = b"CLAUDE_MALLOC_GUARD_SIZES";
/// From which memory on the pool serves.
pub(crate) const THRESHOLD: &[u8] = b"CLAUDE_MALLOC_GUARD_THRESHOLD_MB";
/// Where the line goes.
pub(crate) const LOG: &[u8] = b"CLAUDE_MALLOC_GUARD_LOG";

/// A path of limited length, with its terminator.
#[derive(Clone, Copy)]
pub(crate) struct PathBuffer {
    /// `len` bytes without NUL, then at least one NUL.
    bytes: [u8; PATH_MAX],
    len: usize,
}

impl PathBuffer {
    pub(crate) const fn new() -> Self {
        Self {
            bytes: [0; PATH_MAX],
            len: 0,
        }
    }

    /// `None` if the parts are too long together, or one has a NUL in it.
    pub(crate) fn of(parts: &[&[u8]]) -> Option<Self> {
        let mut path = Self::new();
        for byte in parts.iter().copied().flatten() {
            path.push(*byte)?;
        }
        Some(path)
    }

    fn push(&mut self, byte: u8) -> Option<()> {
        if byte == 0 || self.len + 1 >= PATH_MAX {
            return None;
        }
        self.bytes[self.len] = byte;
        self.len += 1;
        Some(())
    }

    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The wrapper's word on which process is the client, and what to do there.
pub(crate) struct Handover<'a> {
    pid: u32,
    launch: &'a [u8],
    /// Percent-encoded and checked.
    page: Option<&'a [u8]>,
    log: Option<&'a [u8]>,
    sizes: Option<&'a [u8]>,
    threshold: Option<&'a [u8]>,
}

/// What this process is to the wrapper.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The client itself.
    Client,
    /// A program (env, a shell) that will become the client by exec, in the same process.
    Launcher,
    /// Some other process that the variable has leaked into.
    Bystander,
}

impl<'a> Handover<'a> {
    /// Reads `1;pid=N;launch=DEV:INO,...;page=PATH;log=PATH;sizes=SPEC`: the version, then fields
    /// in any order, of which only `pid` must be there; unknown ones are for a later version.
    /// `None` if that isn't what it is.
    pub(crate) fn parse(value: &'a [u8]) -> Option<Self> {
        let mut fields = value.split(|&byte| byte == b';');
        if fields.next() != Some(b"1") {
            return None;
        }
        let mut pid = None;
        let (mut launch, mut page, mut log) = (None, None, None);
        let (mut sizes, mut threshold) = (None, None);
        for field in fields.filter(|field| !field.is_empty()) {
            let (name, value) = split_at_byte(field, b'=')?;
            let slot = match name {
                b"pid" if pid.is_none() => {
                    pid = Some(number(value)?.try_into().ok()?);
                    continue;
                }
                b"pid" => return None,
                b"launch" => &mut launch,
                b"page" => &mut page,
                b"log" => &mut log,
                b"sizes" => &mut sizes,
                b"threshold_mb" => &mut threshold,
                _ => continue,
            };
            // Said twice: somebody else's hand was in it.
            if slot.replace(value).is_some() {
                return None;
            }
        }
        let launch: &[u8] = launch.unwrap_or_default();
        if !launch.is_empty() && !file_ids(launch).all(|id| id.is_some()) {
            return None;
        }
        for path in [page, log].into_iter().flatten() {
            decode_path(path)?;
        }
        Some(Self {
            pid: pid?,
            launch,
            page,
            log,
            sizes,
            threshold,
        })
    }

    /// What a process with this pid and program file is. Without /proc a program file can't be
    /// told: then a process that may be a launcher is taken for one, and is left alone.
    pub(crate) fn role(&self, pid: u32, program: Option<FileId>) -> Role {
        if pid != self.pid {
            return Role::Bystander;
        }
        if self.launch.is_empty() {
            return Role::Client;
        }
        match program {
            Some(program) if !file_ids(self.launch).any(|id| id == Some(program)) => Role::Client,
            _ => Role::Launcher,
        }
    }

    pub(crate) fn page(&self) -> Option<PathBuffer> {
        self.page.and_then(decode_path)
    }

    pub(crate) fn log(&self) -> Option<PathBuffer> {
        self.log.and_then(decode_path)
    }

    pub(crate) fn sizes(&self) -> Option<&'a [u8]> {
        self.sizes
    }

    pub(crate) fn threshold(&self) -> Option<&'a [u8]> {
        self.threshold
    }
}

/// Which classes to watch.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    /// Sizes that name the classes, each class once.
    sizes: [usize; CLASSES],
    /// Where a class is packed, see [`SizeClass::strides`].
    packed: [bool; CLASSES],
    len: usize,
    /// Watch the class until one is found whose live count only grows.
    pub(crate) auto: bool,
}

impl Sizes {
    /// The class of the reports.
    pub(crate) const DEFAULT: Self = {
        let mut sizes = [0; CLASSES];
        sizes[0] = DEFAULT_SIZE;
        Self {
            sizes,
            packed: [false; CLASSES],
            len: 1,
            auto: false,
        }
    };

    /// `auto`, a size in `1..=MAX_SIZE` (`/8` behind it: packed), or a list of some; `None` for
    /// anything else. Of a list, the first `CLASSES` classes count.
    pub(crate) fn parse(spec: &[u8]) -> Option<Self> {
        if spec.trim_ascii() == b"auto" {
            return Some(Self {
                auto: true,
                ..Self::DEFAULT
            });
        }
        let mut sizes = Self {
            sizes: [0; CLASSES],
            packed: [false; CLASSES],
            len: 0,
            auto: false,
        };
        for item in spec.split(|&byte| byte == b',') {
            let item = item.trim_ascii();
            let (size, packed) = match item.strip_suffix(b"/8") {
                Some(size) => (size, true),
                None => (item, false),
            };
            let size = number(size)?.try_into().ok()?;
            if !(1..=MAX_SIZE).contains(&size) {
                return None;
            }
            let class = SizeClass::of(size);
            let is_new = !sizes
                .as_slice()
                .iter()
                .any(|&other| SizeClass::of(other) == class);
            if is_new && sizes.len < CLASSES {
                sizes.sizes[sizes.len] = size;
                sizes.packed[sizes.len] = packed;
                sizes.len += 1;
            }
        }
        Some(sizes)
    }

    pub(crate) fn is_packed(&self, number: usize) -> bool {
        self.packed[number]
    }

    pub(crate) fn as_slice(&self) -> &[usize] {
        &self.sizes[..self.len]
    }
}

/// From which memory on the pool serves.
#[derive(Clone, Copy)]
pub(crate) enum Threshold {
    Mib(u64),
    /// It was not said, or is no number.
    Default,
}

impl Threshold {
    pub(crate) fn parse(value: &[u8]) -> Self {
        number(value.trim_ascii()).map_or(Self::Default, Self::Mib)
    }
}

fn file_ids(list: &[u8]) -> impl Iterator<Item = Option<FileId>> {
    list.split(|&byte| byte == b',').map(|item| {
        let (device, inode) = split_at_byte(item, b':')?;
        Some(FileId {
            device: number(device)?,
            inode: number(inode)?,
        })
    })
}

/// An absolute path in which `%XX` stands for a byte.
fn decode_path(encoded: &[u8]) -> Option<PathBuffer> {
    let mut path = PathBuffer::new();
    let mut rest = encoded;
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            path.push(*first)?;
            continue;
        }
        let [high, low, tail @ ..] = rest else {
            return None;
        };
        path.push(hex_digit(*high)? << 4 | hex_digit(*low)?)?;
        rest = tail;
    }
    path.as_bytes().starts_with(b"/").then_some(path)
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn split_at_byte(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&byte| byte == separator)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| digit - b'0')?;
        number.checked_mul(10)?.checked_add(digit.into())
    })
}
