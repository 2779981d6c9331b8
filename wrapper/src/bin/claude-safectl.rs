//! `claude-safectl`: the same program under its second name (a package installs a link).
#![no_main]

/// The C library's entry.
#[unsafe(no_mangle)]
extern "C" fn main(argc: i32, argv: *const *const core::ffi::c_char) -> i32 {
    // SAFETY: argc and argv are what the C library passes to main.
    let arguments = unsafe { claude_safe::os::process::arguments(argc, argv) };
    i32::from(claude_safe::control(&arguments))
}
