//! `cargo xtask bench`: numbers, measured on this machine and printed with what they were measured on.
//!
//! It asserts nothing: a number is what it is. Only the soak has a verdict, since what grows is wrong on any machine.

mod attacker;
mod awake;
mod cgroup;
mod engine;
mod flood;
mod latency;
mod machine;
mod many;
mod overhead;
mod programs;
mod soak;
mod start;
mod stats;

pub(crate) use attacker::{Act, Attacker, attack};
pub(crate) use cgroup::Cgroup;

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
    /// Floods of opens, forks, execs and sends: what is lost, and how soon an attack meanwhile is answered; needs root
    Flood(flood::Args),
    /// Many cgroups or containers under one daemon: its memory, and its CPU time while nothing happens; needs root
    Many(many::Args),
    /// A day in twenty minutes: containers, viewers and rotations come and go; fails if the daemon grows; needs root
    Soak(soak::Args),
    /// From nothing to an ended command: `coi run -- true` against Incus alone; needs root
    Start(start::Args),
    /// Events a second on one core, with the default rules and with 100 and 1000 more
    Engine(engine::Args),
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
        Bench::Flood(args) => flood::run(args),
        Bench::Many(args) => many::run(args),
        Bench::Soak(args) => soak::run(args),
        Bench::Start(args) => start::run(args),
        Bench::Engine(args) => engine::run(&args),
    }
}
