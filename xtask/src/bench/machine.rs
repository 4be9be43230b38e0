//! What something was measured on.

use std::fmt;
use std::fs;
use std::io;

use serde::Serialize;

/// The machine, as it was before the first run.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    kernel: String,
    cpus: usize,
    /// The load averages.
    load: String,
}

impl Machine {
    /// Looks at it.
    pub(super) fn look() -> io::Result<Self> {
        Ok(Self {
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim_end().to_owned(),
            cpus: std::thread::available_parallelism()?.get(),
            load: load()?,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, cpus, load } = self;
        write!(f, "Linux {kernel}, {cpus} CPUs, load {load}")
    }
}

/// The time that a virtual machine's host has given to others while a processor of this machine had something to do.
#[derive(Debug)]
pub(super) struct Stolen {
    /// Clock ticks at the beginning: stolen ones, and all.
    before: [u64; 2],
}

impl Stolen {
    /// What is stolen from now on.
    pub(super) fn since_now() -> io::Result<Self> {
        Ok(Self { before: ticks()? })
    }

    /// Its share of all processors' time until now, in percent.
    pub(super) fn percent(&self) -> io::Result<f64> {
        let [stolen_before, before] = self.before;
        let [stolen, all] = ticks()?;
        Ok(100.0 * stolen.saturating_sub(stolen_before) as f64 / all.saturating_sub(before).max(1) as f64)
    }
}

/// Of all processors since the machine's start: the stolen clock ticks, and all of them.
fn ticks() -> io::Result<[u64; 2]> {
    const STAT: &str = "/proc/stat";
    let stat = fs::read_to_string(STAT)?;
    let line = stat.lines().next().unwrap_or_default();
    let unknown = || io::Error::new(io::ErrorKind::InvalidData, format!("{STAT} begins with {line:?}"));
    stolen_and_all(line).ok_or_else(unknown)
}

/// What the first line of /proc/stat says, proc_stat(5): the eighth number, and the sum of the first eight. A guest's
/// time, in the two that follow, is in the first two already.
fn stolen_and_all(line: &str) -> Option<[u64; 2]> {
    let numbers = line.strip_prefix("cpu ")?.split_ascii_whitespace().take(8).map(str::parse);
    let ticks: Vec<u64> = numbers.collect::<Result<_, _>>().ok()?;
    Some([*ticks.get(7)?, ticks.iter().sum()])
}

/// The load averages now.
pub(super) fn load() -> io::Result<String> {
    let load = fs::read_to_string("/proc/loadavg")?;
    Ok(load.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_ticks() {
        assert_eq!(stolen_and_all("cpu  1 2 3 4 5 6 7 8 1 2"), Some([8, 36]));
        assert_eq!(stolen_and_all("cpu  1 2 3 4 5 6 7"), None);
        assert_eq!(stolen_and_all("cpu  1 2 3 4 5 6 7 x"), None);
        assert_eq!(stolen_and_all("intr 1 2 3 4 5 6 7 8"), None);
    }
}
