//! The signals that ask us to stop.

use nix::libc::{SIGHUP, SIGINT, SIGTERM};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::{Error, Result};

/// SIGINT, SIGTERM and SIGHUP, in the order they came. From its making on they no longer end the program.
#[derive(Debug)]
pub struct Signals {
    received: mpsc::Receiver<i32>,
}

impl Signals {
    /// Begins to catch them.
    pub fn catch() -> Result<Self> {
        let (to, received) = mpsc::channel(8);
        for number in [SIGINT, SIGTERM, SIGHUP] {
            let mut stream = signal(SignalKind::from_raw(number)).map_err(Error::Signals)?;
            let to = to.clone();
            tokio::spawn(
                async move { while stream.recv().await.is_some() && to.send(number).await.is_ok() {} },
            );
        }
        Ok(Self { received })
    }

    /// The next one.
    pub async fn next(&mut self) -> i32 {
        match self.received.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }

    /// An error if one has come.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.received.try_recv() {
            Ok(signal) => Err(Error::Interrupted { signal }),
            Err(_) => Ok(()),
        }
    }
}
