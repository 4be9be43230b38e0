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

/// The load averages now.
pub(super) fn load() -> io::Result<String> {
    let load = fs::read_to_string("/proc/loadavg")?;
    Ok(load.split(' ').take(3).collect::<Vec<_>>().join(" "))
}
