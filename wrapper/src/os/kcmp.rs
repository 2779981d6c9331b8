//! Do two processes share one address space? kcmp(2), by raw number: no libc wraps it.
//! Asks only. Never decides what follows from "the kernel would not say".
//!
//! # Safety
//!
//! One raw system call with integers only; the kernel gets no address of ours.

#![allow(unsafe_code)]

/// `KCMP_VM` of `<linux/kcmp.h>`.
const KCMP_VM: libc::c_int = 1;

/// Whether `a` and `b` run in one address space (`vfork`, `posix_spawn` in flight, `CLONE_VM`).
///
/// `None`: the kernel has no kcmp, a seccomp filter forbids it, this process may not look into
/// one of the two (ptrace rules), or one of them is gone (kcmp(2), ERRORS).
#[must_use]
pub fn same_address_space(a: i32, b: i32) -> Option<bool> {
    // SAFETY: kcmp takes five integers, and for KCMP_VM reads neither of the last two.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, a, b, KCMP_VM, 0_usize, 0_usize) };
    match order {
        0 => Some(true),
        // 1, 2, 3: less, greater, unequal without an order.
        1..=3 => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_shares_its_address_space_with_itself_only() {
        let me = std::process::id() as i32;
        // Some sandboxes forbid kcmp: then the answer must be None for both, never a guess.
        let with_self = same_address_space(me, me);
        assert_ne!(with_self, Some(false));
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let with_child = same_address_space(me, child.id() as i32);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(with_child, with_self.map(|_| false));
    }

    #[test]
    fn a_pid_that_cannot_exist_is_unknown() {
        assert_eq!(
            same_address_space(std::process::id() as i32, i32::MAX),
            None
        );
    }
}
