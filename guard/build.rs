//! How the shared object is linked.

fn main() {
    // No crti/crtbegin: they bring `_init`, `_fini` and weak references to libgcc's and gmon's
    // registration functions, none of which a library without C code needs.
    println!("cargo:rustc-cdylib-link-arg=-nostartfiles");
    // A name of its own, so that tools which print NEEDED or SONAME agree with the file name.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libclaude_guard.so");
    // Cargo leaves `strip` out where a package has a profile of its own.
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,--strip-all");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
