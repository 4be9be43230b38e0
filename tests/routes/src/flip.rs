//! What is passed to a call changes while the call runs.
//!
//! `flip-*`: a thread flips it all the time, a thousand calls long; afterwards each call is asked what it has really
//! done, so that `a` and `b` count the truth. `swap-*`: the call blocks after the kernel has copied what was passed;
//! only then it is swapped for the decoy, so that who reads it afterwards reads the decoy, every time.

use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::thread;

use crate::Route;
use crate::exec::{PROGRAM, myself};
use crate::net::{bound_to, listener, name, tcp, udp};
use crate::report::{Report, absolute, file};
use crate::sys::Entry::Native;
use crate::sys::{self, Result, call, low};

/// How many calls are made while somebody flips.
const CALLS: u32 = 1000;

/// What this program is told when it was run in place of another one.
pub(crate) const DECOY: &str = "decoy";
/// What it answers then.
pub(crate) const DECOY_CODE: u8 = 7;

pub(crate) const ROUTES: &[Route] = &[
    ("flip-open", |name| {
        let [a, b] = pair(name);
        let inode = fs::metadata(&a).unwrap().ino();
        let (path, last) = shared_path(&a);
        let count = flipping(letter(last), |_| {
            let fd = call!(Native, libc::SYS_openat, libc::AT_FDCWD, path, libc::O_RDONLY, 0).unwrap();
            // SAFETY: it was just opened, for us alone.
            let file = unsafe { File::from_raw_fd(fd as i32) };
            file.metadata().unwrap().ino() == inode
        });
        count.report().text("a_path", absolute(&a).display()).text("b_path", absolute(&b).display())
    }),
    ("flip-exec", |name| {
        let [a, b] = ["a", "b"].map(|last| format!("at-{name}-{last}"));
        fs::copy(PROGRAM, &a).unwrap();
        fs::copy(myself(), &b).unwrap();
        let (path, last) = shared_path(&a);
        let arguments: Vec<u64> = [low::text("true"), low::text(DECOY), 0].into();
        let count = flipping(letter(last), |_| {
            let child = sys::fork(|| {
                let _ = call!(Native, libc::SYS_execve, path, arguments.as_ptr(), 0);
                127
            });
            match sys::wait(child) {
                0 => true,
                code => {
                    assert_eq!(code, i32::from(DECOY_CODE), "neither was run");
                    false
                }
            }
        });
        count.report().text("a_path", absolute(&a).display()).text("b_path", absolute(&b).display())
    }),
    ("flip-connect", |_| {
        let ((a, a_address), (b, b_address)) = (listener(), listener());
        let to = name(a_address);
        // SAFETY: the port's two bytes in an address that nobody frees.
        let port = unsafe { AtomicU16::from_ptr((to.at + 2) as *mut u16) };
        let flip = |side| {
            let to = if side == Side::A { a_address } else { b_address };
            port.store(to.port().to_be(), SeqCst);
        };
        let count = flipping(flip, |_| {
            let socket = tcp();
            call!(Native, libc::SYS_connect, socket, to.at, to.len).unwrap();
            // SAFETY: it was just made, for us alone.
            let stream = unsafe { TcpStream::from_raw_fd(socket) };
            let is_a = stream.peer_addr().unwrap() == a_address;
            if is_a { &a } else { &b }.accept().unwrap();
            is_a
        });
        let ports = [("a_port", a_address), ("b_port", b_address)];
        ports
            .into_iter()
            .fold(count.report(), |report, (key, address)| report.number(key, address.port().into()))
    }),
    // Each call has a decoy address of its own. Nobody listens there, so what does not arrive went there.
    ("flip-sendto", |_| {
        let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        receiver.set_nonblocking(true).unwrap();
        let address = receiver.local_addr().unwrap();
        let (to, socket, data) = (name(address), udp(), low::bytes(b"x"));
        // SAFETY: the address's four bytes in one that nobody frees.
        let ip = unsafe { AtomicU32::from_ptr((to.at + 4) as *mut u32) };
        let real = Ipv4Addr::LOCALHOST.octets();
        let decoy = AtomicU32::new(u32::from_ne_bytes(real));
        let flip = |side| {
            let to = if side == Side::A { u32::from_ne_bytes(real) } else { decoy.load(SeqCst) };
            ip.store(to, SeqCst);
        };
        let mut went: Vec<String> = Vec::new();
        let count = flipping(flip, |n| {
            let next = Ipv4Addr::new(127, 1, (n >> 8) as u8, n as u8);
            decoy.store(u32::from_ne_bytes(next.octets()), SeqCst);
            // The flips up to here were to the one before.
            while ip.load(SeqCst) != decoy.load(SeqCst) {}
            call!(Native, libc::SYS_sendto, socket, data.as_ptr(), 1, 0, to.at, to.len).unwrap();
            // What goes to loopback has arrived when the call returns.
            let arrived = receiver.recv(&mut [0]).is_ok();
            if !arrived {
                went.push(next.to_string());
            }
            arrived
        });
        count.report().address(address).text("went", went.join(" "))
    }),
    // Opening a named pipe blocks until its other end is opened.
    ("swap-open", |name| {
        let [a, b] = pair(name);
        fs::remove_file(&a).unwrap();
        call!(Native, libc::SYS_mknodat, libc::AT_FDCWD, low::text(&a), libc::S_IFIFO | 0o600, 0).unwrap();
        let (path, last) = shared_path(&a);
        let result = swapping(
            libc::SYS_openat,
            || call!(Native, libc::SYS_openat, libc::AT_FDCWD, path, libc::O_RDONLY, 0),
            || {
                last.store(b'b', SeqCst);
                OpenOptions::new().write(true).open(&a).unwrap();
            },
        );
        Report::of(result).path(&a).text("decoy", absolute(&b).display()).text("passed", b)
    }),
    // Connecting blocks while nobody is let in.
    ("swap-connect", |_| {
        let socket = tcp();
        let anywhere = name(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        call!(Native, libc::SYS_bind, socket, anywhere.at, anywhere.len).unwrap();
        call!(Native, libc::SYS_listen, socket, 0).unwrap();
        let address = bound_to(socket);
        // SAFETY: it was just made, for us alone.
        let full = unsafe { TcpListener::from_raw_fd(socket) };
        let _waiting = TcpStream::connect(address).unwrap();
        let (_decoy, decoy) = listener();
        let to = name(address);
        // SAFETY: the port's two bytes in an address that nobody frees.
        let port = unsafe { AtomicU16::from_ptr((to.at + 2) as *mut u16) };
        let result = swapping(
            libc::SYS_connect,
            || call!(Native, libc::SYS_connect, tcp(), to.at, to.len),
            || {
                port.store(decoy.port().to_be(), SeqCst);
                full.accept().unwrap();
            },
        );
        let decoy = decoy.port().into();
        Report::of(result).address(address).number("decoy", decoy).number("passed", decoy)
    }),
    ("swap-unix", |name| {
        let [a, b] = pair(name);
        fs::remove_file(&a).unwrap();
        let full = full_unix_listener(&a);
        let _waiting = UnixStream::connect(&a).unwrap();
        let text =
            [&(libc::AF_UNIX as u16).to_ne_bytes(), absolute(&a).to_str().unwrap().as_bytes()].concat();
        let to = low::shared(&text);
        let (at, len) = (to.as_ptr() as u64, to.len());
        // SAFETY: the last byte of what nobody frees.
        let last = unsafe { AtomicU8::from_ptr((at + len as u64 - 1) as *mut u8) };
        let socket = crate::net::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0);
        let result = swapping(
            libc::SYS_connect,
            || call!(Native, libc::SYS_connect, socket, at, len),
            || {
                last.store(b'b', SeqCst);
                full.accept().unwrap();
            },
        );
        let decoy = absolute(&b);
        Report::of(result).path(&a).text("decoy", decoy.display()).text("passed", decoy.display())
    }),
];

