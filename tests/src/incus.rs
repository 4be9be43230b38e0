//! Incus, asked directly: the tests do not ask the product what became of its containers.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Pid;
use serde_json::Value;

use crate::process::{Ended, end};
use crate::{DEADLINE, text};

/// Its socket.
pub fn socket() -> PathBuf {
    if let Some(socket) = env::var_os("INCUS_SOCKET") {
        return socket.into();
    }
    let usual = ["/var/lib/incus/unix.socket", "/run/incus/unix.socket"].map(PathBuf::from);
    usual.into_iter().find(|path| path.exists()).expect("Incus does not run; start it: cargo xtask setup")
}

/// A call to a server on a unix socket: status and answer.
pub fn call(socket: impl AsRef<Path>, method: &str, target: &str) -> (u16, Value) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    // In this version of HTTP an answer is as long as the connection.
    write!(stream, "{method} {target} HTTP/1.0\r\nHost: e2e\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
    (status, serde_json::from_str(body).unwrap_or_default())
}

fn get(target: &str) -> Option<Value> {
    match call(socket(), "GET", target) {
        (200, mut answer) => Some(answer["metadata"].take()),
        (404, _) => None,
        (status, answer) => panic!("GET {target}: {status} {answer}"),
    }
}

/// What Incus knows of an instance; `None` if it says that there is none.
pub fn instance(name: &str) -> Option<Value> {
    get(&format!("/1.0/instances/{name}"))
}

/// `Running`, `Stopped` or `Frozen`.
#[track_caller]
pub fn status(name: &str) -> String {
    text(&instance(name).unwrap_or_else(|| panic!("there is no {name}"))["status"])
}

/// COI's containers of a workspace.
pub fn of_workspace(workspace: &Path) -> Vec<String> {
    let all = get("/1.0/instances?recursion=1").unwrap();
    let all = all.as_array().unwrap().iter();
    all.filter(|instance| instance["config"]["user.coi.workspace"].as_str() == workspace.to_str())
        .map(|instance| text(&instance["name"]))
        .collect()
}

/// `incus ARGUMENTS`.
pub fn incus(arguments: &[&str]) -> Command {
    let mut command = Command::new("incus");
    command.args(arguments).env("INCUS_SOCKET", socket()).stdin(Stdio::null());
    // Whatever the person who tests has chosen for work.
    command.env("INCUS_REMOTE", "local").env("INCUS_PROJECT", "default");
    command
}

/// `incus exec`, as the images' user, in a directory.
pub fn exec(name: &str, directory: &str, words: &[&str]) -> Command {
    let how =
        ["exec", name, "--user", "1000", "--group", "1000", "--cwd", directory, "--env", "HOME=/home/code"];
    incus(&[&how[..], &["--"], words].concat())
}

/// Removes an instance, if it is there.
pub fn delete(name: &str) {
    let _ = end(&mut incus(&["delete", "--force", name]));
}

/// The process of Incus itself.
pub fn pid() -> Pid {
    let stream = UnixStream::connect(socket()).unwrap();
    Pid::from_raw(getsockopt(&stream, PeerCredentials).unwrap().pid())
}

/// A mount of this container or of this workspace, as Incus or this process sees it.
pub fn mount_of(name: &str, workspace: &Path) -> Option<String> {
    let workspace = workspace.to_str().unwrap();
    [pid().to_string(), "self".to_owned()].iter().find_map(|process| {
        let mounts = fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap();
        let is_of = |mount: &&str| mount.contains(&format!("/{name}/")) || mount.contains(workspace);
        mounts.lines().find(is_of).map(str::to_owned)
    })
}

/// Asserts that nothing on this machine knows the container or its workspace any more.
pub fn assert_forgotten(name: &str, workspace: &Path) {
    assert_eq!(mount_of(name, workspace), None, "a mount is left");
    let cgroups: BTreeSet<_> = children(&cgroups());
    let left: Vec<_> = cgroups.iter().filter(|cgroup| cgroup.ends_with(name)).collect();
    assert!(left.is_empty(), "cgroups are left: {left:?}");
}

/// Asserts that no process of a container runs.
#[track_caller]
pub fn assert_still(name: &str) {
    let cgroup = cgroups().join(format!("lxc.payload.{name}"));
    let read = |file: &str| fs::read_to_string(cgroup.join(file)).unwrap();
    let events = read("cgroup.events");
    if !events.lines().any(|line| line == "frozen 1") {
        let states = end(Command::new("grep").args(["-r", "."]).arg(&cgroup).args([
            "--include=cgroup.freeze",
            "--include=cgroup.procs",
            "--include=cgroup.events",
        ]));
        panic!("cgroup.freeze: {}; cgroup.events: {events}; {}", read("cgroup.freeze"), states.text());
    }
}

fn children(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Where the unified hierarchy of cgroups is mounted.
pub fn cgroups() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let whole = mounts.lines().find_map(|mount| {
        let (mount, kind) = mount.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        (kind.starts_with("cgroup2 ") && fields.next()? == "/").then(|| fields.next())?
    });
    whole.expect("no cgroup2 is mounted").into()
}

/// The address of the host on the bridge that the containers are on.
pub fn bridge() -> Ipv4Addr {
    let profile = get("/1.0/profiles/coi").or_else(|| get("/1.0/profiles/default")).unwrap();
    let devices = profile["devices"].as_object().unwrap();
    let network = devices.values().find_map(|device| device["network"].as_str()).unwrap();
    let network = get(&format!("/1.0/networks/{network}")).unwrap();
    let address = text(&network["config"]["ipv4.address"]);
    address.split('/').next().and_then(|address| address.parse().ok()).unwrap()
}

/// A container that COI did not make. It goes when this does.
#[derive(Debug)]
pub struct Foreign {
    /// Its name.
    pub name: String,
}

impl Foreign {
    /// Makes one that does not run yet, and that stays when it stops.
    pub fn make(image: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let name = format!("e2e-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let profile = if get("/1.0/profiles/coi").is_some() { "coi" } else { "default" };
        let foreign = Self { name };
        foreign.incus(&["init", image, &foreign.name, "--quiet", "--profile", profile]);
        foreign
    }

    /// `incus ARGUMENTS`, which must succeed.
    #[track_caller]
    pub fn incus(&self, arguments: &[&str]) -> Ended {
        end(&mut incus(arguments)).expect(0)
    }

    /// Starts it.
    #[track_caller]
    pub fn start(&self) {
        self.incus(&["start", &self.name]);
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        delete(&self.name);
        if !std::thread::panicking() {
            assert_eq!(instance(&self.name), None, "{} is left", self.name);
        }
    }
}
