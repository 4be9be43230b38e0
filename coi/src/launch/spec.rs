//! What Incus is asked to make.

use std::collections::BTreeMap;
use std::path::Path;

use super::inside::agent_device;
use super::{Result, Workspace, limits};
use crate::config::Config;
use crate::incus::{Devices, NewInstance};
use crate::monitor::seccomp::{self, Entry};
use crate::monitor::service::api::{ExtraMount, INSIDE, Tree};

/// Where a container sees its workspace.
pub const GUEST_WORKSPACE: &str = INSIDE;

/// The device that the workspace is.
pub(super) const WORKSPACE_DEVICE: &str = "workspace";

/// The profile that an administrator may make to say how COI's containers are to be.
pub(super) const PROFILE: &str = "coi";

/// The key that marks a container as COI's, with the workspace as its value. Whoever may use Incus can edit
/// it: it serves to find containers again, never to decide who may do what.
pub(super) const WORKSPACE_KEY: &str = "user.coi.workspace";

/// The key that holds the image's alias, for `coi list`.
pub(super) const IMAGE_KEY: &str = "user.coi.image";

/// The key that names the tool of a container's session; what `coi run` makes has none.
pub(super) const TOOL_KEY: &str = "user.coi.tool";

/// The key that names its session.
pub(super) const SESSION_KEY: &str = "user.coi.session";

/// The key that says that a container stays when it stops.
pub(super) const PERSISTENT_KEY: &str = "user.coi.persistent";

/// The key that says which process launched it last: a container that nobody is launching any more, and in which nothing
/// goes on, is left over.
pub(crate) const LAUNCHER_KEY: &str = "user.coi.launcher";

/// What Incus is to make.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) workspace: &'a Workspace,
    pub(super) settings: &'a Config,
    /// The entries into the kernel that stay open.
    pub(super) open: &'a [Entry],
    /// It stays when it stops.
    pub(super) persistent: bool,
    /// Its tool and session.
    pub(super) session: Option<(&'a str, &'a str)>,
}

impl Wanted<'_> {
    /// What may be another each time it is launched.
    pub(super) fn keys(&self) -> BTreeMap<String, String> {
        let mut keys = BTreeMap::from([(LAUNCHER_KEY, launcher())]);
        if let Some((tool, session)) = self.session {
            keys.extend([(TOOL_KEY, tool.to_owned()), (SESSION_KEY, session.to_owned())]);
        }
        if self.persistent {
            keys.insert(PERSISTENT_KEY, "true".to_owned());
        }
        keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

/// This process, as nobody else will ever be called before the next boot.
pub(crate) fn launcher() -> String {
    let pid = std::process::id();
    let started = crate::monitor::lineage::place(pid).map_or(0, |place| place.start_ticks);
    format!("{pid} {started}")
}

/// Whether the process that this names runs.
pub(crate) fn is_launching(launcher: &str) -> bool {
    let Some((pid, started)) = launcher.split_once(' ') else { return false };
    let (Ok(pid), Ok(started)) = (pid.parse(), started.parse::<u64>()) else { return false };
    crate::monitor::lineage::place(pid).is_some_and(|place| place.start_ticks == started)
}

/// What lets Docker run in a container. Nothing is intercepted: since Linux 5.11 overlayfs can be mounted in a user namespace
/// and makes its own whiteouts, and with interception one `incus exec` in ten fails on LXC 5.0.2 ("Failed to retrieve
/// PID of executing child process", measured without COI: 17 of 120 against 0 of 120).
const DOCKER: (&str, &str) = ("security.nesting", "true");

/// The container of a workspace.
///
/// Incus itself deletes what has nothing to be saved and is not to stay; the others the daemon sees to.
///
/// `shift` maps owners between host and container, for which the workspace's file system has to support
/// idmapped mounts: ext4, xfs, btrfs, tmpfs and overlayfs do, NFS and most FUSE file systems do not, and
/// Incus then refuses to start the container and says so.
/// What it sees of the host is in the tree, and `extra` what else of it is beside the workspace.
pub(super) fn spec(
    wanted: &Wanted<'_>,
    name: String,
    profile: &str,
    tree: &Tree,
    extra: &[ExtraMount],
) -> Result<NewInstance> {
    let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect()
    };
    let Wanted { workspace, settings, open, .. } = wanted;
    let image = &settings.container.image;
    let mut config = map(&[
        (WORKSPACE_KEY, workspace.text()),
        (IMAGE_KEY, image),
        // After a reboot Incus would start it before anything watches it.
        ("boot.autostart", "false"),
        (seccomp::DENY, &seccomp::policy(open)),
    ]);
    if settings.container.docker {
        config.extend(map(&[DOCKER]));
    }
    config.extend(limits::config(&settings.limits));
    config.extend(wanted.keys());
    let mut devices = devices(workspace, tree, extra);
    devices.extend(agent_device(settings, workspace)?);
    Ok(NewInstance {
        name,
        image: image.clone(),
        ephemeral: wanted.session.is_none() && !wanted.persistent,
        profiles: vec![profile.to_owned()],
        config,
        devices,
    })
}

