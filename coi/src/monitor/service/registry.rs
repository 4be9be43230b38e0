//! What is watched, on the disk, so that a daemon that begins finds every watch of the one before.
//!
//! It promises that a watch that was answered is in it, until it is over; that what is read was written by a daemon; and
//! that one entry that cannot be read keeps no other from being found. A file per watch, `COI_STATE_DIR/watches/NAME.ID.json`.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    admission::{Caller, admin_group},
    api::WatchRequest,
    trees,
};
use crate::monitor::{
    audit,
    private::{Lasting, Private, PrivateError},
    rules::MOST_BYTES,
};

/// What this program writes, and reads.
const VERSION: u32 = 1;
/// How long an entry may be: in JSON a character of a rule file may take six.
const LONGEST: u64 = 6 * MOST_BYTES as u64 + (64 << 10);
/// Added to the name of an entry that cannot be read.
const DAMAGED: &str = ".damaged";

/// A watch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Registered {
    version: u32,
    /// Its name.
    pub(super) name: String,
    /// The instance's uuid, or the cgroup's id.
    pub(super) id: String,
    /// The cgroup's path.
    pub(super) path: String,
    /// What was asked for, completed by what was found out then.
    pub(super) request: WatchRequest,
    /// The workspace's path as seen inside.
    pub(super) inside: Option<String>,
    /// Who asked.
    pub(super) by: u32,
    /// Who has named the workspace, by uid, gid and other groups, and opens it; Incus's own word is root's.
    pub(super) named_by: Option<(u32, u32, Vec<u32>)>,
    /// The ids of holes that the instance's configuration closes.
    pub(super) closed: Vec<String>,
    /// The mounts that it gets.
    #[serde(default)]
    pub(super) tree: Option<trees::Lasting>,
}

impl Registered {
    pub(super) fn new(name: &str, id: &str, path: &str, request: WatchRequest, by: u32) -> Self {
        let (name, id, path) = (name.to_owned(), id.to_owned(), path.to_owned());
        Self {
            version: VERSION,
            name,
            id,
            path,
            request,
            inside: None,
            by,
            named_by: None,
            closed: Vec::new(),
            tree: None,
        }
    }

    /// Who opens the workspace.
    pub(super) fn caller(&self) -> Caller {
        match self.named_by.clone() {
            Some((uid, gid, groups)) => Caller::new(uid, gid, groups, admin_group()),
            None => Caller::root(),
        }
    }

    /// What its files are called.
    pub(super) fn key(&self) -> String {
        audit::stem(&self.name, &self.id)
    }
}

/// All of them.
#[derive(Clone, Debug)]
pub(super) struct Registry(Arc<Private>);

impl Registry {
    /// The one of this machine.
    pub(super) fn of_machine() -> Result<Self, PrivateError> {
        Self::at(&audit::daemon_directory().join("watches"))
    }

    fn at(path: &Path) -> Result<Self, PrivateError> {
        Ok(Self::new(Private::open(path)?))
    }

    /// The one in this directory.
    pub(super) fn new(directory: Private) -> Self {
        Self(Arc::new(directory))
    }

    /// Every watch of the daemon before. What cannot be read is put aside and told.
    pub(super) fn all(&self) -> Result<Vec<Registered>, PrivateError> {
        let failed = |source| PrivateError { path: self.0.path().to_owned(), source };
        let mut all = Vec::new();
        for name in self.0.names().map_err(failed)? {
            let Some(key) = name.strip_suffix(".json") else { continue };
            match self.one(&name, key) {
                Ok(registered) => all.push(registered),
                Err(error) => {
                    tracing::error!(
                        %error,
                        file = %self.0.path().join(&name).display(),
                        "a watch cannot be found again; what the guard froze of it stays frozen. Watch it anew: coi monitor --attach NAME"
                    );
                    self.0.rename(&name, &format!("{name}{DAMAGED}")).map_err(failed)?;
                }
            }
        }
        Ok(all)
    }

    fn one(&self, name: &str, key: &str) -> io::Result<Registered> {
        let registered: Registered = serde_json::from_slice(&self.0.read(name, LONGEST)?)?;
        let version = registered.version;
        if version != VERSION {
            return Err(io::Error::other(format!(
                "it is of version {version}, this program reads {VERSION}"
            )));
        }
        if registered.key() != key {
            return Err(io::Error::other(format!("it is about {}", registered.key())));
        }
        Ok(registered)
    }

    /// Keeps a watch; on the disk when this ends.
    pub(super) async fn put(&self, registered: Registered) -> Result<(), PrivateError> {
        let name = format!("{}.json", registered.key());
        self.on_disk(name, move |directory, name| {
            directory.write(name, &serde_json::to_vec(&registered)?, Lasting::Synced)
        })
        .await
    }

    /// Forgets a watch that is over.
    pub(super) async fn remove(&self, key: &str) -> Result<(), PrivateError> {
        self.on_disk(format!("{key}.json"), |directory, name| directory.remove(name, Lasting::Synced)).await
    }

    async fn on_disk(
        &self,
        name: String,
        act: impl FnOnce(&Private, &str) -> io::Result<()> + Send + 'static,
    ) -> Result<(), PrivateError> {
        let directory = Arc::clone(&self.0);
        let path: PathBuf = directory.path().join(&name);
        let done = tokio::task::spawn_blocking(move || act(&directory, &name)).await;
        done.unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(|source| PrivateError { path, source })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::monitor::{
        rules::{OwnRules, RuleText},
        service::api::{OnMonitorLoss, Subject},
    };

    fn registered(name: &str) -> Registered {
        let rules = OwnRules {
            user: vec![RuleText { name: "a.toml".into(), text: "\u{1b}\"# rules".into() }],
            ..OwnRules::default()
        };
        let request = WatchRequest {
            respond: true,
            ephemeral: true,
            rules,
            owner: Some(1000),
            on_monitor_loss: Some(OnMonitorLoss::Freeze),
            ..WatchRequest::new(Subject::container(name))
        };
        Registered::new(name, "0d5b5e0e-0000-4000-8000-000000000001", "/lxc.payload.x", request, 1000)
    }

    #[tokio::test]
    async fn what_is_kept_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::at(directory.path()).unwrap();
        for name in ["one", "two"] {
            registry.put(registered(name)).await.unwrap();
        }
        registry.put(Registered { by: 7, ..registered("two") }).await.unwrap();
        let text = |all: &[Registered]| serde_json::to_string(all).unwrap();
        let wanted = [registered("one"), Registered { by: 7, ..registered("two") }];
        assert_eq!(text(&registry.all().unwrap()), text(&wanted));
        registry.remove(&wanted[0].key()).await.unwrap();
        assert_eq!(text(&registry.all().unwrap()), text(&wanted[1..]));
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_put_aside_and_hides_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::at(directory.path()).unwrap();
        registry.put(registered("good")).await.unwrap();
        let good =
            fs::read_to_string(directory.path().join(format!("{}.json", registered("good").key()))).unwrap();
        for (name, text) in [
            ("torn.json", &good[..good.len() / 2]),
            ("another.json", &good[..]),
            ("newer.json", &good.replace("\"version\":1", "\"version\":2")),
            ("empty.json", ""),
        ] {
            fs::write(directory.path().join(name), text).unwrap();
        }
        for _ in 0..2 {
            assert_eq!(registry.all().unwrap().len(), 1);
        }
        assert!(directory.path().join("torn.json.damaged").exists());
    }
}
