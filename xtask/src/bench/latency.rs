//! From connect() to frozen.
//!
//! An attacker in a watched cgroup connects to a port of this machine; a rule of severity `high` freezes it; see
//! [`super::attacker`] for what is measured. Beside it stands what the daemon says of the same freezes in its audit log.
//! Between runs the cgroup is thawed with `coi unfreeze`.
//!
//! How long it takes at least depends on the machine: who answers has to be woken, and then everything that is to stand
//! still. Half of that is measured before and half after, as nearly as it can be done in userspace: who accepts the
//! connection freezes the cgroup, and nothing watches it.
//!
//! Whether idle processors halt changes every number (see [`super::awake`]); each subject is measured both ways. How much
//! of the processors' time a virtual machine's host gave to others meanwhile stands beside it.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::Format;
use super::attacker::{APART, Act, Attacker, hurry};
use super::awake::Awake;
use super::cgroup::{Cgroup, Events, hierarchy};
use super::machine::{Machine, Stolen};
use super::stats::Summary;
use crate::coi::{self, Coi, Profile, Signals, io_error};
use crate::run::Cmd;
use crate::setup;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How long a freeze may take before the bench gives up.
const FROZEN: Duration = Duration::from_secs(30);
/// The rule that answers; PORT stands for the listener's.
const RULE: &str = r#"
[[rule]]
id = "bench-connect"
title = "The bench's attacker connects"
description = "For `cargo xtask bench latency`."
severity = "high"
event = "connect"
condition = "destination.ip == '127.0.0.1' and destination.port == PORT"
message = "{process.executable} (pid {process.pid}) connects to {destination.ip}:{destination.port}"
suppress = { for = "0s" }

  [[rule.test]]
  name = "the bench's port"
  expect = "fire"
  events = [{ event = "connect", process.executable = "/bin/x", destination.ip = "127.0.0.1", destination.port = PORT }]

  [[rule.test]]
  name = "the same port elsewhere"
  expect = "quiet"
  events = [{ event = "connect", process.executable = "/bin/x", destination.ip = "192.0.2.1", destination.port = PORT }]
"#;

/// The command line of `cargo xtask bench latency`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often to measure each, at least 50 times
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(50..))]
    runs: u32,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// `coi` is built already (so that nothing is built as root)
    #[arg(long, hide = true)]
    built: Option<PathBuf>,
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
        let measured = measure(&mut coi, args.runs, &mut signals).await;
        let ended = coi.end().await;
        measured.and_then(|measured| ended.map(|()| measured))
    })?;
    print(args.format, &machine, args.runs, &results);
    Ok(())
}

async fn measure(coi: &mut Coi, runs: u32, signals: &mut Signals) -> Result<Vec<Measured>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    let rules = coi.dir().join("rules");
    fs::create_dir(&rules)?;
    fs::write(rules.join("bench.toml"), RULE.replace("PORT", &port.to_string()))?;
    coi.start(&["--rules".as_ref(), rules.as_os_str()], signals).await?;
    let mut results = Vec::new();
    for make in [Subject::cgroup, Subject::container] {
        let subject = make(coi)?;
        for (earlier, idle) in [(0, Idle::Awake), (runs, Idle::Halting)] {
            anstream::eprintln!("{}, idle processors {idle}: {runs} runs", subject.title);
            let awake = (idle == Idle::Awake).then(Awake::keep).transpose()?;
            let stolen = Stolen::since_now()?;
            let mut least = subject.least(runs / 2, signals).await?;
            let [observed, decided, recorded] =
                subject.measure(coi, &listener, earlier, runs, signals).await?;
            least.extend(subject.least(runs - runs / 2, signals).await?);
            drop(awake);
            let none = || "nothing was measured";
            results.push(Measured {
                subject: subject.title,
                idle_processors: idle,
                stolen_percent: stolen.percent()?,
                least_us: Summary::of(least).ok_or_else(none)?,
                observed_us: Summary::of(observed).ok_or_else(none)?,
                decided_us: Summary::of(decided).ok_or_else(none)?,
                recorded_us: Summary::of(recorded).ok_or_else(none)?,
            });
        }
    }
    Ok(results)
}

/// What a processor does that has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Idle {
    /// It looks whether there is something.
    Awake,
    /// It waits to be woken.
    Halting,
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Awake => "awake",
            Self::Halting => "halting",
        })
    }
}

/// What is attacked.
struct Subject {
    title: &'static str,
    /// As `coi` names it.
    name: String,
    /// How `coi monitor` is told of it.
    target: [String; 2],
    /// Where the attacker goes.
    cgroup: PathBuf,
    /// The same, if the bench made it.
    _ours: Option<Cgroup>,
}

/// All freezes of a subject while idle processors did the same.
#[derive(Debug, Serialize)]
struct Measured {
    subject: &'static str,
    idle_processors: Idle,
    /// What the machine's host took of all processors' time meanwhile.
    stolen_percent: f64,
    /// Without COI, by who accepts the connection.
    least_us: Summary,
    /// By the attacker's and the watcher's clocks.
    observed_us: Summary,
    /// By the daemon's records: until the kernel was told to freeze it.
    decided_us: Summary,
    /// By the daemon's records: until it saw that all stood still.
    recorded_us: Summary,
}

impl Subject {
    /// A cgroup of this machine.
    fn cgroup(_: &Coi) -> Result<Self> {
        let ours = Cgroup::make("latency")?;
        Ok(Self {
            title: "a cgroup of this machine",
            name: ours.name().to_owned(),
            target: ["--cgroup".to_owned(), ours.path()],
            cgroup: ours.dir().to_owned(),
            _ours: Some(ours),
        })
    }

