//! Harness of the tests of claude-safe: everything a test needs to start programs in a world of
//! their own and to look at them from outside. Never touches the real home, /tmp beyond its own
//! folders, or a process that it did not start.

pub mod artifacts;
pub mod clients;
pub mod mock;
pub mod netns;
pub mod proc_view;
pub mod pty;
pub mod sandbox;
pub mod wait;

pub use artifacts::{Artifacts, artifacts, program};
pub use clients::real_client;
pub use mock::{Mock, Scenario};
pub use netns::Isolated;
pub use pty::{Job, JobSetup, KillOnDrop, Modes, Pty};
pub use sandbox::Sandbox;
pub use wait::{poll_until, wait_until};
