//! `coi monitor`

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::pin::pin;

use clap::{Args, ValueEnum};
use jiff::tz::TimeZone;
use nix::unistd::geteuid;

use super::{Code, Failure, Format, Result};
use crate::incus::DEFAULT_PROJECT;
use crate::launch::{self, Signals, cgroup_root};
use crate::monitor::service::api::{OnMonitorLoss, Subject, Watch, WatchRequest};
use crate::monitor::service::client::{Client, Events};
use crate::monitor::service::stream::Line;
use crate::ui;

/// Watch a container or cgroup, and show what happens in it.
///
/// It may be any Incus container, running or not. Says `ready` on standard error once nothing escapes it
/// any more. Ctrl-C ends the viewing; it ends the watch too if that was begun for this viewing only.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  coi monitor --attach web\n  coi monitor --attach web --format json | jq .\n  \
                        coi monitor --attach web --respond --detach\n  \
                        coi monitor --attach web --record session.jsonl\n  \
                        sudo coi monitor --cgroup /user.slice/user-1000.slice"
)]
pub(super) struct Monitor {
    #[command(flatten)]
    target: Target,
    /// The container's project [default: default].
    #[arg(long, value_name = "PROJECT", conflicts_with = "cgroup")]
    project: Option<String>,
    /// Also freeze and kill by the rules; without it they are only told.
    #[arg(long)]
    respond: bool,
    /// What becomes of it when the daemon has gone: frozen within a second until it is watched again, or going on
    /// unseen [default: continue].
    #[arg(long, value_enum, value_name = "WHAT")]
    on_monitor_loss: Option<OnLoss>,
    /// Return once it is watched, and leave it so.
    #[arg(long)]
    detach: bool,
    /// Write the events to this new file as a recording, for `coi rules replay`, instead of printing them.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["detach", "format"])]
    record: Option<PathBuf>,
    /// How to print events: a line of text, or a JSON object per line.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What becomes of it without a monitor.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum OnLoss {
    Freeze,
    Continue,
}

impl From<OnLoss> for OnMonitorLoss {
    fn from(on_loss: OnLoss) -> Self {
        match on_loss {
            OnLoss::Freeze => Self::Freeze,
            OnLoss::Continue => Self::Continue,
        }
    }
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// The container.
    #[arg(long, value_name = "NAME")]
    attach: Option<String>,
    /// The cgroup: its path in the hierarchy, or its directory. Only root may.
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
}

impl Target {
    fn subject(self, project: Option<String>) -> Result<Subject> {
        if let Some(path) = self.cgroup {
            if !geteuid().is_root() {
                let again = format!("coi monitor --cgroup {}", path.display());
                return Err(Failure::NotRoot { what: "watching a cgroup", again });
            }
            return Ok(Subject::Cgroup { path: in_hierarchy(&path, &cgroup_root()?)? });
        }
        Ok(Subject::Container { name: self.attach.unwrap_or_default(), project })
    }
}

/// A cgroup's path from the hierarchy's root on.
fn in_hierarchy(path: &Path, root: &Path) -> Result<String> {
    let below = path.strip_prefix(root).or_else(|_| path.strip_prefix("/")).unwrap_or(path);
    match below.to_str() {
        Some("") => Err(Failure::Usage("the root cgroup holds the whole machine; name one below it".into())),
        Some(below) => Ok(format!("/{}", below.trim_end_matches('/'))),
        None => Err(Failure::Usage(format!("{} is not UTF-8", path.display()))),
    }
}

impl Monitor {
    pub(super) async fn execute(self) -> Result {
        let project = self.project.filter(|project| project != DEFAULT_PROJECT);
        let subject = self.target.subject(project)?;
        // A container that is only looked at may have anybody's workspace, or none.
        let rules = launch::own_rules(None)?;
        let recorder = self.record.map(create).transpose()?;
        let mut signals = Signals::catch()?;
        let daemon = Client::from_env().ensure().await?;
        let found = daemon.watches().await?.iter().any(|watch| watch.name == subject.watch_name());
        let request = WatchRequest {
            respond: self.respond,
            rules,
            on_monitor_loss: self.on_monitor_loss.map(Into::into),
            ..WatchRequest::new(subject)
        };
        let watch = daemon.watch(&request).await.map_err(|error| match &request.subject {
            Subject::Container { name, .. } if error.is_not_found() => {
                Failure::NoInstance { name: name.clone() }
            }
            _ => error.into(),
        })?;
        ui::passed_over(&watch.name, &watch.passed_over);
        if self.detach {
            ui::err(&format!("coi: {} is watched; audit: {}", ui::plain(&watch.name), watch.audit.display()));
            return Ok(Code::OK);
        }
        let viewed = match recorder {
            Some((path, file)) => {
                let mut events = daemon.recording(&watch.name).await?;
                ui::err("ready");
                record(&mut events, &path, file, signals.next()).await
            }
            None => {
                let mut events = daemon.events(&watch.name).await?;
                ui::err("ready");
                tokio::select! {
                    viewed = view(&mut events, self.format) => viewed,
                    _ = signals.next() => Ok(()),
                }
            }
        };
        if !found && !self.respond {
            forget(&daemon, &watch).await?;
        }
        viewed?;
        Ok(Code::OK)
    }
}

async fn view(events: &mut Events, format: Format) -> Result<()> {
    let zone = TimeZone::system();
    while let Some((raw, value)) = events.next().await {
        let line = match format {
            // JSON escapes control characters by itself.
            Format::Json => String::from_utf8_lossy(&raw).into_owned(),
            Format::Text => ui::event(&Line::read(&value), &zone),
        };
        ui::out(&(line + "\n")).map_err(Failure::system("standard output"))?;
    }
    ui::err("coi: the watch has ended");
    Ok(())
}

/// A file that is not there yet: a recording is not thrown away by the next one.
fn create(path: PathBuf) -> Result<(PathBuf, File)> {
    match File::create_new(&path) {
        Ok(file) => Ok((path, file)),
        Err(source) => Err(Failure::System { what: format!("cannot record to {}", path.display()), source }),
    }
}

async fn record<T>(events: &mut Events, path: &Path, file: File, end: impl Future<Output = T>) -> Result<()> {
    let failed = |source| Failure::System { what: path.display().to_string(), source };
    let mut file = BufWriter::new(file);
    let mut lines = 0_u64;
    let mut end = pin!(end);
    loop {
        let next = tokio::select! {
            next = events.next() => next,
            _ = &mut end => None,
        };
        let Some((line, _)) = next else { break };
        file.write_all(&line).and_then(|()| file.write_all(b"\n")).map_err(failed)?;
        lines += 1;
    }
    file.flush().map_err(failed)?;
    // The first one is the header.
    ui::err(&format!("coi: {} events are in {}", lines.saturating_sub(1), path.display()));
    Ok(())
}

async fn forget(daemon: &Client, watch: &Watch) -> Result<()> {
    match daemon.forget(&watch.name).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() || error.is_absent() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_by_either_name() {
        let root = Path::new("/sys/fs/cgroup/unified");
        let of = |path: &str| in_hierarchy(Path::new(path), root).ok();
        assert_eq!(of("/sys/fs/cgroup/unified/a/b").as_deref(), Some("/a/b"));
        assert_eq!(of("/a/b/").as_deref(), Some("/a/b"));
        assert_eq!(of("a").as_deref(), Some("/a"));
        assert_eq!((of("/"), of("/sys/fs/cgroup/unified/")), (None, None));
    }
}
