//! The Incus that setup runs itself, on a machine where no service manager does.
//!
//! Promises: incusd and lxcfs live in a mount namespace of their own in which /sys/fs/cgroup is a pure cgroup2, as on a
//! current distribution, whatever the machine has there; they outlive this program; they are known by recorded pid *and*
//! program, and nothing else is ever signalled. `down` ends them and leaves no cgroup or bridge behind, and no mount but
//! that of the pools, if those are in memory; Incus's database, pools and images stay, so that the next `setup` is quick.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::sys::sysinfo::sysinfo;
use nix::unistd::{Pid, geteuid, setsid};

use super::{STATE, SetupError, incus, io_error, make_dir};
use crate::run::{Cmd, Mark, Step};

const CGROUPS: &str = "/sys/fs/cgroup";
const LXCFS_MOUNT: &str = "/var/lib/lxcfs";
/// Incus's own helpers and the system's programs, wherever this was called from.
const PATH: &str =
    "/usr/libexec/incus:/opt/incus/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const READY_WITHIN: Duration = Duration::from_secs(60);

fn state() -> PathBuf {
    Path::new(STATE).join("incus")
}

/// Says that Incus's package was installed by setup: an Incus without a storage pool is then setup's to configure.
pub(super) fn note_installed() -> Result<(), SetupError> {
    make_dir(&state())?;
    let note = state().join("installed-by-setup");
    std::fs::write(&note, "").map_err(io_error(&note, "write this file"))
}

/// Whether an Incus is installed, by whomever.
pub(super) fn is_installed() -> bool {
    std::env::split_paths(PATH).any(|dir| dir.join("incusd").is_file())
}

/// Whether setup may give a bare Incus its pool and its bridge.
pub(super) fn may_configure() -> bool {
    is_ours() || state().join("installed-by-setup").exists()
}

/// Whether the Incus that setup started is running.
pub(super) fn is_ours() -> bool {
    incusd().is_some()
}

fn incusd() -> Option<Ours> {
    Ours::recorded("incusd.pid", "incusd")
}

fn lxcfs() -> Option<Ours> {
    Ours::recorded("lxcfs.pid", "lxcfs")
}

/// Starts Incus: with the service manager, or where there is none, as a process of its own.
pub(super) fn start(socket: &Path) -> Result<(), SetupError> {
    if Path::new("/run/systemd/system").is_dir() {
        Cmd::new("systemctl").args(["enable", "--now", "incus"]).limit(READY_WITHIN).output()?;
        return wait_for(socket, || Ok(()));
    }
    own_id_range()?;
    make_dir(&state())?;
    keep_pools_in_memory()?;
    let log_path = state().join("incusd.log");
    let log = File::create(&log_path).map_err(io_error(&log_path, "write this file"))?;
    let errors = log.try_clone().map_err(io_error(&log_path, "write this file"))?;
    let me = std::env::current_exe().map_err(io_error("/proc/self/exe", "find this program"))?;
    let mut command = Command::new(&me);
    command.arg("incus-host").env_clear().env("PATH", PATH).env("HOME", "/root").env("LANG", "C.UTF-8");
    for name in ["INCUS_DIR", "INCUS_SOCKET"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .current_dir("/")
        .spawn()
        .map_err(io_error(&me, "start this program"))?;
    record("incusd.pid", child.id())?;
    wait_for(socket, || match child.try_wait() {
        Ok(None) => Ok(()),
        _ => Err(SetupError::Incus(format!("Incus ended while starting; see {}", log_path.display()))),
    })
}

/// Waits until Incus answers; `alive` says whether that can still happen.
fn wait_for(socket: &Path, mut alive: impl FnMut() -> Result<(), SetupError>) -> Result<(), SetupError> {
    let end = Instant::now() + READY_WITHIN;
    while !incus::answers() {
        alive()?;
        if Instant::now() > end {
            return Err(SetupError::Incus(format!(
                "Incus did not answer on {} within {} s; see /var/log/incus/incus.log",
                socket.display(),
                READY_WITHIN.as_secs()
            )));
        }
        thread::sleep(Duration::from_millis(50));
    }
    // It answers before it has brought up its networks and pools.
    Cmd::new("incus").args(["admin", "waitready", "--timeout=60"]).limit(READY_WITHIN).output()?;
    Ok(())
}

/// With less memory than this, containers are on the disk.
const MEMORY: u64 = 16 << 30;

/// Puts storage pools that there are not yet into memory: unpacking Debian for a test takes most of a minute where disks
/// are slow. Who has no service manager has nothing that outlives a boot either.
fn keep_pools_in_memory() -> Result<(), SetupError> {
    let pools = incus::directory().join("storage-pools");
    let information = sysinfo().map_err(kernel("ask how much memory there is"))?;
    let is_used = std::fs::read_dir(&pools).is_ok_and(|mut pools| pools.next().is_some());
    if information.ram_total() < MEMORY || is_used || is_mounted(&pools) {
        return Ok(());
    }
    make_dir(&pools)?;
    mount(Some("coi-pools"), &pools, Some("tmpfs"), MsFlags::empty(), Some("size=50%,mode=711"))
        .map_err(kernel("mount a tmpfs for storage pools"))
}

/// Gives root the ids that unprivileged containers are mapped to, unless it has some.
fn own_id_range() -> Result<(), SetupError> {
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if !text.lines().any(|line| line.starts_with("root:")) {
            std::fs::write(file, format!("{text}root:1000000:1000000000\n"))
                .map_err(io_error(file, "write this file"))?;
        }
    }
    Ok(())
}

