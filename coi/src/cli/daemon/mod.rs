//! `coi daemon`

mod install;
mod stop;

use std::ffi::OsString;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::SignedDuration;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::geteuid;
use tracing_subscriber::EnvFilter;

use super::{Code, Failure, Result};
use crate::monitor::service::{self, Options, client, detach};
use crate::ui;

/// Watch, decide and answer: the one privileged service of a machine.
///
/// It stays in the foreground unless told otherwise; `coi daemon install` has systemd run it. `coi run` and `coi shell`
/// start it when root and absent. RUST_LOG says how much it tells on standard error (info).
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  sudo coi daemon install\n  sudo coi daemon --detach\n  sudo coi daemon --idle-exit 30s"
)]
pub(super) struct Daemon {
    #[command(subcommand)]
    act: Option<Act>,
    /// Go on in the background once it answers, or say why it does not. For machines without systemd.
    #[arg(long, conflicts_with = "ready_fd")]
    detach: bool,
    /// End when nothing has been watched for so long, such as 30s or 5m.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    idle_exit: Option<Duration>,
    /// A descriptor to write `ready` to once it answers, or the reason why it does not.
    #[arg(long, value_name = "N")]
    ready_fd: Option<RawFd>,
    /// A directory of rules to be added to those that are built in.
    #[arg(long, value_name = "DIR")]
    rules: Option<PathBuf>,
    /// A configuration file instead of /etc/coi/config.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Record what the rules are told of each watch to a new file in this directory, for `coi rules replay`.
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Act {
    Install(install::Install),
    Stop(stop::Stop),
    Uninstall(install::Uninstall),
}

impl Daemon {
    pub(super) async fn execute(self) -> Result {
        match self.act {
            Some(Act::Install(install)) => return install.execute(),
            Some(Act::Stop(stop)) => return stop.execute().await,
            Some(Act::Uninstall(uninstall)) => return uninstall.execute().await,
            None => {}
        }
        if self.detach {
            return self.go_on_alone().await;
        }
        log_to_stderr();
        let ready_fd = self.ready_fd.map(|fd| inherited("--ready-fd", fd)).transpose()?;
        let Self { idle_exit, rules, config, record, .. } = self;
        service::run(Options { idle_exit, ready_fd, rules, config, record }).await?;
        Ok(Code::OK)
    }

    /// Starts another that does not end with this one's terminal.
    async fn go_on_alone(self) -> Result {
        if !geteuid().is_root() {
            return Err(Failure::NotRoot { what: "the daemon", again: "coi daemon --detach".into() });
        }
        let mut arguments: Vec<OsString> = Vec::new();
        if let Some(limit) = self.idle_exit {
            arguments.extend(["--idle-exit".into(), format!("{}s", limit.as_secs_f64()).into()]);
        }
        for (option, path) in [("--rules", self.rules), ("--config", self.config), ("--record", self.record)]
        {
            if let Some(path) = path {
                // It works in another directory.
                let path = std::path::absolute(&path).map_err(Failure::system(path.display().to_string()))?;
                arguments.extend([option.into(), path.into()]);
            }
        }
        let pid = detach::start(&arguments).await?;
        let daemon = client::Client::from_env();
        let socket = daemon.socket().display().to_string();
        ui::err(&format!(
            "coi: the daemon answers on {socket}; process {pid}, its log is {}",
            detach::log_path().display()
        ));
        if let Some(why) = daemon.status().await?.monitor {
            ui::err(&format!(
                "coi: it can monitor nothing, and only what is to run without the monitor runs: {why}"
            ));
        }
        Ok(Code::OK)
    }
}

/// What a daemon or a guard says goes to standard error, and from there to wherever its starter wants it.
pub(super) fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}

fn duration(text: &str) -> std::result::Result<Duration, String> {
    let duration: SignedDuration = text.parse().map_err(|e: jiff::Error| e.to_string())?;
    Duration::try_from(duration).map_err(|_| "it must not be negative".to_owned())
}

/// Takes over a descriptor that our starter left open for us, and keeps it from our own children.
pub(super) fn inherited(option: &str, fd: RawFd) -> Result<OwnedFd> {
    let wrong = || Failure::Usage(format!("{option} {fd}: no such descriptor is open"));
    // Standard streams stay everybody's.
    if fd <= 2 {
        return Err(wrong());
    }
    // SAFETY: the descriptor is only asked about; that it is closed is an answer like any other.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|_| wrong())?;
    // SAFETY: it is open, as was just seen, and by the meaning of the option it is given to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert!(duration("-1s").is_err() && duration("soon").is_err());
    }
}
