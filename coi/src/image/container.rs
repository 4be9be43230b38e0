//! The container that an image is made in.
//!
//! It sees nothing of the host: no workspace, no credential, no variable but those that name proxies. It is deleted
//! whichever way a build ends; one that a killed build has left `coi clean --orphans` finds by its key.

use std::collections::BTreeMap;
use std::time::Duration;

use super::log::{Log, Sink};
use super::network::{self, Trouble};
use super::recipe::{Action, Network, Step};
use super::{Error, PROXIES, Plan, Progress, Result};
use crate::incus::{self, Exec, ImageSource, Instance, NewInstance, Ownership, Status};
use crate::launch::{self, LAUNCHER_KEY, is_launching, launcher, profile_for};

/// The key that marks it, with the image's alias as its value.
const BUILD_KEY: &str = "user.coi.build";

/// The key that says from which directory it is built.
const WORKSPACE_KEY: &str = "user.coi.build.workspace";

/// How long a step may take.
const STEP: Duration = Duration::from_secs(3600);

/// The same search path for everybody.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where a script lies while it runs, and authorities until they are trusted.
const SCRIPT: &str = "/var/tmp/coi-build-script";
const AUTHORITIES: &str = "/usr/local/share/ca-certificates";

/// A command of the build's.
pub(super) fn exec(words: &[&str]) -> Exec {
    let variables = PROXIES.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
    let own = [("PATH", PATH), ("HOME", "/root"), ("USER", "root"), ("LANG", "C.UTF-8"), ("TERM", "dumb")];
    Exec {
        command: words.iter().map(|&word| word.to_owned()).collect(),
        environment: variables.chain(own.map(|(key, value)| (key.to_owned(), value.to_owned()))).collect(),
        user: 0,
        group: 0,
        cwd: "/".to_owned(),
    }
}

/// A container that something is built in.
#[derive(Debug)]
pub(super) struct Build {
    incus: incus::Client,
    /// Its name.
    pub(super) name: String,
}

impl Build {
    /// Makes it; it does not run yet.
    pub(super) async fn make(incus: &incus::Client, source: &ImageSource, plan: &Plan) -> Result<Self> {
        let profile = profile_for(incus).await?;
        let name = format!("coi-build-{:08x}", random()?);
        let keys = [
            (BUILD_KEY, plan.image.clone()),
            (WORKSPACE_KEY, plan.workspace.clone()),
            (LAUNCHER_KEY, launcher()),
            ("boot.autostart", "false".to_owned()),
        ];
        let mut config: BTreeMap<_, _> =
            keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        if plan.contents.docker {
            // Its package starts nothing while an image is made, and looks for what it will need all the same.
            config.insert("security.nesting".to_owned(), "true".to_owned());
        }
        let new = NewInstance {
            name: name.clone(),
            profiles: vec![profile.to_owned()],
            config,
            ..NewInstance::default()
        };
        let build = Self { incus: incus.clone(), name };
        if let Err(error) = incus.create_from(&new, source).await {
            build.remove().await?;
            return Err(error.into());
        }
        Ok(build)
    }

    /// The fingerprint of the image that it was made from.
    pub(super) async fn base(&self) -> Result<String> {
        let instance = self.incus.instance(&self.name).await?;
        Ok(instance.config.get("volatile.base_image").cloned().unwrap_or_default())
    }

    /// Starts it.
    pub(super) async fn start(&self) -> Result<()> {
        Ok(self.incus.start(&self.name).await?)
    }

    /// Stops it, so that what it has written is whole: by its init, or else by force.
    pub(super) async fn stop(&self) -> Result<()> {
        if let Err(error) = self.incus.shut_down(&self.name, Duration::from_secs(30)).await {
            tracing::debug!(%error, "the build container does not shut down by itself");
            self.incus.stop_force(&self.name, None).await?;
        }
        Ok(())
    }

    /// Deletes it.
    pub(super) async fn remove(&self) -> Result<()> {
        Ok(launch::remove(&self.incus, &self.name, None).await?)
    }

