//! Every call of the kernel and of libc, and what an errno means. No other file makes one.
//!
//! # Safety
//!
//! Most calls go to the kernel directly (rustix) and leave `errno` alone, which is what makes them
//! fit for the signal handler. The calls that go through libc are: `dl_iterate_phdr`, `environ`,
//! `__errno_location`, `getcwd`, `getauxval`, `time`, `clock_gettime`, `abort`.

use core::{
    ffi::{CStr, c_char, c_int, c_void},
    num::NonZeroUsize,
    ops::ControlFlow,
    slice,
    sync::atomic::AtomicU32,
};

use once_cell::race::OnceNonZeroUsize;

use rustix::{
    fs::{self, FallocateFlags, FileType, Mode, OFlags},
    io::Errno,
    mm::{self, Advice, MapFlags, MprotectFlags, ProtFlags},
    process::{self, Resource},
    thread,
};

use crate::{
    page,
    stats_page::{self, StatsPage},
};

pub(crate) const ENOMEM: c_int = libc::ENOMEM;
pub(crate) const ENOSYS: c_int = libc::ENOSYS;
pub(crate) const SIGUSR1: c_int = libc::SIGUSR1;
pub(crate) const SIG_ERR: usize = libc::SIG_ERR;
pub(crate) const PATH_MAX: usize = libc::PATH_MAX as usize;
/// Longest name of a file in a folder (limits.h).
const NAME_MAX: usize = 255;

/// libc's `struct sigaction`.
pub(crate) type SigAction = libc::sigaction;
/// libc's `sigaction`.
pub(crate) type SigactionFn =
    unsafe extern "C" fn(c_int, *const SigAction, *mut SigAction) -> c_int;

/// An object (program or library) that is loaded into this process.
pub(crate) struct LoadedObject<'a> {
    /// What is added to the addresses in the file.
    pub(crate) base: usize,
    /// Path it was loaded from; empty for the program itself. The loader keeps it for good.
    pub(crate) name: &'static CStr,
    pub(crate) headers: &'a [libc::Elf64_Phdr],
}

