//! The next definition of each interposed function: what the program would call without us.
//!
//! Owns the table of their addresses, filled by the first call that needs one, which may come long
//! before our constructor. No lock: two threads may both look up and store the same answers. A lock
//! here and the loader's own (dlopen allocates under it) could be taken in either order.

use core::{
    ffi::{CStr, c_int, c_uint, c_void},
    mem::transmute_copy,
    ptr::{copy_nonoverlapping, null_mut},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
};

use crate::{
    early,
    elf::{self, Definition},
    os::{self, SigAction, SigactionFn},
};

/// What can be looked up; the number is the place in the table.
#[derive(Clone, Copy)]
enum Name {
    Malloc,
    Calloc,
    Realloc,
    Free,
    AlignedAlloc,
    Memalign,
    PosixMemalign,
    Valloc,
    Pvalloc,
    MallocUsableSize,
    Sigaction,
    Signal,
    RegisterAtfork,
    PthreadAtfork,
    GnuGetLibcVersion,
    PthreadKeyCreate,
    PthreadSetspecific,
    Mmap,
    Mmap64,
    Munmap,
    Mremap,
    Madvise,
    Mprotect,
}

const NAMES: [&CStr; 23] = [
    c"malloc",
    c"calloc",
    c"realloc",
    c"free",
    c"aligned_alloc",
    c"memalign",
    c"posix_memalign",
    c"valloc",
    c"pvalloc",
    c"malloc_usable_size",
    c"sigaction",
    c"signal",
    c"__register_atfork",
    c"pthread_atfork",
    c"gnu_get_libc_version",
    c"pthread_key_create",
    c"pthread_setspecific",
    c"mmap",
    c"mmap64",
    c"munmap",
    c"mremap",
    c"madvise",
    c"mprotect",
];

/// Not looked up yet.
const UNKNOWN: usize = 0;
/// Looked up: there is none.
const MISSING: usize = 1;

#[repr(align(64))]
struct Table([AtomicUsize; NAMES.len()]);

static TABLE: Table = Table([const { AtomicUsize::new(UNKNOWN) }; NAMES.len()]);

/// `malloc_usable_size`, if it is of the same object as malloc and free. Otherwise it would read
/// the headers of an allocator that isn't its own.
static CHUNK_SIZE: AtomicUsize = AtomicUsize::new(UNKNOWN);

/// The next allocator is glibc 2.33 or later, whose free keeps errno.
static KEEPS_ERRNO: AtomicBool = AtomicBool::new(false);

/// Objects above this address have glibc's header before them: all but the null pointer, or none.
/// Asking malloc_usable_size instead costs a call, and a look at the *next* chunk, which may be a
/// cold line.
static HEADERS_ABOVE: HeadersAbove = HeadersAbove(AtomicUsize::new(usize::MAX));

#[repr(align(64))]
struct HeadersAbove(AtomicUsize);

/// The thread (its thread pointer) that is looking up, 0 if none.
static RESOLVER: AtomicUsize = AtomicUsize::new(0);

/// The next function of that name. `None` if there is none, or if this thread is just looking.
///
/// # Safety
/// `F` is the type of the C function of that name.
#[inline(always)]
unsafe fn next<F: Copy>(name: Name) -> Option<F> {
    // SAFETY: the caller's promise.
    if let Some(known) = unsafe { known(name) } {
        return Some(known);
    }
    look_up(name);
    // SAFETY: the caller's promise.
    unsafe { known(name) }
}

/// The same, of what is in the table already.
///
/// # Safety
/// `F` is the type of the C function of that name.
#[inline(always)]
unsafe fn known<F: Copy>(name: Name) -> Option<F> {
    const { assert!(size_of::<F>() == size_of::<usize>()) };
    let address = TABLE.0[name as usize].load(Relaxed);
    // SAFETY: the address of a function of that name; the caller names its type.
    (address > MISSING).then(|| unsafe { transmute_copy(&address) })
}

/// Fills the table if it was never looked for the name.
#[cold]
#[inline(never)]
fn look_up(name: Name) {
    if TABLE.0[name as usize].load(Relaxed) == UNKNOWN {
        resolve();
    }
}

