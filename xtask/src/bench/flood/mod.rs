//! What a flood hides, and what it loses.
//!
//! Four processes in cgroup A do one thing as fast as they can: open a file, fork, exec, send to many addresses; each in
//! turn, once without and once with a viewer that is to be shown every event. Meanwhile B and A are attacked in turn: a
//! shell whose input and output are a connection. The built-in rule fires, made milder, so that it freezes and the next
//! attack can follow. Told are, of each flood, how much was done by the producers' own count, what was lost or throttled
//! of it by the audit log, and how long it took from connect(2) to frozen, in B and in A; see [`super::attacker`].
//!
//! With a viewer, what it was shown is counted as well: done is what was shown, missed by a slow viewer, lost and
//! throttled; what remains is unaccounted for. The sends stay inside a network of the flood's own. Nothing fails for
//! being slow or lost.

mod told;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use self::told::{Counts, Told};
use super::attacker::{APART, Act, Attacker};
use super::cgroup::Cgroup;
use super::machine::Machine;
use super::stats::Summary;
use super::{Format, programs};
use crate::coi::{self, Coi, Profile, Signals, io_error};
use crate::run::{Mark, Step};
use crate::setup;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const FLOOD: &str = include_str!("flood.c");
const PRODUCERS: u32 = 4;
/// The rule about the shell.
const RULE: &str = "reverse-shell-socket";
/// The shell's rule kills; here it freezes. That another one freezes already when the attacker has made the connection
/// its own input and output, before it runs the shell, would make two freezes of one attack.
const CONFIG: &str = "
[rules.reverse-shell-socket]
severity = \"high\"
[rules.program-on-socket]
enabled = false
";
/// What was not answered within so long was missed.
const MISSED: Duration = Duration::from_secs(2);
/// How long anything else may take.
const LIMIT: Duration = Duration::from_secs(60);
/// The daemon looks at its loss counters twice a second.
const SETTLED: Duration = Duration::from_millis(1500);

/// The command line of `cargo xtask bench flood`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long each flood lasts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// `coi` is built already (so that nothing is built as root)
    #[arg(long, hide = true)]
    built: Option<PathBuf>,
}

/// What is done in a flood: the producer's word for it, and the event's.
#[derive(Clone, Copy, Debug)]
struct Kind {
    name: &'static str,
    event: &'static str,
    /// The program that stands behind such an event.
    program: &'static str,
}

const KINDS: [Kind; 4] = [
    Kind { name: "open", event: "open", program: "flood" },
    Kind { name: "fork", event: "fork", program: "flood" },
    Kind { name: "exec", event: "exec", program: "true" },
    Kind { name: "send", event: "connect", program: "flood" },
];

/// Measures, and prints the result on standard output.
pub(crate) fn run(args: Args) -> Result<()> {
    let ready = setup::ensure()?;
    let program = coi::build_unless(args.built, Profile::Release)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let machine = Machine::look()?;
    let floods = runtime.block_on(async {
        let mut signals = Signals::catch()?;
        let mut coi = Coi::new(program, &ready)?;
        let measured = measure(&mut coi, args.seconds, &mut signals).await;
        let ended = coi.end().await;
        measured.and_then(|measured| ended.map(|()| measured))
    })?;
    match args.format {
        Format::Text => {
            let seconds = args.seconds;
            anstream::println!(
                "{PRODUCERS} producers for {seconds} s each in A, attacks in B and A: {machine}"
            );
            print(&floods);
        }
        Format::Json => {
            let result = json!({
                "bench": "flood", "producers": PRODUCERS, "seconds": args.seconds, "machine": machine, "floods": floods,
            });
            anstream::println!("{result}");
        }
    }
    Ok(())
}

async fn measure(coi: &mut Coi, seconds: u32, signals: &mut Signals) -> Result<Vec<Flooded>> {
    let workspace = coi.workspace();
    programs::compile(&workspace, "flood", FLOOD)?;
    programs::compile(&workspace, "true", programs::TRUE)?;
    // Rules ask for opens of files of this name, so that each is told and judged; one file alone fires none.
    let file = workspace.join(".env");
    fs::write(&file, "A=1\n").map_err(io_error(file.display().to_string()))?;
    let config = coi.dir().join("config.toml");
    fs::write(&config, CONFIG).map_err(io_error(config.display().to_string()))?;
    coi.start(&["--config".as_ref(), config.as_os_str()], signals).await?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let mut victims = Vec::new();
    for role in ["b", "a"] {
        victims.push(Victim::watch(role, coi, &listener, signals).await?);
    }
    let quiet = Flood { kind: None, viewer: false, seconds };
    let floods = KINDS
        .iter()
        .flat_map(|kind| [false, true].map(|viewer| Flood { kind: Some(*kind), viewer, seconds }));
    let mut flooded = Vec::new();
    for flood in [quiet].into_iter().chain(floods) {
        let step = Step::begin(flood.title());
        step.say(if flood.viewer { "with a viewer" } else { "without a viewer" });
        let result = flood.measure(coi, &mut victims, &listener, signals).await?;
        let attacks: usize = result.attacks.iter().map(|attacks| attacks.count).sum();
        step.end(Mark::Ok, &format!("{} done, {attacks} attacks", result.done));
        flooded.push(result);
    }
    Ok(flooded)
}

