//! `cargo xtask test`: everything, on a machine that may be fresh: set-up, checks, and the end-to-end tests on a real
//! Incus and the real kernel. With `--kernel`, other kernels instead; see [`crate::kernel`].

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::check::{self, cargo, of_workspace, workspace};
use crate::kernel;
use crate::run::Report;
use crate::setup::{self, Ready};

/// The tests of images: one of them makes a whole one, which takes minutes and mostly one processor. The others run
/// meanwhile.
const IMAGES: &str = "build";
/// How long those may take.
const IMAGES_LIMIT: Duration = Duration::from_secs(30 * 60);
/// How many tests of one program run at once. They wait more than they compute, and would leave two processors idle a
/// third of the time; the harness knows how many a machine bears.
const AT_ONCE: &str = "3";

/// The command line of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only the end-to-end tests whose name contains this
    filter: Option<String>,
    /// Run COI on other kernels instead, in an emulator: Debian's stock and backports kernels
    #[arg(long, conflicts_with = "filter")]
    kernel: bool,
}

/// Sets the machine up, then checks and tests; the first thing that fails ends it.
pub(crate) fn run(args: &Args, report: &mut Report) -> Result<(), Box<dyn std::error::Error>> {
    if args.kernel {
        return kernel::run(report);
    }
    let ready = report.time("setup", setup::ensure)?;
    check::run(report)?;
    end_to_end(args, &ready, report)
}

/// Runs the end-to-end tests, those of images beside the others. Whatever fails, all are run, and all is shown.
fn end_to_end(args: &Args, ready: &Ready, report: &mut Report) -> Result<(), Box<dyn std::error::Error>> {
    let tests = |programs: &[String]| {
        let tests = programs.iter().fold(of_workspace("test"), |tests, name| tests.args(["--test", name]));
        tests
            .args(["--no-fail-fast", "--"])
            .args(&args.filter)
            .args(["--show-output", "--test-threads", AT_ONCE])
            // The one that was set up, whatever the tests would find.
            .env("INCUS_SOCKET", &ready.incus_socket)
    };
    let (images, others): (Vec<_>, Vec<_>) = programs()?.into_iter().partition(|name| name == IMAGES);
    let log = workspace().join("target").join("tests-of-images.log");
    let unreadable = |error| format!("the log {}: {error}", log.display());
    match fs::remove_file(&log) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unreadable(error).into()),
        _ => {}
    }
    let (images, beside) = (tests(&images).limit(IMAGES_LIMIT), log.clone());
    let images = thread::spawn(move || images.logged(&beside));
    let others = report.run("end-to-end tests", tests(&others));
    // What it takes longer than the others.
    let images = report.time("tests of images", || match images.join() {
        Ok(ended) => ended,
        Err(panic) => std::panic::resume_unwind(panic),
    });
    anstream::eprintln!("{}", fs::read_to_string(&log).map_err(unreadable)?);
    others?;
    images?;
    Ok(())
}

/// The names of all end-to-end tests' programs.
fn programs() -> Result<BTreeSet<String>, Box<dyn std::error::Error>> {
    let metadata = cargo().args(["metadata", "--no-deps", "--format-version", "1"]).output()?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let names = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|package| package["targets"].as_array())
        .flatten()
        .filter(|target| target["kind"][0] == "test")
        .filter_map(|target| target["name"].as_str().map(str::to_owned))
        .collect();
    Ok(names)
}