/// Fills the table. Returns at once if this very thread is doing that further up its stack.
pub(crate) fn resolve() {
    let me = os::thread_pointer();
    if RESOLVER.swap(me, Relaxed) == me {
        return;
    }
    let definitions = elf::next_definitions(&NAMES);
    for (slot, definition) in TABLE.0.iter().zip(definitions) {
        slot.store(definition.map_or(MISSING, address_of), Relaxed);
    }
    let of = |name: Name| definitions[name as usize].map(|definition| definition.object);
    let chunk_size = match definitions[Name::MallocUsableSize as usize] {
        Some(definition)
            if of(Name::Malloc) == Some(definition.object)
                && of(Name::Free) == Some(definition.object) =>
        {
            address_of(definition)
        }
        _ => MISSING,
    };
    CHUNK_SIZE.store(chunk_size, Relaxed);
    let is_glibc = of(Name::GnuGetLibcVersion).is_some()
        && of(Name::GnuGetLibcVersion) == of(Name::Malloc)
        && of(Name::GnuGetLibcVersion) == of(Name::Free);
    if is_glibc && let Some(definition) = definitions[Name::GnuGetLibcVersion as usize] {
        // SAFETY: glibc's gnu_get_libc_version.
        let version = unsafe { os::libc_version(definition.address) };
        KEEPS_ERRNO.store(is_at_least_2_33(version.to_bytes()), Relaxed);
    }
    RESOLVER.store(0, Relaxed);
}

fn address_of(definition: Definition) -> usize {
    if definition.is_ifunc {
        // SAFETY: the symbol says that it is a resolver.
        unsafe { os::call_ifunc_resolver(definition.address) }
    } else {
        definition.address
    }
}

/// Can the class of an object be told from its address? If not, nothing can be counted.
pub(crate) fn can_classify() -> bool {
    if CHUNK_SIZE.load(Relaxed) == UNKNOWN {
        resolve();
    }
    CHUNK_SIZE.load(Relaxed) > MISSING
}

/// Looks whether chunks of glibc have the header that they always had. To be called once, when the
/// allocator may be used freely.
pub(crate) fn try_header() {
    // Elsewhere a pointer may carry a tag that differs from its header's (MTE).
    if !cfg!(target_arch = "x86_64") || !KEEPS_ERRNO.load(Relaxed) || !can_classify() {
        return;
    }
    let holds = [24, 160, 168, 1000].into_iter().all(|size| {
        let object = malloc(size);
        if object.is_null() {
            return false;
        }
        // SAFETY: a live object of the next allocator, which is glibc.
        unsafe {
            let usable = chunk_size(object);
            let header = object.cast::<usize>().sub(1).read();
            free(object);
            usable >= size && header & !0b111 == usable + 8
        }
    });
    if holds {
        HEADERS_ABOVE.0.store(0, Relaxed);
    }
}

/// The word before an object: the length of its chunk, and three flag bits. `None` for null, and if
/// the next allocator isn't a glibc whose chunks have that, and whose free keeps errno.
///
/// # Safety
/// `object` is null, or a live object of the next allocator or of early.rs.
#[inline(always)]
pub(crate) unsafe fn header(object: *mut c_void) -> Option<usize> {
    if object as usize <= HEADERS_ABOVE.0.load(Relaxed) {
        return None;
    }
    // SAFETY: try_header saw that it is glibc's, where a chunk begins 16 bytes before its object;
    // early.rs has a header of the same size.
    Some(unsafe { object.cast::<usize>().sub(1).read() })
}

fn is_at_least_2_33(version: &[u8]) -> bool {
    let Some(minor) = version.strip_prefix(b"2.") else {
        return false;
    };
    let digits = minor.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0_u32, |minor, digit| {
        minor
            .saturating_mul(10)
            .saturating_add((digit - b'0').into())
    }) >= 33
}

/// Usable bytes of an object, which tells its class; 0 if that can't be told.
///
/// # Safety
/// `object` is null or a live object of the next allocator.
pub(crate) unsafe fn chunk_size(object: *mut c_void) -> usize {
    let address = CHUNK_SIZE.load(Relaxed);
    if address <= MISSING {
        return 0;
    }
    // SAFETY: the address is malloc_usable_size's, of the allocator that the object is of.
    unsafe {
        let usable_size: unsafe extern "C" fn(*mut c_void) -> usize = transmute_copy(&address);
        usable_size(object)
    }
}

fn none_left() -> *mut c_void {
    os::set_errno(os::ENOMEM);
    null_mut()
}

/// Serves a request while there is no next allocator to ask.
#[cold]
fn early_alloc(size: usize, align: usize) -> *mut c_void {
    let object = early::allocate(size, align);
    if object.is_null() {
        none_left()
    } else {
        object
    }
}

