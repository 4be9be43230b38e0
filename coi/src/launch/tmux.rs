//! The tmux session in a container, for scripts: what is typed into it, and what can be seen in it.
//!
//! What comes back is the container's word, and hostile: whoever prints it has to make it safe for a terminal.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Error, Owned, Result, State, Workspace};
use crate::incus::{self, Exec, Output, Patience, Status};

/// The name of the tmux session in a container.
pub(super) const SESSION: &str = "coi";

/// How long tmux may take to answer.
const ASK: Duration = Duration::from_secs(10);

/// Types text into a session, and presses keys by tmux's names for them, such as `C-c`.
pub async fn send(incus: &incus::Client, owned: &Owned, text: Option<&str>, keys: &[String]) -> Result<()> {
    if let Some(text) = text {
        ask(incus, owned, &["send-keys", "-t", SESSION, "-l", "--", text]).await?;
    }
    if !keys.is_empty() {
        let keys: Vec<_> = keys.iter().map(String::as_str).collect();
        ask(incus, owned, &[&["send-keys", "-t", SESSION, "--"][..], &keys].concat()).await?;
    }
    Ok(())
}

/// What can be seen in a session, with so many lines of what has scrolled away.
pub async fn capture(incus: &incus::Client, owned: &Owned, history: u32) -> Result<String> {
    let start = format!("-{history}");
    let output = ask(incus, owned, &["capture-pane", "-p", "-J", "-t", SESSION, "-S", &start]).await?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a container has a session. One that does not run has none, and while it starts or ends Incus refuses to run
/// anything in it, for a moment in which it still says that it runs.
pub async fn has_session(incus: &incus::Client, owned: &Owned) -> Result<bool> {
    let mut patience = Patience::new();
    let mut now = owned.instance.status;
    loop {
        if now != Status::Running {
            return Ok(false);
        }
        match ask(incus, owned, &["has-session", "-t", SESSION]).await {
            Ok(_) => return Ok(true),
            Err(Error::NoSession { .. } | Error::NoWorkspace { .. }) => return Ok(false),
            // The image has no tmux.
            Err(Error::Incus(incus::Error::NotStarted { .. })) => return Ok(false),
            Err(Error::Incus(incus::Error::Refused { .. } | incus::Error::NotFound { .. }))
                if patience.lasts().await => {}
            Err(error) => return Err(error),
        }
        now = match incus.instance(&owned.instance.name).await {
            Ok(instance) => instance.status,
            Err(incus::Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
    }
}

/// Asks tmux something, as whoever the session belongs to: the workspace's owner.
async fn ask(incus: &incus::Client, owned: &Owned, words: &[&str]) -> Result<Output> {
    let name = owned.instance.name.clone();
    match owned.instance.status {
        Status::Stopped => return Err(Error::NotRunning { name, state: State::Stopped }),
        Status::Frozen => return Err(Error::NotRunning { name, state: State::Frozen }),
        _ => {}
    }
    let workspace = Workspace::open(owned.workspace.as_ref())?;
    let exec = Exec {
        command: [&["tmux"][..], words].concat().into_iter().map(str::to_owned).collect(),
        environment: BTreeMap::from([("LANG".to_owned(), "C.UTF-8".to_owned())]),
        user: workspace.uid,
        group: workspace.gid,
        cwd: "/".to_owned(),
    };
    let output = incus.output(&name, &exec, ASK).await?;
    match output.code {
        0 => Ok(output),
        _ => Err(Error::NoSession { name, why: String::from_utf8_lossy(&output.stderr).trim().to_owned() }),
    }
}
