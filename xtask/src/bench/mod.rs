//! `cargo xtask bench`: numbers, measured on this machine and printed with what they were measured on.
//!
//! It asserts nothing: a number is what it is.

mod engine;
mod latency;
mod stats;

pub(crate) use latency::attacker;

/// The command line of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, clap::Subcommand)]
enum Bench {
    /// From connect() to frozen, on a cgroup of this machine and on an Incus container; needs root
    Latency(latency::Args),
    /// Events a second on one core, with the default rules and with 100 and 1000 more
    Engine(engine::Args),
}

/// Measures what the command line asks for.
pub(crate) fn run(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    match args.bench {
        Bench::Latency(args) => latency::run(args),
        Bench::Engine(args) => engine::run(&args),
    }
}
