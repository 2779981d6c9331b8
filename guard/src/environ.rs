//! Reads the environment, and takes our traces out of it where it lies: in the strings that
//! /proc/PID/environ shows, and in the array that the program, and whatever copies it, will read.
//!
//! Only for the constructor. Never moves a string that stays: others may have its address.

use core::{
    ffi::{CStr, c_char},
    slice,
};

use crate::os;

const PRELOAD: &[u8] = b"LD_PRELOAD";

/// Shows the value of a variable (the first of that name) to `read`.
pub(crate) fn with_value<R>(name: &[u8], read: impl FnOnce(&[u8]) -> R) -> Option<R> {
    let mut read = Some(read);
    let mut result = None;
    edit(name, |value| {
        if let Some(read) = read.take() {
            result = Some(read(value));
        }
        Edit::Keep
    });
    result
}

/// Takes a variable out.
pub(crate) fn remove(name: &[u8]) {
    edit(name, |_| Edit::Remove);
}

/// Takes the entries that `is_own` from `LD_PRELOAD`; without any other, the variable too.
pub(crate) fn remove_from_preload(mut is_own: impl FnMut(&[u8]) -> bool) {
    edit(PRELOAD, |value| match without_own(value, &mut is_own) {
        Some(len) => {
            value[len..].fill(0);
            Edit::Keep
        }
        None => Edit::Remove,
    });
}

enum Edit {
    /// Keep the variable (the value may have been shortened, by NULs at its end).
    Keep,
    Remove,
}

/// Offers the value of each variable of that name (there may be several) to `decide`.
fn edit(name: &[u8], mut decide: impl FnMut(&mut [u8]) -> Edit) {
    let mut from = os::environ();
    if from.is_null() {
        return;
    }
    let mut to = from;
    loop {
        // SAFETY: the array of environ(7): pointers to terminated strings, then a null. It and the
        // strings are the process's own and writable, and before main nobody else is at them.
        // `to` follows `from`, so the array is shifted within itself, its null included.
        let entry = unsafe { *from };
        if entry.is_null() {
            if to != from {
                // SAFETY: above.
                unsafe { *to = entry };
            }
            return;
        }
        let removed = match value_of(entry, name) {
            Some(value) => match decide(value) {
                Edit::Keep => false,
                Edit::Remove => {
                    value.fill(0);
                    // SAFETY: `entry` is `NAME=value`, of which the name's part is left.
                    unsafe { slice::from_raw_parts_mut(entry.cast::<u8>(), name.len() + 1) }
                        .fill(0);
                    true
                }
            },
            None => false,
        };
        // SAFETY: above; neither pointer is past the null.
        unsafe {
            if !removed {
                if to != from {
                    *to = entry;
                }
                to = to.add(1);
            }
            from = from.add(1);
        }
    }
}

/// The value in an entry `NAME=value` of that name.
fn value_of<'a>(entry: *mut c_char, name: &[u8]) -> Option<&'a mut [u8]> {
    // SAFETY: a terminated string of the environment.
    let len = unsafe { CStr::from_ptr(entry) }.count_bytes();
    // SAFETY: the same bytes; the slice is given up before the entry is looked at again.
    let bytes = unsafe { slice::from_raw_parts_mut(entry.cast::<u8>(), len) };
    if !bytes.starts_with(name) || bytes.get(name.len()) != Some(&b'=') {
        return None;
    }
    Some(&mut bytes[name.len() + 1..])
}

/// Takes own entries out of a preload list, each with one separator; all other bytes stay as they
/// are. Returns the new length; `None` if there was nothing but own entries.
///
/// `own:` leaves an empty list: the user had set the variable, to nothing.
fn without_own(list: &mut [u8], is_own: &mut dyn FnMut(&[u8]) -> bool) -> Option<usize> {
    let mut len = list.len();
    let mut start = 0;
    loop {
        let end = list[start..len]
            .iter()
            .position(|byte| matches!(byte, b' ' | b':'))
            .map_or(len, |at| start + at);
        if start == end || !is_own(&list[start..end]) {
            if end == len {
                return Some(len);
            }
            start = end + 1;
            continue;
        }
        if start == 0 && end == len {
            return None;
        }
        if end < len {
            list.copy_within(end + 1..len, start);
            len -= end + 1 - start;
        } else {
            return Some(start - 1);
        }
    }
}
