//! Files: opened, examined and compared without following surprises.