/// Shows the loaded objects in load order, the program first. `visit` must not allocate: malloc
/// may be waiting for what it finds.
pub(crate) fn for_each_object(visit: &mut dyn FnMut(&LoadedObject<'_>) -> ControlFlow<()>) {
    type Visit<'a> = &'a mut dyn FnMut(&LoadedObject<'_>) -> ControlFlow<()>;

    unsafe extern "C" fn show(
        info: *mut libc::dl_phdr_info,
        _len: usize,
        data: *mut c_void,
    ) -> c_int {
        // SAFETY: dl_iterate_phdr(3) hands over a valid record for the time of the call; `data` is
        // the reference below, used by nobody else meanwhile.
        let (info, visit) = unsafe { (&*info, &mut *data.cast::<Visit<'_>>()) };
        if info.dlpi_phdr.is_null() || info.dlpi_name.is_null() {
            return 0;
        }
        // SAFETY: same record: dlpi_phnum headers at dlpi_phdr, a terminated name. The name is the
        // loader's own (link_map.l_name) and outlives us unless the object is unloaded; it is only
        // kept for our own object, which is not.
        let object = unsafe {
            LoadedObject {
                base: info.dlpi_addr as usize,
                name: CStr::from_ptr(info.dlpi_name),
                headers: slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()),
            }
        };
        c_int::from(visit(&object).is_break())
    }

    let mut visit: Visit<'_> = visit;
    // SAFETY: `show` matches the signature, and `visit` lives as long as the call.
    unsafe { libc::dl_iterate_phdr(Some(show), (&raw mut visit).cast()) };
}

/// Arguments of an IFUNC resolver differ by machine; this calls one.
///
/// # Safety
/// `resolver` is the address of an IFUNC resolver in a relocated object.
pub(crate) unsafe fn call_ifunc_resolver(resolver: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: the caller's promise; on x86-64 a resolver takes nothing.
        unsafe {
            let resolver: extern "C" fn() -> usize = core::mem::transmute(resolver);
            resolver()
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        /// The second argument says how far it is filled by its first field (sys/ifunc.h).
        #[repr(C)]
        struct IfuncArg {
            size: u64,
            hwcap: u64,
            hwcap2: u64,
        }
        const IFUNC_ARG_HWCAP: u64 = 1 << 62;
        // SAFETY: getauxval(3) only reads; the rest is the caller's promise.
        unsafe {
            let arg = IfuncArg {
                size: size_of::<IfuncArg>() as u64,
                hwcap: libc::getauxval(libc::AT_HWCAP) as u64,
                hwcap2: libc::getauxval(libc::AT_HWCAP2) as u64,
            };
            let resolver: extern "C" fn(u64, *const IfuncArg) -> usize =
                core::mem::transmute(resolver);
            resolver(arg.hwcap | IFUNC_ARG_HWCAP, &raw const arg)
        }
    }
}

/// glibc's version, such as `2.36`.
///
/// # Safety
/// `gnu_get_libc_version` is the address of that function.
pub(crate) unsafe fn libc_version(gnu_get_libc_version: usize) -> &'static CStr {
    // SAFETY: the caller's promise; the function returns a constant.
    unsafe {
        let version: extern "C" fn() -> *const c_char = core::mem::transmute(gnu_get_libc_version);
        CStr::from_ptr(version())
    }
}

/// Address of the thread's control block: never null, one per live thread.
#[inline(always)]
pub(crate) fn thread_pointer() -> usize {
    let pointer: usize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the x86-64 TLS ABI keeps the block's own address in its first word.
    unsafe {
        core::arch::asm!("mov {}, fs:0", out(reg) pointer, options(nostack, readonly, preserves_flags));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: reads a register.
    unsafe {
        core::arch::asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nostack, nomem, preserves_flags));
    }
    pointer
}

/// Sets the thread's `errno`.
pub(crate) fn set_errno(value: c_int) {
    // SAFETY: __errno_location gives the thread's own errno.
    unsafe { *libc::__errno_location() = value };
}

/// Puts `errno` back, when dropped, to what it was.
pub(crate) struct ErrnoKept {
    errno: *mut c_int,
    value: c_int,
}

impl ErrnoKept {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        // SAFETY: __errno_location gives the thread's own errno; the value stays on this thread.
        unsafe {
            let errno = libc::__errno_location();
            Self {
                errno,
                value: *errno,
            }
        }
    }
}

impl Drop for ErrnoKept {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: as in new.
        unsafe { *self.errno = self.value };
    }
}

/// The process's environment array as libc has it; null if there is none.
pub(crate) fn environ() -> *mut *mut c_char {
    // SAFETY: read once, in the constructor. libc has set it before any constructor runs.
    unsafe { libc::environ }
}

pub(crate) fn pid() -> u32 {
    process::getpid().as_raw_nonzero().get() as u32
}

/// Registers functions to run around every fork(2) of libc: before, after in the parent, in the child.
///
/// # Safety
/// `register` is the address of `__register_atfork` (glibc) or `pthread_atfork` (other libcs).
pub(crate) unsafe fn run_around_fork(register: usize, hooks: [extern "C" fn(); 3]) {
    type Hook = extern "C" fn();
    // SAFETY: the caller's promise. pthread_atfork(3) takes the first three arguments, and
    // __register_atfork the same and a handle of the owner; a null handle is "never unloaded".
    unsafe {
        let register: extern "C" fn(Hook, Hook, Hook, *mut c_void) -> c_int =
            core::mem::transmute(register);
        register(hooks[0], hooks[1], hooks[2], core::ptr::null_mut());
    }
}

