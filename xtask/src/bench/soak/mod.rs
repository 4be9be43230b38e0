//! What a day does to the daemon, in twenty minutes: does anything of it only ever grow?
//!
//! Meanwhile containers are launched, watched, used, frozen, thawed and ended in each way there is; cgroups too, faster;
//! one cgroup goes on all the time and has an alert every moment; audit logs are rotated and old files removed every few
//! seconds; viewers come and go, some without a word; rules are read again ([`load`]). Every few seconds it is looked at
//! what the daemon and its guard hold ([`sample`]).
//!
//! The first quarter of the time is for getting warm. What the others say of each number, by their medians, is held
//! against a bound that is printed ([`verdict`]): memory, descriptors, threads, entries of the kernel's maps. When
//! everything is over, nothing may be left of it. If any of that is not so, the program ends with 1.

mod load;
mod sample;
mod verdict;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

use self::load::{Done, Load};
use self::sample::{Sample, Sampler};
use self::verdict::Verdict;
use super::Format;
use super::machine::Machine;
use crate::coi::{self, Coi, Profile, Signals, io_error};
use crate::run::{Mark, Step};
use crate::setup;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(2);
/// What was begun by starting, or by the load, is over.
const SETTLED: Duration = Duration::from_secs(5);
/// Files of a few seconds, of which few are kept; signs of life that come often.
const CONFIG: &str = "
[audit]
max_file_size = \"128KiB\"
min_file_age = \"1s\"
max_file_age = \"20s\"
keep_files = 4
checkpoint_interval = \"2s\"
checkpoint_records = 200
heartbeat = \"2s\"
[respond]
keep_evidence = 4
";

/// The command line of `cargo xtask bench soak`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long it lasts
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1440))]
    minutes: u64,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// `coi` is built already (so that nothing is built as root)
    #[arg(long, hide = true)]
    built: Option<PathBuf>,
}

/// What was seen.
struct Soaked {
    before: Sample,
    during: Vec<Sample>,
    after: Sample,
    done: Done,
}

/// Runs it, and prints the result on standard output.
pub(crate) fn run(args: Args) -> Result<()> {
    let Args { minutes, format, built } = args;
    let ready = setup::ensure()?;
    let program = coi::build_unless(built, Profile::Release)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let machine = Machine::look()?;
    let soaked = runtime.block_on(async {
        let mut signals = Signals::catch()?;
        let mut coi = Coi::new(program, &ready)?;
        let soaked = soak(&mut coi, Duration::from_secs(minutes * 60), &mut signals).await;
        let ended = coi.end().await;
        soaked.and_then(|soaked| ended.map(|()| soaked))
    })?;
    let verdicts = verdict::all(&soaked.before, &soaked.during, &soaked.after);
    match format {
        Format::Text => {
            anstream::println!("{minutes} minutes: {}: {machine}", soaked.done);
            verdict::print(&verdicts);
        }
        Format::Json => {
            let result = json!({
                "bench": "soak", "minutes": minutes, "machine": machine, "done": soaked.done, "verdicts": verdicts,
            });
            anstream::println!("{result}");
        }
    }
    let grown: Vec<&str> = verdicts.iter().filter(|verdict| !verdict.is_flat()).map(Verdict::name).collect();
    match grown.is_empty() {
        true => Ok(()),
        false => Err(format!("not flat: {}", grown.join(", ")).into()),
    }
}

async fn soak(coi: &mut Coi, time: Duration, signals: &mut Signals) -> Result<Soaked> {
    let write = |name: &str, text: &str| {
        let path = coi.dir().join(name);
        fs::write(&path, text).map_err(io_error(path.display().to_string())).map(|()| path)
    };
    let (config, rules) = (write("config.toml", CONFIG)?, write("rules.toml", load::RULES)?);
    let more = ["--config".as_ref(), config.as_os_str(), "--rules".as_ref(), rules.as_os_str()];
    coi.start(&more, signals).await?;
    let coi = &*coi;
    let sampler = Sampler::of(coi)?;
    signals.unless("settling", 2 * SETTLED, sleep(SETTLED)).await?;
    let before = sampler.look(coi, signals).await?;
    let end = Instant::now() + time;
    let step = Step::begin("soak");
    let load = Load::new(coi, end)?;
    let mut during = Vec::new();
    let looking = async {
        while Instant::now() < end {
            signals.unless("the next look", 2 * LOOK, sleep_until((Instant::now() + LOOK).min(end))).await?;
            during.push(sampler.look(coi, signals).await?);
            step.say(format!("{}; {} s left", load.done(), (end - Instant::now()).as_secs()));
        }
        Result::Ok(())
    };
    tokio::try_join!(load.run(), looking)?;
    let done = load.over(signals).await?;
    step.end(Mark::Ok, &done.to_string());
    signals.unless("settling", 2 * SETTLED, sleep(SETTLED)).await?;
    let after = sampler.look(coi, signals).await?;
    done.check()?;
    Ok(Soaked { before, during, after, done })
}
