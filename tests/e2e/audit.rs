//! The audit log: complete, in order, found out when changed.

#![expect(clippy::unwrap_used, reason = "what fails here is a test")]
