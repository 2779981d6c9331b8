//! One ELF file, read in pieces: its program headers, its dynamic symbols, its mark.
//!
//! Reads with pread, never through a mapping: a client that is cut short by its own update while we
//! look would be SIGBUS through a mapping, and is an ordinary error this way. A client of 370 MB
//! costs a dozen reads of what lies at its headers.

use std::fs::File;
use std::os::unix::fs::FileExt;

use elf::abi;
use elf::endian::{AnyEndian, NativeEndian};
use elf::file::{Class, FileHeader};
use elf::section::{SectionHeader, SectionHeaderTable};
use elf::segment::{ProgramHeader, SegmentTable};
use elf::string_table::StringTable;
use elf::symbol::{Symbol, SymbolTable};

/// The longest table that is read, bytes: real ones are far below, a forged one costs no more.
const MAX_TABLE_BYTES: u64 = 16 << 20;

/// An opened ELF file.
pub(super) struct ElfFile<'a> {
    file: &'a File,
    header: FileHeader<AnyEndian>,
}

/// Where a symbol of the dynamic symbol table comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binding {
    /// Asked for: the dynamic linker finds it elsewhere.
    Imported,
    /// Offered by this file.
    Exported,
}

/// The tables of a file are read as those of this machine: callers have asked `is_for_this_machine`.
const OWN_CLASS: Class = if cfg!(target_pointer_width = "64") {
    Class::ELF64
} else {
    Class::ELF32
};

impl<'a> ElfFile<'a> {
    /// `None` when it is no ELF file, or one that is broken.
    pub(super) fn open(file: &'a File) -> Option<ElfFile<'a>> {
        let mut bytes = [0u8; 64];
        let have = read_most(file, &mut bytes);
        // The crate panics on less than the 16 bytes of the identification.
        let (ident, tail) = bytes[..have].split_at_checked(16)?;
        let ident = elf::file::parse_ident::<AnyEndian>(ident).ok()?;
        let header = FileHeader::parse_tail(ident, tail).ok()?;
        Some(ElfFile { file, header })
    }

    /// Is it for the machine that this program was built for?
    pub(super) fn is_for_this_machine(&self) -> bool {
        let is_little = matches!(self.header.endianness, AnyEndian::Little);
        self.header.e_machine == OWN_MACHINE
            && self.header.class == OWN_CLASS
            && is_little == cfg!(target_endian = "little")
    }

    /// The number that names its machine in the ELF header.
    pub(super) fn machine(&self) -> u16 {
        self.header.e_machine
    }

    /// Is it a library (or a position independent program)?
    pub(super) fn is_shared_object(&self) -> bool {
        self.header.e_type == abi::ET_DYN
    }

    fn read_at(&self, offset: u64, len: u64) -> Option<Vec<u8>> {
        if len > MAX_TABLE_BYTES {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(len).ok()?];
        self.file.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes)
    }

    /// A word in the byte order of this machine.
    fn word_at(&self, offset: u64) -> Option<u32> {
        let mut bytes = [0; 4];
        self.file.read_exact_at(&mut bytes, offset).ok()?;
        Some(u32::from_ne_bytes(bytes))
    }

    /// The program headers; none in a broken file.
    pub(super) fn segments(&self) -> Vec<ProgramHeader> {
        let len = u64::from(self.header.e_phnum) * u64::from(self.header.e_phentsize);
        let Some(bytes) = self.read_at(self.header.e_phoff, len) else {
            return Vec::new();
        };
        SegmentTable::new(NativeEndian, OWN_CLASS, &bytes)
            .iter()
            .collect()
    }

    /// The dynamic linker that it asks for. `None`: a static program, or a library.
    pub(super) fn interpreter(&self) -> Option<Vec<u8>> {
        let segments = self.segments();
        let segment = segments.iter().find(|s| s.p_type == abi::PT_INTERP)?;
        let mut name = self.read_at(segment.p_offset, segment.p_filesz.min(4096))?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Some(name)
    }

    fn sections(&self) -> Vec<SectionHeader> {
        let len = u64::from(self.header.e_shnum) * u64::from(self.header.e_shentsize);
        let Some(bytes) = self.read_at(self.header.e_shoff, len) else {
            return Vec::new();
        };
        SectionHeaderTable::new(NativeEndian, OWN_CLASS, &bytes)
            .iter()
            .collect()
    }

    /// The first bytes, at most 64, of the section `name`.
    pub(super) fn section_start(&self, name: &str) -> Option<Vec<u8>> {
        let sections = self.sections();
        let names_at = sections.get(usize::from(self.header.e_shstrndx))?;
        let names = self.read_at(names_at.sh_offset, names_at.sh_size)?;
        let names = StringTable::new(&names);
        let section = sections.iter().find(|section| {
            names.get_raw(section.sh_name as usize).ok() == Some(name.as_bytes())
        })?;
        self.read_at(section.sh_offset, section.sh_size.min(64))
    }

