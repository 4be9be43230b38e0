//! The files of an instance, running or not: as much of SFTP (version 3) as reading and writing them takes.
//!
//! It promises that every step has a deadline and that no answer makes it hold more than a packet. What an instance
//! holds is hostile: names are bytes and may be any, and what is not a plain file or a directory says so in
//! [`Entry::kind`]. Incus confines the lookup of paths to the instance. Links on the way are followed there, by the
//! instance's root; whoever lists a directory and opens what is a file in it follows none in a stopped one.
//!
//! A crate that speaks SFTP would refuse a whole directory for one name that is not UTF-8.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::client::Client;
use super::{Error, Result};
use crate::http::segment;

/// How long one question may take: the first has Incus mount the instance's volume.
const STEP: Duration = Duration::from_secs(20);
/// The longest packet that is read; servers of this protocol stay below.
const LONGEST: usize = 300 << 10;
/// How much of a file is asked for, and sent, at once: every server takes so much.
const CHUNK: usize = 32 << 10;
/// The longest head of Incus's answer.
const HEAD: usize = 16 << 10;

const WHAT: &str = "read and write the instance's files";

// Packets, as the protocol numbers them.
const INIT: u8 = 1;
const VERSION: u8 = 2;
const OPEN: u8 = 3;
const CLOSE: u8 = 4;
const READ: u8 = 5;
const WRITE: u8 = 6;
const LSTAT: u8 = 7;
const SETSTAT: u8 = 9;
const OPENDIR: u8 = 11;
const READDIR: u8 = 12;
const MKDIR: u8 = 14;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;

const STATUS_OK: u32 = 0;
const STATUS_EOF: u32 = 1;
const STATUS_NO_SUCH_FILE: u32 = 2;

const ATTR_SIZE: u32 = 1;
const ATTR_OWNER: u32 = 2;
const ATTR_MODE: u32 = 4;
const ATTR_TIMES: u32 = 8;
const ATTR_EXTENDED: u32 = 0x8000_0000;

const READING: u32 = 1;
/// Write, create, truncate.
const WRITING: u32 = 2 | 8 | 16;

/// A connection to the files of one instance.
#[derive(Debug)]
pub struct Files {
    stream: UnixStream,
    next: u32,
}

/// What lies at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A plain file.
    File,
    /// A directory.
    Directory,
    /// A link, a pipe, a device: nothing that is opened.
    Other,
}

/// What is known of a file without opening it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// What it is.
    pub kind: FileKind,
    /// Its length in bytes.
    pub size: u64,
    /// When it was last changed, in seconds since 1970.
    pub modified: u32,
}

/// Something in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name there.
    pub name: Vec<u8>,
    /// What it is.
    pub attributes: Attributes,
}

/// Whose a file is that is written, and who may read it.
#[derive(Clone, Copy, Debug)]
pub struct Ownership {
    /// Its owner in the instance.
    pub uid: u32,
    /// Its group there.
    pub gid: u32,
    /// Its permissions.
    pub mode: u32,
}

/// A file that is open.
#[derive(Debug)]
pub struct Handle(Vec<u8>);

impl Client {
    /// Connects to an instance's files. Incus lets go of the instance's volume some seconds after the last connection.
    pub async fn files(&self, name: &str) -> Result<Files> {
        let stream = self.upgrade(&format!("/1.0/instances/{}/sftp", segment(name)), "sftp").await?;
        let mut files = Files { stream, next: 0 };
        let mut hello = vec![INIT];
        hello.extend(3_u32.to_be_bytes());
        files.send(&hello).await?;
        match files.receive().await?.first() {
            Some(&VERSION) => Ok(files),
            _ => Err(broken("Incus speaks no SFTP there")),
        }
    }

