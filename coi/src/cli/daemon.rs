//! `coi daemon`

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use jiff::SignedDuration;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use tracing_subscriber::EnvFilter;

use super::{Code, Failure, Result};
use crate::monitor::service::{self, Options};

/// Watch, decide and answer: the one privileged service of a machine.
///
/// `coi run` and `coi shell` start it when root and absent. RUST_LOG says how much it tells on standard
/// error (info).
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sudo coi daemon\n  sudo coi daemon --idle-exit 30s")]
pub(super) struct Daemon {
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

impl Daemon {
    pub(super) async fn execute(self) -> Result {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .init();
        let ready_fd = self.ready_fd.map(inherited).transpose()?;
        let Self { idle_exit, rules, config, record, .. } = self;
        service::run(Options { idle_exit, ready_fd, rules, config, record }).await?;
        Ok(Code::OK)
    }
}

fn duration(text: &str) -> std::result::Result<Duration, String> {
    let duration: SignedDuration = text.parse().map_err(|e: jiff::Error| e.to_string())?;
    Duration::try_from(duration).map_err(|_| "it must not be negative".to_owned())
}

/// Takes over a descriptor that our starter left open for us, and keeps it from our own children.
fn inherited(fd: RawFd) -> Result<OwnedFd> {
    let wrong = || Failure::Usage(format!("--ready-fd {fd}: no such descriptor is open"));
    // Standard streams stay everybody's.
    if fd <= 2 {
        return Err(wrong());
    }
    // SAFETY: the descriptor is only asked about; that it is closed is an answer like any other.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|_| wrong())?;
    // SAFETY: it is open, as was just seen, and by the meaning of --ready-fd it is given to us alone.
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
