//! Building images.
//!
//! This module promises:
//! - scripts of users and profiles, and packages, run in a build container and never on the host, as that container's root,
//!   and nothing of the host goes in but what was asked for: no credential, no file, no variable but those of proxies;
//! - a build that fails or is interrupted leaves nothing behind; what a killed one leaves `coi clean --orphans` finds;
//! - an alias belongs to the old image until the new one is there, and only images that COI has made are replaced or
//!   deleted: they carry the hash of their recipe;
//! - what was built of the same recipe on the same base is not built again.
//!
//! Builds are not monitored: nothing of the user's is in there. It prints nothing: what goes on is told to a [`Progress`].

mod authorities;
mod base;
mod container;
mod debootstrap;
mod log;
mod network;
mod recipe;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use authorities::read as read_authorities;
pub use base::Base;
pub use container::{left_over, remove_left_over};
pub use network::{Facts, Trouble, diagnose};
pub use recipe::{AGENTS, Agent, Contents, KnownAgent};
use serde::Serialize;

use self::container::Build;
use self::log::Log;
use crate::config::Compression;
use crate::incus::{self, Image, ImageSource, Publish};
use crate::launch::{self, LAUNCHER_KEY, Signals, is_launching, launcher};

/// A result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The image that containers are made from where nothing else is said.
pub const DEFAULT: &str = "coi-default";

/// The property that holds the hash of an image's recipe: what has it was made by COI.
const RECIPE_KEY: &str = "coi.recipe";
/// The property that says what it was built on.
const BASE_KEY: &str = "coi.base";
/// The property that says that it is a bare system, to be made COI's.
const BARE_KEY: &str = "coi.bare";
/// The property that names its agents with their versions.
const AGENTS_KEY: &str = "coi.agents";

/// The variables of the caller's that go in.
const PROXIES: [&str; 6] = ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];

/// Why an image could not be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A step has failed.
    #[error("{}", step_failed(step, how, trouble.as_ref(), log, last))]
    Step {
        /// Its name.
        step: String,
        /// How it ended.
        how: String,
        /// What is wrong with the network, if that is why.
        trouble: Option<Trouble>,
        /// Where all that it said is.
        log: PathBuf,
        /// The last lines of it.
        last: Vec<String>,
    },
    /// The alias is that of an image that somebody else has made.
    #[error(
        "the image {alias} was not made by COI, and COI does not replace it. Give it another alias: `incus image alias rename \
         {alias} NEW-NAME`; or build under another name"
    )]
    NotOurs {
        /// The alias.
        alias: String,
    },
    /// It would be built on itself.
    #[error("{alias} cannot be built on itself. Name another base with --base, such as images:debian/12")]
    OnItself {
        /// The alias.
        alias: String,
    },
    /// There is no such base.
    #[error(
        "Incus has no image {name} to build on{}. `incus image list` shows those there are",
        build_first(name)
    )]
    NoBase {
        /// Its alias.
        name: String,
    },
    /// The base cannot be had.
    #[error(
        "the base {base} could not be had: {why}. Where the image server cannot be reached, build on this machine's own \
         debootstrap (--base debootstrap:bookworm), or on a local image"
    )]
    Fetch {
        /// Which.
        base: String,
        /// In Incus's words.
        why: String,
    },
    /// debootstrap wants root.
    #[error(
        "debootstrap needs root, since it makes device nodes. Run `sudo coi build --base debootstrap:{suite}`, or build on \
         another base"
    )]
    NotRoot {
        /// The suite.
        suite: String,
    },
    /// There is no debootstrap.
    #[error(
        "this machine has no debootstrap. Install the package debootstrap, then build on debootstrap:{suite} again; or build \
         on another base"
    )]
    NoDebootstrap {
        /// The suite.
        suite: String,
    },
    /// A workspace's script that nobody has trusted.
    #[error(
        "a workspace may not have build.sh run by itself: it lies beside {profile}. `coi trust` shows what it asks for, and \
         allows it"
    )]
    Untrusted {
        /// The profile.
        profile: String,
    },
    /// There are no authorities to bring along.
    #[error(
        "there are no certificate authorities (*.crt, *.pem) to bring along in {directory}. Leave --host-ca out, or name the \
         directory: --host-ca=DIRECTORY"
    )]
    NoAuthorities {
        /// Where was looked.
        directory: String,
    },
    /// A certificate authority is not one.
    #[error("the certificate authority {} is not brought along: {why}. Remove it, or name another directory", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// There is nowhere for the log.
    #[error("you have no home directory, and the log of a build is kept there. Set HOME")]
    NoHome,
    /// The log cannot be written.
    #[error(transparent)]
    Place(#[from] crate::places::PlaceError),
    /// Incus cannot pack the image.
    #[error(
        "Incus could not pack the image: {why}. Incus needs the program {program}: install it, or choose another way with --compression"
    )]
    Pack {
        /// The program.
        program: &'static str,
        /// In Incus's words.
        why: String,
    },
    /// The system would not.
    #[error("{what} cannot be used: {source}")]
    System {
        /// What.
        what: String,
        /// Its word for it.
        source: io::Error,
    },
    /// A container could not be used.
    #[error(transparent)]
    Launch(#[from] launch::Error),
}

