//! What is looked at on another kernel, by this program as it runs there.
//!
//! The daemon, the programs, the rules and the answer are the real ones; only Incus is missing, so plain cgroups are
//! watched. What happens in one is compared with what a viewer of it was shown.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Said, routes};
use crate::bench::{Act, Attacker, Cgroup};
use crate::coi::{Coi, Signals, io_error};
use crate::setup::Ready;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How long anything may take on an emulated processor.
const LIMIT: Duration = Duration::from_secs(120);
/// Nobody listens on any port there.
const CLOSED_PORT: u16 = 4242;
/// An argument that nothing else has.
const LAST: &str = "the-last-of-all";
/// How often to look whether it was shown.
const PAUSE: Duration = Duration::from_millis(50);
/// More than one step of the kernel's sums.
const READ_BYTES: usize = 3 << 20;

/// How much of an error is said, of its beginning and of its end: the verifier's reasons can be a thousand lines.
const ERROR_CHARS: [usize; 2] = [200, 300];

/// Looks with this `coi`, and says what it found.
pub(crate) fn guest(coi: PathBuf) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::catch()?;
        let mut coi = Coi::new(coi, &Ready { incus_socket: "/run/no-incus".into() })?;
        if let Err(error) = look(&mut coi, &mut signals).await {
            Said::Fail(brief(&error.to_string())).say();
        }
        coi.stop().await;
        Said::End.say();
        Ok(())
    })
}

/// The beginning and the end of a long text.
fn brief(text: &str) -> String {
    let [first, last] = ERROR_CHARS;
    let chars: Vec<char> = text.chars().collect();
    if chars.len() <= first + last {
        return text.to_owned();
    }
    let part = |chars: &[char]| chars.iter().collect::<String>();
    format!("{} ... {}", part(&chars[..first]), part(&chars[chars.len() - last..]))
}

async fn look(coi: &mut Coi, signals: &mut Signals) -> Result<()> {
    coi.start(&[], signals).await?;
    let status = coi.ask("GET", "/v1/status", None, signals).await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let hooks: Vec<_> = status["programs"].as_array().into_iter().flatten().map(text).collect();
    Said::Pass(format!("the daemon answers, with {} programs attached", hooks.len())).say();
    Said::Hooks(hooks.join(" ")).say();
    for hole in status["holes"].as_array().into_iter().flatten() {
        Said::Hole(format!("{}: {}", text(&hole["what"]), text(&hole["why"]))).say();
    }
    acts(coi, signals).await?;
    routes::taken(coi, signals).await?;
    shell(coi, signals).await
}

/// Whether an event of the stream is one that is waited for.
type Is = Box<dyn Fn(&Value) -> bool>;

/// What is done in the watched cgroup, and the events by which each of it shows.
async fn acts(coi: &Coi, signals: &mut Signals) -> Result<()> {
    let file = coi.workspace().join("read-me");
    fs::write(&file, vec![b'x'; READ_BYTES]).map_err(io_error(file.display().to_string()))?;
    let path = file.display().to_string();
    let port = CLOSED_PORT.to_string();
    let acts = [
        &["/bin/busybox", "true", "marked"][..],
        &["/bin/busybox", "cat", &path],
        &["/bin/busybox", "nc", "127.0.0.1", &port],
    ];
    // Nobody listens: a connection fails, as it should.
    let (_, events) = shown(coi, "acts", &acts, signals).await?;

    let action = |name: &'static str| move |event: &Value| event["event"]["action"] == name;
    let by = |applet: &'static str| move |event: &Value| event["process"]["args"][1] == applet;
    let expected: Vec<(&str, Is)> = vec![
        (
            "an exec, with its program and arguments",
            Box::new(move |event| {
                let process = &event["process"];
                action("exec")(event)
                    && process["executable"].as_str().is_some_and(|path| path.ends_with("/busybox"))
                    && process["args"] == json!(["/bin/busybox", "true", "marked"])
            }),
        ),
        ("its end", Box::new(move |event| action("exit")(event) && by("true")(event))),
        (
            "an open, with its path, in the workspace",
            Box::new(move |event| {
                action("open")(event)
                    && event["file"]["path"] == *path
                    && event["coi"]["file"]["workspace"] == true
            }),
        ),
        (
            "a connection, with its address",
            Box::new(move |event| {
                let to = &event["destination"];
                action("connect")(event) && to["ip"] == "127.0.0.1" && to["port"] == CLOSED_PORT
            }),
        ),
    ];
    for (what, is) in expected {
        let found = events.iter().any(is);
        if found { Said::Pass(what.to_owned()) } else { Said::Fail(format!("{what} was not shown")) }.say();
    }
    let of_cat = events.iter().filter(|event| action("read")(event) && by("cat")(event));
    let bytes: u64 = of_cat.filter_map(|event| event["coi"]["io"]["bytes"].as_u64()).sum();
    let what = format!("{bytes} of {READ_BYTES} bytes read");
    if bytes == READ_BYTES as u64 { Said::Pass(what) } else { Said::Fail(what) }.say();
    Ok(())
}

