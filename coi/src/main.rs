//! The `coi` command.

use std::process::ExitCode;

use clap::Parser;
use coi::cli::{Cli, Code};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            coi::ui::err(&format!("coi: no threads can be made: {error}"));
            return Code::FAILURE.into();
        }
    };
    let code = runtime.block_on(cli.execute());
    // A thread may still wait for standard input; nobody wants to wait for it.
    runtime.shutdown_background();
    code.into()
}
