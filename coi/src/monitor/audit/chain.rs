//! The hash chain.
//!
//! Each record carries the SHA-256 of the line before it, without that line's end: the canonical form of a record is the
//! very bytes of its line, so that `head -n 1 FILE | tr -d '\n' | sha256sum` is all it takes to check a link. The first
//! record carries a hash of the log's own name instead, so that one log cannot be passed off as another.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Hash([u8; 32]);

impl Hash {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl From<Sha256> for Hash {
    fn from(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = NotHex;

    fn from_str(text: &str) -> Result<Self, NotHex> {
        unhex(text).map(Self)
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hash.to_string()
    }
}

impl TryFrom<String> for Hash {
    type Error = NotHex;

    fn try_from(text: String) -> Result<Self, NotHex> {
        text.parse()
    }
}

/// It is not so many bytes in lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the expected number of lower-case hexadecimal digits")]
pub struct NotHex;

/// Bytes in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The reverse of [`hex`], of exactly so many bytes.
pub fn unhex<const N: usize>(text: &str) -> Result<[u8; N], NotHex> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return Err(NotHex);
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(NotHex),
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Ok(bytes)
}

/// A place in a chain: a record's number, and the hash of its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its `event.sequence`; 0 before the first record.
    pub sequence: u64,
    /// The hash of its line.
    pub hash: Hash,
}

impl Link {
    /// Before the first record of a log.
    pub fn genesis(owner: u32, id: &str) -> Self {
        Self { sequence: 0, hash: Hash::of(format!("coi audit log\n{owner}\n{id}\n").as_bytes()) }
    }

    /// A record's, by its line without the end.
    pub fn of(sequence: u64, line: &[u8]) -> Self {
        Self { sequence, hash: Hash::of(line) }
    }

    /// The next record's number.
    pub const fn next(self) -> u64 {
        self.sequence + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_sha256sum() {
        let hash = Hash::of(b"abc");
        assert_eq!(hash.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        for wrong in ["", "ba", &hash.to_string().to_uppercase(), &"\u{e4}".repeat(32)] {
            assert_eq!(wrong.parse::<Hash>(), Err(NotHex));
        }
    }

    #[test]
    fn logs_begin_differently() {
        let genesis = Link::genesis(1000, "u1");
        assert_eq!(genesis.next(), 1);
        for other in [Link::genesis(1001, "u1"), Link::genesis(1000, "u2"), Link::genesis(100, "0\nu1")] {
            assert_ne!(genesis.hash, other.hash);
        }
    }
}
