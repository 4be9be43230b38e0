//! What is kept of a container before it is killed: its processes with their open files and sockets, and the last of its
//! events.
//!
//! It promises that looking takes no longer than [`WITHIN`], whatever the processes do to be looked at slowly: a page of
//! arguments may lie in a file system that its owner serves. What has been found by then is kept, and said to be less than
//! all. It is bounded in processes, files and bytes. Secrets in arguments are redacted as in the audit log.
//!
//! It is a look at what stands still. Where the freeze had failed, it is one at what ran meanwhile, and says so.

use std::{
    collections::HashMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::monitor::{
    audit::redact,
    cgroup::Cgroup,
    lineage::{Place, members, place},
};

/// How long may be looked.
pub const WITHIN: Duration = Duration::from_secs(1);
/// How many processes are looked at.
const MOST_PROCESSES: usize = 512;
/// How many open files of one.
const MOST_FILES: usize = 256;
/// How many namespaces' sockets are known.
const MOST_NETWORKS: usize = 16;
/// How long a table of sockets may be.
const LONGEST_TABLE: usize = 1 << 20;
/// How long one text may be.
const LONGEST_TEXT: usize = 4096;
/// How many bytes all texts may have together.
const MOST_BYTES: usize = 2 << 20;

/// What was found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Found {
    /// Everything stood still meanwhile.
    pub frozen: bool,
    /// There was no more than this, and time to look at all of it.
    pub complete: bool,
    /// The processes, oldest first.
    pub processes: Vec<Process>,
}

/// A process.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Process {
    /// Its id on the host.
    pub pid: u32,
    /// Its ids in the namespaces that it is in, the innermost last.
    pub ns_pids: Vec<u32>,
    /// Its parent's id on the host.
    pub parent: u32,
    /// When it was started, in hundredths of a second since the machine's boot.
    pub start_ticks: u64,
    /// What it calls itself.
    pub name: String,
    /// Its program's file in the container's view.
    pub executable: String,
    /// Its arguments, without secrets.
    pub args: Vec<String>,
    /// Its working directory.
    pub working_directory: String,
    /// Its user ids on the host: real, effective, saved, for files.
    pub uids: Vec<u32>,
    /// Where standard input, output and error lead.
    pub stdio: [String; 3],
    /// Its other open files.
    pub files: Vec<OpenFile>,
    /// Its sockets.
    pub sockets: Vec<Socket>,
}

/// An open file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpenFile {
    /// Its descriptor.
    pub fd: u32,
    /// What it leads to.
    pub path: String,
}

/// An open socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Socket {
    /// Its descriptor.
    pub fd: u32,
    /// Its inode number.
    pub inode: u64,
    /// tcp, udp, raw or unix; empty if it is of another kind, or of another network than its process.
    pub transport: String,
    /// Its own address, or its path.
    pub local: String,
    /// The other end's address.
    pub remote: String,
    /// Such as established or listen, for TCP.
    pub state: String,
}

/// Looks at all processes of a cgroup.
pub async fn look(cgroup: Arc<Cgroup>) -> Found {
    let found = Arc::new(Mutex::new(Found::default()));
    let shared = Arc::clone(&found);
    let deadline = Instant::now() + WITHIN;
    let looking = tokio::task::spawn_blocking(move || {
        let frozen = cgroup.wait_frozen(WITHIN / 2).is_ok();
        shared.lock().unwrap_or_else(PoisonError::into_inner).frozen = frozen;
        let complete = Look::until(deadline).all(&cgroup, |process| {
            shared.lock().unwrap_or_else(PoisonError::into_inner).processes.push(process);
        });
        shared.lock().unwrap_or_else(PoisonError::into_inner).complete = complete;
    });
    // What does not come back in time is left alone; the kill frees it.
    let _ = tokio::time::timeout_at(deadline.into(), looking).await;
    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut *found)
}

struct Look {
    deadline: Instant,
    /// How many more bytes may be kept.
    left: usize,
    /// The sockets of each network namespace, by inode.
    networks: HashMap<String, HashMap<u64, Socket>>,
}

impl Look {
    fn until(deadline: Instant) -> Self {
        Self { deadline, left: MOST_BYTES, networks: HashMap::new() }
    }

    /// Looks at each process; gives whether that was all.
    fn all(&mut self, cgroup: &Cgroup, mut keep: impl FnMut(Process)) -> bool {
        let mut all: Vec<(u32, Place)> =
            members(&cgroup.directory()).into_iter().filter_map(|pid| Some((pid, place(pid)?))).collect();
        all.sort_by_key(|(pid, place)| (place.start_ticks, *pid));
        let mut complete = all.len() <= MOST_PROCESSES;
        for (pid, place) in all.into_iter().take(MOST_PROCESSES) {
            if self.is_over() {
                return false;
            }
            let (process, is_whole) = self.process(pid, place);
            complete &= is_whole;
            keep(process);
        }
        complete
    }