/// Two files whose names differ in the last letter.
fn pair(name: &str) -> [String; 2] {
    ["a", "b"].map(|last| file(&format!("{name}-{last}"), b""))
}

/// A path that a child shares: its address, and its last letter.
fn shared_path(path: &str) -> (u64, &'static AtomicU8) {
    let text = low::shared(&[path.as_bytes(), b"\0"].concat());
    let last = &mut text[path.len() - 1];
    // SAFETY: nobody frees it, and from here on it is only changed through this.
    let last = unsafe { AtomicU8::from_ptr(last) };
    (text.as_ptr() as u64, last)
}

/// What is passed.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    A,
    B,
}

/// Flips the last letter of a path.
fn letter(last: &AtomicU8) -> impl Fn(Side) + Sync {
    |side| last.store(if side == Side::A { b'a' } else { b'b' }, SeqCst)
}

/// What was really done how often.
#[derive(Default)]
struct Count {
    a: u32,
    b: u32,
}

impl Count {
    fn report(&self) -> Report {
        Report::of(Ok(())).number("a", self.a.into()).number("b", self.b.into())
    }
}

/// Makes at least [`CALLS`] calls while another thread flips, to `b` and back, and goes on until both were done; each
/// call is told its number and says whether it has done `a`.
fn flipping(flip: impl Fn(Side) + Sync, mut call: impl FnMut(u32) -> bool) -> Count {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(SeqCst) {
                flip(Side::B);
                flip(Side::A);
            }
        });
        let mut count = Count::default();
        for n in 0.. {
            *(if call(n) { &mut count.a } else { &mut count.b }) += 1;
            if n + 1 >= CALLS && count.a > 0 && count.b > 0 {
                break;
            }
        }
        over.store(true, SeqCst);
        count
    })
}

/// Makes a call that blocks, and swaps what was passed once it does.
fn swapping(number: i64, call: impl FnOnce() -> Result + Send, swap: impl FnOnce()) -> Result {
    thread::scope(|scope| {
        let (to, tid) = channel();
        let caller = scope.spawn(move || {
            to.send(call!(Native, libc::SYS_gettid).unwrap()).unwrap();
            call()
        });
        let status = format!("/proc/self/task/{}/syscall", tid.recv().unwrap());
        let blocked = format!("{number} ");
        // It names the call that a thread is blocked in, and says `running` otherwise.
        while !fs::read_to_string(&status).unwrap().starts_with(&blocked) {
            thread::yield_now();
        }
        swap();
        caller.join().unwrap()
    })
}

/// Somebody who lets one peer wait and no other.
fn full_unix_listener(path: &str) -> UnixListener {
    let listener = UnixListener::bind(Path::new(path)).unwrap();
    call!(Native, libc::SYS_listen, listener.as_raw_fd(), 0).unwrap();
    listener
}
