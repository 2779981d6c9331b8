//! Every system call of the wrapper. Nothing outside this room calls `libc` or `rustix`, and
//! nothing outside it is `unsafe`. Errnos get their meaning here.

pub mod aside;
pub mod clock;
pub mod fd;
pub mod files;
pub mod folder;
pub mod kcmp;
pub mod marker;
pub mod memory;
#[cfg(test)]
pub(crate) mod page_bytes;
pub mod private;
pub mod proc;
pub mod process;
pub mod psi;
pub mod signals;
pub mod slow_write;
pub mod terminal;
pub mod wait;
