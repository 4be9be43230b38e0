//! What it takes to watch many at once: the daemon's resident memory, and its CPU time while nothing happens.
//!
//! One process sleeps in each of the watched cgroups, or Incus containers with little more than an init. Memory is told
//! with nothing watched and with all, at the end of the time for which the CPU is measured.

use std::fmt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tokio::time::sleep;

use super::Format;
use super::cgroup::Cgroup;
use super::machine::Machine;
use crate::coi::{self, Coi, Profile, Signals, io_error};
use crate::run::{Cmd, Mark, Step};
use crate::setup;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Less resident memory than this, in MiB, is the goal.
const MEMORY_GOAL: f64 = 60.0;
/// Less CPU than this, in per cent of one, is the goal.
const CPU_GOAL: f64 = 1.0;
/// What was begun by watching is over.
const SETTLED: Duration = Duration::from_secs(3);

/// The command line of `cargo xtask bench many`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many are watched
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: u32,
    /// How long the idle daemon is measured
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Incus containers rather than cgroups of this machine
    #[arg(long)]
    containers: bool,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// `coi` is built already (so that nothing is built as root)
    #[arg(long, hide = true)]
    built: Option<PathBuf>,
}

/// What it took.
#[derive(Debug, Serialize)]
struct Measured {
    /// With nothing watched.
    memory_before: Memory,
    /// With all watched.
    memory: Memory,
    /// In per cent of one CPU.
    cpu: f64,
}

/// Resident memory, in MiB.
#[derive(Clone, Copy, Debug, Serialize)]
struct Memory {
    all: f64,
    /// What the daemon has allocated.
    allocated: f64,
    /// The rings that it shares with the kernel. Their data is mapped twice, so that a record that goes over the end is
    /// in one piece: each page counts twice here.
    rings: f64,
    /// Its program and libraries.
    files: f64,
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { all, allocated, rings, files } = self;
        write!(
            f,
            "{all:>8.1} MiB: {allocated:.1} allocated, {rings:.1} rings, {files:.1} program and libraries"
        )
    }
}

/// Measures, and prints the result on standard output.
pub(crate) fn run(args: Args) -> Result<()> {
    let Args { count, seconds, containers, format, built } = args;
    let ready = setup::ensure()?;
    let program = coi::build_unless(built, Profile::Release)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let machine = Machine::look()?;
    let measured = runtime.block_on(async {
        let mut signals = Signals::catch()?;
        let mut coi = Coi::new(program, &ready)?;
        let time = Duration::from_secs(seconds);
        let measured = measure(&mut coi, count, containers, time, &mut signals).await;
        let ended = coi.end().await;
        measured.and_then(|measured| ended.map(|()| measured))
    })?;
    let what = if containers { "containers" } else { "cgroups" };
    let Measured { memory_before, memory, cpu } = measured;
    let verdict = |less: bool| if less { "goal" } else { "over" };
    let verdicts = [verdict(memory.all < MEMORY_GOAL), verdict(cpu < CPU_GOAL)];
    match format {
        Format::Text => {
            anstream::println!("one daemon, {count} {what}: {machine}");
            anstream::println!("resident memory {memory}   goal < {MEMORY_GOAL} MiB   {}", verdicts[0]);
            anstream::println!("nothing watched {memory_before}");
            anstream::println!(
                "idle CPU        {cpu:>8.2} % of one CPU, over {seconds} s   goal < {CPU_GOAL} %   {}",
                verdicts[1]
            );
        }
        Format::Json => {
            let [memory_verdict, cpu_verdict] = verdicts;
            let result = json!({
                "bench": "many", "what": what, "count": count, "seconds": seconds, "machine": machine,
                "memory_before_mib": memory_before, "memory_mib": memory, "memory_verdict": memory_verdict,
                "cpu_percent": cpu, "cpu_verdict": cpu_verdict,
            });
            anstream::println!("{result}");
        }
    }
    Ok(())
}

