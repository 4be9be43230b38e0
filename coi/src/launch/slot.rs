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

/// The slot in a container's name, if it has one.
pub fn of_name(name: &str) -> Option<u8> {
    let (head, slot) = name.rsplit_once('-')?;
    let hash = head.strip_prefix("coi-")?;
    let is_ours = hash.len() == 8 && hash.bytes().all(|b| b.is_ascii_hexdigit());
    slot.parse().ok().filter(|slot| is_ours && (1..=SLOTS).contains(slot))
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

    #[test]
    fn a_slot_is_read_back() {
        for slot in 1..=SLOTS {
            assert_eq!(of_name(&name(Path::new("/home/ann/app"), slot)), Some(slot));
        }
        for other in ["web", "web-1", "coi-c6e422ae-0", "coi-c6e422ae-11", "coi-c6e422ae", "coi-x-1"] {
            assert_eq!(of_name(other), None, "{other}");
        }
    }
}
