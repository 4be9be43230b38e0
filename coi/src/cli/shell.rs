//! `coi shell`

use clap::Args;

use super::run::{Place, launch_it, tell_end};
use super::{Code, Failure, Result};
use crate::launch::tool::{self, Tool};
use crate::launch::{self, Container, Ended, Launch, Left, Signals, Start, Wishes};
use crate::session::{self, store::Session};
use crate::ui;

/// Start an agent in a new container that sees the workspace, watched from its first process on.
///
/// It runs in tmux: detach from it with Ctrl-b d, and it goes on, watched; `coi attach` comes back. When the agent ends,
/// its conversation is saved and the container is deleted, unless it is persistent; the workspace always stays. Of the
/// host's home nothing goes in but the agent's own credentials.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coi shell\n  coi shell --workspace ~/src/app --tool bash\n  \
                        coi shell --resume\n  name=$(coi shell --background)")]
pub(super) struct Shell {
    #[command(flatten)]
    place: Place,
    /// Go on with a saved session of this workspace: the newest, or the one whose name begins so.
    #[arg(
        long,
        visible_alias = "continue",
        value_name = "ID",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = ""
    )]
    resume: Option<String>,
    /// Start the agent without a terminal, and print the container's name.
    #[arg(long)]
    background: bool,
    /// Start a plain shell in the agent's place, with all that the agent would find.
    #[arg(long)]
    debug: bool,
}

impl Shell {
    pub(super) async fn execute(self) -> Result {
        let mut signals = Signals::catch()?;
        if !self.background {
            launch::check_terminal()?;
        }
        let workspace = self.place.workspace()?;
        let asked = self.place.settings.text("tool.name").map(str::to_owned);
        let resumed = match self.resume.as_deref() {
            None => None,
            Some(id) => {
                let id = (!id.is_empty()).then_some(id);
                Some(launch::resumable(&workspace, asked.as_deref(), id)?)
            }
        };
        let mut place = self.place.clone();
        if let Some(profile) = resumed.as_ref().and_then(|session| session.metadata.profile.as_deref()) {
            // It goes on as it began, unless a flag says otherwise.
            place.settings.first("defaults.profile", profile);
        }
        let settings = place.settings(&workspace)?;
        let of_session = resumed.as_ref().map(|session| session.metadata.tool.as_str());
        let tool = known(asked.as_deref().or(of_session).unwrap_or(settings.config.tool.name.name()))?;
        let id = resumed.as_ref().map_or_else(session::new_id, |session| session.metadata.session_id.clone());
        let launch = place.plan(workspace, settings, Some((tool, id)), resumed.is_some())?;
        let container = launch_it(&launch, &mut signals).await?;
        let start = match self.prepare(&container, &launch, tool, resumed.as_ref()).await {
            Ok(start) => start,
            Err(failure) => {
                // The first error is the one to show; the second only if it leaves something behind.
                container.end(&mut ui::Printer::Lines).await?;
                return Err(failure);
            }
        };
        if self.background {
            return background(container, &start).await;
        }
        session(container, &start, &mut signals).await
    }

    async fn prepare(
        &self,
        container: &Container,
        launch: &Launch,
        tool: &'static dyn Tool,
        resumed: Option<&Session>,
    ) -> Result<Start> {
        let profile = launch.settings.profiles.first().map(String::as_str);
        let wishes = Wishes { tool, resumed, debug: self.debug, profile };
        let (start, credentials) = launch::prepare(container, launch, wishes).await?;
        let name = tool.facts().name;
        if !credentials.is_empty() {
            let paths: Vec<_> = credentials.iter().map(|path| format!("~/{path}")).collect();
            ui::err(&format!("coi: {name} gets its own credentials, and no others: {}", paths.join(", ")));
        }
        if let Some(session) = resumed {
            let metadata = &session.metadata;
            ui::err(&format!(
                "coi: goes on with session {}, saved {}",
                metadata.session_id,
                ui::plain(&metadata.saved_at)
            ));
        }
        Ok(start)
    }
}

/// The tool of this name; a saved session may name one that there is no more.
fn known(name: &str) -> Result<&'static dyn Tool> {
    tool::named(name).ok_or_else(|| {
        let names: Vec<_> = tool::names().collect();
        Failure::Usage(format!("there is no tool {}; there are {}", ui::plain(name), names.join(", ")))
    })
}

/// Starts a session, and leaves it.
async fn background(container: Container, start: &Start) -> Result {
    if let Err(error) = launch::begin(&container, start).await {
        container.end(&mut ui::Printer::Lines).await?;
        return Err(error.into());
    }
    let name = &container.name;
    let watched = watched(&container);
    ui::err(&format!(
        "coi: {name} goes on in the background, {watched}. See it with `coi tmux capture {name}`, attach to it with \
         `coi attach {name}`, end it with `coi shutdown {name}`"
    ));
    ui::out(&format!("{name}\n")).map_err(Failure::system("standard output"))?;
    Ok(Code::OK)
}

const fn watched(container: &Container) -> &'static str {
    if container.is_monitored() { "and is watched" } else { "without the monitor" }
}

/// Attaches to a session; brings the container to its end when the session is over.
pub(super) async fn session(mut container: Container, start: &Start, signals: &mut Signals) -> Result {
    let ended = launch::shell(&mut container, start, signals, &mut ui::Printer::OverScreen).await;
    let name = container.name.clone();
    if let Ok(Ended::Detached) = ended {
        let watched = watched(&container);
        ui::err(&format!(
            "coi: {name} goes on, {watched}. Come back with `coi attach {name}`, end it with `coi shutdown {name}`"
        ));
        return Ok(Code::OK);
    }
    let left = container.end(&mut ui::Printer::Lines).await;
    let code = match ended? {
        Ended::Killed(_) => Code::KILLED,
        Ended::Over(code) => Code::of_command(code),
        Ended::Detached => Code::OK,
    };
    let Left { ended, killed } = left?;
    tell_end(&name, &ended);
    Ok(killed.map_or(code, |_| Code::KILLED))
}
