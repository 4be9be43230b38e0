//! What people see: lines about events, and lines from COI itself.
//!
//! This module promises that nothing a container says can steer a terminal: its text is stripped of control
//! characters before it is printed. It promises that a reader who has gone (`coi list | head -1`) is no
//! error, and that colours appear only on terminals.

mod event;
mod notice;
mod text;

use std::io::{self, Write};

pub use event::event;
pub use notice::{Printer, kill_line};
pub use text::{is_hidden, plain};

/// Writes text to standard output, coloured or not as befits it.
pub fn out(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes a line to standard error. There is nobody to tell when that fails.
pub fn err(line: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{line}");
}

/// Says that rule files that were read are not in force, if so.
pub fn passed_over(name: &str, files: &[String]) {
    if !files.is_empty() {
        err(&format!(
            "coi: {} was watched before, and keeps the rules that it began with; not in force are: {}",
            plain(name),
            plain(&files.join(", "))
        ));
    }
}
