//! Processors that do not halt.
//!
//! What has to run on an idle processor waits until that is awake: microseconds where it sleeps deeply, and in a virtual
//! machine as long as the host takes to run a halted virtual CPU again, which is milliseconds where others want the
//! host's. Latencies are therefore measured as cyclictest(8) does it: with a request of 0 µs in `/dev/cpu_dma_latency`,
//! idle processors poll (the kernel's `Documentation/power/pm_qos_interface.rst`). In a guest the governor `haltpoll`
//! obeys it; a guest without a cpuidle driver does not, and its processors halt all the same.

use std::fs::File;
use std::io::{self, Write as _};

/// Where the kernel takes requests of how soon a processor has to be awake, in microseconds.
const REQUESTS: &str = "/dev/cpu_dma_latency";

/// Keeps all processors awake until it is dropped.
#[derive(Debug)]
pub(super) struct Awake {
    /// The kernel forgets the request when it is closed.
    _request: File,
}

impl Awake {
    /// Awake from now on.
    pub(super) fn keep() -> io::Result<Self> {
        let request = File::options().write(true).open(REQUESTS);
        let request = request.and_then(|mut request| {
            request.write_all(&0_i32.to_ne_bytes())?;
            Ok(request)
        });
        let refused =
            |error| io::Error::other(format!("keeping the processors awake with {REQUESTS}: {error}"));
        Ok(Self { _request: request.map_err(refused)? })
    }
}