type SizeFn = unsafe extern "C" fn(usize) -> *mut c_void;
type FreeFn = unsafe extern "C" fn(*mut c_void);
type TwoSizesFn = unsafe extern "C" fn(usize, usize) -> *mut c_void;

// What follows has the contracts of the C functions of the same names (malloc(3),
// posix_memalign(3), sigaction(2)); objects of early.rs are none of theirs, see abi.rs.

// The three of the hot path end in a jump to the next function, and so does all that is rare about
// them: a call in their middle would make every caller save its registers first.

/// The same, for callers that know that the table has been filled: those to whom a call is of no
/// interest (route.rs).
///
/// # Safety
/// [`can_pass_on`] was true.
#[inline(always)]
pub(crate) unsafe fn malloc_known(size: usize) -> *mut c_void {
    // SAFETY: the caller's promise: the address of malloc, which takes any size.
    unsafe { at::<SizeFn>(Name::Malloc)(size) }
}

/// # Safety
/// As [`malloc_known`]; as free(3).
#[inline(always)]
pub(crate) unsafe fn free_known(object: *mut c_void) {
    // SAFETY: the caller's promise.
    unsafe { at::<FreeFn>(Name::Free)(object) };
}

/// # Safety
/// `F` is the type of the C function of that name, which has been found.
#[inline(always)]
unsafe fn at<F: Copy>(name: Name) -> F {
    const { assert!(size_of::<F>() == size_of::<usize>()) };
    let address = TABLE.0[name as usize].load(Relaxed);
    // SAFETY: the caller's promise.
    unsafe { transmute_copy(&address) }
}

/// Are there a malloc and a free to pass calls on to?
pub(crate) fn can_pass_on() -> bool {
    [Name::Malloc, Name::Free].into_iter().all(|name| {
        look_up(name);
        TABLE.0[name as usize].load(Relaxed) > MISSING
    })
}

#[inline(always)]
pub(crate) fn malloc(size: usize) -> *mut c_void {
    // SAFETY: the type of malloc, which takes any size.
    unsafe {
        match known::<SizeFn>(Name::Malloc) {
            Some(malloc) => malloc(size),
            None => look_up_and_malloc(size),
        }
    }
}

#[cold]
#[inline(never)]
fn look_up_and_malloc(size: usize) -> *mut c_void {
    // SAFETY: as in malloc.
    unsafe {
        match next::<SizeFn>(Name::Malloc) {
            Some(malloc) => malloc(size),
            None => early_alloc(size, 1),
        }
    }
}

#[inline(always)]
pub(crate) fn calloc(count: usize, size: usize) -> *mut c_void {
    // SAFETY: the type of calloc, which takes any sizes.
    unsafe {
        match known::<TwoSizesFn>(Name::Calloc) {
            Some(calloc) => calloc(count, size),
            None => look_up_and_calloc(count, size),
        }
    }
}

#[cold]
#[inline(never)]
fn look_up_and_calloc(count: usize, size: usize) -> *mut c_void {
    // SAFETY: as in calloc.
    unsafe {
        match next::<TwoSizesFn>(Name::Calloc) {
            Some(calloc) => calloc(count, size),
            None => match count.checked_mul(size) {
                Some(len) => early_alloc(len, 1),
                None => none_left(),
            },
        }
    }
}

#[inline(always)]
pub(crate) unsafe fn realloc(object: *mut c_void, size: usize) -> *mut c_void {
    // SAFETY: the type of realloc; the object is the caller's promise.
    unsafe {
        match next::<unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void>(Name::Realloc) {
            Some(realloc) => realloc(object, size),
            // No next allocator, so no object of it: there is nothing to copy.
            None => early_alloc(size, 1),
        }
    }
}

/// Moves an object of early.rs to the next allocator.
#[cold]
pub(crate) fn realloc_early(object: *mut c_void, size: usize) -> *mut c_void {
    let old = early::contents(object);
    let new = malloc(size);
    if !new.is_null() {
        // SAFETY: both are live, of these sizes at least, and different objects.
        unsafe { copy_nonoverlapping(old.cast::<u8>(), new.cast(), old.len().min(size)) };
    }
    new
}

#[inline(always)]
pub(crate) unsafe fn free(object: *mut c_void) {
    // SAFETY: the type of free; the object is the caller's promise.
    unsafe {
        match known::<FreeFn>(Name::Free) {
            Some(free) => free(object),
            None => look_up_and_free(object),
        }
    }
}