fn devices(workspace: &Workspace, tree: &Tree, extra: &[ExtraMount]) -> Devices {
    let disk = |source: &Path, path: &str| {
        let pairs = [("type", "disk"), ("path", path), ("shift", "true")];
        let mut device: BTreeMap<_, _> =
            pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        device.insert("source".to_owned(), source.display().to_string());
        device
    };
    let mut devices = Devices::new();
    let mut tree_device = disk(&tree.workspace, &workspace.inside);
    // What is protected in it is a mount below it.
    tree_device.insert("recursive".to_owned(), "true".to_owned());
    devices.insert(WORKSPACE_DEVICE.to_owned(), tree_device);
    for (number, (mount, source)) in extra.iter().zip(&tree.mounts).enumerate() {
        let mut device = disk(source, &mount.container);
        if mount.readonly {
            device.insert("readonly".to_owned(), "true".to_owned());
        }
        devices.insert(format!("mount-{number}"), device);
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_incus_is_asked_for() {
        let inside = GUEST_WORKSPACE.to_owned();
        let workspace = Workspace { path: "/home/ann/app".into(), uid: 1000, gid: 1000, inside };
        let at = |name: &str| format!("/run/coi/trees/0d5b5e0e-0000-4000-8000-000000000001/{name}").into();
        let tree = Tree {
            id: "0d5b5e0e-0000-4000-8000-000000000001".into(),
            workspace: at("workspace"),
            mounts: vec![at("0")],
            held: vec![],
            notes: vec![],
        };
        let cache =
            ExtraMount { host: "/home/ann/.cache".into(), container: "/cache".into(), readonly: true };
        let settings = Config::default();
        let run = || Wanted {
            workspace: &workspace,
            settings: &settings,
            open: &[],
            persistent: false,
            session: None,
        };
        let session = Some(("claude", "0d5b5e0e-0000-4000-8000-000000000001"));
        let (run, shell) = (run(), Wanted { session, persistent: true, ..run() });
        let specs = [run, shell].map(|wanted| {
            let mut spec =
                spec(&wanted, "coi-1a2b3c4d-1".into(), "default", &tree, std::slice::from_ref(&cache))
                    .unwrap();
            let launcher = spec.config.insert(LAUNCHER_KEY.to_owned(), "812 4711".to_owned()).unwrap();
            assert!(is_launching(&launcher), "{launcher}");
            serde_json::to_string_pretty(&spec).unwrap()
        });
        insta::assert_snapshot!(specs.join("\n"));
    }

    #[test]
    fn who_launches_no_more() {
        for launcher in ["", "x", "1", "1 1", "4194305 1"] {
            assert!(!is_launching(launcher), "{launcher}");
        }
    }
}
