//! `coi trust` and `coi untrust`

use std::io::{self, BufRead as _, IsTerminal as _};
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{Code, Failure, Format, Result};
use crate::config::Request;
use crate::launch::{self, Workspace};
use crate::ui;

/// Show what a workspace's configuration asks for beyond tightening, and allow it.
///
/// What is allowed is what was shown: another setting or another value asks again. Without this, nothing is started in
/// such a workspace.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coi trust\n  coi trust --yes --workspace ~/src/app\n  coi trust --list")]
pub(super) struct Trust {
    /// The workspace.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    workspace: PathBuf,
    /// Allow it without asking.
    #[arg(long)]
    yes: bool,
    /// Show what is trusted on this machine, and change nothing.
    #[arg(long, conflicts_with = "yes")]
    list: bool,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Trust {
    pub(super) fn execute(self) -> Result {
        if self.list {
            return list(self.format);
        }
        let workspace = Workspace::open(&self.workspace)?;
        let loader = launch::loader(Some(&workspace.path), Vec::new())?;
        let mut trust = loader.trusted()?;
        let mut requests = loader.requests()?;
        let all: Vec<_> = requests.iter().map(|request| (request.clone(), trust.allows(request))).collect();
        requests.retain(|request| !trust.allows(request));
        out(&match self.format {
            Format::Json => {
                let each = all.iter().map(|(request, trusted)| {
                    json!({ "file": request.source, "asks": request.lines(), "trusted": trusted })
                });
                format!("{:#}\n", json!(each.collect::<Vec<_>>()))
            }
            Format::Text => requests.iter().map(text).collect(),
        })?;
        if requests.is_empty() {
            ui::err(match all.is_empty() {
                true => "coi: this workspace asks for nothing that needs trust",
                false => "coi: what this workspace asks for is trusted already",
            });
            return Ok(Code::OK);
        }
        if !self.yes && !agreed()? {
            ui::err("coi: nothing is trusted");
            return Ok(Code::FAILURE);
        }
        requests.iter().for_each(|request| trust.allow(request));
        loader.keep(&trust)?;
        ui::err("coi: trusted. `coi untrust` takes it back");
        Ok(Code::OK)
    }
}

fn text(request: &Request) -> String {
    let lines = request.lines();
    let lines: String = lines.iter().map(|line| format!("  {}\n", ui::plain(line))).collect();
    format!("{} asks for\n{lines}", ui::plain(&request.source))
}

/// Whether somebody at a terminal says yes.
fn agreed() -> Result<bool> {
    if !io::stdin().is_terminal() {
        let why = "there is no terminal to ask at. To trust what is shown, say --yes".to_owned();
        return Err(Failure::Usage(why));
    }
    ui::err("coi: trust this? [y/N]");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(Failure::system("standard input"))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn list(format: Format) -> Result {
    let trust = launch::loader(None, Vec::new())?.trusted()?;
    let text = match format {
        Format::Json => {
            let each = trust.all().map(|(file, trusted)| json!({ "file": file, "asks": trusted.asked }));
            format!("{:#}\n", json!(each.collect::<Vec<_>>()))
        }
        Format::Text => trust
            .all()
            .map(|(file, trusted)| {
                let lines: String =
                    trusted.asked.iter().map(|line| format!("  {}\n", ui::plain(line))).collect();
                format!("{} may have\n{lines}", ui::plain(file))
            })
            .collect(),
    };
    out(&text)?;
    if trust.all().next().is_none() {
        ui::err("coi: nothing is trusted");
    }
    Ok(Code::OK)
}

/// Take back what `coi trust` has allowed to a workspace.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coi untrust --workspace ~/src/app")]
pub(super) struct Untrust {
    /// The workspace; it need not be there any more.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    workspace: PathBuf,
}

impl Untrust {
    pub(super) fn execute(self) -> Result {
        let path = match Workspace::open(&self.workspace) {
            Ok(workspace) => workspace.path,
            Err(_) => std::path::absolute(&self.workspace).map_err(Failure::system("the workspace"))?,
        };
        let loader = launch::loader(None, Vec::new())?;
        let mut trust = loader.trusted()?;
        let gone = trust.forget(&path.to_string_lossy());
        if gone.is_empty() {
            ui::err("coi: nothing of this workspace was trusted");
            return Ok(Code::OK);
        }
        loader.keep(&trust)?;
        gone.iter().for_each(|file| ui::err(&format!("coi: {} is trusted no more", ui::plain(file))));
        Ok(Code::OK)
    }
}

fn out(text: &str) -> Result<()> {
    ui::out(text).map_err(Failure::system("standard output"))
}
