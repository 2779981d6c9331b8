//! The client: which file it is, what kind of program, what a preload can reach in it, what its
//! command line asks for.

pub mod args;
pub mod capabilities;
mod elf_file;
pub mod find;
pub mod guard_lib;
pub mod kind;
mod script;

pub(crate) use script::find_program;
