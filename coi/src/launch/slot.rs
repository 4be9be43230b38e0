//! Names: a workspace's containers differ by their slot.

use std::path::Path;

use sha2::{Digest, Sha256};

/// How many containers a workspace may have.
pub const SLOTS: u8 = 10;

/// The name of a workspace's container in this slot.
pub(super) fn name(workspace: &Path, slot: u8) -> String {
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt;
    let hash = Sha256::digest(workspace.as_os_str().as_bytes());
    let hex = hash.iter().take(4).fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    format!("coi-{hex}-{slot}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_change() {
        // printf %s /home/ann/app | sha256sum
        assert_eq!(name(Path::new("/home/ann/app"), 1), "coi-c6e422ae-1");
        assert_ne!(name(Path::new("/home/ann/app2"), 1), name(Path::new("/home/ann/app"), 1));
    }
}
