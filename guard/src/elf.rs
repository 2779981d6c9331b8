//! Reads the dynamic sections of the loaded objects: where the next definition of a name is, where
//! we were loaded from, whether the program takes its memory from `malloc`.
//!
//! Our own walk instead of dlsym(3): that one binds us to GLIBC_2.34 when built on a new system,
//! and it may allocate, while malloc is waiting for the answer. Symbol versions are not looked at:
//! the names we ask for have one meaning each. Never writes, never allocates.

use core::{
    ffi::{CStr, c_char},
    ops::ControlFlow,
    slice,
};

use crate::os::{self, LoadedObject};

// Entries of a dynamic section (gABI chapter 5, and the GNU additions).
const DT_NULL: i64 = 0;
const DT_NEEDED: i64 = 1;
const DT_PLTRELSZ: i64 = 2;
const DT_HASH: i64 = 4;
const DT_STRTAB: i64 = 5;
const DT_SYMTAB: i64 = 6;
const DT_RELA: i64 = 7;
const DT_RELASZ: i64 = 8;
const DT_JMPREL: i64 = 23;
const DT_GNU_HASH: i64 = 0x6fff_fef5;
const DT_RELACOUNT: i64 = 0x6fff_fff9;

const SHN_UNDEF: u16 = 0;
const STB_LOCAL: u8 = 0;
const STT_TLS: u8 = 6;
const STT_GNU_IFUNC: u8 = 10;

#[repr(C)]
struct Entry {
    tag: i64,
    value: u64,
}

#[repr(C)]
struct Symbol {
    name: u32,
    info: u8,
    other: u8,
    section: u16,
    value: u64,
    size: u64,
}

#[repr(C)]
struct Relocation {
    offset: u64,
    info: u64,
    addend: i64,
}

impl Relocation {
    fn symbol_number(&self) -> usize {
        (self.info >> 32) as usize
    }
}

/// Where a name is defined.
#[derive(Clone, Copy)]
pub(crate) struct Definition {
    /// Of the function, or of the function that chooses the function.
    pub(crate) address: usize,
    pub(crate) is_ifunc: bool,
    /// Base address of the defining object: equal for definitions of one object.
    pub(crate) object: usize,
}

/// How the program itself relates to `malloc`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProgramMalloc {
    /// It calls the one that the loader finds: ours.
    Imported,
    /// It brings its own, or calls none.
    Private,
}

