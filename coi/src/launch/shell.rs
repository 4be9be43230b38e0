//! A session: a tool in tmux in a container, with a terminal attached for as long as the user likes.
//!
//! The terminal itself is `incus exec -t`, Incus's own client: it knows about terminals what a REST client
//! would have to learn anew.

use std::io::IsTerminal;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::host::{code, hand_on};
use super::monitored::is_over;
use super::{Container, Error, Notices, Result, Signals};
use crate::monitor::service::api::ActionTaken;

/// The name of the tmux session in the container.
const SESSION: &str = "coi";

/// How long a question to the guest may take. It hangs while the container is frozen.
const ASK: Duration = Duration::from_secs(10);

/// Terminals that every image knows.
const TERMS: [&str; 7] =
    ["xterm-256color", "xterm", "screen-256color", "screen", "tmux-256color", "linux", "vt100"];

/// What runs in a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tool {
    /// A plain shell.
    #[default]
    Bash,
}

impl Tool {
    fn program(self) -> &'static str {
        match self {
            Self::Bash => "bash",
        }
    }
}

/// How the terminal was left.
#[derive(Debug)]
pub enum Ended {
    /// The session goes on without it.
    Detached,
    /// The session is over, and the terminal's client ended with this code.
    Over(i32),
    /// A rule killed the container.
    Killed(ActionTaken),
}

/// Whether there is a terminal to attach: better asked before a container is made for it.
pub fn check_terminal() -> Result<()> {
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if terminal { Ok(()) } else { Err(Error::NoTerminal) }
}

/// Attaches the terminal to the container's session, and makes the session if there is none.
pub async fn shell(
    container: &mut Container,
    tool: Tool,
    signals: &mut Signals,
    notices: &mut impl Notices,
) -> Result<Ended> {
    check_terminal()?;
    for program in ["tmux", tool.program()] {
        if !container.guest.has(program) {
            return Err(Error::NoProgram { name: container.name.clone(), program });
        }
    }
    let mut client = container.terminal(tool)?;
    let mut gone = false;
    let status = loop {
        tokio::select! {
            status = client.wait() => break status,
            state = container.monitored.follow(notices), if !gone => {
                gone = is_over(state);
            }
            // The terminal's own signals go to the session; these are for the terminal's client.
            signal = signals.next() => hand_on(&client, signal),
        }
    };
    let status = status.map_err(|e| Error::NoIncusClient { why: e.to_string() })?;
    let code = code(status);
    // Detaching and leaving the session both end the terminal's client well.
    if let Some(action) = container.monitored.killed(code != 0, notices).await? {
        return Ok(Ended::Killed(action));
    }
    if container.has_session().await { Ok(Ended::Detached) } else { Ok(Ended::Over(code)) }
}

impl Container {
    fn terminal(&self, tool: Tool) -> Result<Child> {
        let host = std::env::var("TERM").unwrap_or_default();
        let term = if TERMS.contains(&host.as_str()) { &host } else { TERMS[0] };
        let words = ["tmux", "new-session", "-A", "-s", SESSION, tool.program()];
        let exec = self.guest.exec(words.map(str::to_owned).to_vec(), term);
        let mut command = Command::new("incus");
        command.env("INCUS_SOCKET", self.incus.socket()).env_remove("INCUS_REMOTE");
        command.args(["--project", "default", "exec", "--force-interactive"]);
        command.args(["--user", &exec.user.to_string(), "--group", &exec.group.to_string()]);
        command.args(["--cwd", &exec.cwd]);
        for (key, value) in &exec.environment {
            command.arg("--env").arg(format!("{key}={value}"));
        }
        command.arg(format!("local:{}", self.name)).arg("--").args(&exec.command);
        command.spawn().map_err(|e| Error::NoIncusClient { why: e.to_string() })
    }

    /// Whether the session goes on. A frozen container cannot be asked: it has not ended.
    async fn has_session(&self) -> bool {
        if self.monitored.is_empty().await {
            return false;
        }
        let words = ["tmux", "has-session", "-t", SESSION].map(str::to_owned).to_vec();
        let exec = self.guest.exec(words, "dumb");
        match timeout(ASK, self.incus.output(&self.name, &exec, ASK)).await {
            Ok(Ok(output)) => output.code == 0,
            _ => !self.monitored.is_empty().await,
        }
    }
}
