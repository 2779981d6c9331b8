//! `claude-safectl`.
pub mod hook;

/// Being built.
pub fn run(_: &[std::ffi::OsString]) -> u8 {
    2
}