/// Finds, for each name, its first definition in an object loaded after this one: what the name
/// would mean if we weren't there.
pub(crate) fn next_definitions<const N: usize>(names: &[&CStr; N]) -> [Option<Definition>; N] {
    let mut found = [None; N];
    let mut we_are_past = false;
    os::for_each_object(&mut |object| {
        if !we_are_past {
            we_are_past = is_own(object);
            return ControlFlow::Continue(());
        }
        if let Some(tables) = Tables::of(object) {
            for (name, found) in names.iter().zip(&mut found) {
                if found.is_none() {
                    *found = tables.definition(name);
                }
            }
        }
        if found.iter().all(Option::is_some) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    found
}

/// Path that the loader took this library from; as it was given, so possibly relative.
pub(crate) fn own_path() -> Option<&'static CStr> {
    let mut path = None;
    os::for_each_object(&mut |object| {
        if is_own(object) {
            path = Some(object.name);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    path
}

/// Reads from the symbols whether the program's `malloc` calls can reach us: its own, or if it makes
/// none, those of the libraries that it names itself (a small program around a large library, as
/// Debian's `node` is). libc's own parts don't count: they allocate in every program.
pub(crate) fn program_malloc() -> ProgramMalloc {
    let mut program: Option<Option<Tables<'_>>> = None;
    let mut answer = ProgramMalloc::Private;
    os::for_each_object(&mut |object| {
        let Some(program) = &program else {
            // The program is the first object that is shown. It is never unloaded.
            // SAFETY: its headers stay where they are as long as the process does.
            let headers =
                unsafe { slice::from_raw_parts(object.headers.as_ptr(), object.headers.len()) };
            let tables = Tables::of(&LoadedObject {
                base: object.base,
                name: object.name,
                headers,
            });
            match &tables {
                Some(tables) if tables.definition(c"malloc").is_none() => {
                    if tables.refers_to(c"malloc") {
                        answer = ProgramMalloc::Imported;
                        return ControlFlow::Break(());
                    }
                }
                _ => return ControlFlow::Break(()),
            }
            program = Some(tables);
            return ControlFlow::Continue(());
        };
        if let Some(program) = program
            && program.needs(object.name)
            && !is_libc(file_name(object.name))
            && Tables::of(object).is_some_and(|library| library.refers_to(c"malloc"))
        {
            answer = ProgramMalloc::Imported;
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    answer
}

fn file_name(path: &CStr) -> &[u8] {
    let path = path.to_bytes();
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

/// Is the file of this name a part of the C library?
fn is_libc(name: &[u8]) -> bool {
    const PARTS: [&[u8]; 9] = [
        b"libc.",
        b"libm.",
        b"libdl.",
        b"libpthread.",
        b"librt.",
        b"libutil.",
        b"libresolv.",
        b"libanl.",
        b"ld-",
    ];
    PARTS.iter().any(|part| name.starts_with(part))
}

fn is_own(object: &LoadedObject<'_>) -> bool {
    let here = (own_path as fn() -> Option<&'static CStr>) as usize;
    object.headers.iter().any(|header| {
        header.p_type == libc::PT_LOAD
            && here.wrapping_sub(object.base + header.p_vaddr as usize) < header.p_memsz as usize
    })
}

/// The symbol tables of one object. They stay mapped as long as the object does, and no object is
/// unloaded while dl_iterate_phdr shows it.
struct Tables<'a> {
    base: usize,
    dynamic: *const Entry,
    symbols: *const Symbol,
    strings: *const c_char,
    gnu_hash: Option<*const u32>,
    sysv_hash: Option<*const u32>,
    relocations: [&'a [Relocation]; 2],
}

impl Tables<'_> {
    fn of(object: &LoadedObject<'_>) -> Option<Self> {
        let dynamic = object
            .headers
            .iter()
            .find(|header| header.p_type == libc::PT_DYNAMIC)?;
        let first = (object.base + dynamic.p_vaddr as usize) as *const Entry;
        let mut entry = first;
        let base = object.base;
        // glibc adds the base to the addresses in place, other loaders and the vdso don't.
        let at = |value: u64| {
            let value = value as usize;
            if value < base { base + value } else { value }
        };
        let (mut symbols, mut strings, mut gnu_hash, mut sysv_hash) = (None, None, None, None);
        let (mut rela, mut jmprel) = (None, None);
        let (mut rela_len, mut jmprel_len, mut relative) = (0, 0, 0);
        loop {
            // SAFETY: the section is mapped, in the place that the program header names, and ends
            // with DT_NULL: the loader has read it the same way.
            let Entry { tag, value } = unsafe { entry.read() };
            match tag {
                DT_NULL => break,
                DT_SYMTAB => symbols = Some(at(value) as *const Symbol),
                DT_STRTAB => strings = Some(at(value) as *const c_char),
                DT_GNU_HASH => gnu_hash = Some(at(value) as *const u32),
                DT_HASH => sysv_hash = Some(at(value) as *const u32),
                DT_RELA => rela = Some(at(value) as *const Relocation),
                DT_RELASZ => rela_len = value as usize / size_of::<Relocation>(),
                // The first so many name no symbol; a large program has 100,000 of them.
                DT_RELACOUNT => relative = value as usize,
                DT_JMPREL => jmprel = Some(at(value) as *const Relocation),
                DT_PLTRELSZ => jmprel_len = value as usize / size_of::<Relocation>(),
                _ => {}
            }
            // SAFETY: not the last entry.
            entry = unsafe { entry.add(1) };
        }
        let table = |start: Option<*const Relocation>, len: usize| match start {
            // SAFETY: the loader has applied these very relocations.
            Some(start) => unsafe { slice::from_raw_parts(start, len) },
            None => &[],
        };
        let rela = table(rela, rela_len);
        Some(Self {
            base,
            dynamic: first,
            symbols: symbols?,
            strings: strings?,
            gnu_hash,
            sysv_hash,
            relocations: [
                rela.get(relative..).unwrap_or(rela),
                table(jmprel, jmprel_len),
            ],
        })
    }

    /// Does the object name a library of this file name itself (DT_NEEDED)?
    fn needs(&self, path: &CStr) -> bool {
        let mut entry = self.dynamic;
        loop {
            // SAFETY: as in Tables::of.
            let Entry { tag, value } = unsafe { entry.read() };
            if tag == DT_NULL {
                return false;
            }
            // SAFETY: such an entry has an offset in the string table; it is not the last one.
            unsafe {
                if tag == DT_NEEDED
                    && file_name(CStr::from_ptr(self.strings.add(value as usize)))
                        == file_name(path)
                {
                    return true;
                }
                entry = entry.add(1);
            }
        }
    }

    fn definition(&self, name: &CStr) -> Option<Definition> {
        let symbol = match (self.gnu_hash, self.sysv_hash) {
            (Some(hash), _) => self.in_gnu_hash(hash, name),
            (None, Some(hash)) => self.in_sysv_hash(hash, name),
            (None, None) => None,
        }?;
        Some(Definition {
            address: self.base + symbol.value as usize,
            is_ifunc: symbol.info & 0xf == STT_GNU_IFUNC,
            object: self.base,
        })
    }

    /// Does a relocation of the object name this symbol? An import table would be shorter to read,
    /// but an object that exports nothing doesn't say how many symbols it imports.
    fn refers_to(&self, name: &CStr) -> bool {
        let mut last = 0;
        self.relocations
            .iter()
            .copied()
            .flatten()
            .any(|relocation| {
                let number = relocation.symbol_number();
                if number == 0 || number == last {
                    return false;
                }
                last = number;
                self.name_of(self.symbol(number)) == name
            })
    }

    fn symbol(&self, number: usize) -> &Symbol {
        // SAFETY: the number comes from the object's own hash table or relocations.
        unsafe { &*self.symbols.add(number) }
    }

    fn name_of(&self, symbol: &Symbol) -> &CStr {
        // SAFETY: names are terminated strings in the object's own string table.
        unsafe { CStr::from_ptr(self.strings.add(symbol.name as usize)) }
    }

    fn defines(&self, symbol: &Symbol, name: &CStr) -> bool {
        symbol.section != SHN_UNDEF
            && symbol.value != 0
            && symbol.info >> 4 != STB_LOCAL
            && symbol.info & 0xf != STT_TLS
            && self.name_of(symbol) == name
    }

    /// Layout: bucket count, number of the first hashed symbol, Bloom words, Bloom shift; the
    /// Bloom filter (64-bit words); the buckets; one hash per symbol, its lowest bit set at the
    /// end of a chain.
    fn in_gnu_hash(&self, table: *const u32, name: &CStr) -> Option<&Symbol> {
        let hash = name.to_bytes().iter().fold(5381_u32, |hash, &byte| {
            hash.wrapping_mul(33).wrapping_add(byte.into())
        });
        // SAFETY: the layout above, of a table that the loader uses itself; chains are terminated.
        unsafe {
            let (buckets_len, first, bloom_len) =
                (*table, *table.add(1) as usize, *table.add(2) as usize);
            if buckets_len == 0 {
                return None;
            }
            let buckets = table.add(4 + 2 * bloom_len);
            let chains = buckets.add(buckets_len as usize);
            let mut number = *buckets.add((hash % buckets_len) as usize) as usize;
            if number < first {
                return None;
            }
            loop {
                let chain_hash = *chains.add(number - first);
                if chain_hash | 1 == hash | 1 {
                    let symbol = self.symbol(number);
                    if self.defines(symbol, name) {
                        return Some(symbol);
                    }
                }
                if chain_hash & 1 != 0 {
                    return None;
                }
                number += 1;
            }
        }
    }

    /// Layout: bucket count, symbol count, buckets, chains. The symbols are searched in order:
    /// only small or old objects have no GNU table.
    fn in_sysv_hash(&self, table: *const u32, name: &CStr) -> Option<&Symbol> {
        // SAFETY: the layout above, of a table that the loader uses itself.
        let symbols_len = unsafe { *table.add(1) } as usize;
        (1..symbols_len)
            .map(|number| self.symbol(number))
            .find(|symbol| self.defines(symbol, name))
    }
}