impl From<incus::Error> for Error {
    fn from(error: incus::Error) -> Self {
        Self::Launch(error.into())
    }
}

impl Error {
    fn system(what: impl Into<String>) -> impl Fn(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what: what.clone(), source }
    }
}

fn build_first(name: &str) -> &'static str {
    if name == DEFAULT { "; `coi build` makes it" } else { "" }
}

fn step_failed(
    step: &str,
    how: &str,
    trouble: Option<&Trouble>,
    log: &std::path::Path,
    last: &[String],
) -> String {
    use std::fmt::Write as _;
    let mut text = format!("the build failed in the step \"{step}\": {how}\n");
    last.iter().for_each(|line| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  | {line}");
    });
    if let Some(trouble) = trouble {
        let _ = writeln!(text, "{trouble}");
    }
    let _ = write!(
        text,
        "All that was said is in {}. Nothing was changed: build again when it is put right",
        log.display()
    );
    text
}

/// Who is told what goes on.
pub trait Progress: Send {
    /// A step begins: its number, how many there are, and its name.
    fn begins(&mut self, number: usize, of: usize, step: &str);
    /// A step has said this.
    fn line(&mut self, line: &str);
    /// A step has ended, after so long.
    fn ends(&mut self, step: &str, after: Duration);
    /// What else a person should know.
    fn note(&mut self, note: &str);
}

/// What is to be built.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The alias that it gets.
    pub image: String,
    /// One line on what it is.
    pub description: String,
    /// The directory from which it is built, by which what a killed build leaves is found again.
    pub workspace: String,
    /// What it is built on.
    pub base: Base,
    /// What is put into it. Whether the base is bare is found out.
    pub contents: Contents,
    /// The script and commands alone: the base is taken as it is.
    pub custom: bool,
    /// How it is packed.
    pub compression: Compression,
    /// Build it though it is there already.
    pub force: bool,
}

/// What was built.
#[derive(Clone, Debug, Serialize)]
pub struct Built {
    /// Its alias.
    pub image: String,
    /// What Incus knows it by.
    pub fingerprint: String,
    /// What it was built on.
    pub base: String,
    /// The hash of its recipe.
    pub recipe: String,
    /// Its agents, with their versions.
    pub agents: String,
    /// How large it is, in bytes.
    pub size: u64,
    /// It was there already, and nothing was done.
    pub up_to_date: bool,
    /// The steps, and how many seconds each took.
    pub steps: Vec<Taken>,
    /// Where all that was said is.
    pub log: PathBuf,
}

/// A step that was done.
#[derive(Clone, Debug, Serialize)]
pub struct Taken {
    /// Its name.
    pub name: String,
    /// How many seconds it took.
    pub seconds: f64,
}

