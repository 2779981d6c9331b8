//! The client: which file it is, what kind of program, what a preload can reach in it.
