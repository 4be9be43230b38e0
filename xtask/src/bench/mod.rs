//! `cargo xtask bench`: numbers, measured on this machine and printed with what they were measured on.
//!
//! It asserts nothing: a number is what it is.

mod cgroup;
mod latency;
mod machine;
mod overhead;
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
    /// What being watched costs: system calls and real work, against a machine without COI; needs root
    Overhead(overhead::Args),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A table for people
    #[default]
    Text,
    /// One JSON object
    Json,
}

/// Measures what the command line asks for.
pub(crate) fn run(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    match args.bench {
        Bench::Latency(args) => latency::run(args),
        Bench::Overhead(args) => overhead::run(args),
    }
}
