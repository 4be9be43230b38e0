//! `coi build`

use std::fs::File;
use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use toml::Value;

use super::{Code, Failure, Format, Result};
use crate::config::{KEYS, Key, Loaded, Who};
use crate::image::{self, Agent, Base, Built, Contents, DEFAULT, Error, Plan, Progress};
use crate::launch::{self, Signals, Workspace};
use crate::{incus, ui};

/// Build the image that containers are made from: a Debian with tools, the user `code`, and agents.
///
/// With a profile, its image: on coi-default, unless the profile names a base, with the profile's build.sh and commands.
/// Scripts run in a container of their own, as its root, and see nothing of this machine. What is up to date is not
/// built again.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  coi build\n  sudo coi build --base debootstrap:bookworm --host-ca\n  \
                  coi build --agents claude,codex@0.46.0\n  coi build --profile rust\n  \
                  coi build custom coi-go --script install-go.sh"
)]
pub(super) struct Build {
    #[command(subcommand)]
    command: Option<Command>,
    /// The profile whose image is built.
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// The agents that are installed, instead of those of the settings; `--agents=` for none.
    #[arg(long, value_name = "NAME[@VERSION]", value_delimiter = ',', value_parser = agent)]
    agents: Option<Vec<String>>,
    /// Install Docker.
    #[arg(long)]
    docker: bool,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Subcommand)]
enum Command {
    Custom(Custom),
}

/// Build an image by a script of yours, which runs as root in a container made from the base.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coi build custom coi-go --script install-go.sh\n  \
                  coi build custom coi-go --script install-go.sh --base images:debian/12 --force")]
struct Custom {
    /// The alias of the image.
    #[arg(value_parser = alias)]
    name: String,
    /// The script. Its first line names its interpreter, else it is the shell's.
    #[arg(long, value_name = "FILE")]
    script: PathBuf,
    #[command(flatten)]
    how: How,
}

/// How an image is built.
#[derive(Debug, Args)]
struct How {
    /// What it is built on: images:debian/12, debootstrap:bookworm, or the alias of a local image.
    #[arg(long, value_parser = base)]
    base: Option<String>,
    /// Have programs in the image trust the certificate authorities that were added to this machine, or those in DIR.
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true)]
    host_ca: Option<Option<PathBuf>>,
    /// How the image is compressed: zstd, gzip, xz or none.
    #[arg(long, value_name = "HOW", value_parser = compression)]
    compression: Option<String>,
    /// Build it though it is up to date.
    #[arg(short, long)]
    force: bool,
    /// The workspace whose configuration and profiles are used.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    workspace: PathBuf,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

fn base(text: &str) -> std::result::Result<String, String> {
    Base::parse(text).map(|base| base.to_string())
}

fn agent(text: &str) -> std::result::Result<String, String> {
    if text.is_empty() { Ok(String::new()) } else { Agent::parse(text).map(|_| text.to_owned()) }
}

fn compression(text: &str) -> std::result::Result<String, String> {
    key("container.build.compression").parse(text).map(|_| text.to_owned())
}

/// An alias that is no option, and no server's, for Incus's own client either.
fn alias(text: &str) -> std::result::Result<String, String> {
    let is_one = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.len() <= 63
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if is_one { Ok(text.to_owned()) } else { Err("it takes letters, digits, - _ and .".to_owned()) }
}

#[expect(
    clippy::expect_used,
    reason = "the names are this file's own constants, and tests/e2e/build.rs looks each of them up"
)]
fn key(name: &str) -> &'static Key {
    KEYS.iter().find(|key| key.name == name).expect("a setting of the table")
}

/// The longest script.
const LONGEST: u64 = 1 << 20;

impl Build {
    pub(super) async fn execute(self) -> Result {
        let mut signals = Signals::catch()?;
        let (plan, format) = match &self.command {
            Some(Command::Custom(custom)) => (custom.plan()?, custom.how.format),
            None => (self.plan()?, self.how.format),
        };
        let shown = plan.image.clone();
        let mut screen = Screen::new();
        let built = image::build(&incus::Client::from_env(), plan, &mut signals, &mut screen).await;
        screen.clear();
        let built = built?;
        match format {
            Format::Json => {
                let json = serde_json::to_string_pretty(&built)
                    .map_err(|error| Failure::system("the result")(std::io::Error::other(error)))?;
                ui::out(&(json + "\n")).map_err(Failure::system("standard output"))?;
            }
            Format::Text => {
                ui::err(&format!("coi: {}", outcome(&built)));
                ui::out(&format!("{shown} {}\n", built.fingerprint))
                    .map_err(Failure::system("standard output"))?;
            }
        }
        Ok(Code::OK)
    }

    fn plan(&self) -> Result<Plan> {
        let mut flags = self.how.flags();
        if let Some(name) = &self.profile {
            flags.push((key("defaults.profile"), Value::String(name.clone())));
        }
        if let Some(agents) = &self.agents {
            let agents =
                agents.iter().filter(|agent| !agent.is_empty()).cloned().map(Value::String).collect();
            flags.push((key("container.build.agents"), Value::Array(agents)));
        }
        if self.docker {
            flags.push((key("container.build.docker"), Value::Boolean(true)));
        }
        let settings = self.how.settings(flags)?;
        let script = match &settings.script {
            Some(script) => match &script.refused {
                Some(profile) => return Err(Error::Untrusted { profile: profile.clone() }.into()),
                None => Some(script.text.clone()),
            },
            None => None,
        };
        let build = &settings.config.build;
        let (image, default_base) = self.image(&settings);
        let is_set = !settings.merged.items(key("container.build.base")).is_empty();
        let base =
            if is_set || default_base.is_none() { &build.base.0 } else { default_base.unwrap_or(DEFAULT) };
        let agents =
            build.agents.0.iter().map(|agent| Agent::parse(agent)).collect::<std::result::Result<_, _>>();
        Ok(Plan {
            description: format!("Built by COI on {base}"),
            workspace: self.how.workspace()?,
            base: Base::parse(base).map_err(Failure::Usage)?,
            contents: Contents {
                bare: true,
                agents: agents.map_err(Failure::Usage)?,
                docker: build.docker,
                authorities: self.how.authorities()?,
                script,
                commands: build.commands.0.clone(),
            },
            custom: false,
            compression: build.compression,
            force: self.how.force,
            image,
        })
    }

