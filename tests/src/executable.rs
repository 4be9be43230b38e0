//! Programs and scripts that a test makes and has run.
//!
//! Another process writes them. What this one has open, whatever any test starts at that moment has open, too, until it
//! has become its own program; and what anybody has open for writing the kernel does not run (`ETXTBSY`).

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Copies a program.
#[track_caller]
pub fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    install(from.as_ref(), to.as_ref(), "");
}

/// Makes a script.
#[track_caller]
pub fn write_script(path: impl AsRef<Path>, text: &str) {
    install("/dev/stdin".as_ref(), path.as_ref(), text);
}

#[track_caller]
fn install(from: &Path, to: &Path, stdin: &str) {
    let mut install =
        Command::new("install").args(["-m", "755"]).args([from, to]).stdin(Stdio::piped()).spawn().unwrap();
    install.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    assert!(install.wait().unwrap().success(), "{}", to.display());
}