    fn is_over(&self) -> bool {
        self.left == 0 || Instant::now() >= self.deadline
    }

    /// A text, as far as there is room for it.
    fn text(&mut self, text: &str) -> String {
        let end = text.floor_char_boundary(text.len().min(LONGEST_TEXT).min(self.left));
        self.left -= end;
        text[..end].to_owned()
    }

    fn link(&mut self, path: &Path) -> String {
        let target = fs::read_link(path).unwrap_or_default();
        self.text(&target.to_string_lossy())
    }

    fn process(&mut self, pid: u32, place: Place) -> (Process, bool) {
        let root = format!("/proc/{pid}");
        let root = Path::new(&root);
        let status = read(&root.join("status")).unwrap_or_default();
        let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        let numbers = |key: &str| line(key).split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let mut process = Process {
            pid,
            ns_pids: numbers("NSpid:"),
            parent: place.parent,
            start_ticks: place.start_ticks,
            name: self.text(line("Name:").trim()),
            executable: self.link(&root.join("exe")),
            working_directory: self.link(&root.join("cwd")),
            uids: numbers("Uid:"),
            ..Process::default()
        };
        let mut is_whole = self.descriptors(root, &mut process).is_some();
        // Last, since it is the process's own memory: whoever serves its pages can keep it from being read.
        let cmdline = read(&root.join("cmdline")).unwrap_or_default();
        let args: Vec<String> = cmdline.split_terminator('\0').map(|argument| self.text(argument)).collect();
        is_whole &= args.len() == cmdline.split_terminator('\0').count() && !self.is_over();
        process.args = redact::arguments(&args, &mut Vec::new()).unwrap_or(args);
        (process, is_whole)
    }

    /// Its open files and sockets; `None` if that was not all.
    fn descriptors(&mut self, root: &Path, process: &mut Process) -> Option<()> {
        let entries = fs::read_dir(root.join("fd")).ok()?;
        let mut fds: Vec<u32> =
            entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        fds.sort_unstable();
        for fd in fds.iter().copied().take(MOST_FILES) {
            if self.is_over() {
                return None;
            }
            let path = self.link(&root.join("fd").join(fd.to_string()));
            let inode = path.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')?.parse().ok());
            if let Some(inode) = inode {
                let socket = self.socket(root, fd, inode);
                if let Some(stream) = process.stdio.get_mut(fd as usize) {
                    *stream = format!("{path} {} {}", socket.transport, socket.remote).trim_end().to_owned();
                }
                process.sockets.push(socket);
            } else if let Some(stream) = process.stdio.get_mut(fd as usize) {
                *stream = path;
            } else {
                process.files.push(OpenFile { fd, path });
            }
        }
        (fds.len() <= MOST_FILES).then_some(())
    }

    fn socket(&mut self, root: &Path, fd: u32, inode: u64) -> Socket {
        let unknown = Socket {
            fd,
            inode,
            transport: String::new(),
            local: String::new(),
            remote: String::new(),
            state: String::new(),
        };
        let Ok(namespace) = fs::read_link(root.join("ns/net")) else { return unknown };
        let namespace = namespace.to_string_lossy().into_owned();
        if !self.networks.contains_key(&namespace) {
            if self.networks.len() >= MOST_NETWORKS {
                return unknown;
            }
            self.networks.insert(namespace.clone(), sockets(&root.join("net")));
        }
        let known = self.networks.get(&namespace).and_then(|sockets| sockets.get(&inode));
        known.map_or(unknown, |socket| Socket { fd, ..socket.clone() })
    }
}

/// A text of /proc, as far as it is not absurdly long.
fn read(path: &Path) -> io::Result<String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(LONGEST_TABLE as u64).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The sockets of a network namespace, by inode.
fn sockets(net: &Path) -> HashMap<u64, Socket> {
    let mut all = HashMap::new();
    for (file, transport) in
        [("tcp", "tcp"), ("tcp6", "tcp"), ("udp", "udp"), ("udp6", "udp"), ("raw", "raw"), ("raw6", "raw")]
    {
        let table = read(&net.join(file)).unwrap_or_default();
        all.extend(table.lines().filter_map(|line| internet(line, transport)));
    }
    let table = read(&net.join("unix")).unwrap_or_default();
    all.extend(table.lines().filter_map(local));
    all
}