    /// Does a step to its end.
    pub(super) async fn step(
        &self,
        step: &Step,
        brought: bool,
        log: &mut Log,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        log.head(&step.name);
        let mut missing = None;
        if step.network != Network::Unneeded {
            let within = if step.network == Network::Needed { network::WAIT } else { network::WAIT_PERHAPS };
            let facts = network::wait(&self.incus, &self.name, within).await?;
            missing = network::diagnose(&facts, "", brought);
        }
        match missing {
            Some(trouble) if step.network == Network::Needed => {
                return Err(log.failed(&step.name, Some(trouble), "it was not begun".to_owned()));
            }
            Some(_) => progress.note("the build container has no network; it is tried without"),
            None => {}
        }
        let command = match &step.action {
            Action::Shell(text) => exec(&["/bin/sh", "-ec", &format!("exec 2>&1\n{text}")]),
            Action::Script(text) => {
                self.write(SCRIPT, 0o700, text).await?;
                // By the interpreter that it names; afterwards it is gone, whatever became of it.
                let run = if text.starts_with("#!") { "\"$0\"" } else { "/bin/sh \"$0\"" };
                exec(&[
                    "/bin/sh",
                    "-c",
                    &format!("exec 2>&1\n{run}\ncode=$?\nrm -f \"$0\"\nexit $code"),
                    SCRIPT,
                ])
            }
            Action::Authorities(all) => {
                self.authorities(all).await?;
                return Ok(());
            }
        };
        let code = self.run(&command, log, progress).await?;
        if code == 0 {
            return Ok(());
        }
        let trouble = match step.network {
            Network::Unneeded => None,
            _ => self.trouble(&log.text(), brought).await,
        };
        Err(log.failed(&step.name, trouble, format!("it ended with exit code {code}")))
    }

    /// Runs a command to its end; answers its exit code.
    async fn run(&self, command: &Exec, log: &mut Log, progress: &mut dyn Progress) -> Result<i32> {
        let process = self.incus.exec(&self.name, command).await?;
        let (_quiet, signals) = tokio::sync::mpsc::channel(1);
        let run = process.run(tokio::io::empty(), Sink { log, progress }, tokio::io::sink(), signals);
        match tokio::time::timeout(STEP, run).await {
            // What a script answers with these codes Incus takes for its own.
            Ok(Err(incus::Error::NotStarted { code, .. })) => Ok(code),
            Ok(code) => Ok(code?),
            Err(_) => {
                let how = format!("it did not end within {} minutes", STEP.as_secs() / 60);
                Err(log.failed("", None, how))
            }
        }
    }

    /// What is wrong with the network, if that is why a step has failed.
    async fn trouble(&self, said: &str, brought: bool) -> Option<Trouble> {
        let facts = network::look(&self.incus, &self.name, true).await.ok()?;
        network::diagnose(&facts, said, brought)
    }

    /// What a command says, without a log.
    pub(super) async fn ask(&self, words: &[&str]) -> Result<String> {
        let output = self.incus.output(&self.name, &exec(words), Duration::from_secs(60)).await?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    async fn write(&self, path: &str, mode: u32, text: &str) -> Result<()> {
        let mut files = self.incus.files(&self.name).await?;
        let owner = Ownership { uid: 0, gid: 0, mode };
        Ok(files.write(path.as_bytes(), owner, None, text.as_bytes()).await?)
    }

    async fn authorities(&self, all: &[(String, String)]) -> Result<()> {
        let mut files = self.incus.files(&self.name).await?;
        let directory = Ownership { uid: 0, gid: 0, mode: 0o755 };
        let mut path = String::new();
        for part in AUTHORITIES.split('/').filter(|part| !part.is_empty()) {
            path = format!("{path}/{part}");
            // Who they belong to in the base is the base's to say.
            if files.look(path.as_bytes()).await?.is_none() {
                files.make_directory(path.as_bytes(), directory).await?;
            }
        }
        for (name, text) in all {
            let owner = Ownership { uid: 0, gid: 0, mode: 0o644 };
            files.write(format!("{AUTHORITIES}/{name}").as_bytes(), owner, None, text.as_bytes()).await?;
        }
        Ok(())
    }
}

fn random() -> Result<u32> {
    getrandom::u32().map_err(|error| Error::System {
        what: "random numbers".to_owned(),
        source: std::io::Error::other(error.to_string()),
    })
}

/// What builds have left: containers in which nobody builds any more, each with the directory it was built from.
pub async fn left_over(incus: &incus::Client) -> Result<Vec<(Instance, String)>> {
    let mut all = incus.instances().await?;
    all.retain(|instance| {
        let launcher = instance.config.get(LAUNCHER_KEY);
        instance.config.contains_key(BUILD_KEY)
            && instance.status != Status::Frozen
            && !launcher.is_some_and(|launcher| is_launching(launcher))
    });
    let with = |instance: Instance| {
        let workspace = instance.config.get(WORKSPACE_KEY).cloned().unwrap_or_default();
        (instance, workspace)
    };
    Ok(all.into_iter().map(with).collect())
}

/// Removes a container that a build has left.
pub async fn remove_left_over(incus: &incus::Client, instance: &Instance) -> Result<()> {
    Ok(launch::remove(incus, &instance.name, instance.uuid()).await?)
}
