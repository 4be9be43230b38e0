//! Files on their way from the daemon to the process that writes them.
//!
//! A stream is any number of items, each a head and as many bytes as it announces, and then [`End`]. A stream that
//! breaks off has no end, and whoever reads it knows.

use std::io::{self, Read};

use super::MOST_BYTES;

/// The longest path.
const LONGEST_PATH: usize = 4096;

const END: u8 = 0;
const FILE: u8 = 1;
const DIRECTORY: u8 = 2;

/// The head of a file or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Where it lies, from the home on.
    pub path: Vec<u8>,
    /// `None` for a directory; else how many bytes follow, and when the file was last changed, in seconds since 1970.
    pub file: Option<(u64, u32)>,
}

/// The end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// How much was left out.
    pub left_out: u64,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// An item; its bytes follow.
    Item(Head),
    /// Nothing more.
    End(End),
}

impl Head {
    /// As it is sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (kind, size, modified) = match self.file {
            Some((size, modified)) => (FILE, size, modified),
            None => (DIRECTORY, 0, 0),
        };
        let mut bytes = vec![kind];
        bytes.extend(size.to_be_bytes());
        bytes.extend(modified.to_be_bytes());
        // Who sends makes no longer ones; who reads refuses them.
        bytes.extend((self.path.len() as u32).to_be_bytes());
        bytes.extend(&self.path);
        bytes
    }
}

impl End {
    /// As it is sent.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = vec![END];
        bytes.extend(self.left_out.to_be_bytes());
        bytes
    }
}

/// Whether a path is not too long to be sent.
pub fn fits(path: &[u8]) -> bool {
    path.len() <= LONGEST_PATH
}

/// Reads what comes next.
pub fn next(from: &mut impl Read) -> io::Result<Next> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let [kind] = array(from)?;
    let size = u64::from_be_bytes(array(from)?);
    if kind == END {
        return Ok(Next::End(End { left_out: size }));
    }
    let modified = u32::from_be_bytes(array(from)?);
    let length = u32::from_be_bytes(array(from)?) as usize;
    if length > LONGEST_PATH {
        return Err(wrong("a path is too long"));
    }
    let mut path = vec![0; length];
    from.read_exact(&mut path)?;
    match kind {
        FILE if size <= MOST_BYTES => Ok(Next::Item(Head { path, file: Some((size, modified)) })),
        DIRECTORY => Ok(Next::Item(Head { path, file: None })),
        _ => Err(wrong("a file is too long, or none")),
    }
}

fn array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_sent_is_read(
            path in proptest::collection::vec(any::<u8>(), 0..300),
            file in proptest::option::of((0..=MOST_BYTES, any::<u32>())),
            left_out: u64,
        ) {
            let head = Head { path, file };
            let bytes = [head.to_bytes(), End { left_out }.to_bytes()].concat();
            let mut from = &bytes[..];
            prop_assert_eq!(next(&mut from).unwrap(), Next::Item(head));
            prop_assert_eq!(next(&mut from).unwrap(), Next::End(End { left_out }));
            prop_assert!(next(&mut from).is_err(), "a stream without an end");
        }

        #[test]
        fn any_bytes_are_something_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = next(&mut &bytes[..]);
        }
    }
}