/// A watched cgroup and its attacker.
struct Victim {
    cgroup: Cgroup,
    /// Elsewhere while it attacks.
    attacker: Option<Attacker>,
    /// How many of the audit log's records have been looked at.
    read: usize,
}

impl Victim {
    async fn watch(role: &str, coi: &Coi, listener: &TcpListener, signals: &mut Signals) -> Result<Self> {
        let cgroup = Cgroup::make(role)?;
        let request = json!({
            "subject": { "type": "cgroup", "path": cgroup.path() },
            "respond": true,
            "workspace": coi.workspace(),
        });
        coi.ask("POST", "/v1/watches", Some(&request), signals).await?;
        let attacker = Attacker::start(cgroup.dir(), listener.local_addr()?.port(), Act::Shell)?;
        Ok(Self { cgroup, attacker: Some(attacker), read: 0 })
    }

    /// One attack; how long it took until it was frozen, or `None` if it was not.
    async fn attack(
        &mut self,
        coi: &Coi,
        listener: &TcpListener,
        signals: &mut Signals,
    ) -> Result<Option<u64>> {
        let name = self.cgroup.name();
        let what = format!("an attack in {name}");
        let mut attacker = self.attacker.take().ok_or("the attacker is lost")?;
        let frozen = tokio::task::spawn_blocking(move || (attacker.freeze(MISSED), attacker));
        let (at, mut attacker) = signals.unless(&what, LIMIT, frozen).await??;
        let at = match at {
            Ok(at) => Some(at),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => None,
            Err(error) => return Err(io_error(what)(error).into()),
        };
        // A shell that comes too late to be missed is thawed as well.
        let thawed = coi.ask("POST", &format!("/v1/watches/{name}/unfreeze"), None, signals).await;
        if at.is_some() {
            thawed?;
        }
        let (connection, _) =
            signals.unless(&format!("the connection of {what}"), LIMIT, listener.accept()).await??;
        drop(connection);
        let ended =
            tokio::task::spawn_blocking(move || (attacker.began().map_err(|e| e.to_string()), attacker));
        let (began, attacker) = signals.unless(&format!("the end of {what}"), LIMIT, ended).await??;
        let began = began?;
        self.attacker = Some(attacker);
        sleep(APART).await;
        Ok(at.map(|at| at.saturating_sub(began)))
    }

    /// What the audit log says since it was last looked at.
    async fn records(&mut self, coi: &Coi, signals: &mut Signals) -> Result<Vec<Value>> {
        let mut records = coi.audit(self.cgroup.name(), signals).await?;
        let new = records.split_off(self.read.min(records.len()));
        self.read += new.len();
        Ok(new)
    }
}

/// One flood; without a kind there is none, and the attacks are alone.
struct Flood {
    kind: Option<Kind>,
    viewer: bool,
    seconds: u32,
}

/// What became of it.
#[derive(Debug, Serialize)]
struct Flooded {
    flood: &'static str,
    viewer: bool,
    done: u64,
    /// The producers' events that the viewer was shown.
    shown: Option<u64>,
    /// The events of any kind that were ready for the viewer, but not waited for.
    viewer_missed: Option<u64>,
    lost_in_a: Vec<Loss>,
    lost_in_b: Vec<Loss>,
    /// Done, and neither shown, missed, lost nor throttled.
    unaccounted: Option<i64>,
    attacks: Vec<Attacks>,
}

/// Events that were not delivered.
#[derive(Debug, Serialize)]
struct Loss {
    kind: String,
    ring: &'static str,
    /// `ring` if it was full, `budget` if they were throttled.
    reason: String,
    count: u64,
}

/// The attacks in one place during one flood.
#[derive(Debug, Serialize)]
struct Attacks {
    place: &'static str,
    count: usize,
    missed: usize,
    /// By the attacker's and the watcher's clocks.
    observed_us: Option<Summary>,
    /// By the daemon's records: from the shell's exec on.
    recorded_us: Option<Summary>,
}

