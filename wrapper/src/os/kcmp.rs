//! Do two processes share one address space? kcmp(2).
