//! Stopped copies of containers that were killed, for who wants to look at them later.
//!
//! It promises that a copy is made only of what stands still, and of nothing but its own root file system: it has neither
//! network nor workspace nor any other device, and no profile, so that who starts it lets nothing out. Of each owner and
//! workspace only the newest are kept. It has a deadline, and what came of it is said; the container stands still
//! meanwhile, and is killed whatever becomes of its copy.
//!
//! How many there are, and in what order, stands in the copies' own configuration: who may change that may do with
//! containers what they like anyway.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    incus::{Client, Devices, Error, Instance, NewInstance, Status},
    monitor::audit::chain::Hash,
};

/// What a copy is one of: an owner's, of a workspace.
const GROUP: &str = "user.coi.kept";
/// The how manieth in its group.
const NUMBER: &str = "user.coi.kept.number";
/// The name of the container that it is a copy of.
const OF: &str = "user.coi.kept.of";
/// What COI says of containers that are, or are to be, watched; a copy is none of them.
const NOT_OF_A_COPY: [&str; 3] = ["user.coi.workspace", "user.coi.monitor", "boot.autostart"];
/// How much of a name is left in its copy's: Incus takes 63 characters.
const LONGEST_NAME: usize = 40;

/// What is to be copied.
#[derive(Clone, Copy, Debug)]
pub struct Original<'a> {
    /// Whose it is.
    pub owner: u32,
    /// Its workspace, if it has one.
    pub workspace: Option<&'a str>,
    /// `coi.clock` of what it is killed for: what tells two copies of one container apart.
    pub clock: u64,
}

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Incus did not do it.
    #[error(transparent)]
    Incus(#[from] Error),
    /// It would be a copy of something that changes.
    #[error("it did not stand still: {0}")]
    Runs(String),
    /// It is not there any more.
    #[error("it was gone before it could be copied")]
    Gone,
    /// It is nobody's that makes copies.
    #[error("there is nothing to copy of a plain cgroup")]
    NoContainer,
    /// It took too long.
    #[error(
        "the copy {copy} was not finished within {within:?}; what there is of it Incus removes, or finishes later"
    )]
    Late {
        /// Its name.
        copy: String,
        /// How long it was given.
        within: Duration,
    },
}

/// Copies the container of this name and uuid; gives the copy's name.
pub(super) async fn make(
    client: &Client,
    name: &str,
    uuid: &str,
    original: Original<'_>,
    within: Duration,
) -> Result<String, CopyError> {
    let copy = copy_name(name, uuid, original.clock);
    let copying = async {
        let instance = client.instance(name).await?;
        if instance.uuid() != Some(uuid) {
            return Err(CopyError::Gone);
        }
        let group = group(name, original);
        let number = 1 + numbered(client, &group).await?.last().map_or(0, |(number, _)| *number);
        client.copy(name, &configured(&copy, &instance, &group, number), within).await?;
        Ok(())
    };
    match tokio::time::timeout(within, copying).await {
        Ok(done) => done.map(|()| copy),
        Err(_) => Err(CopyError::Late { copy, within }),
    }
}

/// Removes the oldest copies of the same owner and workspace that are more than `most`; such as somebody has started stay.
pub(super) async fn forget(
    client: &Client,
    name: &str,
    original: Original<'_>,
    most: usize,
) -> Result<(), CopyError> {
    let mut kept = numbered(client, &group(name, original)).await?;
    kept.retain(|(_, instance)| instance.status == Status::Stopped);
    for (_, instance) in &kept[..kept.len().saturating_sub(most)] {
        match client.delete(&instance.name, instance.uuid()).await {
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The copies of a group, oldest first.
async fn numbered(client: &Client, group: &str) -> Result<Vec<(u64, Instance)>, Error> {
    let all = client.instances().await?.into_iter();
    let ours = all.filter(|instance| instance.config.get(GROUP).is_some_and(|other| other == group));
    let number = |instance: &Instance| instance.config.get(NUMBER)?.parse().ok();
    let mut numbered: Vec<(u64, Instance)> =
        ours.filter_map(|instance| Some((number(&instance)?, instance))).collect();
    numbered.sort_by_key(|(number, _)| *number);
    Ok(numbered)
}

fn group(name: &str, original: Original<'_>) -> String {
    format!("{}:{}", original.owner, original.workspace.unwrap_or(name))
}

fn copy_name(name: &str, uuid: &str, clock: u64) -> String {
    let digest = Hash::of(format!("{uuid} {clock}").as_bytes()).to_string();
    let name = &name[..name.floor_char_boundary(LONGEST_NAME)];
    format!("{}-kept-{}", name.trim_end_matches('-'), &digest[..8])
}

fn configured(copy: &str, original: &Instance, group: &str, number: u64) -> NewInstance {
    let none = || BTreeMap::from([("type".to_owned(), "none".to_owned())]);
    let is_root = |device: &BTreeMap<String, String>| {
        device.get("type").is_some_and(|kind| kind == "disk")
            && device.get("path").is_some_and(|path| path == "/")
    };
    let devices: Devices = original
        .expanded_devices
        .iter()
        .map(|(name, device)| (name.clone(), if is_root(device) { device.clone() } else { none() }))
        .collect();
    let mut config: BTreeMap<String, String> =
        NOT_OF_A_COPY.map(|key| (key.to_owned(), String::new())).into_iter().collect();
    config.insert(GROUP.into(), group.to_owned());
    config.insert(NUMBER.into(), number.to_string());
    config.insert(OF.into(), original.name.clone());
    NewInstance { name: copy.to_owned(), config, devices, ..NewInstance::default() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_copy_has_its_root_and_nothing_else() {
        let instance: Instance = serde_json::from_value(json!({
            "name": "web", "status": "Running", "config": { "volatile.uuid": "u", "user.coi.workspace": "/w" },
            "expanded_devices": {
                "root": { "type": "disk", "path": "/", "pool": "default", "size": "5GiB" },
                "workspace": { "type": "disk", "path": "/workspace", "source": "/w" },
                "eth0": { "type": "nic", "network": "incusbr0" },
            },
        }))
        .unwrap();
        let new = configured("web-kept-1", &instance, "1000:/w", 7);
        assert_eq!(
            serde_json::to_value(&new).unwrap(),
            json!({
                "name": "web-kept-1", "ephemeral": false, "profiles": [],
                "config": {
                    "boot.autostart": "", "user.coi.kept": "1000:/w", "user.coi.kept.number": "7",
                    "user.coi.kept.of": "web", "user.coi.monitor": "", "user.coi.workspace": "",
                },
                "devices": {
                    "eth0": { "type": "none" },
                    "root": { "type": "disk", "path": "/", "pool": "default", "size": "5GiB" },
                    "workspace": { "type": "none" },
                },
            })
        );
    }

    #[test]
    fn names_are_incuss_and_differ() {
        let long = copy_name(&"a".repeat(63), "u", 1);
        assert!(long.len() <= 63, "{long}");
        assert_ne!(copy_name("web", "u", 1), copy_name("web", "u", 2));
        assert_ne!(copy_name("web", "u", 1), copy_name("web", "v", 1));
    }
}
