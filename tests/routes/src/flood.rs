//! One act again and again, until standard input ends.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use crate::exec::{PROGRAM, execve};
use crate::net::{raw, udp};
use crate::sys::Entry::Native;
use crate::sys::{self, Result, call, low};

/// How often it is done before it is looked whether to go on.
const BATCH: u64 = 64;
/// A file that rules look at.
const FILE: &str = ".env";
/// Sends go to ever another address of this machine.
const FIRST: u32 = u32::from_be_bytes([127, 16, 0, 1]);

/// Floods with opens, forks, execs or sends; gives how often it was done, or `None` for another word.
pub(crate) fn flood(kind: &str) -> Option<u64> {
    Some(match kind {
        "open" => {
            fs::metadata(FILE).unwrap();
            let file = low::text(FILE);
            again(|_| {
                let fd = call!(Native, libc::SYS_openat, libc::AT_FDCWD, file, libc::O_RDONLY, 0)?;
                call!(Native, libc::SYS_close, fd)
            })
        }
        "fork" => again(|_| sys::in_child(|| Ok(0)).0),
        "exec" => again(|_| sys::in_child(|| execve(Native, PROGRAM, "flood")).0),
        "send" => {
            let (socket, data) = (udp(), low::bytes(b"x"));
            again(|n| {
                let address = Ipv4Addr::from(FIRST + n as u32 % 0xf0_0000);
                let to = raw(SocketAddr::from((address, 9)));
                call!(Native, libc::SYS_sendto, socket, data.as_ptr(), 1, 0, to.as_ptr(), to.len())
            })
        }
        _ => return None,
    })
}

/// Does something until nobody holds the other end of standard input any more.
fn again(mut act: impl FnMut(u64) -> Result) -> u64 {
    let input = low::place(libc::pollfd { fd: 0, events: 0, revents: 0 });
    let mut done = 0;
    while call!(Native, libc::SYS_poll, &raw mut *input, 1, 0).unwrap() == 0 {
        for _ in 0..BATCH {
            act(done).unwrap();
            done += 1;
        }
    }
    done
}