/// Is this the thread that the process began with? Its end is the end of the process.
pub(crate) fn is_first_thread() -> bool {
    thread::gettid() == process::getpid()
}

/// Lets others have the processor.
pub(crate) fn yield_processor() {
    thread::sched_yield();
}

/// Length of a page in bytes.
pub(crate) fn page_len() -> usize {
    static PAGE_LEN: OnceNonZeroUsize = OnceNonZeroUsize::new();
    PAGE_LEN
        .get_or_init(|| {
            // SAFETY: getauxval(3) only reads.
            let len = unsafe { libc::getauxval(libc::AT_PAGESZ) } as usize;
            NonZeroUsize::new(len).unwrap_or(NonZeroUsize::MIN.saturating_add(4095))
        })
        .get()
}

/// Memory of the machine in KiB (sysinfo(2)).
pub(crate) fn total_memory_kib() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(info.mem_unit.into()) / 1024
}

/// Resident memory of this process that is neither of a file nor shared, in KiB; `None` without
/// /proc. From statm(5): 5 us, where smaps_rollup takes 60.
pub(crate) fn resident_anon_kib() -> Option<u64> {
    let mut buffer = [0_u8; 128];
    let text = checked(Call::ReadStatm, || {
        let file = fs::open(
            c"/proc/self/statm",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let len = rustix::io::read(&file, &mut buffer)?;
        Ok(&buffer[..len])
    })?;
    let mut pages = text.split(|&byte| byte == b' ').skip(1).map(|number| {
        let digits = number.iter().take_while(|byte| byte.is_ascii_digit());
        digits.fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0'))
    });
    let (resident, shared) = (pages.next()?, pages.next()?);
    Some(resident.saturating_sub(shared) * (page_len() as u64 / 1024))
}

/// Calls that may fail, by the number that the statistics page has.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Call {
    MapStatsPage = 1,
    Reserve = 2,
    MakeUsable = 3,
    ReleasePages = 4,
    ReadStatm = 5,
    OpenLog = 6,
    AppendLine = 7,
}

/// Makes a call. A failure is noted on the statistics page, and answered by doing without.
fn checked<T>(call: Call, run: impl FnOnce() -> Result<T, Errno>) -> Option<T> {
    let result = injected_fault(call).map_or_else(run, Err);
    result
        .inspect_err(|errno| page::record_fault(call as u64, errno.raw_os_error()))
        .ok()
}

#[cfg(not(feature = "inject"))]
fn injected_fault(_call: Call) -> Option<Errno> {
    None
}

#[cfg(feature = "inject")]
fn injected_fault(_call: Call) -> Option<Errno> {
    injection::due()
}

/// For tests of what follows when the kernel says no.
#[cfg(feature = "inject")]
pub(crate) mod injection {
    use core::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};

    use rustix::io::Errno;

    static ERRNO: AtomicI32 = AtomicI32::new(0);
    static FIRST: AtomicU64 = AtomicU64::new(u64::MAX);
    static LAST: AtomicU64 = AtomicU64::new(0);
    static CALLS: AtomicU64 = AtomicU64::new(0);

    /// Variable that says what is to fail: `N:ERRNO` makes the N-th call of all fail, counted from
    /// 1; `N+:ERRNO` that one and all later ones.
    pub(crate) const VARIABLE: &[u8] = b"CLAUDE_GUARD_INJECT";

    /// Takes the variable's value, before the first call.
    pub(crate) fn set(value: &[u8]) {
        let number = |digits: &[u8]| {
            let digits = digits.iter().take_while(|digit| digit.is_ascii_digit());
            digits.fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0'))
        };
        let mut parts = value.split(|&byte| byte == b':');
        let calls = parts.next().unwrap_or_default();
        let first = number(calls);
        let last = if calls.ends_with(b"+") {
            u64::MAX
        } else {
            first
        };
        FIRST.store(first, Relaxed);
        LAST.store(last, Relaxed);
        ERRNO.store(number(parts.next().unwrap_or_default()) as i32, Relaxed);
    }

    pub(super) fn due() -> Option<Errno> {
        let call = CALLS.fetch_add(1, Relaxed) + 1;
        (FIRST.load(Relaxed)..=LAST.load(Relaxed))
            .contains(&call)
            .then(|| Errno::from_raw_os_error(ERRNO.load(Relaxed)))
    }
}