async fn measure(
    coi: &mut Coi,
    count: u32,
    containers: bool,
    time: Duration,
    signals: &mut Signals,
) -> Result<Measured> {
    let daemon = Cgroup::make("daemon")?;
    coi.start(&[], signals).await?;
    daemon.take(coi.daemon_pid().ok_or("the daemon has ended")?)?;
    signals.unless("settling", 2 * SETTLED, sleep(SETTLED)).await?;
    let memory_before = resident(coi)?;
    let step = Step::begin("watches");
    // Each cgroup ends with what is in it when the value does.
    let mut cgroups = Vec::new();
    for n in 1..=count {
        step.say(format!("{n} of {count}"));
        if containers {
            launch(coi, n, signals).await?;
        } else {
            cgroups.push(sleeper(coi, n, signals).await?);
        }
    }
    step.end(Mark::Ok, "all are watched");
    signals.unless("settling", 2 * SETTLED, sleep(SETTLED)).await?;
    let before = daemon.cpu()?;
    let step = Step::begin("idle");
    step.say(format!("for {} s", time.as_secs()));
    signals.unless("the idle time", 2 * time, sleep(time)).await?;
    let used = daemon.cpu()?.saturating_sub(before);
    step.end(Mark::Ok, &format!("{} us of CPU", used.as_micros()));
    Ok(Measured {
        memory_before,
        memory: resident(coi)?,
        cpu: 100.0 * used.as_secs_f64() / time.as_secs_f64(),
    })
}

/// A watched cgroup with a process that sleeps.
async fn sleeper(coi: &Coi, n: u32, signals: &mut Signals) -> Result<Cgroup> {
    let cgroup = Cgroup::make(&n.to_string())?;
    let mut sleep = cgroup.command("sleep");
    sleep.arg("infinity").stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(false);
    // It ends with its cgroup, and is reaped by the runtime.
    drop(sleep.spawn().map_err(io_error("sleep"))?);
    let request = json!({
        "subject": { "type": "cgroup", "path": cgroup.path() }, "respond": true, "workspace": coi.workspace(),
    });
    coi.ask("POST", "/v1/watches", Some(&request), signals).await?;
    Ok(cgroup)
}

/// A watched container; it is found and removed with its workspace.
async fn launch(coi: &Coi, n: u32, signals: &mut Signals) -> Result<()> {
    let name = format!("coi-bench-{}-{n}", std::process::id());
    let mark = format!("user.coi.workspace={}", coi.workspace().display());
    Cmd::new("incus")
        .args(["launch", "local:coi-tiny", &format!("local:{name}"), "--ephemeral", "--profile", "coi"])
        .args(["--config", &mark])
        .limit(Duration::from_secs(120))
        .output()?;
    coi.run(&["monitor", "--attach", &name, "--respond", "--detach"], signals).await?;
    Ok(())
}

/// The daemon's resident memory.
fn resident(coi: &Coi) -> Result<Memory> {
    let pid = coi.daemon_pid().ok_or("the daemon has ended")?;
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).map_err(io_error(&path))?;
    let mib = |key: &str| {
        let kib =
            status.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_suffix(" kB")?.parse().ok());
        kib.map(|kib: u32| f64::from(kib) / 1024.0).ok_or_else(|| format!("{path} has no {key}"))
    };
    let path = format!("/proc/{pid}/smaps");
    let smaps = std::fs::read_to_string(&path).map_err(io_error(&path))?;
    let rings = f64::from(rings(&smaps)) / 1024.0;
    let files = mib("RssFile:")? - rings;
    Ok(Memory { all: mib("VmRSS:")?, allocated: mib("RssAnon:")?, rings, files })
}

/// The resident KiB of BPF maps in a `smaps`.
fn rings(smaps: &str) -> u32 {
    let mut is_map = false;
    let mut all = 0;
    for line in smaps.lines() {
        if let Some(kib) = line.strip_prefix("Rss:").filter(|_| is_map) {
            all += kib.trim().strip_suffix(" kB").and_then(|kib| kib.parse().ok()).unwrap_or(0);
        } else if line.split(' ').next().is_some_and(|range| range.contains('-')) {
            is_map = line.ends_with("anon_inode:bpf-map");
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_are_told_from_other_mappings() {
        let smaps = "55e5-55e6 rw-p 00000000 00:00 0    [heap]\nRss:    100 kB\nPss:   100 kB\n\
                     7f8a-7f8b r--s 00001000 00:0f 1061 anon_inode:bpf-map\nSize:  8 kB\nRss:      8 kB\n\
                     7f8c-7f8d rw-s 00000000 00:0f 1061 anon_inode:bpf-map\nRss:      4 kB\n\
                     7f8e-7f8f r-xp 00000000 fe:00 1    /usr/bin/coi\nRss:     50 kB\n";
        assert_eq!(rings(smaps), 12);
    }
}
