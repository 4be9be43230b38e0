//! What a flood hides, and what it loses.
//!
//! Four processes in cgroup A do one thing as fast as they can: open a file, fork, exec, send to many addresses; each in
//! turn, once without and once with a viewer that is to be shown every event. Meanwhile B and A are attacked in turn: a
//! shell whose input and output are a connection. The built-in rule fires, made milder, so that it freezes and the next
//! attack can follow. Told are, of each flood, how much was done by the producers' own count and what became of it by the
//! daemon's: what was delivered, lost and throttled is what was done, and what was done besides by the attacks. How long
//! an attack takes in B and in A is told twice: until the freeze was written, by the audit log, and until all stood still,
//! for which on a busy machine each process must have had its turn; see [`super::attacker`].
//!
//! The sends stay inside a network of the flood's own. Nothing fails for being slow or lost.

mod result;
mod told;

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use self::result::{Attacks, Flooded, Tallies, since};
use self::told::Told;
use super::attacker::{APART, Act, Attacker};
use super::cgroup::Cgroup;
use super::machine::Machine;
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
}

const KINDS: [Kind; 4] = [
    Kind { name: "open", event: "open" },
    Kind { name: "fork", event: "fork" },
    Kind { name: "exec", event: "exec" },
    Kind { name: "send", event: "connect" },
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
            result::print(&floods);
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
    /// What had been counted when the counters were last looked at.
    counted: Tallies,
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
        Ok(Self { cgroup, attacker: Some(attacker), read: 0, counted: Tallies::new() })
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

    /// What the daemon has counted since it was last asked.
    async fn tallies(&mut self, coi: &Coi, signals: &mut Signals) -> Result<Tallies> {
        let watch = coi.ask("GET", &format!("/v1/watches/{}", self.cgroup.name()), None, signals).await?;
        let now: Tallies = serde_json::from_value(watch["events"].clone())?;
        let new = since(&now, &self.counted);
        self.counted = now;
        Ok(new)
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
        told.map(Told::end).transpose()?;
        let mut attacks = Vec::new();
        let mut tallies = Vec::new();
        for ((victim, latencies), place) in victims.iter_mut().zip(latencies).zip(["B", "A"]) {
            tallies.push(victim.tallies(coi, signals).await?);
            let records = victim.records(coi, signals).await?;
            attacks.push(Attacks::of(place, latencies, &records, RULE));
        }
        let in_a = tallies.pop().unwrap_or_default();
        let in_b = tallies.pop().unwrap_or_default();
        let event = self.kind.map(|kind| kind.event);
        Ok(Flooded { flood: self.title(), viewer: self.viewer, done, event, in_a, in_b, attacks })
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