/// Of a limited address space (RLIMIT_AS) a reservation takes no more than one part in so many: the
/// rest is what the program was given the limit for.
const RESERVED_PART: u64 = 16;

/// Takes address space of this length, which costs no memory. Aligned to a page.
pub(crate) fn reserve(len: usize) -> Option<usize> {
    checked(Call::Reserve, || {
        let limit = process::getrlimit(Resource::As).current;
        if limit.is_some_and(|limit| len as u64 > limit / RESERVED_PART) {
            return Err(Errno::NOMEM);
        }
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            mm::mmap_anonymous(
                core::ptr::null_mut(),
                len,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        };
        start.map(|start| start as usize)
    })
}

/// Gives a reservation back that nothing has been made of.
pub(crate) fn give_up_reservation(start: usize, len: usize) {
    // SAFETY: the caller's own mapping of this very length, in which nothing lives.
    let _ = unsafe { mm::munmap(start as *mut c_void, len) };
}

/// Makes pages of a reservation readable and writable.
pub(crate) fn make_usable(start: usize, len: usize) -> bool {
    checked(Call::MakeUsable, || {
        // SAFETY: whole pages of our reservation; more rights take nothing from anybody.
        unsafe {
            mm::mprotect(
                start as *mut c_void,
                len,
                MprotectFlags::READ | MprotectFlags::WRITE,
            )
        }
    })
    .is_some()
}

/// Gives pages back to the kernel; their bytes are zero from then on.
pub(crate) fn release_pages(start: usize, len: usize) -> bool {
    checked(Call::ReleasePages, || {
        // SAFETY: whole pages of the pool in which no object lives.
        unsafe { mm::madvise(start as *mut c_void, len, Advice::LinuxDontNeed) }
    })
    .is_some()
}

/// Which file it is, whatever its name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

/// Follows symlinks; `None` if the file can't be examined.
pub(crate) fn file_id(path: &CStr) -> Option<FileId> {
    let stat = fs::stat(path).ok()?;
    Some(FileId {
        device: stat.st_dev,
        inode: stat.st_ino,
    })
}

/// The program file of this process; `None` without /proc.
pub(crate) fn program_id() -> Option<FileId> {
    file_id(c"/proc/self/exe")
}

/// The current folder's path in `buffer`; `None` if it has none or it is too long.
pub(crate) fn current_folder(buffer: &mut [u8]) -> Option<&[u8]> {
    let _errno = ErrnoKept::new();
    // SAFETY: getcwd writes at most buffer.len() bytes, with a terminator.
    let path = unsafe { libc::getcwd(buffer.as_mut_ptr().cast(), buffer.len()) };
    if path.is_null() {
        return None;
    }
    let path = CStr::from_bytes_until_nul(buffer).ok()?.to_bytes();
    // "(unreachable)/..." is what the kernel says of a folder outside the root.
    path.starts_with(b"/").then_some(path)
}

/// Seconds since 1970, UTC.
pub(crate) fn unix_time_s() -> i64 {
    // SAFETY: time(2) with a null pointer only returns. In libc it is async-signal-safe.
    unsafe { libc::time(core::ptr::null_mut()) }
}

