//! Asking a person before something is lost.

use std::io::{self, IsTerminal, Write};

use super::{Failure, Result};

/// Whether a person wants that. Who has said `--force` is not asked; where nobody can be, that is an error.
pub(super) fn confirmed(question: &str, force: bool) -> Result<bool> {
    if force {
        return Ok(true);
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage(format!("{question} There is no terminal to ask on: say --force")));
    }
    let mut out = io::stderr().lock();
    let _ = write!(out, "coi: {question} [y/N] ").and_then(|()| out.flush());
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(Failure::system("standard input"))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
