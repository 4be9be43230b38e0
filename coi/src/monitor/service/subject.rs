//! What is to be watched: found, identified, and told from what must not be.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::Arc,
};

use axum::http::StatusCode;

use super::{
    admission::Caller,
    api::{INSIDE, WatchRequest},
    as_user::open_directory,
    ending::{Ending, ending},
    refusal::Refusal,
    watches::Service,
};
use crate::{
    incus,
    monitor::{
        cgroup::{self, Cgroup, PAYLOAD},
        respond::{CgroupResponder, IncusResponder, Responder},
        seccomp,
    },
};

/// The device of COI's containers that is the workspace.
const DEVICE: &str = "workspace";
/// The deepest level at which the kernel side looks for watched cgroups.
const MAX_LEVEL: u32 = 8;

/// A watch's identity and place, found out before it is armed.
pub(super) struct Found {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) path: String,
    pub(super) existing: Option<Arc<Cgroup>>,
    pub(super) workspace: Option<PathBuf>,
    pub(super) inside: Option<String>,
    pub(super) responder: Box<dyn Responder>,
    pub(super) ephemeral: bool,
    /// What becomes of it when it has stopped, if COI has launched it.
    pub(super) ending: Option<Arc<Ending>>,
    /// The ids of the holes that its configuration in Incus closes.
    pub(super) closed: Vec<String>,
}

impl Service {
    pub(super) async fn find_container(
        &self,
        name: &str,
        project: Option<&str>,
        request: &WatchRequest,
    ) -> Result<Found, Refusal> {
        let incus = self.incus.in_project(project);
        let instance = incus.instance(name).await?;
        if instance.kind == "virtual-machine" {
            let words =
                format!("{name} is a virtual machine: its processes are its own kernel's, not this one's");
            return Err(Refusal::bad_request(words));
        }
        let id = instance.uuid().ok_or_else(|| {
            Refusal::new(StatusCode::BAD_GATEWAY, "incus", format!("Incus gives no volatile.uuid for {name}"))
        })?;
        let full = request.subject.watch_name();
        let mut cgroup = format!("/{PAYLOAD}{full}");
        let mut existing = None;
        let state = incus.state(name).await?;
        if let Ok(pid @ 1..) = u32::try_from(state.pid)
            && let Some(running) = payload(pid)
        {
            existing = Some(Arc::new(Cgroup::open(&running)?));
            // After an unclean end it has a number behind its name; at the next start it may have none.
            if !running.strip_prefix(&cgroup).is_some_and(|rest| rest.is_empty() || rest.starts_with('-')) {
                cgroup = running;
            }
        }
        let devices = &instance.expanded_devices;
        let path = |device: &BTreeMap<String, String>| device.get("path").cloned();
        let is_disk =
            |device: &&BTreeMap<String, String>| device.get("type").map(String::as_str) == Some("disk");
        // In other containers it is looked for where COI's have it.
        let of_others = || devices.values().find(|device| path(device).as_deref() == Some(INSIDE));
        let device = devices.get(DEVICE).or_else(of_others).filter(is_disk);
        let inside = device.and_then(path).unwrap_or_else(|| INSIDE.to_owned());
        let workspace = request.workspace.clone().or_else(|| {
            let source = device?.get("source").map(PathBuf::from)?;
            // What is mounted there for a start says nothing of where it is.
            (!self.trees.has(&source)).then_some(source)
        });
        Ok(Found {
            name: full,
            id: id.to_owned(),
            path: cgroup,
            existing,
            inside: workspace.as_ref().map(|_| inside),
            workspace,
            ending: ending(&incus, request, id),
            responder: Box::new(IncusResponder::new(incus, project, name, id)),
            ephemeral: request.ephemeral || instance.ephemeral,
            closed: seccomp::closed_holes(&instance.expanded_config).into_iter().map(str::to_owned).collect(),
        })
    }
}

