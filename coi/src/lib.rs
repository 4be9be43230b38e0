//! COI.