    /// A connection that speaks another protocol from here on.
    async fn upgrade(&self, target: &str, protocol: &str) -> Result<UnixStream> {
        let mut stream = self.connect(STEP).await?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: incus\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n",
            self.address(target)
        );
        let answer = timeout(STEP, async {
            stream.write_all(request.as_bytes()).await?;
            let mut head = Vec::new();
            // Byte by byte: what follows the head is the other protocol's.
            while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD {
                head.push(stream.read_u8().await?);
            }
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&head).into_owned())
        });
        let head = answer.await.map_err(|_| late())?.map_err(|e| broken(&e.to_string()))?;
        let status = head.split(' ').nth(1).unwrap_or_default();
        match status {
            "101" => Ok(stream),
            "404" => Err(Error::NotFound { what: format!("files at {target}") }),
            _ => Err(Error::Refused {
                what: WHAT.to_owned(),
                why: head.lines().next().unwrap_or_default().to_owned(),
            }),
        }
    }
}

impl Files {
    /// What lies at a path; `None` if nothing does.
    pub async fn look(&mut self, path: &[u8]) -> Result<Option<Attributes>> {
        let answer = self.ask(LSTAT, |body| put_text(body, path)).await?;
        let mut reader = Reader(&answer);
        match reader.u8()? {
            ATTRS => Ok(Some(reader.attributes()?)),
            STATUS => reader.status_or_missing(path),
            _ => Err(nonsense()),
        }
    }

    /// What is in a directory, without `.` and `..`; at most so many entries, and whether there are more.
    pub async fn list(&mut self, path: &[u8], most: usize) -> Result<(Vec<Entry>, bool)> {
        let answer = self.ask(OPENDIR, |body| put_text(body, path)).await?;
        let handle = handle(&answer, path)?;
        let mut entries = Vec::new();
        let more = loop {
            let answer = self.ask(READDIR, |body| put_text(body, &handle.0)).await?;
            let mut reader = Reader(&answer);
            match reader.u8()? {
                NAME => {}
                STATUS if reader.u32()? == STATUS_EOF => break false,
                _ => return Err(nonsense()),
            }
            for _ in 0..reader.u32()? {
                let name = reader.text()?.to_vec();
                // The same in the form of `ls -l`, for people.
                reader.text()?;
                let attributes = reader.attributes()?;
                if name != b"." && name != b".." {
                    entries.push(Entry { name, attributes });
                }
            }
            if entries.len() > most {
                entries.truncate(most);
                break true;
            }
        };
        self.close(handle).await?;
        Ok((entries, more))
    }

    /// Opens a file to be read.
    pub async fn open(&mut self, path: &[u8]) -> Result<Handle> {
        self.open_for(path, READING, None).await
    }

    /// Reads some of a file; nothing at its end.
    pub async fn read(&mut self, handle: &Handle, at: u64) -> Result<Vec<u8>> {
        let answer = self
            .ask(READ, |body| {
                put_text(body, &handle.0);
                body.extend(at.to_be_bytes());
                body.extend((CHUNK as u32).to_be_bytes());
            })
            .await?;
        let mut reader = Reader(&answer);
        match reader.u8()? {
            DATA => Ok(reader.text()?.to_vec()),
            STATUS if reader.u32()? == STATUS_EOF => Ok(Vec::new()),
            _ => Err(nonsense()),
        }
    }

    /// Lets go of a file.
    pub async fn close(&mut self, handle: Handle) -> Result<()> {
        let answer = self.ask(CLOSE, |body| put_text(body, &handle.0)).await?;
        done(&answer, b"a file")
    }

    /// Makes a directory, if there is none.
    pub async fn make_directory(&mut self, path: &[u8], owner: Ownership) -> Result<()> {
        if self.look(path).await?.is_some() {
            return Ok(());
        }
        let answer = self
            .ask(MKDIR, |body| {
                put_text(body, path);
                put_ownership(body, owner);
            })
            .await?;
        done(&answer, path)?;
        self.own(path, owner, None).await
    }

    /// Writes a file, in the place of what may be there.
    pub async fn write(
        &mut self,
        path: &[u8],
        owner: Ownership,
        modified: Option<u32>,
        content: &[u8],
    ) -> Result<()> {
        // Nobody else reads what is being written.
        let handle = self.open_for(path, WRITING, Some(Ownership { mode: 0o600, ..owner })).await?;
        for (number, chunk) in content.chunks(CHUNK).enumerate() {
            let answer = self
                .ask(WRITE, |body| {
                    put_text(body, &handle.0);
                    body.extend(((number * CHUNK) as u64).to_be_bytes());
                    put_text(body, chunk);
                })
                .await?;
            done(&answer, path)?;
        }
        self.close(handle).await?;
        self.own(path, owner, modified).await
    }