/// Maps the statistics page in the file at `path`, shared and for good. Refused (`None`) unless it
/// is a regular file of our own, of exactly the right size, with its space allocated.
pub(crate) fn map_stats_page(path: &CStr) -> Option<&'static StatsPage> {
    checked(Call::MapStatsPage, || {
        let file = fs::open(
            path,
            OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY,
            Mode::empty(),
        )?;
        let stat = fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile
            || stat.st_uid != process::geteuid().as_raw()
            || stat.st_size != stats_page::LEN as i64
        {
            return Err(Errno::INVAL);
        }
        // A hole in the file would be filled at the first count; on a full disk that is a SIGBUS.
        fs::fallocate(&file, FallocateFlags::empty(), 0, stats_page::LEN as u64)?;
        // SAFETY: a new mapping at an address of the kernel's choice, at least LEN bytes, never
        // unmapped. All its fields are atomics for which any bits are a value. Nobody truncates
        // the file: it is the wrapper's, in a folder that only its user can write.
        unsafe {
            let page = mm::mmap(
                core::ptr::null_mut(),
                stats_page::LEN,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &file,
                0,
            )?;
            Ok(&*page.cast::<StatsPage>())
        }
    })
}

/// Why a line was not written.
pub(crate) enum LogRefused {
    /// The file can't be used (missing folder, somebody else's, no regular file, ...).
    File,
    /// The file is good, but it takes no more (disk full, quota, limit).
    Full,
}

/// Appends a line to the log at `path`, which is made if missing. Only ever writes to a regular
/// file of our own with one name. Async-signal-safe.
pub(crate) fn append_line(path: &CStr, line: &[u8]) -> Result<(), LogRefused> {
    // NONBLOCK: a fifo must not stop the program in its tracks. The file is opened anew for each
    // line: a descriptor that we kept could be closed, and its number reused, by the program.
    let opened = checked(Call::OpenLog, || {
        let file = fs::open(
            path,
            OFlags::WRONLY
                | OFlags::APPEND
                | OFlags::CREATE
                | OFlags::NOFOLLOW
                | OFlags::NONBLOCK
                | OFlags::CLOEXEC
                | OFlags::NOCTTY,
            Mode::RUSR | Mode::WUSR,
        )?;
        let stat = fs::fstat(&file)?;
        Ok((file, stat))
    });
    let (file, stat) = opened.ok_or(LogRefused::File)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile
        || stat.st_uid != process::geteuid().as_raw()
        || stat.st_nlink != 1
    {
        return Err(LogRefused::File);
    }
    // A write beyond RLIMIT_FSIZE raises SIGXFSZ, which would kill the program.
    let limit = process::getrlimit(Resource::Fsize).current;
    let end = (stat.st_size as u64).saturating_add(line.len() as u64);
    if limit.is_some_and(|limit| end > limit) {
        return Err(LogRefused::Full);
    }
    let mut rest = line;
    while !rest.is_empty() {
        let written = checked(Call::AppendLine, || match rustix::io::write(&file, rest) {
            Err(Errno::INTR) => Ok(0),
            Ok(0) => Err(Errno::NOSPC),
            other => other,
        });
        rest = &rest[written.ok_or(LogRefused::Full)?..];
    }
    Ok(())
}

/// Makes the folders on the way to a file, those that are missing, for our user alone.
/// Async-signal-safe.
pub(crate) fn make_private_folders_of(file: &CStr) {
    // Step by step from the root, so that only one name at a time needs room: the path would take
    // half of an alternate signal stack. What goes wrong shows when the file is opened.
    let path = file.to_bytes();
    let Some(end) = path.iter().rposition(|&byte| byte == b'/') else {
        return;
    };
    let open_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(mut folder) = fs::open(c"/", open_flags, Mode::empty()) else {
        return;
    };
    for name in path[..end].split(|&byte| byte == b'/') {
        let mut buffer = [0; NAME_MAX + 1];
        if name.is_empty() {
            continue;
        }
        if name.len() > NAME_MAX {
            return;
        }
        buffer[..name.len()].copy_from_slice(name);
        let Ok(name) = CStr::from_bytes_until_nul(&buffer) else {
            return;
        };
        let _ = fs::mkdirat(&folder, name, Mode::RWXU);
        match fs::openat(&folder, name, open_flags, Mode::empty()) {
            Ok(next) => folder = next,
            Err(_) => return,
        }
    }
}

