//! What goes on meanwhile.
//!
//! Several things at once, each again and again until the time is over: so they meet in every order.

use std::cell::Cell;
use std::fmt;
use std::process::Stdio;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::Result;
use crate::bench::cgroup::Cgroup;
use crate::coi::{Coi, Show, Signals, io_error};

/// One rule that tells, one that freezes, one that kills: each about a file of a name of its own.
pub(super) const RULES: &str = r#"
[[rule]]
id = "soak-tells"
title = "A file of the soak"
severity = "warning"
event = "open"
condition = "file.name starts_with 'soak-tells'"
suppress = { for = "1ms", by = ["file.path"] }

[[rule]]
id = "soak-freezes"
title = "A file of the soak"
severity = "high"
event = "open"
condition = "file.name == 'soak-freezes'"

[[rule]]
id = "soak-kills"
title = "A file of the soak"
severity = "critical"
event = "open"
condition = "file.name == 'soak-kills'"
"#;

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(120);
/// How long a viewer looks at the most.
const LOOKS: Duration = Duration::from_secs(3);
/// How often rules are read again.
const RELOAD: Duration = Duration::from_secs(15);
/// Between two cgroups.
const PAUSE: Duration = Duration::from_millis(400);
/// How often it is looked whether a watch has come to a state.
const AGAIN: Duration = Duration::from_millis(50);

/// What somebody does who works: programs and files, each of which is told of.
const WORK: &str = "n=0; while [ $n -lt 30 ]; do : >soak-tells-$n; cat soak-tells-$n; rm soak-tells-$n; \
                    n=$((n+1)); done";
/// What goes on all the time.
const STEADY: &str = "while :; do : >soak-tells-$$; sleep 0.05; done";

/// How often it was done.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Done {
    containers: u64,
    cgroups: u64,
    viewers: u64,
    reloads: u64,
    /// By the daemon's own count, of all watches.
    alerts: u64,
    records: u64,
    /// Records of the steady cgroup that were removed with old files.
    removed: u64,
}

impl Done {
    /// Was there a load at all?
    pub(super) fn check(&self) -> Result<()> {
        let Self { containers, cgroups, viewers, reloads: _, alerts, records, removed } = self;
        match [containers, cgroups, viewers, alerts, records, removed].contains(&&0) {
            true => Err(format!("something was never done, so that nothing is shown: {self}").into()),
            false => Ok(()),
        }
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { containers, cgroups, viewers, reloads, alerts, records, removed } = self;
        write!(f, "{containers} containers, {cgroups} cgroups, {viewers} viewers, {reloads} reloads")?;
        if *records > 0 {
            write!(
                f,
                ", {alerts} alerts, {records} records, {removed} of one log removed with its old files"
            )?;
        }
        Ok(())
    }
}

/// The load on one daemon.
pub(super) struct Load<'a> {
    coi: &'a Coi,
    end: Instant,
    /// It is there all the time.
    steady: Cgroup,
    containers: Cell<u64>,
    cgroups: Cell<u64>,
    viewers: Cell<u64>,
    reloads: Cell<u64>,
}

impl<'a> Load<'a> {
    /// Until then.
    pub(super) fn new(coi: &'a Coi, end: Instant) -> Result<Self> {
        Ok(Self {
            coi,
            end,
            steady: Cgroup::make("steady")?,
            containers: Cell::default(),
            cgroups: Cell::default(),
            viewers: Cell::default(),
            reloads: Cell::default(),
        })
    }

    /// What was done so far.
    pub(super) fn done(&self) -> Done {
        Done {
            containers: self.containers.get(),
            cgroups: self.cgroups.get(),
            viewers: self.viewers.get(),
            reloads: self.reloads.get(),
            ..Done::default()
        }
    }

    /// Ends it; tells what was done.
    pub(super) async fn over(self, signals: &mut Signals) -> Result<Done> {
        let metrics = self.coi.ask_text("GET", "/v1/metrics", None, signals).await?;
        let sum = |name: &str| {
            let samples = metrics.lines().filter_map(|line| line.strip_prefix(name)?.rsplit(' ').next());
            samples.filter_map(|count| count.parse::<u64>().ok()).sum()
        };
        // It must be whole, or this fails.
        let verify = ["audit", "verify", self.steady.name(), "--format", "json"];
        let report: Value = serde_json::from_str(&self.coi.run(&verify, signals).await?)?;
        let first = report[0]["first"].as_u64().ok_or("the steady cgroup has no log")?;
        Ok(Done {
            alerts: sum("coi_alerts_total{"),
            records: sum("coi_audit_records_total{"),
            removed: first - 1,
            ..self.done()
        })
    }

    fn goes_on(&self) -> bool {
        Instant::now() < self.end
    }

    /// All of it, until the time is over.
    pub(super) async fn run(&self) -> Result<()> {
        // It ends with its cgroup.
        let _busy = self.watched(&self.steady, STEADY, &mut Signals::catch()?).await?;
        tokio::try_join!(
            self.with_containers(),
            self.with_cgroups(),
            self.with_viewers(),
            self.with_rules()
        )?;
        Ok(())
    }

    /// A shell in a cgroup that is watched from before its first step.
    async fn watched(&self, cgroup: &Cgroup, line: &str, signals: &mut Signals) -> Result<Child> {
        let request = json!({
            "subject": { "type": "cgroup", "path": cgroup.path() }, "respond": true, "workspace": self.coi.workspace(),
        });
        self.coi.ask("POST", "/v1/watches", Some(&request), signals).await?;
        let mut command = cgroup.command("sh");
        command
            .args(["-c", line])
            .current_dir(self.coi.workspace())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Ok(command.spawn().map_err(io_error("sh"))?)
    }

