//! What a person types while developing COI.
//!
//! One subject per file; this one only turns arguments into calls and results into an exit code.

mod bench;
mod check;
mod coi;
mod demo;
mod kernel;
mod run;
mod setup;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, tests and tries out COI.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what building and testing COI needs, start Incus where no service runs it, build the images
    Setup(setup::Args),
    /// Check format and lints and run the tests that need no root
    Check,
    /// Set up, check, and run the end-to-end tests; needs root
    Test(test::Args),
    /// Set up, build, and show a harmless command and a reverse shell in real containers; needs root
    Demo(demo::Args),
    /// Measure
    Bench(bench::Args),
    /// Be what a bench freezes
    #[command(hide = true)]
    BenchAttacker { port: u16, act: bench::Act },
    /// Look at the kernel that this runs on (started by `test --kernel` in an emulator)
    #[command(hide = true)]
    KernelGuest { coi: PathBuf },
    /// Become the Incus of a machine without a service manager (started by `setup`)
    #[command(hide = true)]
    IncusHost,
}

fn main() -> ExitCode {
    let mut report = run::Report::default();
    let done: Result<(), Box<dyn std::error::Error>> = match Cli::parse().command {
        Task::Setup(args) => setup::run(&args).map_err(Into::into),
        Task::Check => check::run(&mut report).map_err(Into::into),
        Task::Test(args) => test::run(&args, &mut report),
        Task::Demo(args) => demo::run(args),
        Task::Bench(args) => bench::run(args),
        Task::BenchAttacker { port, act } => bench::attack(port, act),
        Task::KernelGuest { coi } => kernel::guest(coi),
        Task::IncusHost => setup::incus_host().map_err(Into::into),
    };
    report.print();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let style = anstyle::AnsiColor::Red.on_default().bold();
            anstream::eprintln!("{style}error:{style:#} {error}");
            ExitCode::FAILURE
        }
    }
}