/// What SIGUSR1 did when we looked.
pub(crate) enum Usr1Found {
    /// The default: it ends the process.
    Default,
    Ignored,
    /// Somebody has a handler.
    Handled,
}

/// # Safety
/// `sigaction` is libc's.
pub(crate) unsafe fn look_at_usr1(sigaction: SigactionFn) -> Option<Usr1Found> {
    // SAFETY: a zeroed record is a valid value of the C struct; the rest is the caller's promise.
    let (result, now) = unsafe {
        let mut now: SigAction = core::mem::zeroed();
        let result = sigaction(SIGUSR1, core::ptr::null(), &raw mut now);
        (result, now)
    };
    if result != 0 {
        return None;
    }
    Some(match now.sa_sigaction {
        libc::SIG_DFL => Usr1Found::Default,
        libc::SIG_IGN => Usr1Found::Ignored,
        _ => Usr1Found::Handled,
    })
}

/// Installs a handler for SIGUSR1; says if it is in place.
///
/// # Safety
/// `sigaction` is libc's; `handler` is async-signal-safe.
pub(crate) unsafe fn handle_usr1(sigaction: SigactionFn, handler: extern "C" fn(c_int)) -> bool {
    // SAFETY: a zeroed record is a valid value of the C struct, its mask empty; the rest is the
    // caller's promise.
    unsafe {
        let mut action: SigAction = core::mem::zeroed();
        action.sa_sigaction = handler as usize;
        // RESTART: the program must not see EINTR because of us. ONSTACK: it may run on stacks
        // that are too small for a handler, and have said so with sigaltstack(2).
        action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        sigaction(SIGUSR1, &raw const action, core::ptr::null_mut()) == 0
    }
}

/// Ends the process; for a broken promise of our own only.
pub(crate) fn abort() -> ! {
    // SAFETY: abort(3) takes nothing and doesn't return.
    unsafe { libc::abort() }
}

// The page plane. Further calls that go through libc: `syscall`, `clock_gettime`, `ioctl`,
// `mincore`.

pub(crate) const PROT_NONE: c_int = libc::PROT_NONE;
pub(crate) const PROT_EXEC: c_int = libc::PROT_EXEC;
pub(crate) const MAP_TYPE: c_int = libc::MAP_TYPE;
pub(crate) const MAP_PRIVATE: c_int = libc::MAP_PRIVATE;
pub(crate) const MAP_ANONYMOUS: c_int = libc::MAP_ANONYMOUS;
pub(crate) const MAP_FIXED: c_int = libc::MAP_FIXED;
pub(crate) const MAP_NORESERVE: c_int = libc::MAP_NORESERVE;
pub(crate) const MAP_STACK: c_int = libc::MAP_STACK;
pub(crate) const MAP_GROWSDOWN: c_int = libc::MAP_GROWSDOWN;
pub(crate) const MAP_HUGETLB: c_int = libc::MAP_HUGETLB;
pub(crate) const MREMAP_FIXED: c_int = libc::MREMAP_FIXED;
pub(crate) const MREMAP_DONTUNMAP: c_int = libc::MREMAP_DONTUNMAP;

/// # Safety
/// As of mmap(2).
pub(crate) unsafe fn mmap_as_libc(
    hint: *mut c_void,
    len: usize,
    protection: c_int,
    flags: c_int,
    file: c_int,
    offset: i64,
) -> *mut c_void {
    // SAFETY: the caller's promise; syscall(2) sets errno as the wrapper does.
    unsafe { libc::syscall(libc::SYS_mmap, hint, len, protection, flags, file, offset) as _ }
}

