//! `cargo xtask setup`: everything that building, running and testing COI needs, on this machine.
//!
//! Promises: each item is looked at first and made only if it is not there, so a second run is quick and changes
//! nothing; an item that cannot be had is named together with the command to get it by hand, and the others are still
//! tried; an Incus that setup did not start gets COI's own images and profile and is left alone otherwise; nothing
//! touches the machine's default route or firewall (Incus keeps an nft table of its own for the bridge it makes).

mod apt;
mod host;
mod image;
mod image_debian;
mod image_small;
mod image_tiny;
mod incus;
mod kernel;
mod rust;

use std::fs::{File, TryLockError};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::unistd::geteuid;
use serde_json::Value;

use crate::run::{Mark, RunError, Step};

/// What setup keeps between runs: pid files, logs, images' tarballs.
const STATE: &str = "/var/lib/coi-dev";

/// The command line of `cargo xtask setup`.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Only report what is missing; exit 1 if anything is
    #[arg(long, conflicts_with = "down")]
    check: bool,
    /// Stop the Incus that setup started, and its containers, and remove what it left in the system
    #[arg(long)]
    down: bool,
    /// Only what needs root: packages, Incus, images
    #[arg(long, conflicts_with = "down")]
    system: bool,
}

/// What a machine that is set up offers.
#[derive(Debug, Clone)]
pub(crate) struct Ready {
    /// Incus's API socket.
    pub(crate) incus_socket: PathBuf,
}

/// A kernel to be emulated.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// As `uname -r` prints it.
    pub(crate) version: String,
    /// The kernel's image.
    pub(crate) image: PathBuf,
}

/// Why the machine is not set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    /// A command failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A file or directory could not be used.
    #[error("{}: cannot {what}: {source}", .path.display())]
    Io { path: PathBuf, what: &'static str, source: io::Error },
    /// What was asked for needs root.
    #[error("this needs root; run: sudo {} setup {arguments}", this_program())]
    NotRoot { arguments: &'static str },
    /// An operation of the kernel failed.
    #[error("cannot {what}: {source}")]
    Kernel { what: String, source: nix::Error },
    /// Packages that can only be installed with apt.
    #[error("this machine has no apt-get; install what its own package manager calls these: {packages}")]
    NoApt { packages: String },
    /// There is no package of the wanted version.
    #[error("{what}")]
    Unavailable { what: String },
    /// Incus is there but cannot be used.
    #[error("{0}")]
    Incus(String),
    /// An answer of Incus that is not what its API promises.
    #[error("Incus's answer to `{request}` was not understood: {why}")]
    Answer { request: String, why: String },
    /// Items are missing or failed; each was named when it did.
    #[error("not ready: {names}")]
    Unready { names: String },
}

/// This program, for a `sudo` that has no cargo on its PATH.
fn this_program() -> String {
    std::env::current_exe()
        .map_or_else(|_| "target/debug/xtask".into(), |program| program.display().to_string())
}

/// A step's context for what the standard library says.
fn io_error(path: impl Into<PathBuf>, what: &'static str) -> impl FnOnce(io::Error) -> SetupError {
    let path = path.into();
    move |source| SetupError::Io { path, what, source }
}

/// Something that has to be on the machine.
trait Item {
    /// Its name in the report.
    fn name(&self) -> &'static str;
    /// The items that have to be there before this one can be made.
    fn needs(&self) -> &'static [&'static str] {
        &[]
    }
    /// Whether making it needs root.
    fn system(&self) -> bool;
    /// How a person gets it without this program.
    fn by_hand(&self) -> String;
    /// Whether it is there.
    fn look(&self) -> Result<Found, SetupError>;
    /// Makes it be there; returns what was done.
    fn make(&self, step: &Step) -> Result<String, SetupError>;
}

/// What looking for an item found; both say more in words.
enum Found {
    Present(String),
    Missing(String),
}

fn items() -> Vec<Box<dyn Item>> {
    vec![
        Box::new(apt::Packages),
        Box::new(rust::RustSrc),
        Box::new(rust::BpfLinker),
        Box::new(incus::Daemon),
        Box::new(incus::Profile),
        Box::new(image::Image(image_tiny::RECIPE)),
        Box::new(image::Image(image_small::RECIPE)),
        Box::new(image::Image(image_debian::RECIPE)),
    ]
}

