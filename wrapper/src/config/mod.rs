//! The vocabulary of variables: where each value comes from, and what is wrong with it.
