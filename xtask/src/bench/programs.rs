//! Small programs in C that a bench needs: without a runtime whose own doings would be measured too.

use std::path::Path;
use std::time::Duration;

use crate::coi::io_error;
use crate::run::Cmd;

/// As little as can be executed.
pub(super) const TRUE: &str = "int main(void) { return 0; }\n";

/// Compiles a program into a directory.
pub(super) fn compile(dir: &Path, name: &str, source: &str) -> Result<(), Box<dyn std::error::Error>> {
    let file = dir.join(format!("{name}.c"));
    std::fs::write(&file, source).map_err(io_error(file.display().to_string()))?;
    let cc = Cmd::new("cc").args(["-O2", "-static", "-o", name]).arg(file).dir(dir);
    cc.limit(Duration::from_secs(120)).output()?;
    Ok(())
}