    /// Waits until a watch has come to a state.
    async fn until(&self, name: &str, state: &str, signals: &mut Signals) -> Result<()> {
        let what = format!("{name} to be {state}");
        let deadline = Instant::now() + LIMIT;
        while self.coi.ask("GET", &format!("/v1/watches/{name}"), None, signals).await?["state"] != state {
            if Instant::now() > deadline {
                return Err(format!("{what}: not within {} s", LIMIT.as_secs()).into());
            }
            signals.unless(&what, LIMIT, sleep(AGAIN)).await?;
        }
        Ok(())
    }

    /// Cgroups that work and end, that are frozen, thawed and end, and that are killed.
    async fn with_cgroups(&self) -> Result<()> {
        let mut signals = Signals::catch()?;
        while self.goes_on() {
            let n = self.cgroups.get();
            let cgroup = Cgroup::make(&format!("soak-{n}"))?;
            let (then, state) = match n % 3 {
                0 => ("", None),
                1 => ("; : >soak-freezes", Some("frozen")),
                _ => ("; : >soak-kills; sleep 1000", Some("killed")),
            };
            let mut shell = self.watched(&cgroup, &format!("{WORK}{then}"), &mut signals).await?;
            if let Some(state) = state {
                self.until(cgroup.name(), state, &mut signals).await?;
            }
            if state == Some("frozen") {
                self.coi.run(&["unfreeze", cgroup.name()], &mut signals).await?;
            }
            signals.unless("a shell's end", LIMIT, shell.wait()).await?.map_err(io_error("sh"))?;
            drop(cgroup);
            self.cgroups.set(n + 1);
            signals.unless("the next cgroup", LIMIT, sleep(PAUSE)).await?;
        }
        Ok(())
    }

    /// Containers by `coi run`, and such as others have made: deleted by Incus, by a rule, by a person.
    async fn with_containers(&self) -> Result<()> {
        let mut signals = Signals::catch()?;
        while self.goes_on() {
            let n = self.containers.get();
            if n.is_multiple_of(4) {
                self.coi
                    .run(&["run", "--image", "coi-tiny", "--", "sh", "-c", &in_container(WORK)], &mut signals)
                    .await?;
            } else {
                self.with_foreign(n, &mut signals).await?;
            }
            self.containers.set(n + 1);
        }
        Ok(())
    }

    async fn with_foreign(&self, n: u64, signals: &mut Signals) -> Result<()> {
        let name = format!("coi-soak-{}-{n}", std::process::id());
        // By this mark it is found and removed, whichever way this ends.
        let mark = format!("user.coi.workspace={}", self.coi.workspace().display());
        let local = format!("local:{name}");
        let launch =
            ["launch", "local:coi-tiny", &local, "--ephemeral", "--profile", "coi", "--config", &mark];
        incus(&launch, signals).await?;
        self.coi.run(&["monitor", "--attach", &name, "--respond", "--detach"], signals).await?;
        incus(&["exec", &local, "--", "sh", "-c", &in_container(WORK)], signals).await?;
        match n % 4 {
            1 => {
                self.coi.run(&["freeze", &name], signals).await?;
                self.coi.run(&["unfreeze", &name], signals).await?;
                incus(&["delete", "--force", &local], signals).await?;
            }
            2 => {
                // How that ends is the rule's.
                let _ =
                    incus(&["exec", &local, "--", "sh", "-c", &in_container(": >soak-kills")], signals).await;
                self.until(&name, "killed", signals).await?;
            }
            _ => drop(self.coi.run(&["kill", &name], signals).await?),
        }
        Ok(())
    }

    /// Viewers that end in order, and such as just go away; questions and readers of the log between them.
    async fn with_viewers(&self) -> Result<()> {
        let mut signals = Signals::catch()?;
        while self.goes_on() {
            let n = self.viewers.get();
            let viewer = self.coi.view(&self.steady.path(), Stdio::null(), &mut signals).await?;
            let looks = LOOKS.mul_f64((n % 8) as f64 / 8.0);
            signals.unless("a viewer", LIMIT, sleep(looks)).await?;
            match n % 2 {
                0 => viewer.end().await,
                _ => viewer.kill().await?,
            }
            self.coi.run(&["list"], &mut signals).await?;
            let tail = self.coi.spawn(&["audit", "tail", "-f", self.steady.name()], Show::Nothing)?;
            signals.unless("a reader", LIMIT, sleep(looks / 4)).await?;
            tail.kill().await?;
            self.viewers.set(n + 1);
        }
        Ok(())
    }

    async fn with_rules(&self) -> Result<()> {
        let mut signals = Signals::catch()?;
        while self.goes_on() {
            self.coi.run(&["rules", "reload"], &mut signals).await?;
            self.reloads.set(self.reloads.get() + 1);
            let left = self.end.saturating_duration_since(Instant::now());
            signals.unless("the next reload", LIMIT, sleep(RELOAD.min(left))).await?;
        }
        Ok(())
    }
}

/// Where there is no workspace to be cluttered.
fn in_container(line: &str) -> String {
    format!("cd /tmp && {line}")
}

async fn incus(arguments: &[&str], signals: &mut Signals) -> Result<()> {
    let mut command = Command::new("incus");
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let what = format!("`incus {}`", arguments.join(" "));
    let output = signals.unless(&what, LIMIT, command.output()).await?.map_err(io_error("incus"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{what} failed: {}", String::from_utf8_lossy(&output.stderr).trim()).into()),
    }
}
