//! Harness of the tests of claude-safe: everything a test needs to start programs in a world of
//! their own and to look at them from outside. Never touches the real home, /tmp beyond its own
//! folders, or a process that it did not start.

pub mod artifacts;
#[cfg(feature = "api")]
pub mod clients;
#[cfg(feature = "api")]
pub mod mock;
#[cfg(feature = "api")]
pub mod netns;
pub mod proc_view;
pub mod pty;
#[cfg(feature = "api")]
pub mod runtimes;
pub mod sandbox;
pub mod wait;

pub use artifacts::{Artifacts, artifacts, program};
#[cfg(feature = "api")]
pub use clients::real_client;
#[cfg(feature = "api")]
pub use mock::{Mock, Scenario};
#[cfg(feature = "api")]
pub use netns::Isolated;
pub use pty::{Job, JobSetup, KillOnDrop, Modes, Pty};
pub use sandbox::Sandbox;
pub use wait::{poll_until, wait_until};