    /// A container: small, and as idle as an agent that waits for its service.
    fn container(coi: &Coi) -> Result<Self> {
        let name = format!("coi-bench-{}", std::process::id());
        // With the mark of our workspace it is found and removed whatever happens.
        let mark = format!("user.coi.workspace={}", coi.workspace().display());
        Cmd::new("incus")
            .args(["launch", "local:coi-tiny", &format!("local:{name}"), "--ephemeral", "--profile", "coi"])
            .args(["--config", &mark])
            .limit(Duration::from_secs(120))
            .output()?;
        let target = ["--attach".to_owned(), name.clone()];
        let cgroup = hierarchy()?.join(format!("lxc.payload.{name}"));
        Ok(Self { title: "an Incus container", name, target, cgroup, _ours: None })
    }

    /// Without COI.
    async fn least(&self, runs: u32, signals: &mut Signals) -> Result<Vec<u64>> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let (cgroup, accepts) = (self.cgroup.clone(), usize::try_from(runs)?);
        let freeze = File::options().write(true).open(cgroup.join("cgroup.freeze"))?;
        // It ends with the last connection, or with this program.
        thread::spawn(move || {
            hurry();
            listener.incoming().take(accepts).try_for_each(|accepted| {
                let written = (&freeze).write_all(b"1");
                accepted.and(written)
            })
        });
        let what = format!("freezing {} by hand", self.title);
        let freezes = tokio::task::spawn_blocking(move || by_hand(&cgroup, port, runs));
        Ok(signals.unless(&what, 4 * FROZEN, freezes).await??.map_err(io_error(what))?)
    }

    /// With COI: what was seen, and what is in the audit log of the decisions and of the freezes. So many freezes are on
    /// record from earlier.
    async fn measure(
        &self,
        coi: &Coi,
        listener: &TcpListener,
        earlier: u32,
        runs: u32,
        signals: &mut Signals,
    ) -> Result<[Vec<u64>; 3]> {
        let [option, target] = &self.target;
        coi.run(&["monitor", option, target, "--respond", "--detach"], signals).await?;
        let mut attacker = Attacker::start(&self.cgroup, listener.local_addr()?.port(), Act::Connect)?;
        let mut observed = Vec::new();
        for run in 1..=runs {
            let what = format!("freeze {run} of {}", self.title);
            let frozen = tokio::task::spawn_blocking(move || (attacker.freeze(FROZEN), attacker));
            let at;
            (at, attacker) = signals.unless(&what, 2 * FROZEN, frozen).await??;
            let at = at.map_err(io_error(what))?;
            // Answered when the freeze is done and on record.
            coi.run(&["unfreeze", &self.name], signals).await?;
            drop(listener.accept()?);
            observed.push(at.saturating_sub(attacker.began()?));
            tokio::time::sleep(APART).await;
        }
        let records = coi.audit(&self.name, signals).await?;
        let earlier = usize::try_from(earlier)?;
        let recorded = |what: &str| -> Vec<u64> {
            records
                .iter()
                .filter(|record| record["rule"]["id"] == "bench-connect")
                .skip(earlier)
                .filter_map(|record| Some(record.pointer("/coi/action")?.get(what)?.as_u64()? * 1000))
                .collect()
        };
        let [decided, frozen] = ["decided_us", "latency_us"].map(recorded);
        if (decided.len(), frozen.len()) != (observed.len(), observed.len()) {
            return Err(format!("{runs} freezes, but {} in the audit log", frozen.len()).into());
        }
        coi.ask("DELETE", &format!("/v1/watches/{}", self.name), None, signals).await?;
        Ok([observed, decided, frozen])
    }
}

/// Has an attacker frozen by who listens at this port, again and again; says how long each freeze took, in nanoseconds.
fn by_hand(cgroup: &Path, port: u16, runs: u32) -> io::Result<Vec<u64>> {
    let mut attacker = Attacker::start(cgroup, port, Act::Connect)?;
    let mut least = Vec::new();
    for _ in 0..runs {
        let at = attacker.freeze(FROZEN)?;
        let mut events = Events::of(cgroup)?;
        fs::write(cgroup.join("cgroup.freeze"), "0")?;
        while events.read()?.contains("frozen 1") {
            events.wait(FROZEN)?;
        }
        least.push(at.saturating_sub(attacker.began()?));
        thread::sleep(APART);
    }
    Ok(least)
}

fn print(format: Format, machine: &Machine, runs: u32, results: &[Measured]) {
    if format == Format::Json {
        let result = json!({ "bench": "latency", "runs": runs, "machine": machine, "results": results });
        anstream::println!("{result}");
        return;
    }
    anstream::println!("connect() to frozen: {runs} runs each, {machine}");
    for measured in results {
        let Measured { subject, idle_processors, stolen_percent, .. } = measured;
        anstream::println!(
            "{subject}, idle processors {idle_processors}, {stolen_percent:.1} % of them taken by the host"
        );
        anstream::println!(
            "  {:<49} {:>10} {:>10} {:>10} {:>10}",
            "milliseconds",
            "median",
            "p99",
            "min",
            "max"
        );
        for (what, summary) in [
            ("the least", measured.least_us),
            ("seen from outside", measured.observed_us),
            ("in the audit log, decided", measured.decided_us),
            ("in the audit log, frozen", measured.recorded_us),
        ] {
            let [median, p99, min, max] =
                [summary.median, summary.p99, summary.min, summary.max].map(|us| us / 1000.0);
            anstream::println!("  {what:<49} {median:>10.3} {p99:>10.3} {min:>10.3} {max:>10.3}");
        }
    }
}
