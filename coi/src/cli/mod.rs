//! The command line: arguments in, text out. It decides nothing.
//!
//! One file per command. Data goes to standard output, everything said about it to standard error.

mod ask;
mod attach;
mod audit;
mod build;
mod clean;
mod completion;
mod config;
mod daemon;
mod exit;
mod freeze;
mod guard;
mod info;
mod kill;
mod list;
mod monitor;
mod persist;
mod profile;
mod rules;
mod run;
mod session;
mod settings;
mod several;
mod shell;
mod shutdown;
mod target;
mod tmux;
mod trust;
mod unfreeze;
mod watch;

use clap::{Parser, Subcommand, ValueEnum};
pub use exit::{Code, Failure};

/// What a command ends with: the exit code of a success.
type Result<T = Code> = std::result::Result<T, Failure>;

/// Runs AI coding agents in Incus containers and watches them from the kernel.
#[derive(Debug, Parser)]
#[command(name = "coi", version, after_help = exit::HELP, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Build(build::Build),
    Run(run::Run),
    Shell(shell::Shell),
    Attach(attach::Attach),
    List(list::List),
    Info(info::Info),
    Shutdown(shutdown::Shutdown),
    Kill(kill::Kill),
    Persist(persist::Persist),
    Clean(clean::Clean),
    Tmux(tmux::Tmux),
    Freeze(freeze::Freeze),
    Unfreeze(unfreeze::Unfreeze),
    Monitor(monitor::Monitor),
    Watch(watch::Watch),
    Audit(audit::Audit),
    Rules(rules::Rules),
    Config(config::Config),
    Profile(profile::Profile),
    Trust(trust::Trust),
    Untrust(trust::Untrust),
    Daemon(daemon::Daemon),
    #[command(hide = true)]
    Guard(guard::Guard),
    #[command(hide = true)]
    Session(session::Session),
    Completion(completion::Completion),
}

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

impl Cli {
    /// Does what was asked; answers the exit code. What went wrong has then been said.
    pub async fn execute(self) -> Code {
        let done = match self.command {
            Command::Build(c) => c.execute().await,
            Command::Run(c) => c.execute().await,
            Command::Shell(c) => c.execute().await,
            Command::Attach(c) => c.execute().await,
            Command::List(c) => c.execute().await,
            Command::Info(c) => c.execute().await,
            Command::Shutdown(c) => c.execute().await,
            Command::Kill(c) => c.execute().await,
            Command::Persist(c) => c.execute().await,
            Command::Clean(c) => c.execute().await,
            Command::Tmux(c) => c.execute().await,
            Command::Freeze(c) => c.execute().await,
            Command::Unfreeze(c) => c.execute().await,
            Command::Monitor(c) => c.execute().await,
            Command::Watch(c) => c.execute().await,
            Command::Audit(c) => c.execute().await,
            Command::Rules(c) => c.execute().await,
            Command::Config(c) => c.execute(),
            Command::Profile(c) => c.execute(),
            Command::Trust(c) => c.execute(),
            Command::Untrust(c) => c.execute(),
            Command::Daemon(c) => c.execute().await,
            Command::Guard(c) => c.execute(),
            Command::Session(c) => c.execute(),
            Command::Completion(c) => c.execute(),
        };
        done.unwrap_or_else(|failure| {
            if let Some(text) = failure.text() {
                crate::ui::err(&format!("coi: {text}"));
            }
            failure.code()
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_holds() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        fn check(command: &clap::Command) {
            if command.has_subcommands() {
                command.get_subcommands().filter(|c| c.get_name() != "help").for_each(check);
                return;
            }
            let name = command.get_name();
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.contains(&format!("coi {name}")) || after.contains(name), "{name}: {after}");
        }
        check(&Cli::command());
    }

    #[test]
    fn help() {
        let mut command = Cli::command().term_width(100);
        insta::assert_snapshot!(command.render_long_help());
    }
}
