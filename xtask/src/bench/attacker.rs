//! Who is frozen, and when.
//!
//! An attacker is a process in a watched cgroup that attacks whenever it is told to. Two clocks are read, both
//! CLOCK_BOOTTIME: the attacker's just before its connect(2), and that of a watcher that waits in poll(2) for the kernel
//! to report the cgroup frozen, which makes the watcher's own wake-up part of the number. The kernel's report may itself
//! have to wait for a processor, so the watcher looks every millisecond as well.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, socket};
use nix::time::{ClockId, clock_gettime};

use super::cgroup::Events;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The kernel reports changes of one cgroup.events at most every 10 ms (`CGROUP_FILE_NOTIFY_MIN_INTV`); a freeze that
/// followed the thaw before it at once would be seen only then, two clock ticks of 10 ms later at worst.
pub(super) const APART: Duration = Duration::from_millis(50);

/// How often the watcher looks without being told to.
const LOOK: Duration = Duration::from_millis(1);

/// What an attacker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Act {
    /// It connects.
    Connect,
    /// It connects, and runs a shell whose input and output are the connection.
    Shell,
}

/// A process that is frozen again and again.
pub(crate) struct Attacker {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    events: Events,
}

impl Attacker {
    /// Starts one in the cgroup of this directory, which will connect to this port of this machine.
    pub(crate) fn start(cgroup: &Path, port: u16, act: Act) -> io::Result<Self> {
        let act = match act {
            Act::Connect => "connect",
            Act::Shell => "shell",
        };
        let mut child = Command::new(std::env::current_exe()?)
            .args(["bench-attacker", &port.to_string(), act])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("the attacker has no pipes"));
        };
        let attacker = Self { child, stdin, stdout: BufReader::new(stdout), events: Events::of(cgroup)? };
        fs::write(cgroup.join("cgroup.procs"), attacker.child.id().to_string())?;
        Ok(attacker)
    }

    /// Has it attack, and waits until it is frozen; answers when that was.
    pub(crate) fn freeze(&mut self, limit: Duration) -> io::Result<u64> {
        // What is waited for is a change from this reading on.
        if self.events.read()?.contains("frozen 1") {
            return Err(io::Error::other("it is frozen before it attacks"));
        }
        hurry();
        let deadline = Instant::now() + limit;
        self.stdin.write_all(b"\n")?;
        loop {
            let waited = self.events.wait(LOOK);
            if self.events.read()?.contains("frozen 1") {
                // After the look: between the two this thread, too, may have to wait, and no freeze is to look shorter
                // than it was.
                return Ok(boottime()?);
            }
            match waited {
                Err(error) if error.kind() != io::ErrorKind::TimedOut || Instant::now() > deadline => {
                    return Err(error);
                }
                _ => {}
            }
        }
    }

    /// When it called connect(2), as it says once it has been thawed and its connection has been closed.
    pub(super) fn began(&mut self) -> io::Result<u64> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        line.trim_end().parse().map_err(io::Error::other)
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        // It may have been killed with its cgroup.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// Is the attacker: for each line that it reads it attacks, and prints when it began to.
pub(crate) fn attack(port: u16, act: Act) -> Result<()> {
    let address = SockaddrIn::new(127, 0, 0, 1, port);
    let mut stdout = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        line?;
        let began = match act {
            Act::Connect => {
                let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
                let began = boottime()?;
                connect(socket.as_raw_fd(), &address)?;
                began
            }
            Act::Shell => {
                let began = boottime()?;
                let connection = OwnedFd::from(TcpStream::connect((Ipv4Addr::LOCALHOST, port))?);
                let mut shell = Command::new("/bin/sh");
                shell.stdin(connection.try_clone()?).stdout(connection).stderr(Stdio::null());
                let mut child = shell.spawn()?;
                // It holds the connection, too.
                drop(shell);
                child.wait()?;
                began
            }
        };
        writeln!(stdout, "{began}")?;
        stdout.flush()?;
    }
    Ok(())
}

/// Puts the watcher before others where processors are scarce: what it waits for is measured, not its turn.
pub(super) fn hurry() {
    // SAFETY: plain numbers; 0 is the calling thread. Where it is refused, the numbers are worse than need be.
    unsafe { nix::libc::setpriority(nix::libc::PRIO_PROCESS, 0, -20) };
}

fn boottime() -> nix::Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
    Ok(time.tv_sec().unsigned_abs() * 1_000_000_000 + time.tv_nsec().unsigned_abs())
}
