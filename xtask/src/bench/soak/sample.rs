//! What the daemon and its guard hold at one moment.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::Result;
use crate::coi::{Coi, Signals, io_error};

/// What is looked at, by name.
pub(super) type Sample = BTreeMap<String, f64>;

/// Who looks.
pub(super) struct Sampler {
    daemon: u32,
    guard: u32,
}

impl Sampler {
    /// At this daemon, and at the guard that it has started.
    pub(super) fn of(coi: &Coi) -> Result<Self> {
        let daemon = coi.daemon_pid().ok_or("the daemon has ended")?;
        let guard = guard(&coi.dir().join("guard")).ok_or("the daemon has started no guard")?;
        Ok(Self { daemon, guard })
    }

    /// Looks. A daemon or guard that has ended meanwhile is an error, whether or not another is in its place.
    pub(super) async fn look(&self, coi: &Coi, signals: &mut Signals) -> Result<Sample> {
        let mut sample = Sample::new();
        for (who, pid) in [("daemon", self.daemon), ("guard", self.guard)] {
            process(who, pid, &mut sample)?;
        }
        let metrics = coi.ask_text("GET", "/v1/metrics", None, signals).await?;
        maps(&metrics, &mut sample);
        Ok(sample)
    }
}

/// The guard of a runtime directory.
fn guard(directory: &Path) -> Option<u32> {
    let is_it = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0).skip(1);
        words.next() == Some(b"guard") && words.any(|word| word == directory.as_os_str().as_encoded_bytes())
    };
    let all = fs::read_dir("/proc").ok()?.flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(is_it)
}

/// Memory, descriptors and threads of a process.
fn process(who: &str, pid: u32, sample: &mut Sample) -> Result<()> {
    let root = PathBuf::from(format!("/proc/{pid}"));
    let path = root.join("status");
    let status = fs::read_to_string(&path).map_err(io_error(format!("the {who}: {}", path.display())))?;
    let number = |key: &str| -> Option<f64> {
        status.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
    };
    // What it has allocated: the rings that it shares with the kernel are of one size, and the page cache decides about
    // its program.
    let memory = number("RssAnon:").ok_or_else(|| format!("{} has no RssAnon", path.display()))?;
    let threads = number("Threads:").ok_or_else(|| format!("{} has no Threads", path.display()))?;
    sample.insert(format!("{who} memory"), memory / 1024.0);
    sample.insert(format!("{who} threads"), threads);
    let fds = root.join("fd");
    let descriptors = fs::read_dir(&fds).map_err(io_error(format!("the {who}: {}", fds.display())))?.count();
    sample.insert(format!("{who} descriptors"), descriptors as f64);
    Ok(())
}

/// The entries of the kernel's maps.
fn maps(metrics: &str, sample: &mut Sample) {
    for line in metrics.lines() {
        let entry = line.strip_prefix("coi_map_entries{map=\"").and_then(|rest| rest.split_once("\"} "));
        if let Some((map, Ok(count))) = entry.map(|(map, count)| (map, count.parse())) {
            sample.insert(format!("map {map}"), count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_found_among_other_numbers() {
        let mut sample = Sample::new();
        maps(
            "# TYPE coi_map_entries gauge\ncoi_map_entries{map=\"scopes\"} 3\ncoi_map_max_entries{map=\"scopes\"} 4096\n\
             coi_rules 5\n",
            &mut sample,
        );
        assert_eq!(sample, Sample::from([("map scopes".to_owned(), 3.0)]));
    }

    #[test]
    fn of_this_process_something_is_held() {
        let mut sample = Sample::new();
        process("test", std::process::id(), &mut sample).unwrap();
        assert!(sample["test memory"] > 0.1 && sample["test threads"] >= 1.0, "{sample:?}");
        assert!(sample["test descriptors"] >= 3.0, "{sample:?}");
    }
}
