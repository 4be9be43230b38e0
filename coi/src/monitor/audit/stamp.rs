//! When something was, by both clocks: the machine's, which may be set at any time and by any amount, and the kernel's,
//! which counts from the boot on and is never set.
//!
//! It promises that an age within one boot is right, whatever has become of the machine's clock meanwhile. Of what was
//! before the boot only the machine's clock tells, then and now.

use std::{sync::LazyLock, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::record::timestamp;
use crate::monitor::{sensor::boottime, standing::boot_id};

static BOOT: LazyLock<String> = LazyLock::new(boot_id);

/// A moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// By the machine's clock, as it was set then.
    time: String,
    /// By the kernel's clock.
    clock: u64,
    /// Which boot that counts from.
    boot: String,
}

impl Stamp {
    /// This moment.
    pub fn now() -> Self {
        let clock = boottime();
        Self { time: timestamp(clock), clock, boot: BOOT.clone() }
    }

    /// Of a record, by its line.
    pub fn of_record(line: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Record {
            #[serde(rename = "@timestamp")]
            time: String,
            host: Host,
            coi: Coi,
        }
        #[derive(Deserialize)]
        struct Host {
            boot: Boot,
        }
        #[derive(Deserialize)]
        struct Boot {
            id: String,
        }
        #[derive(Deserialize)]
        struct Coi {
            clock: u64,
        }
        let record: Record = serde_json::from_slice(line).ok()?;
        Some(Self { time: record.time, clock: record.coi.clock, boot: record.host.boot.id })
    }

    /// How long ago it was.
    pub fn age(&self) -> Duration {
        if self.boot == *BOOT {
            return Duration::from_nanos(boottime().saturating_sub(self.clock));
        }
        // What the clock puts into the future has just been.
        let age = self.time.parse().map(|then| Timestamp::now().duration_since(then));
        age.ok().and_then(|age| age.try_into().ok()).unwrap_or_default()
    }

    /// When it was, by the machine's clock as it is set now; of another boot, as it was set then.
    pub fn told(&self) -> String {
        if self.boot == *BOOT { timestamp(self.clock) } else { self.time.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// So long ago, by the clock of the machine.
    fn ago(time: Duration) -> String {
        Timestamp::now().checked_sub(time).unwrap().to_string()
    }

    #[test]
    fn of_this_boot_the_machines_clock_says_nothing() {
        let now = Stamp::now();
        for time in [ago(1000 * HOUR), "2126-01-01T00:00:00Z".into(), "never".into()] {
            let stamp = Stamp { time, ..now.clone() };
            assert!(stamp.age() < HOUR, "{stamp:?}");
            assert_eq!(stamp.told()[..13], timestamp(boottime())[..13]);
        }
    }

    #[test]
    fn of_another_boot_nothing_else_does() {
        let of = |time: String| Stamp { time, clock: u64::MAX, boot: "another".into() };
        assert!(of(ago(2 * HOUR)).age() > HOUR);
        assert_eq!(of("2126-01-01T00:00:00Z".into()).age(), Duration::ZERO);
        assert_eq!(of("never".into()).age(), Duration::ZERO);
        assert_eq!(of("then".into()).told(), "then");
    }

    #[test]
    fn a_record_has_both() {
        let line = br#"{"@timestamp":"t","host":{"boot":{"id":"b"}},"coi":{"clock":7}}"#;
        let wanted = Stamp { time: "t".into(), clock: 7, boot: "b".into() };
        assert_eq!(Stamp::of_record(line), Some(wanted));
        assert_eq!(Stamp::of_record(b"{}"), None);
    }
}