#[cold]
#[inline(never)]
unsafe fn look_up_and_free(object: *mut c_void) {
    // SAFETY: as in free.
    unsafe {
        if let Some(free) = next::<FreeFn>(Name::Free) {
            free(object);
        }
    }
}

pub(crate) fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    // SAFETY: the type of aligned_alloc, which takes any sizes.
    unsafe {
        match next::<TwoSizesFn>(Name::AlignedAlloc) {
            Some(aligned_alloc) => aligned_alloc(align, size),
            None if align.is_power_of_two() => early_alloc(size, align),
            None => none_left(),
        }
    }
}

pub(crate) fn memalign(align: usize, size: usize) -> *mut c_void {
    // SAFETY: the type of memalign, which takes any sizes.
    unsafe {
        match next::<TwoSizesFn>(Name::Memalign) {
            Some(memalign) => memalign(align, size),
            None if align.is_power_of_two() => early_alloc(size, align),
            None => none_left(),
        }
    }
}

pub(crate) unsafe fn posix_memalign(out: *mut *mut c_void, align: usize, size: usize) -> c_int {
    type Fn = unsafe extern "C" fn(*mut *mut c_void, usize, usize) -> c_int;
    // SAFETY: the type of posix_memalign; `out` is the caller's promise.
    unsafe {
        match next::<Fn>(Name::PosixMemalign) {
            Some(posix_memalign) => posix_memalign(out, align, size),
            None => os::ENOMEM,
        }
    }
}

pub(crate) fn valloc(size: usize) -> *mut c_void {
    // SAFETY: the type of valloc, which takes any size.
    unsafe {
        match next::<SizeFn>(Name::Valloc) {
            Some(valloc) => valloc(size),
            None => none_left(),
        }
    }
}

pub(crate) fn pvalloc(size: usize) -> *mut c_void {
    // SAFETY: the type of pvalloc, which takes any size.
    unsafe {
        match next::<SizeFn>(Name::Pvalloc) {
            Some(pvalloc) => pvalloc(size),
            None => none_left(),
        }
    }
}

pub(crate) unsafe fn malloc_usable_size(object: *mut c_void) -> usize {
    type Fn = unsafe extern "C" fn(*mut c_void) -> usize;
    // SAFETY: the type of malloc_usable_size; the object is the caller's promise.
    unsafe {
        match next::<Fn>(Name::MallocUsableSize) {
            Some(usable_size) => usable_size(object),
            None => 0,
        }
    }
}

/// libc's `sigaction`, if it can be found.
pub(crate) fn sigaction_fn() -> Option<SigactionFn> {
    // SAFETY: the type of sigaction.
    unsafe { next(Name::Sigaction) }
}

pub(crate) unsafe fn sigaction(signal: c_int, new: *const SigAction, old: *mut SigAction) -> c_int {
    match sigaction_fn() {
        // SAFETY: the pointers are the caller's promise.
        Some(sigaction) => unsafe { sigaction(signal, new, old) },
        None => {
            os::set_errno(os::ENOSYS);
            -1
        }
    }
}

pub(crate) fn signal(signal: c_int, handler: usize) -> usize {
    // SAFETY: the type of signal (its handlers are addresses here).
    unsafe {
        match next::<unsafe extern "C" fn(c_int, usize) -> usize>(Name::Signal) {
            Some(next_signal) => next_signal(signal, handler),
            None => {
                os::set_errno(os::ENOSYS);
                os::SIG_ERR
            }
        }
    }
}

/// Registers the three to run around every fork: before it, after it in the parent, and in the child.
pub(crate) fn run_around_fork(hooks: [extern "C" fn(); 3]) {
    for name in [Name::RegisterAtfork, Name::PthreadAtfork] {
        // SAFETY: an address is a value of type usize.
        if let Some(register) = unsafe { next::<usize>(name) } {
            // SAFETY: one of the two functions that it takes.
            unsafe { os::run_around_fork(register, hooks) };
            return;
        }
    }
}

/// The key whose value's end is a thread's end; [`NO_KEY`] if there is none.
static THREAD_END_KEY: AtomicUsize = AtomicUsize::new(NO_KEY);
const NO_KEY: usize = usize::MAX;

