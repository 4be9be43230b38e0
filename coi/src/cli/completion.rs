//! `coi completion`

use std::io;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Code, Failure, Result};
use crate::ui;

/// Print what makes a shell complete coi's commands.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coi completion bash > ~/.local/share/bash-completion/completions/coi")]
pub(super) struct Completion {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

impl Completion {
    pub(super) fn execute(self) -> Result {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "coi", &mut text);
        let text = String::from_utf8(text).map_err(io::Error::other);
        text.and_then(|text| ui::out(&text)).map_err(Failure::system("standard output"))?;
        Ok(Code::OK)
    }
}
