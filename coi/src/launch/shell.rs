//! A session: a tool in tmux in a container, with a terminal attached for as long as the user likes.
//!
//! The terminal itself is `incus exec -t`, Incus's own client: it knows about terminals what a REST client
//! would have to learn anew.

use std::io::IsTerminal;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::end::plan;
use super::guest::Guest;
use super::host::{code, hand_on};
use super::monitored::is_over;
use super::tmux::SESSION;
use super::tool::{self, Context, Setting, Tool};
use super::{Caller, Container, Error, Launch, Notices, Result, Signals};
use crate::config::Config;
use crate::incus::Exec;
use crate::monitor::service::api::ActionTaken;
use crate::session::Metadata;
use crate::session::store::{self, Kept, Session};

/// How long a question to the guest may take. It hangs while the container is frozen.
const ASK: Duration = Duration::from_secs(10);

/// What `--debug` starts.
const DEBUG_SHELL: &str = "bash";

/// Terminals that every image knows.
const TERMS: [&str; 7] =
    ["xterm-256color", "xterm", "screen-256color", "screen", "tmux-256color", "linux", "vt100"];

/// What runs in a session.
#[derive(Debug)]
pub struct Start {
    words: Vec<String>,
    environment: Vec<(&'static str, &'static str)>,
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

/// What a session is to be like.
#[derive(Clone, Copy, Debug)]
pub struct Wishes<'a> {
    /// The tool.
    pub tool: &'static dyn Tool,
    /// The session that it goes on with.
    pub resumed: Option<&'a Session>,
    /// A plain shell is started in the tool's place.
    pub debug: bool,
    /// The profile that it is started with.
    pub profile: Option<&'a str>,
}

/// Whether there is a terminal to attach: better asked before a container is made for it.
pub fn check_terminal() -> Result<()> {
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if terminal { Ok(()) } else { Err(Error::NoTerminal) }
}

/// Puts all into the container that a session needs, and has the daemon save it at its end. Gives what is to be started,
/// and the credentials that went in.
pub async fn prepare(
    container: &Container,
    launch: &Launch,
    wishes: Wishes<'_>,
) -> Result<(Start, Vec<&'static str>)> {
    let Wishes { tool, resumed, debug, profile } = wishes;
    let facts = tool.facts();
    // Why the agent does not start may be what is looked for.
    let program = if debug { DEBUG_SHELL } else { facts.program };
    for program in ["tmux", program] {
        if !container.guest.has(program) {
            return Err(container.lacks(program));
        }
    }
    let guest = &container.guest;
    let home = guest.home().to_owned();
    let setting = setting(guest, &launch.settings.config);
    let caller = Caller::find()?;
    let (made, restored) = caller.act(|home| {
        let restored = match resumed.filter(|_| !container.is_again) {
            Some(session) => store::files(session),
            None => Ok(Vec::<Kept>::new()),
        };
        (tool::made(tool, home, &setting), restored)
    })?;
    let restored = restored.map_err(|source| Error::Host {
        what: resumed.map(|session| session.directory.clone()).unwrap_or_default(),
        source,
    })?;
    let context = Context {
        container: container.name.clone(),
        workspace: setting.workspace.to_owned(),
        home: home.clone(),
        tool: facts.name.to_owned(),
        permission_mode: setting.permissions,
        persistent: container.persistent,
        image: container.image.clone(),
        monitored: container.is_monitored(),
        granted: guest.granted(&launch.settings.config),
        profile: launch.settings.context.clone(),
    };
    let mut files = container.incus.files(&container.name).await?;
    let installed =
        tool::install(&mut files, guest.owner(), tool, &setting, made, &restored, &context).await?;
    let metadata = Metadata {
        session_id: container.session.clone().unwrap_or_default(),
        container: container.name.clone(),
        workspace: launch.workspace.text().to_owned(),
        tool: facts.name.to_owned(),
        profile: profile.map(str::to_owned),
        image: container.image.clone(),
        persistent: container.persistent,
        saved_at: String::new(),
    };
    let plan = caller.home().and_then(|on_host| plan(tool, on_host, home.clone(), metadata));
    container.monitored.daemon().set_session(&container.name, plan.as_ref()).await?;
    let words = match debug {
        true => vec![DEBUG_SHELL.to_owned()],
        false => tool.words(&setting, resumed.is_some()),
    };
    Ok((Start { words, environment: tool.environment(&setting) }, installed.credentials))
}