impl Flood {
    fn title(&self) -> &'static str {
        self.kind.map_or("no flood", |kind| kind.name)
    }

    async fn measure(
        &self,
        coi: &Coi,
        victims: &mut [Victim],
        listener: &TcpListener,
        signals: &mut Signals,
    ) -> Result<Flooded> {
        let flooded = victims.last().ok_or("nothing to flood")?.cgroup.name().to_owned();
        let told = self.viewer.then(|| Told::listen(&coi.socket(), &flooded)).transpose()?;
        let mut producers = match self.kind {
            Some(kind) => Some(self.start(kind, coi, victims, signals).await?),
            None => None,
        };
        let end = Instant::now() + Duration::from_secs(self.seconds.into());
        let mut latencies = vec![Vec::new(); victims.len()];
        while Instant::now() < end {
            for (victim, latencies) in victims.iter_mut().zip(&mut latencies) {
                latencies.push(victim.attack(coi, listener, signals).await?);
            }
        }
        let done = match &mut producers {
            Some(producers) => counted(producers, signals).await?,
            None => 0,
        };
        sleep(SETTLED).await;
        let shown = told.map(Told::end).transpose()?;
        let mut attacks = Vec::new();
        let mut losses = Vec::new();
        for ((victim, latencies), place) in victims.iter_mut().zip(latencies).zip(["B", "A"]) {
            let records = victim.records(coi, signals).await?;
            attacks.push(Attacks::of(place, latencies, &records));
            losses.push(lost(&records));
        }
        let lost_in_a = losses.pop().unwrap_or_default();
        let lost_in_b = losses.pop().unwrap_or_default();
        Ok(self.told(done, shown.as_ref(), attacks, lost_in_a, lost_in_b))
    }

    fn told(
        &self,
        done: u64,
        shown: Option<&Counts>,
        attacks: Vec<Attacks>,
        lost_in_a: Vec<Loss>,
        lost_in_b: Vec<Loss>,
    ) -> Flooded {
        let event = self.kind.map(|kind| kind.event);
        let lost: u64 =
            lost_in_a.iter().filter(|loss| Some(&*loss.kind) == event).map(|loss| loss.count).sum();
        let events = shown.zip(self.kind).map(|(shown, kind)| shown.of_kind(kind.event, kind.program));
        let missed = shown.map(|shown| shown.missed);
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        Flooded {
            flood: self.title(),
            viewer: self.viewer,
            done,
            shown: events,
            viewer_missed: missed,
            unaccounted: events
                .zip(missed)
                .map(|(events, missed)| signed(done) - signed(events + missed + lost)),
            lost_in_a,
            lost_in_b,
            attacks,
        }
    }

    /// Lets the producers loose, in A and in a network of their own.
    async fn start(&self, kind: Kind, coi: &Coi, victims: &[Victim], signals: &mut Signals) -> Result<Child> {
        let workspace = coi.workspace();
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c"]);
        command.arg("ip link set lo up && echo $$ >\"$0\" && echo && exec \"$@\"");
        command.arg(victims.last().ok_or("nothing to flood")?.cgroup.dir().join("cgroup.procs"));
        command.arg(workspace.join("flood")).arg(kind.name);
        command.args([self.seconds.to_string(), PRODUCERS.to_string()]);
        command.arg(workspace.join(".env")).arg(workspace.join("true"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(io_error("unshare"))?;
        let out = child.stdout.take().ok_or("the producers have no output")?;
        let mut out = BufReader::new(out);
        let mut moved = String::new();
        signals.unless("starting the producers", LIMIT, out.read_line(&mut moved)).await??;
        child.stdout = Some(out.into_inner());
        Ok(child)
    }
}

/// How often the producers did it, which they say at their end.
async fn counted(producers: &mut Child, signals: &mut Signals) -> Result<u64> {
    let mut said = String::new();
    let mut out = producers.stdout.take().ok_or("the producers have no output")?;
    signals.unless("the producers' end", LIMIT, out.read_to_string(&mut said)).await??;
    let status = signals.unless("the producers' end", LIMIT, producers.wait()).await??;
    said.trim().parse().map_err(|_| format!("the producers ended with {status} and said {said:?}").into())
}

impl Attacks {
    fn of(place: &'static str, latencies: Vec<Option<u64>>, records: &[Value]) -> Self {
        let recorded = records
            .iter()
            .filter(|record| record["rule"]["id"] == RULE)
            .filter_map(|record| Some(record.pointer("/coi/action/latency_us")?.as_u64()? * 1000));
        let count = latencies.len();
        let observed: Vec<u64> = latencies.into_iter().flatten().collect();
        Self {
            place,
            count,
            missed: count - observed.len(),
            observed_us: Summary::of(observed),
            recorded_us: Summary::of(recorded.collect()),
        }
    }
}

/// The losses in records of an audit log, by kind and reason.
fn lost(records: &[Value]) -> Vec<Loss> {
    let mut counts = BTreeMap::<(String, String), u64>::new();
    for record in records
        .iter()
        .filter(|record| record["event"]["action"] == "loss" && record["event"]["kind"] == "event")
    {
        let loss = &record["coi"]["loss"];
        let text = |value: &Value, otherwise: &str| value.as_str().unwrap_or(otherwise).to_owned();
        let key = (text(&loss["kind"], "unknown"), text(&loss["reason"], "ring"));
        *counts.entry(key).or_default() += loss["count"].as_u64().unwrap_or_default();
    }
    let loss = |((kind, reason), count): ((String, String), u64)| {
        let ring = if ["open", "read", "send"].contains(&&*kind) { "bulk" } else { "priority" };
        Loss { kind, ring, reason, count }
    };
    counts.into_iter().map(loss).collect()
}

/// Prints the tables for people.
fn print(floods: &[Flooded]) {
    anstream::println!(
        "{:<9} {:<6} {:>10} {:>10} {:>10} {:>10} {:>10} {:>12}  lost in B",
        "flood",
        "viewer",
        "done",
        "shown",
        "missed",
        "lost",
        "throttled",
        "unaccounted"
    );
    for flood in floods.iter().filter(|flood| flood.done > 0) {
        let lost = |losses: &[Loss], budget: bool| {
            losses
                .iter()
                .filter(|loss| (loss.reason == "budget") == budget)
                .map(|loss| loss.count)
                .sum::<u64>()
        };
        let number = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let signed = |number: Option<u64>| number.and_then(|number| i64::try_from(number).ok());
        anstream::println!(
            "{:<9} {:<6} {:>10} {:>10} {:>10} {:>10} {:>10} {:>12}  {}",
            flood.flood,
            if flood.viewer { "yes" } else { "no" },
            flood.done,
            number(signed(flood.shown)),
            number(signed(flood.viewer_missed)),
            lost(&flood.lost_in_a, false),
            lost(&flood.lost_in_a, true),
            number(flood.unaccounted),
            flood.lost_in_b.iter().map(|loss| loss.count).sum::<u64>(),
        );
        for (place, losses) in [("A", &flood.lost_in_a), ("B", &flood.lost_in_b)] {
            for Loss { kind, ring, reason, count } in losses {
                anstream::println!("{:<16} {place}: {count} {kind} ({ring} ring, {reason})", "");
            }
        }
    }
    anstream::println!();
    anstream::println!(
        "{:<9} {:<6} {:<3} {:>8} {:>7} {:>9} {:>9} {:>9} {:>16} {:>9} {:>9}",
        "flood",
        "viewer",
        "in",
        "attacks",
        "missed",
        "median",
        "p99",
        "max",
        "recorded median",
        "p99",
        "max"
    );
    for flood in floods {
        for Attacks { place, count, missed, observed_us, recorded_us } in &flood.attacks {
            let [observed, recorded] = [observed_us, recorded_us].map(|summary| {
                summary.map_or(["-".to_owned(), "-".to_owned(), "-".to_owned()], |summary| {
                    [summary.median, summary.p99, summary.max].map(|us| format!("{:.3}", us / 1000.0))
                })
            });
            anstream::println!(
                "{:<9} {:<6} {place:<3} {count:>8} {missed:>7} {:>9} {:>9} {:>9} {:>16} {:>9} {:>9}",
                flood.flood,
                if flood.viewer { "yes" } else { "no" },
                observed[0],
                observed[1],
                observed[2],
                recorded[0],
                recorded[1],
                recorded[2],
            );
        }
    }
    anstream::println!(
        "milliseconds from connect(2) to frozen; recorded: from the shell's exec, by the audit log"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_summed_by_kind_and_reason() {
        let record = |kind: &str, reason: Value, count: u64| json!({ "event": { "kind": "event", "action": "loss" }, "coi": { "loss": { "kind": kind, "reason": reason, "count": count } } });
        let mut records = vec![record("fork", "budget".into(), 2), record("fork", "budget".into(), 3)];
        records.push(record("open", Value::Null, 4));
        records.push(
            json!({ "event": { "kind": "alert", "action": "loss" }, "coi": { "loss": { "count": 9 } } }),
        );
        let found: Vec<_> =
            lost(&records).into_iter().map(|loss| (loss.kind, loss.ring, loss.reason, loss.count)).collect();
        let wanted = [("fork", "priority", "budget", 5), ("open", "bulk", "ring", 4)];
        assert_eq!(
            found,
            wanted.map(|(kind, ring, reason, count)| (kind.into(), ring, reason.into(), count))
        );
    }
}
