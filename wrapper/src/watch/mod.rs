//! The process tree of a session, seen through /proc, and the verdict on it.