/// What commands say that run one after the other in a watched cgroup of their own, and what a viewer of it is shown.
pub(super) async fn shown(
    coi: &Coi,
    role: &str,
    commands: &[&[&str]],
    signals: &mut Signals,
) -> Result<(Vec<String>, Vec<Value>)> {
    let cgroup = watch(coi, role, signals).await?;
    let shown = coi.dir().join(format!("events-of-{role}"));
    let out = File::create(&shown).map_err(io_error(shown.display().to_string()))?;
    let viewer = coi.view(&cgroup.path(), out.into(), signals).await?;
    let mut said = Vec::new();
    for words in commands.iter().copied().chain([&["/bin/busybox", "true", LAST][..]]) {
        let mut command = cgroup.command(words[0]);
        command.args(&words[1..]).current_dir(coi.workspace()).stdin(Stdio::null()).stderr(Stdio::null());
        let ended = signals.unless(words[1], LIMIT, command.output()).await?.map_err(io_error(words[1]))?;
        said.push(String::from_utf8_lossy(&ended.stdout).trim().to_owned());
    }
    said.pop();
    // Events come in order: with the last, all are there.
    let read = || fs::read_to_string(&shown).map_err(io_error(shown.display().to_string()));
    let come = signals.unless("the last event", LIMIT, async {
        while read().is_ok_and(|shown| !shown.contains(LAST)) {
            tokio::time::sleep(PAUSE).await;
        }
    });
    let come = come.await;
    viewer.end().await;
    come?;
    Ok((said, read()?.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()))
}

/// A shell whose input and output are a connection stands still at once.
async fn shell(coi: &Coi, signals: &mut Signals) -> Result<()> {
    let cgroup = watch(coi, "shell", signals).await?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut attacker = Attacker::start(cgroup.dir(), listener.local_addr()?.port(), Act::Shell)?;
    let frozen = tokio::task::spawn_blocking(move || (attacker.freeze(LIMIT), attacker));
    // Kept until the cgroup is removed: what is frozen ends with it.
    let (frozen, _attacker) = signals.unless("the attack", 2 * LIMIT, frozen).await??;
    let rules: Vec<String> = coi
        .audit(cgroup.name(), signals)
        .await?
        .iter()
        .filter_map(|record| record["rule"]["id"].as_str().map(str::to_owned))
        .collect();
    match frozen {
        Ok(_) => Said::Pass("a shell on a connection is stopped".to_owned()),
        Err(error) => {
            Said::Fail(format!("a shell on a connection is not stopped ({error}); rules: {rules:?}"))
        }
    }
    .say();
    Ok(())
}

async fn watch(coi: &Coi, role: &str, signals: &mut Signals) -> Result<Cgroup> {
    let cgroup = Cgroup::make(role)?;
    let request = json!({
        "subject": { "type": "cgroup", "path": cgroup.path() }, "respond": true, "workspace": coi.workspace(),
    });
    coi.ask("POST", "/v1/watches", Some(&request), signals).await?;
    Ok(cgroup)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_keeps_its_ends() {
        assert_eq!(brief("short"), "short");
        let long = format!("begin{}end", "ä".repeat(1000));
        let brief = brief(&long);
        assert!(
            brief.starts_with("begin") && brief.ends_with("end") && brief.chars().count() < 520,
            "{brief}"
        );
    }
}
