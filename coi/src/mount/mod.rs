//! Mounts in other processes' mount namespaces: a workspace in which what is protected can only be read.
//!
//! It promises:
//! - a path is looked up once, part by part below a directory that is open, and no symbolic link is followed;
//! - what is read-only afterwards is the very file that was looked at, and so is each directory above it: a directory
//!   that is a mount of its own cannot be renamed away by whoever shares the namespace;
//! - nothing is made in the workspace: what is not there is not held, and [`heed`] tells when it comes.
//!
//! It knows nothing of Incus, of containers or of the daemon.

pub mod call;
pub mod heed;
pub mod inside;
pub mod namespace;
pub mod path;
pub mod table;
pub mod tree;

pub use path::Inner;
pub use tree::{Entry, How, TreeError};