    /// How this file comes by each function of `names` (none longer than 31 bytes). `None` for all
    /// when the file has no dynamic symbol table, or none that can be found (no section headers).
    ///
    /// node exports 40,000 symbols: reading them all would take 12 ms and 8 MB. What is asked for
    /// stands at the beginning of the table, and what is offered is found by its hash.
    pub(super) fn bindings<const N: usize>(
        &self,
        names: [&[u8]; N],
    ) -> Option<[Option<Binding>; N]> {
        let sections = self.sections();
        let table = sections.iter().find(|s| s.sh_type == abi::SHT_DYNSYM)?;
        let text = sections.get(table.sh_link as usize)?;
        let hash = sections.iter().find(|s| s.sh_type == abi::SHT_GNU_HASH);
        let table = SymbolFile {
            elf: self,
            table_at: table.sh_offset,
            count: table.sh_size / SYMBOL_BYTES.max(table.sh_entsize),
            text_at: text.sh_offset,
        };
        let mut found = [None; N];
        let hash = hash.and_then(|section| GnuHash::read(self, section.sh_offset));
        // Without a hash table every symbol may be anywhere.
        let first_hashed = hash.as_ref().map_or(table.count, |hash| hash.first_symbol);
        table.visit_first(first_hashed, |name, binding| {
            if let Some(at) = names.iter().position(|wanted| *wanted == name) {
                found[at] = Some(binding);
            }
        })?;
        if let Some(hash) = hash {
            for (at, name) in names.iter().enumerate() {
                // Not only what is offered: a program that is not position independent hashes an
                // asked for function, too, when it takes its address (node and its malloc).
                found[at] = table.look_up(&hash, name).or(found[at]);
            }
        }
        Some(found)
    }

    /// Does it name a library that begins with `prefix` as needed?
    pub(super) fn needs_library(&self, prefix: &[u8]) -> bool {
        let sections = self.sections();
        let Some(table) = sections.iter().find(|s| s.sh_type == abi::SHT_DYNAMIC) else {
            return false;
        };
        let (Some(text), Some(entries)) = (
            sections.get(table.sh_link as usize),
            self.read_at(table.sh_offset, table.sh_size),
        ) else {
            return false;
        };
        elf::dynamic::DynamicTable::new(NativeEndian, OWN_CLASS, &entries)
            .iter()
            .filter(|entry| entry.d_tag == abi::DT_NEEDED)
            .filter_map(|entry| self.text_at::<256>(text.sh_offset.checked_add(entry.d_val())?))
            .any(|name| name.starts_with(prefix))
    }

    /// The text up to its NUL, which must come within `MOST` bytes.
    fn text_at<const MOST: usize>(&self, offset: u64) -> Option<Vec<u8>> {
        let mut text = [0u8; MOST];
        let have = read_most_at(self.file, &mut text, offset);
        let end = text[..have].iter().position(|byte| *byte == 0)?;
        Some(text[..end].to_vec())
    }
}

/// The size of one dynamic symbol, bytes.
const SYMBOL_BYTES: u64 = if cfg!(target_pointer_width = "64") {
    24
} else {
    16
};

/// The longest symbol name that is compared, with its NUL.
const NAME_BYTES: usize = 32;

/// The dynamic symbols of a file of this machine's class.
struct SymbolFile<'a> {
    elf: &'a ElfFile<'a>,
    table_at: u64,
    count: u64,
    text_at: u64,
}