/// Prepares this process's surroundings and becomes incusd.
pub(super) fn become_incus() -> Result<(), SetupError> {
    setsid().map_err(kernel("start a session"))?;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).map_err(kernel("read the limit of open files"))?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).map_err(kernel("raise the limit of open files"))?;
    enter_namespace()?;
    for dir in [LXCFS_MOUNT, "/var/log/incus"] {
        make_dir(Path::new(dir))?;
    }
    if !is_mounted(LXCFS_MOUNT) {
        start_lxcfs()?;
    }
    // Only fails to return.
    let error =
        Command::new("incusd").args(["--group", "incus-admin", "--logfile=/var/log/incus/incus.log"]).exec();
    Err(SetupError::Io { path: "incusd".into(), what: "run this program", source: error })
}

/// Enters a mount namespace in which /sys/fs/cgroup is a cgroup2.
fn enter_namespace() -> Result<(), SetupError> {
    // Left by an incusd that crashed: the containers that it left running were made in there.
    if let Some(lxcfs) = lxcfs() {
        let path = format!("/proc/{}/ns/mnt", lxcfs.0);
        let namespace = File::open(&path).map_err(io_error(path, "open this namespace"))?;
        return setns(namespace, CloneFlags::CLONE_NEWNS)
            .map_err(kernel("enter the mount namespace of lxcfs"));
    }
    unshare(CloneFlags::CLONE_NEWNS).map_err(kernel("make a mount namespace"))?;
    let none: Option<&str> = None;
    // Mounts of the host still arrive here, none of ours leaves.
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)
        .map_err(kernel("detach the mount namespace"))?;
    let cgroups = statfs(CGROUPS).map_err(kernel("look at /sys/fs/cgroup"))?;
    if cgroups.filesystem_type() != CGROUP2_SUPER_MAGIC {
        mount(Some("cgroup2"), CGROUPS, Some("cgroup2"), MsFlags::empty(), none)
            .map_err(kernel("mount cgroup2 on /sys/fs/cgroup"))?;
    }
    Ok(())
}

