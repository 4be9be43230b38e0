//! From nothing to an ended command: `coi run -- true`, monitored, against what Incus takes for the same without COI.
//!
//! Both make a container of the same image with the same profile, run `true` in it, and delete it; one after the other, in
//! turns, so that both meet the same machine. A start of `coi` does more: it makes the workspace's mounts, has the container
//! watched before it runs, and waits until it can be used.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;

use super::Format;
use super::machine::Machine;
use super::stats::{Summary, median};
use crate::coi::{self, Coi, Profile, Signals};
use crate::run::Cmd;
use crate::setup;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How long one command of Incus may take.
const LIMIT: Duration = Duration::from_secs(120);
/// What the issue of the launcher allows.
const CEILING: f64 = 1.25;

/// The command line of `cargo xtask bench start`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often to start each, at least 3 times
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(3..))]
    runs: u32,
    /// The images; each is measured by itself
    #[arg(long = "image", default_values = ["coi-tiny", "coi-default"])]
    images: Vec<String>,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// `coi` is built already (so that nothing is built as root)
    #[arg(long, hide = true)]
    built: Option<PathBuf>,
}

/// All starts of an image.
#[derive(Debug, Serialize)]
struct Measured {
    image: String,
    coi_us: Summary,
    incus_us: Summary,
    /// Of each round the time of COI by that of Incus, the middle one.
    ratio: f64,
}

/// Measures, and prints the result on standard output.
pub(crate) fn run(args: Args) -> Result<()> {
    let ready = setup::ensure()?;
    let program = coi::build_unless(args.built, Profile::Release)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let machine = Machine::look()?;
    let results = runtime.block_on(async {
        let mut signals = Signals::catch()?;
        let mut coi = Coi::new(program, &ready)?;
        let measured = async {
            coi.start(&[], &mut signals).await?;
            let mut results = Vec::new();
            for image in &args.images {
                anstream::eprintln!("{image}: {} rounds", args.runs);
                results.push(measure(&coi, image, args.runs, &mut signals).await?);
            }
            Ok::<_, Box<dyn std::error::Error>>(results)
        };
        let measured = measured.await;
        let ended = coi.end().await;
        measured.and_then(|measured| ended.map(|()| measured))
    })?;
    print(args.format, &machine, args.runs, &results);
    Ok(())
}

async fn measure(coi: &Coi, image: &str, runs: u32, signals: &mut Signals) -> Result<Measured> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // The first round is for the caches.
    for round in 0..=runs {
        let began = Instant::now();
        coi.run(&["run", "--image", image, "--", "true"], signals).await?;
        let with_coi = began.elapsed();
        let began = Instant::now();
        let name = format!("coi-bench-{}", std::process::id());
        let (image, mark) = (image.to_owned(), format!("user.coi.workspace={}", coi.workspace().display()));
        let without = tokio::task::spawn_blocking(move || by_incus(&name, &image, &mark));
        signals.unless("Incus's own start", 3 * LIMIT, without).await???;
        let without = began.elapsed();
        if round > 0 {
            ours.push(u64::try_from(with_coi.as_nanos())?);
            theirs.push(u64::try_from(without.as_nanos())?);
        }
    }
    let ratios: Vec<f64> =
        ours.iter().zip(&theirs).map(|(ours, theirs)| *ours as f64 / *theirs as f64).collect();
    let none = || "nothing was measured";
    Ok(Measured {
        image: image.to_owned(),
        coi_us: Summary::of(ours).ok_or_else(none)?,
        incus_us: Summary::of(theirs).ok_or_else(none)?,
        ratio: median(&ratios).ok_or_else(none)?,
    })
}

/// The same by Incus alone. With the mark of our workspace the container is found and removed whatever happens.
fn by_incus(name: &str, image: &str, mark: &str) -> std::result::Result<(), crate::run::RunError> {
    let (image, instance) = (format!("local:{image}"), format!("local:{name}"));
    let launch = ["launch", "--quiet", &image, &instance, "--profile", "coi", "--config", mark];
    Cmd::new("incus").args(launch).limit(LIMIT).output()?;
    Cmd::new("incus").args(["exec", &instance, "--", "true"]).limit(LIMIT).output()?;
    Cmd::new("incus").args(["delete", "--force", &instance]).limit(LIMIT).output()?;
    Ok(())
}

fn print(format: Format, machine: &Machine, runs: u32, results: &[Measured]) {
    if format == Format::Json {
        let result = json!({ "bench": "start", "runs": runs, "machine": machine, "results": results });
        anstream::println!("{result}");
        return;
    }
    anstream::println!("`true` in a new container, made and deleted: {runs} rounds, {machine}");
    anstream::println!(
        "{:<16} {:>12} {:>12} {:>14} {:>10} (at most {CEILING})",
        "median, seconds",
        "coi run",
        "incus",
        "coi, p99",
        "ratio"
    );
    for Measured { image, coi_us, incus_us, ratio } in results {
        let [ours, theirs, worst] = [coi_us.median, incus_us.median, coi_us.p99].map(|us| us / 1e6);
        anstream::println!("{image:<16} {ours:>12.3} {theirs:>12.3} {worst:>14.3} {ratio:>10.2}");
    }
}
