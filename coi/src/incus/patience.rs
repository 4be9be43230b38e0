//! How long something is tried again that Incus does not do while it is at work on the same instance.
//!
//! Incus then refuses instead of waiting, or waits itself and refuses afterwards, and says no word when it is free. So it
//! is asked for some seconds, and a few times however long each attempt takes.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long, and how often at least.
const BUSY: Duration = Duration::from_secs(10);
const ATTEMPTS: u32 = 3;
/// Between two attempts. Even an attempt to make another instance of its name keeps one busy for some milliseconds.
const PAUSE: Duration = Duration::from_millis(50);

/// What is left of it.
#[derive(Debug)]
pub struct Patience {
    attempts: u32,
    until: Instant,
}

impl Patience {
    /// All of it, from now on.
    #[expect(clippy::new_without_default, reason = "the time runs from here")]
    pub fn new() -> Self {
        Self { attempts: 0, until: Instant::now() + BUSY }
    }

    /// An attempt has failed: is there to be another one? Then a moment has passed.
    pub async fn lasts(&mut self) -> bool {
        self.attempts += 1;
        let lasts = self.attempts < ATTEMPTS || Instant::now() < self.until;
        if lasts {
            sleep(PAUSE).await;
        }
        lasts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_fails_at_once_is_tried_for_its_time() {
        let begun = Instant::now();
        let mut patience = Patience::new();
        while patience.lasts().await {}
        assert_eq!(begun.elapsed(), BUSY);
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_longer_than_that_is_tried_a_few_times() {
        let mut patience = Patience::new();
        let mut attempts = 0;
        loop {
            attempts += 1;
            sleep(2 * BUSY).await;
            if !patience.lasts().await {
                break;
            }
        }
        assert_eq!(attempts, ATTEMPTS);
    }
}