/// # Safety
/// As of munmap(2).
pub(crate) unsafe fn munmap_as_libc(start: *mut c_void, len: usize) -> c_int {
    // SAFETY: as in mmap_as_libc.
    unsafe { libc::syscall(libc::SYS_munmap, start, len) as c_int }
}

/// # Safety
/// As of mremap(2).
pub(crate) unsafe fn mremap_as_libc(
    old: *mut c_void,
    old_len: usize,
    new_len: usize,
    flags: c_int,
    new: *mut c_void,
) -> *mut c_void {
    // SAFETY: as in mmap_as_libc.
    unsafe { libc::syscall(libc::SYS_mremap, old, old_len, new_len, flags, new) as _ }
}

/// # Safety
/// As of madvise(2).
pub(crate) unsafe fn madvise_as_libc(start: *mut c_void, len: usize, advice: c_int) -> c_int {
    // SAFETY: as in mmap_as_libc.
    unsafe { libc::syscall(libc::SYS_madvise, start, len, advice) as c_int }
}

/// # Safety
/// As of mprotect(2).
pub(crate) unsafe fn mprotect_as_libc(start: *mut c_void, len: usize, protection: c_int) -> c_int {
    // SAFETY: as in mmap_as_libc.
    unsafe { libc::syscall(libc::SYS_mprotect, start, len, protection) as c_int }
}

/// Did the call that just failed fail for want of memory (or of mappings)?
pub(crate) fn failed_for_memory() -> bool {
    // SAFETY: __errno_location gives the thread's own errno.
    unsafe { *libc::__errno_location() == libc::ENOMEM }
}

fn clock(clock: libc::clockid_t) -> libc::timespec {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: clock_gettime(2) writes the record. These clocks are always there.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    now
}

/// Milliseconds of CLOCK_MONOTONIC_COARSE: some 5 ns, and good to a few milliseconds.
pub(crate) fn monotonic_ms() -> u64 {
    let now = clock(libc::CLOCK_MONOTONIC_COARSE);
    now.tv_sec as u64 * 1_000 + now.tv_nsec as u64 / 1_000_000
}

/// Microseconds of CLOCK_MONOTONIC.
pub(crate) fn precise_us() -> u64 {
    let now = clock(libc::CLOCK_MONOTONIC);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000
}

/// A word, 0 at first, that is 0 again in every process that gets a copy of our memory, however it
/// was made; one that shares our memory (vfork) sees our value. `None` if the kernel can't do it.
pub(crate) fn word_wiped_in_children() -> Option<&'static AtomicU32> {
    let len = page_len();
    // SAFETY: a new mapping at an address of the kernel's choice, never unmapped, of zeroes.
    unsafe {
        let page = mm::mmap_anonymous(
            core::ptr::null_mut(),
            len,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
        .ok()?;
        if mm::madvise(page, len, mm::Advice::LinuxWipeOnFork).is_err() {
            let _ = mm::munmap(page, len);
            return None;
        }
        Some(&*page.cast::<AtomicU32>())
    }
}

/// `struct page_region` and `struct pm_scan_arg` of linux/fs.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct ScannedRegion {
    start: u64,
    end: u64,
    categories: u64,
}