    async fn own(&mut self, path: &[u8], owner: Ownership, modified: Option<u32>) -> Result<()> {
        // One at a time: Incus's server reads the numbers in another order than the protocol has them in, and would take
        // an owner for a mode. The mode comes last, since a change of owner takes bits of it away.
        self.set(path, &[ATTR_OWNER, owner.uid, owner.gid]).await?;
        self.set(path, &[ATTR_MODE, owner.mode]).await?;
        match modified {
            Some(modified) => self.set(path, &[ATTR_TIMES, modified, modified]).await,
            None => Ok(()),
        }
    }

    /// Sets one attribute: what it is, and its numbers.
    async fn set(&mut self, path: &[u8], attribute: &[u32]) -> Result<()> {
        let answer = self
            .ask(SETSTAT, |body| {
                put_text(body, path);
                attribute.iter().for_each(|number| body.extend(number.to_be_bytes()));
            })
            .await?;
        done(&answer, path)
    }

    async fn open_for(&mut self, path: &[u8], how: u32, owner: Option<Ownership>) -> Result<Handle> {
        let answer = self
            .ask(OPEN, |body| {
                put_text(body, path);
                body.extend(how.to_be_bytes());
                match owner {
                    Some(owner) => put_ownership(body, owner),
                    None => body.extend(0_u32.to_be_bytes()),
                }
            })
            .await?;
        handle(&answer, path)
    }

    /// Sends a question and reads its answer, from its kind on.
    async fn ask(&mut self, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) -> Result<Vec<u8>> {
        self.next = self.next.wrapping_add(1);
        let mut packet = vec![kind];
        packet.extend(self.next.to_be_bytes());
        fill(&mut packet);
        self.send(&packet).await?;
        let mut answer = self.receive().await?;
        if answer.len() < 5 || answer[1..5] != self.next.to_be_bytes() {
            return Err(nonsense());
        }
        answer.drain(1..5);
        Ok(answer)
    }

    async fn send(&mut self, packet: &[u8]) -> Result<()> {
        let length = u32::try_from(packet.len()).map_err(|_| nonsense())?;
        let whole = [&length.to_be_bytes()[..], packet].concat();
        let sent = timeout(STEP, self.stream.write_all(&whole)).await.map_err(|_| late())?;
        sent.map_err(|e| broken(&e.to_string()))
    }

    async fn receive(&mut self) -> Result<Vec<u8>> {
        let packet = timeout(STEP, async {
            let length = self.stream.read_u32().await? as usize;
            if length > LONGEST {
                return Err(std::io::Error::other("a packet is too long"));
            }
            let mut packet = vec![0; length];
            self.stream.read_exact(&mut packet).await?;
            Ok(packet)
        });
        packet.await.map_err(|_| late())?.map_err(|e| broken(&e.to_string()))
    }
}

fn put_text(body: &mut Vec<u8>, text: &[u8]) {
    // Nothing that is sent is longer than a chunk.
    body.extend((text.len() as u32).to_be_bytes());
    body.extend(text);
}

fn put_ownership(body: &mut Vec<u8>, owner: Ownership) {
    body.extend(ATTR_MODE.to_be_bytes());
    body.extend(owner.mode.to_be_bytes());
}

fn handle(answer: &[u8], path: &[u8]) -> Result<Handle> {
    let mut reader = Reader(answer);
    match reader.u8()? {
        HANDLE => Ok(Handle(reader.text()?.to_vec())),
        STATUS => reader.status_or_missing(path)?.ok_or_else(|| missing(path)),
        _ => Err(nonsense()),
    }
}

fn done(answer: &[u8], path: &[u8]) -> Result<()> {
    let mut reader = Reader(answer);
    match reader.u8()? {
        STATUS => match reader.u32()? {
            STATUS_OK => Ok(()),
            STATUS_NO_SUCH_FILE => Err(missing(path)),
            _ => Err(reader.refused(path)),
        },
        _ => Err(nonsense()),
    }
}

