//! `claude-safe`, and `claude-safectl` where the file has that name: see the library.
//!
//! Without `std`'s own start-up, which ignores SIGPIPE and opens closed standard descriptors: the
//! client must find both as our parent left them.
#![no_main]

/// The C library's entry.
#[unsafe(no_mangle)]
extern "C" fn main(argc: i32, argv: *const *const core::ffi::c_char) -> i32 {
    // SAFETY: argc and argv are what the C library passes to main.
    let arguments = unsafe { claude_safe::os::process::arguments(argc, argv) };
    i32::from(claude_safe::main(&arguments))
}