/// Makes `at_end` run at the end of every thread that sets a value.
///
/// Looked up like the others: these functions moved from libpthread to libc in glibc 2.34, so a
/// plain reference would bind us to one of the two. A program without them has no threads.
pub(crate) fn make_thread_end_key(at_end: extern "C" fn(*mut c_void)) {
    type Fn = unsafe extern "C" fn(*mut c_uint, extern "C" fn(*mut c_void)) -> c_int;
    // SAFETY: the type of pthread_key_create.
    unsafe {
        let mut key = 0;
        if let Some(create) = next::<Fn>(Name::PthreadKeyCreate)
            && create(&raw mut key, at_end) == 0
        {
            THREAD_END_KEY.store(key as usize, Relaxed);
        }
    }
}

/// Sets the calling thread's value, which must not be 0. False if that can't be done.
pub(crate) fn set_thread_end_value(value: usize) -> bool {
    type Fn = unsafe extern "C" fn(c_uint, *const c_void) -> c_int;
    let key = THREAD_END_KEY.load(Relaxed);
    if key == NO_KEY {
        return false;
    }
    // SAFETY: the type of pthread_setspecific; the key is one of ours.
    unsafe {
        match next::<Fn>(Name::PthreadSetspecific) {
            Some(set) => set(key as c_uint, value as *const c_void) == 0,
            None => false,
        }
    }
}

// The mmap family: while there is no next definition to be had (this thread is just looking for
// it), the kernel is asked as libc would.

type MmapFn = unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, c_int, i64) -> *mut c_void;

pub(crate) unsafe fn mmap(
    hint: *mut c_void,
    len: usize,
    protection: c_int,
    flags: c_int,
    file: c_int,
    offset: i64,
) -> *mut c_void {
    // SAFETY: the type of mmap on a machine of 64 bits; the arguments are the caller's promise.
    unsafe {
        match next::<MmapFn>(Name::Mmap) {
            Some(mmap) => mmap(hint, len, protection, flags, file, offset),
            None => os::mmap_as_libc(hint, len, protection, flags, file, offset),
        }
    }
}

pub(crate) unsafe fn mmap64(
    hint: *mut c_void,
    len: usize,
    protection: c_int,
    flags: c_int,
    file: c_int,
    offset: i64,
) -> *mut c_void {
    // SAFETY: as in mmap; a libc without mmap64 has the same under the other name.
    unsafe {
        match next::<MmapFn>(Name::Mmap64) {
            Some(mmap64) => mmap64(hint, len, protection, flags, file, offset),
            None => mmap(hint, len, protection, flags, file, offset),
        }
    }
}

pub(crate) unsafe fn munmap(start: *mut c_void, len: usize) -> c_int {
    // SAFETY: the type of munmap; the range is the caller's promise.
    unsafe {
        match next::<unsafe extern "C" fn(*mut c_void, usize) -> c_int>(Name::Munmap) {
            Some(munmap) => munmap(start, len),
            None => os::munmap_as_libc(start, len),
        }
    }
}

/// `new` is passed on even where the caller gave none: libc looks at it only if the flags say so.
pub(crate) unsafe fn mremap(
    old: *mut c_void,
    old_len: usize,
    new_len: usize,
    flags: c_int,
    new: *mut c_void,
) -> *mut c_void {
    type Fn = unsafe extern "C" fn(*mut c_void, usize, usize, c_int, ...) -> *mut c_void;
    // SAFETY: the type of mremap; the ranges are the caller's promise.
    unsafe {
        match next::<Fn>(Name::Mremap) {
            Some(mremap) => mremap(old, old_len, new_len, flags, new),
            None => os::mremap_as_libc(old, old_len, new_len, flags, new),
        }
    }
}

#[inline(always)]
pub(crate) unsafe fn madvise(start: *mut c_void, len: usize, advice: c_int) -> c_int {
    // SAFETY: the type of madvise; the range is the caller's promise.
    unsafe {
        match next::<unsafe extern "C" fn(*mut c_void, usize, c_int) -> c_int>(Name::Madvise) {
            Some(madvise) => madvise(start, len, advice),
            None => os::madvise_as_libc(start, len, advice),
        }
    }
}

#[inline(always)]
pub(crate) unsafe fn mprotect(start: *mut c_void, len: usize, protection: c_int) -> c_int {
    // SAFETY: the type of mprotect; the range is the caller's promise.
    unsafe {
        match next::<unsafe extern "C" fn(*mut c_void, usize, c_int) -> c_int>(Name::Mprotect) {
            Some(mprotect) => mprotect(start, len, protection),
            None => os::mprotect_as_libc(start, len, protection),
        }
    }
}