/// Builds an image, or finds that it is there.
pub async fn build(
    incus: &incus::Client,
    mut plan: Plan,
    signals: &mut Signals,
    progress: &mut dyn Progress,
) -> Result<Built> {
    let there = ours(incus, &plan.image).await?;
    if matches!(&plan.base, Base::Local(name) if *name == plan.image) {
        return Err(Error::OnItself { alias: plan.image });
    }
    let mut log = Log::begin(&plan.image)?;
    let mut steps = Steps { taken: Vec::new(), of: 0, begun: None };
    let (source, inherited) = tokio::select! {
        found = base(incus, &mut plan, &mut log, &mut steps, progress) => found?,
        signal = signals.next() => return Err(launch::Error::Interrupted { signal }.into()),
    };
    // What is known of the base before it is fetched may be enough.
    if let (ImageSource::Fingerprint(fingerprint), Some(image)) = (&source, &there)
        && let Some(built) = up_to_date(&plan, fingerprint, image, &log)
    {
        return Ok(built);
    }
    let container = Build::make(incus, &source, &plan).await.map_err(|error| match (error, &plan.base) {
        (Error::Launch(launch::Error::Incus(incus::Error::Refused { why, .. })), Base::Server(_)) => {
            Error::Fetch { base: plan.base.to_string(), why }
        }
        (error, _) => error,
    })?;
    let built = tokio::select! {
        built = fill(&container, &plan, there.as_ref(), &mut log, &mut steps, progress) => built,
        signal = signals.next() => Err(launch::Error::Interrupted { signal }.into()),
    };
    let done = match built {
        Ok(Filled::Recipe { recipe, mut agents }) => {
            let parts = [inherited, agents].into_iter().filter(|part| !part.is_empty());
            agents = parts.collect::<Vec<_>>().join(", ");
            // Incus packs it to the end, whatever we do meanwhile.
            let made =
                publish(incus, &container, &plan, &recipe, &agents, there, signals, &mut steps, progress)
                    .await;
            made.map(|(fingerprint, size)| Built {
                image: plan.image.clone(),
                fingerprint,
                base: plan.base.to_string(),
                recipe,
                agents,
                size,
                up_to_date: false,
                steps: steps.taken,
                log: log.path().to_owned(),
            })
        }
        Ok(Filled::UpToDate(built)) => Ok(built),
        Err(error) => Err(error),
    };
    // The first error is the one to show; the second only if it leaves something behind.
    container.remove().await?;
    done
}

/// The image of this alias, if there is one, which COI has made.
async fn ours(incus: &incus::Client, alias: &str) -> Result<Option<Image>> {
    match incus.image_of(alias).await? {
        Some(image) if image.property(RECIPE_KEY).is_none() => {
            Err(Error::NotOurs { alias: alias.to_owned() })
        }
        image => Ok(image),
    }
}

/// What the container is made of, and the agents that it has already. A local base decides what is left to be done.
async fn base(
    incus: &incus::Client,
    plan: &mut Plan,
    log: &mut Log,
    steps: &mut Steps,
    progress: &mut dyn Progress,
) -> Result<(ImageSource, String)> {
    plan.contents.bare = !plan.custom;
    match plan.base.clone() {
        Base::Server(alias) => {
            Ok((ImageSource::Remote { server: base::SERVER.to_owned(), alias }, String::new()))
        }
        Base::Debootstrap(suite) => {
            let made = debootstrap::ensure(incus, &suite, plan.compression, plan.force, log, steps, progress)
                .await?;
            Ok((ImageSource::Fingerprint(made), String::new()))
        }
        Base::Local(name) => {
            let image = match incus.image_of(&name).await? {
                Some(image) => image,
                None => match incus.image(&name).await {
                    Ok(image) => image,
                    Err(incus::Error::NotFound { .. } | incus::Error::Refused { .. }) => {
                        return Err(Error::NoBase { name });
                    }
                    Err(error) => return Err(error.into()),
                },
            };
            let has = image.property(AGENTS_KEY).unwrap_or_default();
            if image.property(RECIPE_KEY).is_some() && image.property(BARE_KEY).is_none() {
                // It has gone through all this already.
                plan.contents.bare = false;
                plan.contents.agents.retain(|agent| !has.split(", ").any(|one| agent.is(one)));
            }
            Ok((ImageSource::Fingerprint(image.fingerprint.clone()), has.to_owned()))
        }
    }
}