fn start_lxcfs() -> Result<(), SetupError> {
    let log = state().join("lxcfs.log");
    let file = File::create(&log).map_err(io_error(&log, "write this file"))?;
    let errors = file.try_clone().map_err(io_error(&log, "write this file"))?;
    let mut command = Command::new("lxcfs");
    command.arg(LXCFS_MOUNT).stdin(Stdio::null()).stdout(file).stderr(errors);
    let mut child = command.spawn().map_err(io_error("lxcfs", "run this program"))?;
    record("lxcfs.pid", child.id())?;
    let end = Instant::now() + Duration::from_secs(10);
    while !is_mounted(LXCFS_MOUNT) {
        if !matches!(child.try_wait(), Ok(None)) || Instant::now() > end {
            return Err(SetupError::Incus(format!(
                "lxcfs did not mount {LXCFS_MOUNT}; see {}",
                log.display()
            )));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn is_mounted(path: impl AsRef<Path>) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().any(|line| line.split(' ').nth(4).map(Path::new) == Some(path.as_ref()))
}

fn kernel(what: &str) -> impl FnOnce(nix::Error) -> SetupError {
    let what = what.to_owned();
    move |source| SetupError::Kernel { what, source }
}

fn record(file: &str, pid: u32) -> Result<(), SetupError> {
    let path = state().join(file);
    std::fs::write(&path, format!("{pid}\n")).map_err(io_error(path, "write this file"))
}

/// A process that setup started: its recorded pid, as long as that still runs the recorded program.
struct Ours(Pid);

impl Ours {
    fn recorded(file: &str, program: &str) -> Option<Self> {
        let pid: i32 = std::fs::read_to_string(state().join(file)).ok()?.trim().parse().ok()?;
        let ours = Self(Pid::from_raw(pid));
        let running = ours.program()?.file_name()?.to_string_lossy().into_owned();
        // A package that was upgraded has replaced the file.
        let running = running.strip_suffix(" (deleted)").unwrap_or(&running);
        (running == program).then_some(ours)
    }

    fn program(&self) -> Option<PathBuf> {
        std::fs::read_link(format!("/proc/{}/exe", self.0)).ok()
    }

    /// Waits for its end.
    fn gone_within(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while self.program().is_some() {
            if Instant::now() > end {
                return false;
            }
            thread::sleep(Duration::from_millis(50));
        }
        true
    }

    /// Ends it: each signal in turn, with the time it is given.
    fn end(&self, signals: &[(Signal, u64)]) -> Result<(), SetupError> {
        for (signal, seconds) in signals {
            match kill(self.0, *signal) {
                Ok(()) | Err(nix::Error::ESRCH) => {}
                Err(source) => return Err(kernel(&format!("signal process {}", self.0))(source)),
            }
            if self.gone_within(Duration::from_secs(*seconds)) {
                return Ok(());
            }
        }
        Err(SetupError::Incus(format!(
            "process {} does not end; look at it with `ps -fp {}`",
            self.0, self.0
        )))
    }
}

/// Stops what [`start`] started.
pub(super) fn down() -> Result<(), SetupError> {
    if !geteuid().is_root() {
        return Err(SetupError::NotRoot { arguments: "--down" });
    }
    let step = Step::begin("incus");
    let (incusd, lxcfs) = (incusd(), lxcfs());
    if incusd.is_none() && lxcfs.is_none() {
        step.end(Mark::Ok, "setup has no Incus running");
        return Ok(());
    }
    let mut bridges = Vec::new();
    if let Some(incusd) = incusd {
        if incus::answers() {
            stop_containers(&step)?;
            bridges = managed_bridges()?;
            step.say("shutting Incus down");
            // Whether it could be asked nicely does not matter: signals follow.
            let _asked =
                Cmd::new("incus").args(["admin", "shutdown", "--timeout", "20"]).limit(READY_WITHIN).output();
        }
        if !incusd.gone_within(Duration::from_secs(10)) {
            incusd.end(&[(Signal::SIGPWR, 30), (Signal::SIGTERM, 5), (Signal::SIGKILL, 5)])?;
        }
    }
    if let Some(lxcfs) = lxcfs {
        lxcfs.end(&[(Signal::SIGTERM, 5), (Signal::SIGKILL, 5)])?;
    }
    for file in ["incusd.pid", "lxcfs.pid"] {
        remove(&state().join(file))?;
    }
    for bridge in bridges {
        if Path::new("/sys/class/net").join(&bridge).exists() {
            Cmd::new("ip").args(["link", "delete", &bridge]).output()?;
        }
    }
    remove_firewall_table()?;
    remove_cgroups();
    step.end(Mark::Ok, "stopped; its images and settings stay in /var/lib/incus");
    Ok(())
}

fn stop_containers(step: &Step) -> Result<(), SetupError> {
    for instance in incus::list("/1.0/instances?recursion=1&all-projects=true")? {
        if instance["status"] == "Stopped" {
            continue;
        }
        let text = |key: &str| instance[key].as_str().unwrap_or_default().to_owned();
        let (name, project) = (text("name"), text("project"));
        step.say(format!("stopping container {name}"));
        let body = serde_json::json!({ "action": "stop", "force": true, "timeout": 30 });
        incus::query("PUT", &format!("/1.0/instances/{name}/state?project={project}"), Some(&body))?;
    }
    Ok(())
}

/// The bridges that this Incus manages; it leaves them up when it ends.
fn managed_bridges() -> Result<Vec<String>, SetupError> {
    let networks = incus::list("/1.0/networks?recursion=1")?;
    let managed = networks.iter().filter(|network| network["managed"] == true && network["type"] == "bridge");
    Ok(managed.filter_map(|network| network["name"].as_str().map(str::to_owned)).collect())
}

/// Removes Incus's nft table, if Incus has emptied it.
fn remove_firewall_table() -> Result<(), SetupError> {
    let table = ["table", "inet", "incus"];
    // Where there is no such table, or no nft, there is nothing to remove.
    let rules = Cmd::new("nft").arg("list").args(table).output();
    if rules.is_ok_and(|rules| !rules.contains("chain")) {
        Cmd::new("nft").arg("delete").args(table).output()?;
    }
    Ok(())
}

/// Removes the cgroups that LXC leaves; those that are in use refuse, as they should.
fn remove_cgroups() {
    let mut hierarchies = vec![PathBuf::from(CGROUPS)];
    hierarchies.extend(std::fs::read_dir(CGROUPS).into_iter().flatten().flatten().map(|entry| entry.path()));
    for hierarchy in hierarchies {
        for entry in std::fs::read_dir(&hierarchy).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name == "lxc.pivot" || name.starts_with("lxc.monitor.") || name.starts_with("lxc.payload.") {
                remove_tree(&entry.path());
            }
        }
    }
}

/// Removes a cgroup and those below it: directories only, since the files in them are the kernel's.
fn remove_tree(cgroup: &Path) {
    for entry in std::fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _in_use = std::fs::remove_dir(cgroup);
}

fn remove(path: &Path) -> Result<(), SetupError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error(path, "remove this file")(error))
        }
        _ => Ok(()),
    }
}