/// A line of /proc/net/tcp and its kin.
fn internet(line: &str, transport: &str) -> Option<(u64, Socket)> {
    let mut fields = line.split_ascii_whitespace();
    let (local, remote, state) = (fields.nth(1)?, fields.next()?, fields.next()?);
    let inode = fields.nth(5)?.parse().ok()?;
    let is_tcp = transport == "tcp";
    Some((
        inode,
        Socket {
            fd: 0,
            inode,
            transport: transport.to_owned(),
            local: address(local)?,
            remote: address(remote)?,
            state: if is_tcp { tcp_state(state).to_owned() } else { String::new() },
        },
    ))
}

/// A line of /proc/net/unix.
fn local(line: &str) -> Option<(u64, Socket)> {
    let mut fields = line.split_ascii_whitespace();
    let inode = fields.nth(6)?.parse().ok()?;
    let path = fields.next().unwrap_or_default();
    let path = path[..path.floor_char_boundary(path.len().min(LONGEST_TEXT))].to_owned();
    let (transport, remote, state) = ("unix".to_owned(), String::new(), String::new());
    Some((inode, Socket { fd: 0, inode, transport, local: path, remote, state }))
}

/// An address and port as these tables write them: words of the machine's order in hexadecimal digits.
fn address(text: &str) -> Option<String> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut octets = [0; 16];
            for at in 0..4 {
                octets[at * 4..at * 4 + 4].copy_from_slice(&word(at)?);
            }
            IpAddr::from(Ipv6Addr::from(octets)).to_canonical()
        }
        _ => return None,
    };
    Some(std::net::SocketAddr::new(ip, port).to_string())
}

/// `include/net/tcp_states.h`
fn tcp_state(state: &str) -> &'static str {
    const STATES: [&str; 13] = [
        "",
        "established",
        "syn-sent",
        "syn-received",
        "fin-wait-1",
        "fin-wait-2",
        "time-wait",
        "closed",
        "close-wait",
        "last-ack",
        "listen",
        "closing",
        "new-syn-received",
    ];
    usize::from_str_radix(state, 16).ok().and_then(|at| STATES.get(at)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn lines_of_the_tables() {
        let line = "   1: 0100007F:1F90 0200000A:01BB 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1 x";
        let (inode, socket) = internet(line, "tcp").unwrap();
        assert_eq!(
            (inode, &*socket.local, &*socket.remote, &*socket.state),
            (4711, "127.0.0.1:8080", "10.0.0.2:443", "established")
        );
        let line =
            "0: 0000000000000000FFFF00000100007F:0050 00000000000000000000000000000000:0000 0A 0 0 0 0 0 7";
        let (_, socket) = internet(line, "tcp").unwrap();
        assert_eq!((&*socket.local, &*socket.remote, &*socket.state), ("127.0.0.1:80", "[::]:0", "listen"));
        let (inode, socket) = local("0000: 00000002 00000000 00010000 0001 01 99 /run/x y").unwrap();
        assert_eq!((inode, &*socket.local), (99, "/run/x"));
        for line in ["", "sl local_address rem_address", "0: zz 1", "0: 00:1 00:1 1 1 1 1 1 1 1"] {
            assert!(internet(line, "udp").is_none(), "{line}");
        }
        for line in ["", "Num RefCount Protocol Flags Type St Inode Path", "0000: 1 2 3"] {
            assert!(local(line).is_none(), "{line}");
        }
    }

    #[test]
    fn a_process_is_seen_with_its_sockets() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let _peer = TcpStream::connect(&address).unwrap();
        let own = std::process::id();
        let mut look = Look::until(Instant::now() + Duration::from_secs(60));
        let (process, _) = look.process(own, place(own).unwrap());
        assert_eq!(process.pid, own);
        assert!(!process.executable.is_empty() && !process.args.is_empty() && process.uids.len() == 4);
        assert!(process.sockets.iter().any(|socket| socket.local == address && socket.state == "listen"));
        assert!(
            process.sockets.iter().any(|socket| socket.remote == address && socket.state == "established")
        );
    }

    #[test]
    fn there_is_room_for_so_much_and_no_more() {
        let own = std::process::id();
        let mut look = Look { left: 10, ..Look::until(Instant::now() + Duration::from_secs(60)) };
        let (process, is_whole) = look.process(own, place(own).unwrap());
        assert!(!is_whole);
        assert_eq!(process.name.len() + process.executable.len() + process.working_directory.len(), 10);
        let mut late = Look::until(Instant::now());
        let cgroup = crate::monitor::cgroup::of_process(own).and_then(|path| Cgroup::open(&path).ok());
        if let Some(cgroup) = cgroup {
            assert!(!late.all(&cgroup, |_| panic!("there is no time")));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_table_is_too_odd(line in ".{0,200}") {
            let _ = (internet(&line, "tcp"), local(&line), address(&line), tcp_state(&line));
        }
    }
}
