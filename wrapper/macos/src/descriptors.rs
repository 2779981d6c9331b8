//! Files of the wrapper, which are tested with it.
// Linux uses more of them.
#![allow(dead_code)]

#[path = "../../src/descriptors/judgement.rs"]
pub(crate) mod judgement;
#[path = "../../src/descriptors/macos.rs"]
pub(crate) mod macos;
#[path = "../../src/descriptors/table.rs"]
pub(crate) mod table;