/// What the image that is there says of itself, if it is what would be built.
fn up_to_date(plan: &Plan, base: &str, image: &Image, log: &Log) -> Option<Built> {
    let recipe = recipe::hash(base, &plan.contents.steps());
    (!plan.force && image.property(RECIPE_KEY) == Some(&recipe)).then(|| Built {
        image: plan.image.clone(),
        fingerprint: image.fingerprint.clone(),
        base: plan.base.to_string(),
        recipe,
        agents: image.property(AGENTS_KEY).unwrap_or_default().to_owned(),
        size: image.size,
        up_to_date: true,
        steps: Vec::new(),
        log: log.path().to_owned(),
    })
}

/// What became of the container.
enum Filled {
    /// All of the recipe was done.
    Recipe { recipe: String, agents: String },
    /// Nothing was to be done.
    UpToDate(Built),
}

/// The steps that were done.
struct Steps {
    taken: Vec<Taken>,
    /// How many there will be; 0 if nobody knows yet.
    of: usize,
    begun: Option<Instant>,
}

impl Steps {
    fn begin(&mut self, name: &str, progress: &mut dyn Progress) {
        self.begun = Some(Instant::now());
        progress.begins(self.taken.len() + 1, self.of, name);
    }

    fn end(&mut self, name: &str, progress: &mut dyn Progress) {
        let after = self.begun.take().map_or(Duration::ZERO, |begun| begun.elapsed());
        progress.ends(name, after);
        let seconds = (after.as_secs_f64() * 10.0).round() / 10.0;
        self.taken.push(Taken { name: name.to_owned(), seconds });
    }
}

async fn fill(
    container: &Build,
    plan: &Plan,
    there: Option<&Image>,
    log: &mut Log,
    steps: &mut Steps,
    progress: &mut dyn Progress,
) -> Result<Filled> {
    let base = container.base().await?;
    if let Some(built) = there.and_then(|image| up_to_date(plan, &base, image, log)) {
        return Ok(Filled::UpToDate(built));
    }
    let todo = plan.contents.steps();
    // Packing is one, too, and so was making the base.
    steps.of = steps.taken.len() + todo.len() + 1;
    container.start().await?;
    for step in &todo {
        steps.begin(&step.name, progress);
        container.step(step, !plan.contents.authorities.is_empty(), log, progress).await?;
        steps.end(&step.name, progress);
    }
    let agents = match plan.contents.agents.is_empty() {
        true => String::new(),
        false => versions(
            &plan.contents.agents,
            &container.ask(&["npm", "ls", "--global", "--json", "--depth=0"]).await?,
        ),
    };
    container.stop().await?;
    Ok(Filled::Recipe { recipe: recipe::hash(&base, &todo), agents })
}

/// The agents with their versions, as npm tells them.
fn versions(agents: &[Agent], told: &str) -> String {
    let told: serde_json::Value = serde_json::from_str(told).unwrap_or_default();
    let each = agents.iter().map(|agent| {
        let version = told["dependencies"][agent.package()]["version"].as_str().unwrap_or_default();
        // It is said by a container.
        let version: String =
            version.chars().filter(|c| c.is_ascii_alphanumeric() || ".-+".contains(*c)).take(64).collect();
        format!("{} {version}", agent.name())
    });
    each.collect::<Vec<_>>().join(", ")
}