fn missing(path: &[u8]) -> Error {
    Error::NotFound { what: format!("file {}", String::from_utf8_lossy(path)) }
}

fn broken(why: &str) -> Error {
    Error::Broken { what: WHAT.to_owned(), why: why.to_owned() }
}

fn nonsense() -> Error {
    broken("an answer is not what SFTP says")
}

fn late() -> Error {
    Error::Unfinished { what: WHAT.to_owned(), within: STEP }
}

/// What is left of an answer.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(nonsense)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Result<u32> {
        self.take(4)?.try_into().map(u32::from_be_bytes).map_err(|_| nonsense())
    }

    fn u64(&mut self) -> Result<u64> {
        self.take(8)?.try_into().map(u64::from_be_bytes).map_err(|_| nonsense())
    }

    fn text(&mut self) -> Result<&'a [u8]> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    fn attributes(&mut self) -> Result<Attributes> {
        let flags = self.u32()?;
        let has = |flag| flags & flag != 0;
        let size = if has(ATTR_SIZE) { self.u64()? } else { 0 };
        if has(ATTR_OWNER) {
            self.take(8)?;
        }
        let mode = if has(ATTR_MODE) { self.u32()? } else { 0 };
        let mut modified = 0;
        if has(ATTR_TIMES) {
            self.u32()?;
            modified = self.u32()?;
        }
        if has(ATTR_EXTENDED) {
            for _ in 0..self.u32()? {
                self.text()?;
                self.text()?;
            }
        }
        let kind = match mode & nix::libc::S_IFMT {
            nix::libc::S_IFREG => FileKind::File,
            nix::libc::S_IFDIR => FileKind::Directory,
            _ => FileKind::Other,
        };
        Ok(Attributes { kind, size, modified })
    }

    /// Of a status: nothing, if it says that nothing is there; else an error.
    fn status_or_missing<T>(&mut self, path: &[u8]) -> Result<Option<T>> {
        match self.u32()? {
            STATUS_NO_SUCH_FILE => Ok(None),
            _ => Err(self.refused(path)),
        }
    }

    fn refused(&mut self, path: &[u8]) -> Error {
        let why = self.text().unwrap_or_default();
        let what = format!("open {} in the instance", String::from_utf8_lossy(path));
        Error::Refused { what, why: String::from_utf8_lossy(why).into_owned() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attributes(mode: u32) -> Vec<u8> {
        let flags = ATTR_SIZE | ATTR_OWNER | ATTR_MODE | ATTR_TIMES;
        let mut bytes = flags.to_be_bytes().to_vec();
        bytes.extend(7_u64.to_be_bytes());
        for number in [1000, 1000, mode, 11, 12] {
            bytes.extend(u32::to_be_bytes(number));
        }
        bytes
    }

    #[test]
    fn what_a_file_is() {
        for (mode, kind) in [
            (0o100_644, FileKind::File),
            (0o040_755, FileKind::Directory),
            (0o120_777, FileKind::Other),
            (0o010_600, FileKind::Other),
            (0o644, FileKind::Other),
        ] {
            let read = Reader(&attributes(mode)).attributes().unwrap();
            assert_eq!(read, Attributes { kind, size: 7, modified: 12 });
        }
    }

    #[test]
    fn what_is_not_there_is_told_from_what_is_refused() {
        let status = |code: u32| [&[STATUS][..], &code.to_be_bytes(), &[0, 0, 0, 2], b"no"].concat();
        assert!(matches!(handle(&status(STATUS_NO_SUCH_FILE), b"/x"), Err(Error::NotFound { .. })));
        assert!(matches!(handle(&status(3), b"/x"), Err(Error::Refused { why, .. }) if why == "no"));
        assert!(done(&status(STATUS_OK), b"/x").is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Reader(&bytes).attributes();
            let _ = handle(&bytes, b"/x");
            let _ = done(&bytes, b"/x");
        }
    }
}
