//! A file's content is read.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::ptr;

use crate::Route;
use crate::report::{Report, file};
use crate::sys::Entry::{Int80, Native};
use crate::sys::{Result, call, errno, low};
use crate::uring::{self, Request, opcode};

const READ_32: i64 = 3;
const MMAP_32: i64 = 90;
const READV_32: i64 = 145;
const PREAD64_32: i64 = 180;
const SENDFILE64_32: i64 = 239;

/// An odd size, so that the sum is recognised; less than any pipe or socket holds.
const SIZE: usize = 50_021;

pub(crate) const ROUTES: &[Route] = &[
    ("read", |name| buffered(name, |file, to| call!(Native, libc::SYS_read, file, to, SIZE))),
    ("pread64", |name| buffered(name, |file, to| call!(Native, libc::SYS_pread64, file, to, SIZE, 0))),
    ("readv", |name| buffered(name, |file, to| call!(Native, libc::SYS_readv, file, vector(to), 1))),
    ("preadv", |name| buffered(name, |file, to| call!(Native, libc::SYS_preadv, file, vector(to), 1, 0, 0))),
    ("preadv2", |name| {
        buffered(name, |file, to| call!(Native, libc::SYS_preadv2, file, vector(to), 1, 0, 0, 0))
    }),
    ("read-int80", |name| buffered(name, |file, to| call!(Int80, READ_32, file, to, SIZE))),
    ("pread64-int80", |name| buffered(name, |file, to| call!(Int80, PREAD64_32, file, to, SIZE, 0, 0))),
    ("readv-int80", |name| {
        buffered(name, |file, to| {
            let vector = low::place([to as u32, SIZE as u32]);
            call!(Int80, READV_32, file, &raw const *vector, 1)
        })
    }),
    ("read-io-uring", |name| {
        buffered(name, |file, to| {
            uring::once(Request {
                opcode: opcode::READ,
                fd: file,
                address: to,
                len: SIZE as u32,
                ..Request::default()
            })
        })
    }),
    ("readv-io-uring", |name| {
        buffered(name, |file, to| {
            uring::once(Request {
                opcode: opcode::READV,
                fd: file,
                address: vector(to),
                len: 1,
                ..Request::default()
            })
        })
    }),
    // The file becomes memory; nothing of it is looked at yet.
    ("mmap", |name| act(name, |file| map(file).map(|_| SIZE as u64))),
    ("mmap-int80", |name| {
        act(name, |file| {
            // `struct mmap_arg_struct`: the call takes more than five arguments this way.
            let arguments =
                [0, SIZE as u32, libc::PROT_READ as u32, libc::MAP_PRIVATE as u32, file as u32, 0];
            call!(Int80, MMAP_32, &raw const *low::place(arguments)).map(|_| SIZE as u64)
        })
    }),
    // And then all of it is.
    ("mmap-read", |name| {
        act(name, |file| {
            let address = map(file)?;
            // SAFETY: it was mapped with this size, and nobody changes the file.
            let bytes = unsafe { std::slice::from_raw_parts(address as *const u8, SIZE) };
            assert!(bytes.iter().all(|byte| *byte == b'x'));
            Ok(SIZE as u64)
        })
    }),
    ("sendfile", |name| act(name, |file| call!(Native, libc::SYS_sendfile, sink(), file, 0, SIZE))),
    ("sendfile-int80", |name| act(name, |file| call!(Int80, SENDFILE64_32, sink(), file, 0, SIZE))),
    ("splice", |name| act(name, |file| call!(Native, libc::SYS_splice, file, 0, pipe(), 0, SIZE, 0))),
    ("splice-io-uring", |name| {
        act(name, |file| {
            uring::once(Request {
                opcode: opcode::SPLICE,
                fd: pipe(),
                splice_fd: file,
                // No offsets: where the files stand.
                offset: u64::MAX,
                address: u64::MAX,
                len: SIZE as u32,
                ..Request::default()
            })
        })
    }),
    ("copy-file-range", |name| {
        act(name, |file| {
            let copy = File::create(format!("copy-of-{name}")).unwrap();
            call!(Native, libc::SYS_copy_file_range, file, 0, copy.as_raw_fd(), 0, SIZE, 0)
        })
    }),
];

fn act(name: &str, read: impl FnOnce(i32) -> Result) -> Report {
    let path = file(name, &[b'x'; SIZE]);
    let file = File::open(&path).unwrap();
    let result = read(file.as_raw_fd());
    if let Ok(bytes) = result {
        assert_eq!(bytes, SIZE as u64, "part of the file was read");
    }
    Report::of(result).path(&path).number("bytes", SIZE as u64)
}

fn buffered(name: &str, read: impl FnOnce(i32, u64) -> Result) -> Report {
    act(name, |file| read(file, low::bytes(&[0; SIZE]).as_ptr() as u64))
}

/// `struct iovec`.
fn vector(to: u64) -> u64 {
    &raw const *low::place(libc::iovec { iov_base: to as *mut _, iov_len: SIZE }) as u64
}

fn map(file: i32) -> Result {
    // SAFETY: new memory, at an address of the kernel's choice.
    let address = unsafe { libc::mmap(ptr::null_mut(), SIZE, libc::PROT_READ, libc::MAP_PRIVATE, file, 0) };
    if address == libc::MAP_FAILED { Err(errno(&io::Error::last_os_error())) } else { Ok(address as u64) }
}

/// Something that takes what is sent and that nobody reads.
fn sink() -> i32 {
    let (near, far) = UnixStream::pair().unwrap();
    // The far end has to stay open.
    let _ = far.into_raw_fd();
    near.into_raw_fd()
}

/// The same as a pipe.
fn pipe() -> i32 {
    let (reader, writer) = io::pipe().unwrap();
    let _ = reader.into_raw_fd();
    writer.into_raw_fd()
}
