//! The key that signs checkpoints, and what exactly is signed.
//!
//! It promises that the key is made once on a machine, that only root can read it, and that its public half lies beside
//! it for everybody. Who can write the log and read the key can forge both: the key shows that a log, or a copy of it
//! anywhere, is what this machine's daemon wrote, to whoever trusts the public half.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use super::chain::{Hash, Link, hex, unhex};

/// A signing key.
pub struct Key(SigningKey);

/// The public half of one.
#[derive(Clone, Debug)]
pub struct PublicKey(VerifyingKey);

/// Where the key is.
pub fn private_path(state: &Path) -> PathBuf {
    state.join("checkpoint.key")
}

/// Where its public half is.
pub fn public_path(state: &Path) -> PathBuf {
    state.join("checkpoint.pub")
}

impl Key {
    /// The machine's own; made if there is none. A key that cannot be read is an error: a new one in its place would make
    /// all old checkpoints worthless.
    pub fn of_machine(state: &Path) -> io::Result<Self> {
        let path = private_path(state);
        let key = match File::open(&path) {
            Ok(mut file) => {
                let mut text = String::new();
                file.read_to_string(&mut text)?;
                let bytes = unhex(text.trim_end()).map_err(|error| {
                    io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("{} is no key: {error}", path.display()),
                    )
                })?;
                Self(SigningKey::from_bytes(&bytes))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::make(&path)?,
            Err(error) => return Err(error),
        };
        write_new(&public_path(state), &format!("{}\n", hex(key.0.verifying_key().as_bytes())), 0o644)?;
        Ok(key)
    }

    fn make(path: &Path) -> io::Result<Self> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        write_new(path, &format!("{}\n", hex(&bytes)), 0o600)?;
        Ok(Self(SigningKey::from_bytes(&bytes)))
    }

    /// How checkpoints name it: the hash of the public half.
    pub fn id(&self) -> Hash {
        Hash::of(self.0.verifying_key().as_bytes())
    }

    /// Signs.
    pub fn sign(&self, statement: &str) -> String {
        hex(&self.0.sign(statement.as_bytes()).to_bytes())
    }
}

impl PublicKey {
    /// Reads one.
    pub fn read(path: &Path) -> io::Result<Self> {
        let invalid = |error: String| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} is no public key: {error}", path.display()),
            )
        };
        let text = fs::read_to_string(path)?;
        let bytes = unhex(text.trim_end()).map_err(|error| invalid(error.to_string()))?;
        VerifyingKey::from_bytes(&bytes).map(Self).map_err(|error| invalid(error.to_string()))
    }

    /// How checkpoints name it.
    pub fn id(&self) -> Hash {
        Hash::of(self.0.as_bytes())
    }

    /// Is it the signature of this?
    pub fn has_signed(&self, statement: &str, signature: &str) -> bool {
        let signature = unhex(signature).map(|bytes| Signature::from_bytes(&bytes));
        signature.is_ok_and(|signature| self.0.verify_strict(statement.as_bytes(), &signature).is_ok())
    }
}

/// What a checkpoint's signature says: which log, which time, and up to which record.
pub fn statement(owner: u32, id: &str, time: &str, previous: Link) -> String {
    format!(
        "coi audit checkpoint\nowner {owner}\nid {id}\ntime {time}\nsequence {}\nhash {}\n",
        previous.sequence, previous.hash
    )
}

/// Writes a file that is then there whole or not at all.
fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    if fs::read_to_string(path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    let new = path.with_extension("new");
    // One that a crash has left.
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn it_is_made_once_and_only_its_owner_reads_it() {
        let state = tempfile::tempdir().unwrap();
        let key = Key::of_machine(state.path()).unwrap();
        let again = Key::of_machine(state.path()).unwrap();
        let public = PublicKey::read(&public_path(state.path())).unwrap();
        assert_eq!([key.id(), again.id()], [public.id(), public.id()]);
        let mode = fs::metadata(private_path(state.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let signature = key.sign("a");
        assert!(public.has_signed("a", &signature) && !public.has_signed("b", &signature));
        assert!(!public.has_signed("a", "") && !public.has_signed("a", &signature.replace('0', "1")));
    }

    #[test]
    fn a_damaged_key_is_not_replaced() {
        let state = tempfile::tempdir().unwrap();
        fs::write(private_path(state.path()), "damaged").unwrap();
        assert!(Key::of_machine(state.path()).is_err());
        assert_eq!(fs::read_to_string(private_path(state.path())).unwrap(), "damaged");
    }
}
