//! A small fixed area for the one case in which the next allocator isn't there: malloc entered by
//! the very thread that is looking it up (a resolver function that allocates). Owns that area.
//! What it gives away never comes back; it never touches the heap.

use core::{
    cell::UnsafeCell,
    ffi::c_void,
    ptr::{null_mut, slice_from_raw_parts},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

const AREA_LEN: usize = 4096;
/// Room before each object, and the alignment of all objects: first its size, then a zero, where a
/// chunk of glibc's has its length.
const HEADER_LEN: usize = 16;

#[repr(C, align(16))]
struct Area {
    bytes: UnsafeCell<[u8; AREA_LEN]>,
    used: AtomicUsize,
}

// SAFETY: `used` hands every byte out once; the bytes belong to whoever got them.
unsafe impl Sync for Area {}

static AREA: Area = Area {
    bytes: UnsafeCell::new([0; AREA_LEN]),
    used: AtomicUsize::new(0),
};

/// `size` zeroed bytes at a multiple of `align` (a power of two); null when the area is used up.
pub(crate) fn allocate(size: usize, align: usize) -> *mut c_void {
    let start = AREA.bytes.get() as usize;
    let place = |used: usize| -> Option<(usize, usize)> {
        let object = (start + used)
            .checked_add(HEADER_LEN)?
            .checked_next_multiple_of(align.max(HEADER_LEN))?
            - start;
        let end = object
            .checked_add(size)?
            .checked_next_multiple_of(HEADER_LEN)?;
        (end <= AREA_LEN).then_some((object, end))
    };
    let before = AREA
        .used
        .fetch_update(Relaxed, Relaxed, |used| Some(place(used)?.1));
    let Some((object, _)) = before.ok().and_then(place) else {
        return null_mut();
    };
    // SAFETY: object - HEADER_LEN .. object + size lies in the area (place) and was handed out to
    // this call alone (fetch_update). Aligned to 16.
    unsafe {
        let object = AREA.bytes.get().cast::<u8>().add(object);
        object.sub(HEADER_LEN).cast::<usize>().write(size);
        object.cast()
    }
}

/// Was anything ever given away?
pub(crate) fn is_used() -> bool {
    AREA.used.load(Relaxed) != 0
}

/// Does the object come from here?
#[inline(always)]
pub(crate) fn owns(object: *mut c_void) -> bool {
    (object as usize).wrapping_sub(AREA.bytes.get() as usize) < AREA_LEN
}

/// The bytes of an object that [`owns`] says is ours.
pub(crate) fn contents(object: *mut c_void) -> *const [u8] {
    // SAFETY: allocate wrote the size there.
    let size = unsafe { object.cast::<u8>().sub(HEADER_LEN).cast::<usize>().read() };
    slice_from_raw_parts(object.cast(), size)
}