#[expect(clippy::too_many_arguments, reason = "each is another thing")]
async fn publish(
    incus: &incus::Client,
    container: &Build,
    plan: &Plan,
    recipe: &str,
    agents: &str,
    there: Option<Image>,
    signals: &mut Signals,
    steps: &mut Steps,
    progress: &mut dyn Progress,
) -> Result<(String, u64)> {
    const STEP: &str = "pack the image";
    signals.check()?;
    steps.begin(STEP, progress);
    let properties = [
        ("description", plan.description.as_str()),
        (RECIPE_KEY, recipe),
        (BASE_KEY, &plan.base.to_string()),
        (AGENTS_KEY, agents),
        (LAUNCHER_KEY, &launcher()),
    ];
    let publish = Publish {
        instance: &container.name,
        compression: plan.compression.name(),
        properties: properties.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
    };
    let fingerprint = incus.publish(&publish).await.map_err(|error| match error {
        incus::Error::Refused { why, .. } if why.contains("executable file not found") => {
            Error::Pack { program: plan.compression.name(), why }
        }
        error => error.into(),
    })?;
    let named = async {
        signals.check()?;
        let size = incus.image(&fingerprint).await?.size;
        replace(incus, &plan.image, &fingerprint, &plan.description, there).await?;
        Ok(size)
    };
    match named.await {
        Ok(size) => {
            steps.end(STEP, progress);
            Ok((fingerprint, size))
        }
        Err(error) => {
            // It has no name: nobody would find it. What stays of it is found as left over.
            let _ = incus.delete_image(&fingerprint).await;
            Err(error)
        }
    }
}

/// Gives a new image its alias, and deletes the one that had it, unless it has another name as well.
async fn replace(
    incus: &incus::Client,
    alias: &str,
    fingerprint: &str,
    description: &str,
    old: Option<Image>,
) -> Result<()> {
    // Somebody may have made one meanwhile.
    ours(incus, alias).await?;
    incus.name_image(fingerprint, alias, description).await?;
    if let Some(old) = old
        && old.fingerprint != fingerprint
        && old.aliases().all(|name| name == alias)
        && let Err(error) = incus.delete_image(&old.fingerprint).await
        && !matches!(error, incus::Error::NotFound { .. })
    {
        return Err(error.into());
    }
    Ok(())
}

/// Images that builds have left: made by COI, without a name, and nobody is about to give them one.
pub async fn unnamed(incus: &incus::Client) -> Result<Vec<Image>> {
    let mut all = incus.images().await?;
    all.retain(|image| {
        image.property(RECIPE_KEY).is_some()
            && image.aliases().next().is_none()
            && image.property(LAUNCHER_KEY).is_some_and(|launcher| !is_launching(launcher))
    });
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_npms() {
        let agents = ["claude", "codex"].map(|name| Agent::parse(name).unwrap());
        let told = r#"{"dependencies":{"@anthropic-ai/claude-code":{"version":"2.1.0\u001b[0m"}}}"#;
        assert_eq!(versions(&agents, told), "claude 2.1.00m, codex ");
        assert_eq!(versions(&agents, "no JSON"), "claude , codex ");
    }

    #[test]
    fn what_to_do_about_it() {
        let name = || "coi-rust".to_owned();
        let step = |trouble| Error::Step {
            step: "install claude".into(),
            how: "it ended with exit code 1".into(),
            trouble,
            log: "/home/ann/.coi/logs/build-coi-rust.log".into(),
            last: vec!["npm ERR! code SELF_SIGNED_CERT_IN_CHAIN".into(), "npm ERR! a complete log".into()],
        };
        let all = [
            step(None),
            step(Some(Trouble::Untrusted { brought: false })),
            Error::NotOurs { alias: name() },
            Error::OnItself { alias: name() },
            Error::NoBase { name: name() },
            Error::NoBase { name: DEFAULT.into() },
            Error::Fetch { base: "images:debian/12".into(), why: "no such host".into() },
            Error::NotRoot { suite: "bookworm".into() },
            Error::NoDebootstrap { suite: "bookworm".into() },
            Error::Untrusted { profile: "/home/ann/app/.coi/profiles/rust/config.toml".into() },
            Error::NoAuthorities { directory: "/etc/cas".into() },
            Error::Authority { path: "/etc/cas/a.crt".into(), why: "there is no certificate in it".into() },
            Error::NoHome,
            Error::Pack { program: "zstd", why: "executable file not found in $PATH".into() },
        ];
        insta::assert_snapshot!(all.map(|error| error.to_string()).join("\n"));
    }
}