#[repr(C)]
struct ScanArguments {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `_IOWR('f', 16, struct pm_scan_arg)`, the same on x86-64 and aarch64.
const PAGEMAP_SCAN: u64 = 3 << 30 | (size_of::<ScanArguments>() as u64) << 16 | 0x66 << 8 | 16;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_PFNZERO: u64 = 1 << 5;

/// Ranges that one scan reports.
const SCANNED: usize = 256;
/// Present pages after which a scan stops, so that the time can be looked at: 128 MiB, about 0.5 ms.
const SCAN_PAGES: u64 = 32_768;
/// Pages that one mincore looks at; one byte each.
const MINCORE_PAGES: usize = 4_096;

/// Looks which pages of a range are resident. Ladder: the kernel's scan of the page table (Linux
/// 6.7, /proc), which passes over what was never touched, 128 GiB in some 30 us; else mincore(2),
/// which looks at every page (0.2 ms for a GiB of nothing); else nothing.
pub(crate) struct ResidentLook {
    regions: [ScannedRegion; SCANNED],
    pages: [u8; MINCORE_PAGES],
    no_scan: bool,
}

/// The file that is asked, open for one estimate: a descriptor that we kept could be closed, and
/// its number reused, by the program.
pub(crate) struct PageTable(Option<rustix::fd::OwnedFd>);

impl ResidentLook {
    pub(crate) const fn new() -> Self {
        Self {
            regions: [ScannedRegion {
                start: 0,
                end: 0,
                categories: 0,
            }; SCANNED],
            pages: [0; MINCORE_PAGES],
            no_scan: false,
        }
    }

    pub(crate) fn open(&mut self) -> PageTable {
        if self.no_scan {
            return PageTable(None);
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        PageTable(fs::open(c"/proc/self/pagemap", flags, Mode::empty()).ok())
    }

    /// Resident bytes from `start` on, and how far it came: at most to `end`, and not much farther
    /// than about half a millisecond. `None` if nobody can say, or the range is gone. Keeps errno.
    pub(crate) fn count(
        &mut self,
        table: &PageTable,
        start: usize,
        end: usize,
    ) -> Option<(usize, usize)> {
        let _errno = ErrnoKept::new();
        if let PageTable(Some(table)) = table
            && !self.no_scan
        {
            if let Some(counted) = self.scan(table, start, end) {
                return Some(counted);
            }
            self.no_scan = true;
        }
        self.ask_mincore(start, end)
    }

    fn scan(
        &mut self,
        table: &rustix::fd::OwnedFd,
        start: usize,
        end: usize,
    ) -> Option<(usize, usize)> {
        use rustix::fd::AsRawFd;
        // Present, and not merely read (the page of zeroes, which is nobody's memory).
        let mut arguments = ScanArguments {
            size: size_of::<ScanArguments>() as u64,
            flags: 0,
            start: start as u64,
            end: end as u64,
            walk_end: 0,
            vec: self.regions.as_mut_ptr() as u64,
            vec_len: SCANNED as u64,
            max_pages: SCAN_PAGES,
            category_inverted: PAGE_IS_PFNZERO,
            category_mask: PAGE_IS_PRESENT | PAGE_IS_PFNZERO,
            category_anyof_mask: 0,
            return_mask: PAGE_IS_PRESENT,
        };
        // SAFETY: the kernel writes the record and at most vec_len regions at vec.
        let count =
            unsafe { libc::ioctl(table.as_raw_fd(), PAGEMAP_SCAN as _, &raw mut arguments) };
        let found = self.regions.get(..usize::try_from(count).ok()?)?;
        let reached = arguments.walk_end as usize;
        if reached <= start || reached > end {
            return None;
        }
        // A scan that ends because its list is full may report pages behind its own end, which the
        // next one reports again.
        let within = |address: u64| (address as usize).clamp(start, reached);
        let bytes = found
            .iter()
            .map(|region| within(region.end) - within(region.start))
            .sum();
        Some((bytes, reached))
    }

    fn ask_mincore(&mut self, start: usize, end: usize) -> Option<(usize, usize)> {
        let page = page_len();
        let pages = ((end - start) / page).min(MINCORE_PAGES);
        // SAFETY: mincore(2) only looks, and writes a byte for each page.
        let result =
            unsafe { libc::mincore(start as *mut c_void, pages * page, self.pages.as_mut_ptr()) };
        if result != 0 || pages == 0 {
            return None;
        }
        let resident = self.pages[..pages]
            .iter()
            .filter(|&&byte| byte & 1 != 0)
            .count();
        Some((resident * page, start + pages * page))
    }
}
