//! The processes of one session from look to look.
