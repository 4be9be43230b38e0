//! `coi profile`

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Code, Failure, Format, Result};
use crate::config::{CONTEXT, Item, KEYS, Loader, SCRIPT, Whose, is_name, shown};
use crate::launch::{self, Workspace};
use crate::ui;

/// Profiles: configurations with a name.
#[derive(Debug, Args)]
pub(super) struct Profile {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(List),
    Info(Info),
    Create(Create),
    Validate(Validate),
}

impl Profile {
    pub(super) fn execute(self) -> Result {
        match self.command {
            Command::List(command) => command.execute(),
            Command::Info(command) => command.execute(),
            Command::Create(command) => command.execute(),
            Command::Validate(command) => command.execute(),
        }
    }
}

#[derive(Debug, Args)]
struct Here {
    /// The workspace whose profiles are added.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    workspace: PathBuf,
}

impl Here {
    fn loader(&self) -> Result<Loader> {
        let workspace = Workspace::open(&self.workspace)?;
        Ok(launch::loader(Some(&workspace.path), Vec::new())?)
    }
}

/// List the profiles: those built in, yours, and the workspace's.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coi profile list --format json")]
struct List {
    #[command(flatten)]
    here: Here,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl List {
    fn execute(self) -> Result {
        let profiles = self.here.loader()?.all_profiles()?;
        let mut rows = Vec::new();
        for profile in &profiles {
            rows.push((profile, profile.parent()?));
        }
        out(&match self.format {
            Format::Json => {
                let each = rows.iter().map(|(profile, parent)| {
                    json!({
                        "name": profile.name, "from": profile.whose.name(), "inherits": parent,
                        "file": profile.path,
                    })
                });
                format!("{:#}\n", json!(each.collect::<Vec<_>>()))
            }
            Format::Text => {
                let mut text = format!("{:<20}  {:<10}  INHERITS\n", "NAME", "FROM");
                for (profile, parent) in &rows {
                    let parent = parent.as_deref().unwrap_or("-");
                    // Writing to a string cannot fail.
                    let (name, from) = (&profile.name, profile.whose.name());
                    let _ = writeln!(text, "{name:<20}  {from:<10}  {}", ui::plain(parent));
                }
                text
            }
        })?;
        Ok(Code::OK)
    }
}

/// Show a profile: what it builds on, and what they set together.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coi profile info hardened")]
struct Info {
    /// Its name.
    name: String,
    #[command(flatten)]
    here: Here,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Info {
    fn execute(self) -> Result {
        let loader = self.here.loader()?;
        let (chain, merged) = loader.profile(&self.name)?;
        let origin = |items: &[Item]| items.last().map(|item| item.origin.to_string()).unwrap_or_default();
        let set: Vec<_> = KEYS
            .iter()
            .filter_map(|key| Some((key, merged.value(key)?, origin(merged.items(key)))))
            .collect();
        let profiles = loader.all_profiles()?;
        let has_context =
            |name: &String| profiles.iter().any(|profile| profile.name == *name && profile.context.is_some());
        let context = chain.names.iter().find(|name| has_context(name));
        let has_script =
            |name: &String| profiles.iter().any(|profile| profile.name == *name && profile.script.is_some());
        let script = chain.names.iter().find(|name| has_script(name));
        out(&match self.format {
            Format::Json => {
                let settings: serde_json::Map<String, Value> = set
                    .iter()
                    .map(|(key, value, from)| {
                        (key.name.to_owned(), json!({ "value": value, "source": from }))
                    })
                    .collect();
                let (context, script) = (context.is_some(), script.is_some());
                format!(
                    "{:#}\n",
                    json!({
                        "profiles": chain.names, "settings": settings, "context": context, "build_script": script,
                    })
                )
            }
            Format::Text => {
                let mut text = format!("{}\n", chain.names.join(", which builds on "));
                for (key, value, from) in &set {
                    let line = format!("{} = {}  # {from}", key.name, shown(value));
                    // Writing to a string cannot fail.
                    let _ = writeln!(text, "{}", ui::plain(&line));
                }
                if let Some(name) = context {
                    let _ = writeln!(text, "{CONTEXT} of {name} is for the agent");
                }
                if let Some(name) = script {
                    let _ = writeln!(text, "{SCRIPT} of {name} builds its image");
                }
                text
            }
        })?;
        Ok(Code::OK)
    }
}

/// Make a profile, to be written by you.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  coi profile create rust-dev\n  coi profile create careful --inherits hardened --project"
)]
struct Create {
    /// Its name: letters, digits, - and _.
    name: String,
    /// The profile that it builds on.
    #[arg(long, value_name = "NAME")]
    inherits: Option<String>,
    /// In the workspace, for everybody who works in it, instead of for you.
    #[arg(long)]
    project: bool,
    #[command(flatten)]
    here: Here,
}

impl Create {
    fn execute(self) -> Result {
        if !is_name(&self.name) {
            let why = format!("`{}` is no name for a profile: use letters, digits, - and _", self.name);
            return Err(Failure::Usage(why));
        }
        let loader = self.here.loader()?;
        if let Some(there) = loader.all_profiles()?.iter().find(|profile| profile.name == self.name) {
            let why = format!("there is a profile `{}` already: {}", self.name, ui::plain(&there.path));
            return Err(Failure::Usage(why));
        }
        let mut text =
            "# docs/config.md has the settings, `coi profile info` shows what is in force.\n".to_owned();
        if let Some(parent) = &self.inherits {
            loader.profile(parent)?;
            text += &format!("inherits = \"{parent}\"\n");
        }
        text += "\n# [container]\n# image = \"coi-default\"\n\n# [defaults.environment]\n# RUST_BACKTRACE = \"1\"\n";
        let whose = if self.project { Whose::Workspace } else { Whose::User };
        let file = loader.create_profile(&self.name, whose, &text)?;
        out(&format!("{}\n", file.display()))?;
        Ok(Code::OK)
    }
}

/// Check a profile, or all of them.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coi profile validate\n  coi profile validate rust-dev\n  \
                        coi profile validate ./profiles/rust-dev/config.toml")]
struct Validate {
    /// The name of a profile, or the path of a profile's config.toml.
    what: Option<String>,
    #[command(flatten)]
    here: Here,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Validate {
    fn execute(self) -> Result {
        let loader = self.here.loader()?;
        let checked = match &self.what {
            Some(path) if path.contains('/') || path.ends_with(".toml") => {
                Loader::check_profile(path.as_ref()).map(|()| vec![path.clone()])
            }
            Some(name) => loader.profile(name).map(|_| vec![name.clone()]),
            None => loader.all_profiles().and_then(|all| {
                let names: Vec<String> = all.into_iter().map(|profile| profile.name).collect();
                names.iter().try_for_each(|name| loader.profile(name).map(drop)).map(|()| names)
            }),
        };
        match (checked, self.format) {
            (Ok(names), Format::Text) => {
                ui::err(&format!("coi: nothing is wrong with {}", ui::plain(&names.join(", "))));
                Ok(Code::OK)
            }
            (Ok(names), Format::Json) => {
                out(&format!("{:#}\n", json!({ "valid": true, "checked": names })))?;
                Ok(Code::OK)
            }
            (Err(error), Format::Json) => {
                out(&format!("{:#}\n", json!({ "valid": false, "error": error.to_string() })))?;
                Ok(Code::RULE)
            }
            (Err(error), Format::Text) => Err(error.into()),
        }
    }
}

fn out(text: &str) -> Result<()> {
    ui::out(text).map_err(Failure::system("standard output"))
}
