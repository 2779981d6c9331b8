//! Harness of the tests of claude-safe: everything a test needs to start programs in a world of
//! their own and to look at them from outside. Never touches the real home, /tmp beyond its own
//! folders, or a process that it did not start.

pub mod mock;
pub mod netns;
