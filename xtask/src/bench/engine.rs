//! `cargo xtask bench engine`: events a second on one core, with the default rules and with many more.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

/// The command line of `cargo xtask bench engine`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A recording of real work (`coi monitor --record`); without it, events made up after a build
    recording: Option<PathBuf>,
    /// Print JSON
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json"], default_value = "text")]
    format: String,
}

/// How many made-up rules are added to the default ones.
const GENERATED: [u32; 3] = [0, 100, 1000];

/// Why there are no numbers.
#[derive(Debug, thiserror::Error)]
enum EngineError {
    #[error("`{0}` failed; its own words are above")]
    Failed(String),
}

pub(super) fn run(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    output(Command::new("cargo").args(["build", "--release", "--quiet", "-p", "coi"]))?;
    let mut results = Vec::new();
    for generated in GENERATED {
        let mut bench = Command::new("target/release/coi");
        bench.args(["rules", "bench", "--format", "json", "--generate"]).arg(generated.to_string());
        bench.args(&args.recording);
        let mut result: Value = serde_json::from_slice(&output(&mut bench)?)?;
        result["generated"] = generated.into();
        results.push(result);
    }
    if args.format == "json" {
        anstream::println!("{:#}", json!(results));
        return Ok(());
    }
    anstream::println!("{:>9} {:>6} {:>16} {:>8}", "generated", "rules", "events/s, median", "rounds");
    for result in results {
        let rounds = result["rates"].as_array().map_or(0, Vec::len);
        let median = result["median"].as_f64().unwrap_or_default();
        anstream::println!("{:>9} {:>6} {median:>16.0} {rounds:>8}", result["generated"], result["rules"]);
    }
    Ok(())
}

fn output(command: &mut Command) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let output = command.stderr(std::process::Stdio::inherit()).output()?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(EngineError::Failed(format!("{command:?}")).into())
    }
}
