//! Every system call of the wrapper. Nothing outside this room calls `libc` or `rustix`, and
//! nothing outside it is `unsafe`. Errnos get their meaning here.

pub mod files;
pub mod kcmp;
pub mod proc;
pub mod psi;
