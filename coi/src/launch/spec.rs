//! What Incus is asked to make.

use std::collections::BTreeMap;

use super::Workspace;
use crate::incus::NewInstance;
use crate::monitor::seccomp::{self, Entry};

/// The image that is used unless another one is named.
pub const DEFAULT_IMAGE: &str = "coi-default";

/// Where a container sees its workspace.
pub const GUEST_WORKSPACE: &str = "/workspace";

/// The profile that an administrator may make to say how COI's containers are to be.
pub(super) const PROFILE: &str = "coi";

/// The key that marks a container as COI's, with the workspace as its value. Whoever may use Incus can edit
/// it: it serves to find containers again, never to decide who may do what.
pub(super) const WORKSPACE_KEY: &str = "user.coi.workspace";

/// The key that holds the image's alias, for `coi list`.
pub(super) const IMAGE_KEY: &str = "user.coi.image";

/// The container of a workspace, in which these entries into the kernel stay open.
///
/// `shift` maps owners between host and container, for which the workspace's file system has to support
/// idmapped mounts: ext4, xfs, btrfs, tmpfs and overlayfs do, NFS and most FUSE file systems do not, and
/// Incus then refuses to start the container and says so.
pub(super) fn spec(
    workspace: &Workspace,
    name: String,
    image: &str,
    profile: &str,
    open: &[Entry],
) -> NewInstance {
    let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect()
    };
    NewInstance {
        name,
        image: image.to_owned(),
        ephemeral: true,
        profiles: vec![profile.to_owned()],
        config: map(&[
            (WORKSPACE_KEY, workspace.text()),
            (IMAGE_KEY, image),
            // After a reboot Incus would start it before anything watches it.
            ("boot.autostart", "false"),
            (seccomp::DENY, &seccomp::policy(open)),
        ]),
        devices: BTreeMap::from([(
            "workspace".to_owned(),
            map(&[
                ("type", "disk"),
                ("source", workspace.text()),
                ("path", GUEST_WORKSPACE),
                ("shift", "true"),
            ]),
        )]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_incus_is_asked_for() {
        let workspace = Workspace { path: "/home/ann/app".into(), uid: 1000, gid: 1000 };
        let spec = spec(&workspace, "coi-1a2b3c4d-1".into(), DEFAULT_IMAGE, "default", &[]);
        insta::assert_snapshot!(serde_json::to_string_pretty(&spec).unwrap());
    }
}
