//! `coi rules`

mod bench;
mod check;
mod explain;
mod import;
mod list;
mod new;
mod reload;
mod replay;
mod test;

use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme};

use super::{Code, Failure, Format, Result};
use crate::monitor::config::Config;
use crate::monitor::rulefiles::{self, RuleFilesError};
use crate::monitor::rules::RuleSet;
use crate::monitor::rules::recording::{Entry, Holds, Reader};
use crate::ui;

/// The rules: those built in, those of /etc/coi/rules.d, and those of a directory.
#[derive(Debug, Args)]
pub(super) struct Rules {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(list::List),
    Fields(list::Fields),
    Check(check::Check),
    Test(test::Test),
    Explain(explain::Explain),
    Replay(replay::Replay),
    New(new::New),
    Import(import::Import),
    Reload(reload::Reload),
    Bench(bench::Bench),
}

impl Rules {
    pub(super) async fn execute(self) -> Result {
        match self.command {
            Command::List(command) => command.execute(),
            Command::Fields(command) => command.execute(),
            Command::Check(command) => command.execute().await,
            Command::Test(command) => command.execute(),
            Command::Explain(command) => command.execute(),
            Command::Replay(command) => command.execute(),
            Command::New(command) => command.execute(),
            Command::Import(command) => command.execute(),
            Command::Bench(command) => command.execute(),
            Command::Reload(command) => command.execute().await,
        }
    }
}

#[derive(Debug, Args)]
struct From {
    /// A rule file to be added, or a directory of them.
    #[arg(long, value_name = "DIR")]
    rules: Option<PathBuf>,
    /// A configuration file instead of /etc/coi/config.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl From {
    /// The rules; what is wrong with them is shown in place.
    fn load(&self) -> Result<RuleSet> {
        load(self.rules.as_deref(), self.config.as_deref())
    }
}

/// The rules in force, with those of a directory; what is wrong with them is shown in place.
fn load(rules: Option<&Path>, config: Option<&Path>) -> Result<RuleSet> {
    let loaded = Config::read(config).and_then(|config| rulefiles::load(rules, &config.rules));
    loaded.map_err(|error| {
        if let RuleFilesError::Wrong(errors) = &error {
            errors.iter().for_each(show);
        }
        Failure::Rules(error)
    })
}

/// Draws what is wrong in its place.
fn show(error: &impl Diagnostic) {
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode());
    let mut text = String::new();
    if handler.render_report(&mut text, error).is_ok() {
        ui::err(text.trim_end());
    }
}

fn out(text: &str) -> Result<()> {
    ui::out(text).map_err(Failure::system("standard output"))
}

/// Reads a recording entry by entry; gives how much it holds.
fn recording(path: &Path, mut each: impl FnMut(Entry) -> Result<()>) -> Result<Holds> {
    let failed = |source: io::Error| Failure::System { what: path.display().to_string(), source };
    let mut lines = BufReader::new(fs::File::open(path).map_err(failed)?).split(b'\n');
    let mut reader = Reader::default();
    lines.try_for_each(|line| {
        let entry = reader.line(&line.map_err(failed)?);
        match entry.map_err(|error| Failure::Recording { path: path.to_owned(), error })? {
            Some(entry) => each(entry),
            None => Ok(()),
        }
    })?;
    Ok(reader.holds())
}
