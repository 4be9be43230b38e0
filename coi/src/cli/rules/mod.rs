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
use crate::monitor::inforce::Base;
use crate::monitor::rulefiles::RuleFilesError;
use crate::monitor::rules::recording::{Entry, Reader};
use crate::monitor::rules::{OwnRules, RuleSet};
use crate::{launch, ui};

/// The rules: those built in, those of /etc/coi/rules.d, of the user and of the workspace, and those of a directory.
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

/// The rules of the machine.
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
    /// The rules of the machine; what is wrong with them is shown in place.
    fn load(&self) -> Result<Base> {
        load(self.rules.as_deref(), self.config.as_deref())
    }
}

/// The rules that something in a workspace would be judged by.
#[derive(Debug, Args)]
struct Here {
    #[command(flatten)]
    from: From,
    /// The workspace whose own rules are added, and the user's.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    workspace: PathBuf,
}

impl Here {
    fn load(&self) -> Result<RuleSet> {
        let own = launch::own_rules(Some(&self.workspace))?;
        with(&self.from.load()?, &own)
    }
}

/// The rules of the machine, with those of a directory; what is wrong with them is shown in place.
fn load(rules: Option<&Path>, config: Option<&Path>) -> Result<Base> {
    Base::load(rules, config).map_err(wrong)
}

/// The rules of the machine, with those that somebody brings.
fn with(base: &Base, own: &OwnRules) -> Result<RuleSet> {
    let rules = base.with(own).map_err(|errors| wrong(RuleFilesError::Wrong(errors)))?;
    Ok(RuleSet::clone(&rules.set))
}

fn wrong(error: RuleFilesError) -> Failure {
    if let RuleFilesError::Wrong(errors) = &error {
        errors.iter().for_each(show);
    }
    Failure::Rules(error)
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

/// A recording, read up to its first event.
struct Recording {
    path: PathBuf,
    reader: Reader,
    lines: io::Split<BufReader<fs::File>>,
}

impl Recording {
    fn open(path: &Path) -> Result<Self> {
        let failed = |source: io::Error| Failure::System { what: path.display().to_string(), source };
        let lines = BufReader::new(fs::File::open(path).map_err(failed)?).split(b'\n');
        let mut recording = Self { path: path.to_owned(), reader: Reader::default(), lines };
        // Where there is nothing at all, there is no first line either.
        let header = recording.lines.next().unwrap_or_else(|| Ok(Vec::new()));
        recording.entry(header)?;
        Ok(recording)
    }

    /// Reads it to its end.
    fn each(&mut self, mut each: impl FnMut(Entry) -> Result<()>) -> Result<()> {
        while let Some(line) = self.lines.next() {
            if let Some(entry) = self.entry(line)? {
                each(entry)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, line: io::Result<Vec<u8>>) -> Result<Option<Entry>> {
        let line =
            line.map_err(|source| Failure::System { what: self.path.display().to_string(), source })?;
        self.reader.line(&line).map_err(|error| Failure::Recording { path: self.path.clone(), error })
    }
}
