//! What being watched costs.
//!
//! The same work is done in four states of the machine: nothing loaded; the daemon watching a cgroup, but not this one;
//! inside the watched cgroup; and there with a viewer that is shown every event. Each round visits all four, each time
//! beginning with another, so that a machine that drifts drifts under all of them; a visit starts its own daemon and
//! ends it. No measurement is discarded: the table gives medians, their ratio to nothing loaded, and the least and the
//! greatest ratio within a round.
//!
//! Measured is the time that passes, of loops of one system call and of real work, and beside it CPU time: of a call its
//! caller's, of work its own and the daemon's together. Both are judged. Where others are at work, time includes their
//! turns, and the daemon's where it found no other processor; CPU time is steadier, but part of a connection's can be
//! anybody's, so that it comes out too small. The work's files are the watch's workspace, where reads and opens cost most.
//! Nothing fails for being slow: a verdict is a word in the table.

mod table;
mod work;

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;

use self::table::{LOOPS, MEASURES, Measured, Sample};
use self::work::{WORKS, Work, Workshop};
use super::cgroup::Cgroup;
use super::machine::{self, Machine};
use super::{Format, stats};
use crate::coi::{self, Coi, Profile, Signals};
use crate::run::{Mark, Step};
use crate::setup;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How long the daemon may go on with what was there when the work ended, and have it counted.
const AFTERMATH: Duration = Duration::from_millis(100);

/// The command line of `cargo xtask bench overhead`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often to visit each state, at least 5 times
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(5..))]
    rounds: u32,
    /// Two short rounds: whether it works, not what it costs
    #[arg(long, conflicts_with = "rounds")]
    quick: bool,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// `coi` is built already (so that nothing is built as root)
    #[arg(long, hide = true)]
    built: Option<PathBuf>,
}

/// What surrounds the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Nothing,
    Outside,
    Inside,
    Emitted,
}

impl State {
    const ALL: [Self; 4] = [Self::Nothing, Self::Outside, Self::Inside, Self::Emitted];

    fn title(self) -> &'static str {
        match self {
            Self::Nothing => "nothing loaded",
            Self::Outside => "outside",
            Self::Inside => "inside",
            Self::Emitted => "inside, every event",
        }
    }
}

/// Measures, and prints the result on standard output.
pub(crate) fn run(args: Args) -> Result<()> {
    let ready = setup::ensure()?;
    let program = coi::build_unless(args.built, Profile::Release)?;
    let (rounds, batches) = if args.quick { (2, 200) } else { (args.rounds, 1500) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let machine = Machine::look()?;
    let measured = runtime.block_on(async {
        let mut signals = Signals::catch()?;
        let mut coi = Coi::new(program, &ready)?;
        let measured = measure(&mut coi, rounds, batches, &mut signals).await;
        let ended = coi.end().await;
        measured.and_then(|measured| ended.map(|()| measured))
    })?;
    match args.format {
        Format::Text => {
            anstream::println!("what being watched costs: {rounds} rounds, {machine}");
            table::print(&measured);
        }
        Format::Json => {
            let measures = measured.iter().map(Measured::json).collect::<Vec<_>>();
            let result =
                json!({ "bench": "overhead", "rounds": rounds, "machine": machine, "measures": measures });
            anstream::println!("{result}");
        }
    }
    Ok(())
}

async fn measure(coi: &mut Coi, rounds: u32, batches: u32, signals: &mut Signals) -> Result<Vec<Measured>> {
    let step = Step::begin("files");
    let workshop = Workshop::furnish(&coi.workspace(), &step, signals).await?;
    step.end(Mark::Ok, "a C project, a repository, small files");
    let places = Places {
        watched: Cgroup::make("watched")?,
        unwatched: Cgroup::make("unwatched")?,
        daemon: Cgroup::make("daemon")?,
    };
    let mut measured: Vec<Measured> = MEASURES.iter().map(Measured::new).collect();
    for round in 0..rounds {
        let step = Step::begin(format!("round {} of {rounds}", round + 1));
        for turn in 0..State::ALL.len() {
            let state = State::ALL[(turn + round as usize) % State::ALL.len()];
            step.say(state.title());
            let visit = Visit { state, places: &places, workshop: &workshop, batches };
            for (measured, sample) in measured.iter_mut().zip(visit.pay(coi, signals).await?) {
                measured.add(state, sample);
            }
        }
        step.end(Mark::Ok, &format!("load {}", machine::load()?));
    }
    Ok(measured)
}

/// Where the work is done, and where the daemon is, so that its CPU time can be told.
struct Places {
    watched: Cgroup,
    unwatched: Cgroup,
    daemon: Cgroup,
}

/// All the work, once, in one state.
struct Visit<'a> {
    state: State,
    places: &'a Places,
    workshop: &'a Workshop,
    batches: u32,
}

impl Visit<'_> {
    /// Brings the state about, has the work done, and puts all back; the samples are in the order of [`MEASURES`].
    async fn pay(&self, coi: &mut Coi, signals: &mut Signals) -> Result<Vec<Sample>> {
        if self.state == State::Nothing {
            return self.work(signals).await;
        }
        coi.start(&[], signals).await?;
        let worked = self.watched(coi, signals).await;
        coi.stop().await;
        worked
    }

    async fn watched(&self, coi: &Coi, signals: &mut Signals) -> Result<Vec<Sample>> {
        let watched = self.places.watched.path();
        self.places.daemon.take(coi.daemon_pid().ok_or("the daemon has ended")?)?;
        let request = json!({
            "subject": { "type": "cgroup", "path": watched },
            "respond": false,
            "workspace": coi.workspace(),
        });
        coi.ask("POST", "/v1/watches", Some(&request), signals).await?;
        if self.state != State::Emitted {
            return self.work(signals).await;
        }
        let viewer = coi.view(&watched, Stdio::null(), signals).await?;
        let worked = self.work(signals).await;
        viewer.end().await;
        worked
    }

    async fn work(&self, signals: &mut Signals) -> Result<Vec<Sample>> {
        let place = match self.state {
            State::Nothing | State::Outside => &self.places.unwatched,
            State::Inside | State::Emitted => &self.places.watched,
        };
        let batches = self.workshop.loops(place, self.batches, signals).await?;
        let mut samples = Vec::new();
        for name in LOOPS {
            let batches = batches.get(name).ok_or_else(|| format!("the loops did not run {name}"))?;
            let [time, cpu] = [&batches.times, &batches.cpus].map(|taken| stats::median(taken));
            let none = || format!("{name} has no batches");
            samples.push(Sample { time: time.ok_or_else(none)?, cpu: cpu.ok_or_else(none)? });
        }
        for work in WORKS {
            samples.push(self.sample(work, place, signals).await?);
        }
        Ok(samples)
    }

    async fn sample(&self, work: &Work, place: &Cgroup, signals: &mut Signals) -> Result<Sample> {
        let daemon = self.places.daemon.cpu()?;
        let done = self.workshop.work(work, place, signals).await?;
        tokio::time::sleep(AFTERMATH).await;
        let cpu = done.cpu + self.places.daemon.cpu()?.saturating_sub(daemon);
        let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
        Ok(Sample { time: milliseconds(done.time), cpu: milliseconds(cpu) })
    }
}