impl SymbolFile<'_> {
    /// Calls `visit` with the public functions among the first `count` symbols.
    fn visit_first(&self, count: u64, mut visit: impl FnMut(&[u8], Binding)) -> Option<()> {
        let len = count.min(self.count) * SYMBOL_BYTES;
        let symbols = self.elf.read_at(self.table_at, len)?;
        // Names mostly follow each other in the order of their symbols: one read serves many.
        let mut window = vec![0u8; 16 << 10];
        let (mut window_at, mut window_len) = (0u64, 0usize);
        for symbol in SymbolTable::new(NativeEndian, OWN_CLASS, &symbols).iter() {
            let Some(binding) = public_binding(&symbol) else {
                continue;
            };
            let at = u64::from(symbol.st_name);
            let fits = at >= window_at && at + NAME_BYTES as u64 <= window_at + window_len as u64;
            if !fits {
                window_at = at;
                window_len = read_most_at(self.elf.file, &mut window, self.text_at + at);
            }
            let rest = &window[(at - window_at) as usize..window_len];
            let end = rest.iter().take(NAME_BYTES).position(|byte| *byte == 0);
            if let Some(end) = end {
                visit(&rest[..end], binding);
            }
        }
        Some(())
    }

    fn symbol(&self, index: u64) -> Option<Symbol> {
        if index >= self.count {
            return None;
        }
        let bytes = self
            .elf
            .read_at(self.table_at + index * SYMBOL_BYTES, SYMBOL_BYTES)?;
        SymbolTable::new(NativeEndian, OWN_CLASS, &bytes)
            .get(0)
            .ok()
    }

    /// Looks a name up as the dynamic linker does.
    fn look_up(&self, hash: &GnuHash, name: &[u8]) -> Option<Binding> {
        let wanted = elf::hash::gnu_hash(name);
        let first = hash.bucket(self.elf, wanted)?;
        // A chain ends with a set lowest bit; a forged one with the table.
        for index in first..self.count {
            let entry = hash.chain(self.elf, index)?;
            if entry | 1 == wanted | 1 {
                let symbol = self.symbol(index)?;
                if self.is_called(&symbol, name) {
                    return public_binding(&symbol);
                }
            }
            if entry & 1 == 1 {
                break;
            }
        }
        None
    }

    fn is_called(&self, symbol: &Symbol, name: &[u8]) -> bool {
        let at = self.text_at.saturating_add(u64::from(symbol.st_name));
        self.elf.text_at::<NAME_BYTES>(at).as_deref() == Some(name)
    }
}

/// How a symbol is bound, if it is a function (or untyped) that others can see.
fn public_binding(symbol: &Symbol) -> Option<Binding> {
    let is_code = matches!(
        symbol.st_symtype(),
        abi::STT_FUNC | abi::STT_NOTYPE | abi::STT_GNU_IFUNC
    );
    let is_public = symbol.st_bind() != abi::STB_LOCAL
        && matches!(symbol.st_vis(), abi::STV_DEFAULT | abi::STV_PROTECTED);
    let binding = if symbol.is_undefined() {
        Binding::Imported
    } else {
        Binding::Exported
    };
    (is_code && is_public).then_some(binding)
}

/// The places of a DT_GNU_HASH table: four words, a Bloom filter, the buckets, the chains.
struct GnuHash {
    /// The symbols before this one are not hashed: those that are asked for.
    first_symbol: u64,
    buckets: u64,
    buckets_at: u64,
    chains_at: u64,
}

impl GnuHash {
    fn read(elf: &ElfFile<'_>, at: u64) -> Option<GnuHash> {
        let word = |index: u64| elf.word_at(at.checked_add(index * 4)?).map(u64::from);
        let (buckets, first_symbol, filter_words) = (word(0)?, word(1)?, word(2)?);
        let filter_word_bytes = if cfg!(target_pointer_width = "64") {
            8
        } else {
            4
        };
        let buckets_at = at.checked_add(16 + filter_words * filter_word_bytes)?;
        Some(GnuHash {
            first_symbol,
            buckets: Some(buckets).filter(|count| *count > 0)?,
            buckets_at,
            chains_at: buckets_at.checked_add(buckets * 4)?,
        })
    }

    /// The first symbol whose hash falls into the same bucket.
    fn bucket(&self, elf: &ElfFile<'_>, hash: u32) -> Option<u64> {
        let at = self.buckets_at + u64::from(hash) % self.buckets * 4;
        elf.word_at(at)
            .map(u64::from)
            .filter(|index| *index >= self.first_symbol)
    }

    fn chain(&self, elf: &ElfFile<'_>, index: u64) -> Option<u32> {
        elf.word_at(
            self.chains_at
                .checked_add((index - self.first_symbol) * 4)?,
        )
    }
}

/// Reads from the beginning as much as there is; how much is the answer.
pub(super) fn read_most(file: &File, bytes: &mut [u8]) -> usize {
    read_most_at(file, bytes, 0)
}

fn read_most_at(file: &File, bytes: &mut [u8], offset: u64) -> usize {
    let mut have = 0;
    while have < bytes.len() {
        match file.read_at(&mut bytes[have..], offset.saturating_add(have as u64)) {
            Ok(0) => break,
            Ok(more) => have += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    have
}

#[cfg(target_arch = "x86_64")]
const OWN_MACHINE: u16 = abi::EM_X86_64;
#[cfg(target_arch = "aarch64")]
const OWN_MACHINE: u16 = abi::EM_AARCH64;
#[cfg(target_arch = "x86")]
const OWN_MACHINE: u16 = abi::EM_386;
#[cfg(target_arch = "arm")]
const OWN_MACHINE: u16 = abi::EM_ARM;
#[cfg(target_arch = "riscv64")]
const OWN_MACHINE: u16 = abi::EM_RISCV;
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "x86",
    target_arch = "arm",
    target_arch = "riscv64"
)))]
const OWN_MACHINE: u16 = abi::EM_NONE;
