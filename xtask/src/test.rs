//! `cargo xtask test`: everything, on a machine that may be fresh: set-up, checks, and the end-to-end tests on a real
//! Incus and the real kernel. With `--kernel`, other kernels instead; see [`crate::kernel`].

use crate::check::{self, of_workspace};
use crate::kernel;
use crate::run::Report;
use crate::setup;

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
    let tests = of_workspace("test")
        .args(["--test", "*", "--no-fail-fast", "--"])
        .args(&args.filter)
        .arg("--show-output");
    // The one that was set up, whatever the tests would find.
    let tests = tests.env("INCUS_SOCKET", ready.incus_socket);
    report.run("end-to-end tests", tests)?;
    Ok(())
}