/// The cgroup of the container that this process is the init of: the part of its path that Incus makes.
pub(super) fn payload(pid: u32) -> Option<String> {
    let path = cgroup::of_process(pid)?;
    let mut end = 0;
    for part in path.split('/').skip(1) {
        end += 1 + part.len();
        if part.starts_with(PAYLOAD) {
            return Some(path[..end].to_owned());
        }
    }
    None
}

pub(super) fn find_cgroup(
    path: &str,
    request: &WatchRequest,
    incus: &incus::Client,
) -> Result<Found, Refusal> {
    let path = format!("/{}", path.trim_matches('/'));
    let refuse = |why: &str| Err(Refusal::bad_request(format!("the cgroup {path} cannot be watched: {why}")));
    if path == "/" {
        return refuse("it is the root, and everything of the machine is in it");
    }
    if path.split('/').any(|part| part == "..") {
        return refuse("its path leads upwards");
    }
    if cgroup::level(&path) > MAX_LEVEL {
        return refuse(&format!("it is more than {MAX_LEVEL} levels deep"));
    }
    let cgroup = Cgroup::open(&path)?;
    if cgroup.holds(1) {
        return refuse("process 1 is in it");
    }
    if cgroup.holds(std::process::id()) {
        return refuse("COI's own daemon is in it");
    }
    if incus_pid(incus).is_some_and(|pid| cgroup.holds(pid)) {
        return refuse("Incus is in it");
    }
    let workspace = request.workspace.as_deref().map(fs::canonicalize).transpose();
    let workspace = workspace.map_err(|error| {
        Refusal::bad_request(format!("the workspace {:?} cannot be used: {error}", request.workspace))
    })?;
    Ok(Found {
        name: path.trim_start_matches('/').to_owned(),
        id: cgroup.id().to_string(),
        inside: workspace.as_ref().map(|path| path.to_string_lossy().into_owned()),
        workspace,
        existing: Some(Arc::new(cgroup)),
        path,
        responder: Box::new(CgroupResponder),
        ephemeral: true,
        ending: None,
        closed: Vec::new(),
    })
}

/// The process that listens on Incus's socket.
pub(super) fn incus_pid(incus: &incus::Client) -> Option<u32> {
    let stream = std::os::unix::net::UnixStream::connect(incus.socket()).ok()?;
    let peer = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials).ok()?;
    u32::try_from(peer.pid()).ok()
}

/// How the kernel side recognises the workspace, which is opened as who names it.
pub(super) async fn workspace_scope(path: PathBuf, caller: &Caller) -> Result<coi_common::Scope, Refusal> {
    let (opened, caller) = (path.clone(), caller.clone());
    let scope = move || {
        let directory = open_directory(opened, &caller)?;
        let metadata = directory.metadata()?;
        let (major, minor) = filesystem_device(&directory)
            .unwrap_or((nix::sys::stat::major(metadata.dev()), nix::sys::stat::minor(metadata.dev())));
        Ok(coi_common::Scope {
            workspace_inode: metadata.ino(),
            // `include/linux/kdev_t.h`
            workspace_device: (major as u32) << 20 | minor as u32,
            ..Default::default()
        })
    };
    let scope =
        tokio::task::spawn_blocking(scope).await.map_err(|error| Refusal::internal(error.to_string()))?;
    scope.map_err(|error: io::Error| {
        Refusal::bad_request(format!("the workspace {} cannot be used: {error}", path.display()))
    })
}

/// The device number of the file system a path is on, as the kernel itself numbers it: where stat(2) gives
/// each subvolume a number of its own (btrfs), mountinfo does not.
pub(super) fn filesystem_device(directory: &File) -> Option<(u64, u64)> {
    use std::os::fd::AsRawFd as _;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", directory.as_raw_fd())).ok()?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find(|line| line.split(' ').next() == Some(id))?;
    let (major, minor) = mount.split(' ').nth(2)?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