/// What a tool is set up for there.
fn setting<'a>(guest: &'a Guest, settings: &Config) -> Setting<'a> {
    Setting {
        home: guest.home(),
        workspace: guest.workspace(),
        permissions: settings.tool.permission_mode.into(),
        auto_context: settings.tool.auto_context,
    }
}

/// What is started when a session is gone that was attached to: the tool anew.
pub fn anew(container: &Container, tool: &dyn Tool, settings: &Config) -> Start {
    let setting = setting(&container.guest, settings);
    Start { words: tool.words(&setting, false), environment: tool.environment(&setting) }
}

/// Attaches the terminal to the container's session, and makes the session if there is none.
pub async fn shell(
    container: &mut Container,
    start: &Start,
    signals: &mut Signals,
    notices: &mut impl Notices,
) -> Result<Ended> {
    check_terminal()?;
    if !container.has_session().await {
        begin(container, start).await?;
    }
    let client = container.terminal(["tmux", "attach-session", "-t", SESSION].map(str::to_owned).to_vec())?;
    let code = follow(container, client, signals, notices).await?;
    // Detaching and leaving the session both end the terminal's client well.
    if let Some(action) = container.monitored.killed(code != 0, notices).await? {
        return Ok(Ended::Killed(action));
    }
    if container.has_session().await { Ok(Ended::Detached) } else { Ok(Ended::Over(code)) }
}

/// Begins the session without a terminal. Its environment goes through Incus's socket: what a terminal's client is given
/// as arguments, every user of the host can see.
pub async fn begin(container: &Container, start: &Start) -> Result<()> {
    let words = ["tmux", "new-session", "-d", "-x", "200", "-y", "50", "-s", SESSION];
    let words = [&words.map(str::to_owned)[..], &start.words].concat();
    // What is to be drawn later is drawn for tmux's own terminal.
    let exec = container.exec(words, "xterm-256color", &start.environment);
    let output = container.incus.output(&container.name, &exec, ASK).await?;
    match output.code {
        0 => Ok(()),
        _ => Err(Error::NoSession {
            name: container.name.clone(),
            why: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        }),
    }
}

/// A shell of its own beside the session. Answers its exit code.
pub async fn beside(
    container: &mut Container,
    signals: &mut Signals,
    notices: &mut impl Notices,
) -> Result<Ended> {
    check_terminal()?;
    let shell = if container.guest.has("bash") { "bash" } else { "/bin/sh" };
    let client = container.terminal(vec![shell.to_owned()])?;
    let code = follow(container, client, signals, notices).await?;
    match container.monitored.killed(super::run::is_suspicious(code), notices).await? {
        Some(action) => Ok(Ended::Killed(action)),
        None => Ok(Ended::Over(code)),
    }
}

/// Follows what happens until the terminal's client has ended.
async fn follow(
    container: &mut Container,
    mut client: Child,
    signals: &mut Signals,
    notices: &mut impl Notices,
) -> Result<i32> {
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
    Ok(code(status.map_err(|e| Error::NoIncusClient { why: e.to_string() })?))
}

impl Container {
    /// That its image has no such program.
    fn lacks(&self, program: &'static str) -> Error {
        Error::NoProgram { name: self.name.clone(), image: self.image.clone(), program }
    }

    fn exec(&self, words: Vec<String>, term: &str, environment: &[(&str, &str)]) -> Exec {
        let mut exec = self.guest.exec(words, term);
        let more = environment.iter().map(|&(key, value)| (key.to_owned(), value.to_owned()));
        exec.environment.extend(more);
        exec
    }

    fn terminal(&self, words: Vec<String>) -> Result<Child> {
        let host = std::env::var("TERM").unwrap_or_default();
        let term = if TERMS.contains(&host.as_str()) { &host } else { TERMS[0] };
        let exec = self.guest.visibly(words, term);
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