/// Makes sure that the machine is set up: what tests and the demo call first.
pub(crate) fn ensure() -> Result<Ready, SetupError> {
    walk(&Args::default(), &items())?;
    Ok(Ready { incus_socket: incus::socket() })
}

/// Makes sure that there are an emulator and other kernels to run in it, which nothing else needs.
pub(crate) fn ensure_kernels() -> Result<Vec<Kernel>, SetupError> {
    let items: [Box<dyn Item>; 3] =
        [Box::new(kernel::Qemu), Box::new(kernel::Image::Stock), Box::new(kernel::Image::Backports)];
    walk(&Args::default(), &items)?;
    Ok(kernel::kernels())
}

/// Does what the command line asks for.
pub(crate) fn run(args: &Args) -> Result<(), SetupError> {
    if args.down { host::down() } else { walk(args, &items()) }
}

/// Turns this process into the Incus of a machine without a service manager; see [`host`].
pub(crate) fn incus_host() -> Result<(), SetupError> {
    host::become_incus()
}

/// The sources of `core` in the cache, where the toolchain has none of its own.
pub(crate) fn cached_rust_library() -> Option<PathBuf> {
    rust::cached_library()
}

/// The address at which COI's containers reach this machine.
pub(crate) fn bridge_address() -> Result<IpAddr, SetupError> {
    incus::host_address()
}

/// The instances that Incus has, in whatever state.
pub(crate) fn instances() -> Result<Vec<Value>, SetupError> {
    incus::list("/1.0/instances?recursion=1")
}

fn walk(args: &Args, items: &[Box<dyn Item>]) -> Result<(), SetupError> {
    let begun = Instant::now();
    let mut unready: Vec<&'static str> = Vec::new();
    for item in items.iter().filter(|item| item.system() || !args.system) {
        let step = Step::begin(item.name());
        let (mark, detail) = visit(item.as_ref(), args, &unready, &step);
        if !matches!(mark, Mark::Ok | Mark::Made) {
            unready.push(item.name());
        }
        step.end(mark, &detail);
    }
    if unready.is_empty() {
        anstream::eprintln!("{:>9} {:<20} {:>6.1} s", "ready", "", begun.elapsed().as_secs_f64());
        Ok(())
    } else {
        Err(SetupError::Unready { names: unready.join(", ") })
    }
}

/// Looks at an item, and makes it if it is missing and that is what is wanted.
fn visit(item: &dyn Item, args: &Args, unready: &[&str], step: &Step) -> (Mark, String) {
    let missing = match item.look() {
        Ok(Found::Present(detail)) => return (Mark::Ok, detail),
        Ok(Found::Missing(what)) => what,
        Err(error) => return (Mark::Failed, error.to_string()),
    };
    if args.check {
        return (Mark::Missing, missing);
    }
    if let Some(needed) = item.needs().iter().find(|needed| unready.contains(needed)) {
        return (Mark::Skipped, format!("needs {needed} first"));
    }
    if item.system() && !geteuid().is_root() {
        let arguments = "--system";
        let error = SetupError::NotRoot { arguments };
        return (Mark::Failed, format!("missing: {missing}\n          {error}"));
    }
    let made = if item.system() { make_alone(item, step) } else { item.make(step) };
    match made {
        Ok(detail) => (Mark::Made, detail),
        Err(error) => {
            let by_hand = item.by_hand();
            (Mark::Failed, format!("{error}\n          by hand: {by_hand}"))
        }
    }
}

/// Makes an item while no other setup changes this machine.
fn make_alone(item: &dyn Item, step: &Step) -> Result<String, SetupError> {
    let _lock = lock(step)?;
    // Another setup may have made it while this one waited.
    match item.look()? {
        Found::Present(detail) => Ok(detail),
        Found::Missing(_) => item.make(step),
    }
}

/// Waits until no other setup changes this machine; the lock ends with the value.
fn lock(step: &Step) -> Result<File, SetupError> {
    make_dir(Path::new(STATE))?;
    let path = Path::new(STATE).join("lock");
    let file = File::create(&path).map_err(io_error(&path, "write this file"))?;
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        step.say("waiting for another setup to finish");
        file.lock().map_err(io_error(&path, "lock this file"))?;
    }
    Ok(file)
}

/// Makes a directory and its parents.
fn make_dir(path: &Path) -> Result<(), SetupError> {
    std::fs::create_dir_all(path).map_err(io_error(path, "create this directory"))
}