    /// The image that is built, and what it is built on where nobody says it.
    fn image(&self, settings: &Loaded) -> (String, Option<&'static str>) {
        let Some(profile) = settings.profiles.first() else { return (DEFAULT.to_owned(), None) };
        let named = settings
            .merged
            .items(key("container.image"))
            .iter()
            .rfind(|item| item.origin.who == Who::Profile);
        let image = match named.and_then(|item| item.value.as_str()) {
            Some(image) => image.to_owned(),
            None if profile == "default" => DEFAULT.to_owned(),
            None => format!("coi-{profile}"),
        };
        let base = (image != DEFAULT).then_some(DEFAULT);
        (image, base)
    }
}

impl Custom {
    fn plan(&self) -> Result<Plan> {
        let settings = self.how.settings(self.how.flags())?;
        let base = self.how.base.as_deref().unwrap_or(DEFAULT);
        Ok(Plan {
            image: self.name.clone(),
            description: format!("Built by COI on {base}"),
            workspace: self.how.workspace()?,
            base: Base::parse(base).map_err(Failure::Usage)?,
            contents: Contents {
                authorities: self.how.authorities()?,
                script: Some(script(&self.script)?),
                ..Contents::default()
            },
            custom: true,
            compression: settings.config.build.compression,
            force: self.how.force,
        })
    }
}

impl How {
    fn flags(&self) -> Vec<(&'static Key, Value)> {
        let flags =
            [("container.build.base", &self.base), ("container.build.compression", &self.compression)];
        let set =
            flags.into_iter().filter_map(|(name, value)| Some((key(name), Value::String(value.clone()?))));
        set.collect()
    }

    fn settings(&self, flags: Vec<(&'static Key, Value)>) -> Result<Loaded> {
        let workspace = Workspace::open(&self.workspace)?;
        Ok(launch::loader(Some(&workspace.path), flags)?.load()?)
    }

    /// The directory from which it is built.
    fn workspace(&self) -> Result<String> {
        Ok(Workspace::open(&self.workspace)?.text().to_owned())
    }

    fn authorities(&self) -> Result<Vec<(String, String)>> {
        match &self.host_ca {
            None => Ok(Vec::new()),
            Some(directory) => Ok(image::read_authorities(directory.as_deref())?),
        }
    }
}

/// A script that the caller has named.
fn script(path: &Path) -> Result<String> {
    let failed = || Failure::system(format!("the script {}", path.display()));
    let file = File::open(path).map_err(failed())?;
    let mut text = String::new();
    file.take(LONGEST + 1).read_to_string(&mut text).map_err(failed())?;
    if text.len() as u64 > LONGEST {
        return Err(Failure::Usage(format!("the script {} is longer than 1 MiB", path.display())));
    }
    Ok(text)
}

fn outcome(built: &Built) -> String {
    if built.up_to_date {
        return format!("{} is up to date; --force builds it again", built.image);
    }
    let agents = if built.agents.is_empty() { String::new() } else { format!(", with {}", built.agents) };
    let seconds: f64 = built.steps.iter().map(|step| step.seconds).sum();
    format!(
        "{} is built on {}{agents}: {} MB, in {seconds:.0} s. What was said is in {}",
        built.image,
        built.base,
        built.size / 1_000_000,
        built.log.display()
    )
}

/// What a person sees meanwhile: a line for each step, and on a terminal what it says.
struct Screen {
    spinner: ProgressBar,
    number: String,
}

impl Screen {
    fn new() -> Self {
        let spinner = match std::io::stderr().is_terminal() {
            true => ProgressBar::new_spinner(),
            false => ProgressBar::hidden(),
        };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg:.dim}") {
            spinner.set_style(style);
        }
        Self { spinner, number: String::new() }
    }

    fn clear(&self) {
        self.spinner.finish_and_clear();
    }

    fn say(&self, line: &str) {
        self.spinner.suspend(|| ui::err(line));
    }
}

impl Progress for Screen {
    fn begins(&mut self, number: usize, of: usize, step: &str) {
        self.number = if of == 0 { String::new() } else { format!("[{number}/{of}] ") };
        self.spinner.set_prefix(format!("{}{}", self.number, ui::plain(step)));
        self.spinner.set_message("");
        self.spinner.reset_elapsed();
        self.spinner.enable_steady_tick(Duration::from_millis(120));
    }

    fn line(&mut self, line: &str) {
        self.spinner.set_message(line.to_owned());
    }

    fn ends(&mut self, step: &str, after: Duration) {
        self.spinner.disable_steady_tick();
        self.say(&format!("coi: {}{}: {:.1} s", self.number, ui::plain(step), after.as_secs_f64()));
    }

    fn note(&mut self, note: &str) {
        self.say(&format!("coi: {note}"));
    }
}
