//! Running commands and showing progress.
//!
//! Promises: every command has a deadline unless it is the user's own foreground work; a command that fails says
//! which one it was, how it ended and the last of what it printed, and names its log when it has one; on a terminal a
//! step shows a spinner with the time it has taken, elsewhere plain lines that suit a log.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Long enough for a query of a local service, short enough not to look like a hang.
const QUICK: Duration = Duration::from_secs(30);

/// How much of a failed command's output an error repeats.
const TAIL_LINES: usize = 15;

/// How much of a command an error shows.
const SHOWN_CHARS: usize = 100;

/// A command that did not do what it was run for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// It could not be started.
    #[error("`{}` could not be started: {source}{}", brief(.command), install_hint(.program, .source))]
    Start { command: String, program: String, source: io::Error },
    /// It ended with an error.
    #[error("`{}` failed ({status}){}{}", brief(.command), indent(.tail), named_log(.log.as_deref()))]
    Failed { command: String, status: ExitStatus, tail: String, log: Option<PathBuf> },
    /// It took too long.
    #[error(
        "`{}` did not finish within {} s and was stopped{}{}",
        brief(.command), .limit.as_secs(), indent(.tail), named_log(.log.as_deref())
    )]
    Slow { command: String, limit: Duration, tail: String, log: Option<PathBuf> },
    /// Its input, output or log could not be handled.
    #[error("`{}`: its {what} could not be used: {source}", brief(.command))]
    Io { command: String, what: String, source: io::Error },
}

/// A command as far as it fits a line; all of it is in the log.
fn brief(command: &str) -> String {
    match command.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{} ...", &command[..end]),
        None => command.to_owned(),
    }
}

fn install_hint(program: &str, source: &io::Error) -> String {
    if source.kind() == io::ErrorKind::NotFound {
        format!("; install `{program}` or put it on the PATH")
    } else {
        String::new()
    }
}

fn named_log(log: Option<&Path>) -> String {
    log.map(|log| format!("\n  the whole log is in {}", log.display())).unwrap_or_default()
}

fn indent(tail: &str) -> String {
    tail.lines().map(|line| format!("\n  | {line}")).collect()
}

/// A command about to be run.
#[derive(Debug)]
pub(crate) struct Cmd {
    inner: Command,
    shown: String,
    input: Option<Vec<u8>>,
    limit: Duration,
}

impl Cmd {
    /// A command with a deadline of 30 seconds and no input.
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let shown = program.as_ref().to_string_lossy().into_owned();
        Self { inner: Command::new(program), shown, input: None, limit: QUICK }
    }

    /// Adds an argument.
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.shown.push(' ');
        self.shown.push_str(&arg.as_ref().to_string_lossy());
        self.inner.arg(arg);
        self
    }

    /// Adds several arguments.
    pub(crate) fn args<S: AsRef<OsStr>>(self, args: impl IntoIterator<Item = S>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    /// Sets an environment variable.
    pub(crate) fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.inner.env(key, value);
        self
    }

    /// Names the program otherwise than by its path when it is shown.
    pub(crate) fn shown_as(mut self, name: &str) -> Self {
        self.shown = name.to_owned();
        self
    }

    /// Sets the working directory.
    pub(crate) fn dir(mut self, dir: &Path) -> Self {
        self.inner.current_dir(dir);
        self
    }

    /// What the command reads on its standard input.
    pub(crate) fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// How long the command may take.
    pub(crate) fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs the command and returns what it printed on standard output.
    pub(crate) fn output(self) -> Result<String, RunError> {
        // Files, not pipes: nothing can fill up, and a grandchild that keeps the output open cannot keep us waiting.
        let mut out = self.used("output", tempfile::tempfile())?;
        let mut err = self.used("output", tempfile::tempfile())?;
        let stdio = (self.used("output", out.try_clone())?, self.used("output", err.try_clone())?);
        let shown = self.shown.clone();
        let ended = self.finish(stdio.0, stdio.1);
        let read = |file: &mut File| {
            let mut bytes = Vec::new();
            file.rewind()
                .and_then(|()| file.read_to_end(&mut bytes))
                .map(|_| String::from_utf8_lossy(&bytes).into_owned())
                .map_err(|source| RunError::Io { command: shown.clone(), what: "output".into(), source })
        };
        let printed = read(&mut out)?;
        ended?.check(|| Ok((format!("{printed}{}", read(&mut err)?), None)))?;
        Ok(printed)
    }

    /// Runs the command with all its output appended to a log.
    pub(crate) fn logged(self, log: &Path) -> Result<(), RunError> {
        let named = format!("log {}", log.display());
        let mut file =
            self.used(&named, OpenOptions::new().create(true).append(true).read(true).open(log))?;
        self.used(&named, writeln!(file, "$ {}", self.shown))?;
        let start = self.used(&named, file.metadata())?.len();
        let (out, err) = (self.used(&named, file.try_clone())?, self.used(&named, file.try_clone())?);
        let shown = self.shown.clone();
        self.finish(out, err)?.check(|| {
            let mut bytes = Vec::new();
            file.seek(io::SeekFrom::Start(start))
                .and_then(|_| file.read_to_end(&mut bytes))
                .map_err(|source| RunError::Io { command: shown, what: named, source })?;
            Ok((String::from_utf8_lossy(&bytes).into_owned(), Some(log.to_owned())))
        })
    }

    /// Runs the command in the foreground: the user's terminal is its terminal, and it may take as long as it wants.
    pub(crate) fn foreground(mut self) -> Result<(), RunError> {
        announce(&self.shown);
        let command = self.shown;
        match self.inner.status() {
            Err(source) => Err(RunError::Start { program: program(&self.inner), command, source }),
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(RunError::Failed { command, status, tail: String::new(), log: None }),
        }
    }

    fn used<T>(&self, what: &str, result: io::Result<T>) -> Result<T, RunError> {
        result.map_err(|source| RunError::Io { command: self.shown.clone(), what: what.to_owned(), source })
    }

    fn finish(mut self, out: File, err: File) -> Result<Ended, RunError> {
        let stdin = match &self.input {
            None => Stdio::null(),
            Some(input) => {
                let mut file = self.used("input", tempfile::tempfile())?;
                let filled = file.write_all(input).and_then(|()| file.rewind());
                self.used("input", filled)?;
                file.into()
            }
        };
        let mut child = self.inner.stdin(stdin).stdout(out).stderr(err).spawn().map_err(|source| {
            RunError::Start { command: self.shown.clone(), program: program(&self.inner), source }
        })?;
        let end = Instant::now() + self.limit;
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self.used("status", child.try_wait())? {
                return Ok(Ended { command: self.shown, limit: self.limit, status: Some(status) });
            }
            if Instant::now() >= end {
                let stopped = child.kill().and_then(|()| child.wait());
                self.used("status", stopped)?;
                return Ok(Ended { command: self.shown, limit: self.limit, status: None });
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

fn program(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// How a command ended; without a status it was stopped at its deadline.
struct Ended {
    command: String,
    limit: Duration,
    status: Option<ExitStatus>,
}

impl Ended {
    fn check(
        self,
        printed: impl FnOnce() -> Result<(String, Option<PathBuf>), RunError>,
    ) -> Result<(), RunError> {
        if self.status.is_some_and(|status| status.success()) {
            return Ok(());
        }
        let (printed, log) = printed()?;
        let (command, tail) = (self.command, tail(&printed));
        Err(match self.status {
            Some(status) => RunError::Failed { command, status, tail, log },
            None => RunError::Slow { command, limit: self.limit, tail, log },
        })
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// Prints the command about to take the terminal.
fn announce(command: &str) {
    let dim = anstyle::Style::new().dimmed();
    anstream::eprintln!("{dim}$ {command}{dim:#}");
}

/// Whether a program of that name can be run.
pub(crate) fn on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// What was run, for the lines at the end that say so.
#[derive(Debug, Default)]
pub(crate) struct Report {
    lines: Vec<(Mark, String, Duration)>,
}

impl Report {
    /// Runs a command in the foreground and notes how it went.
    pub(crate) fn run(&mut self, name: &str, command: Cmd) -> Result<(), RunError> {
        self.time(name, || command.foreground())
    }

    /// Does a piece of work and notes how it went.
    pub(crate) fn time<T, E>(&mut self, name: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let begun = Instant::now();
        let done = work();
        let mark = if done.is_ok() { Mark::Ok } else { Mark::Failed };
        self.lines.push((mark, name.to_owned(), begun.elapsed()));
        done
    }

    /// Prints what was run and how it went.
    pub(crate) fn print(&self) {
        if self.lines.len() > 1 {
            anstream::eprintln!();
        }
        for (mark, name, took) in &self.lines {
            line(*mark, name, *took, "");
        }
    }
}

fn line(mark: Mark, name: &str, took: Duration, detail: &str) {
    anstream::eprintln!("{} {name:<20} {:>6.1} s  {detail}", mark.painted(), took.as_secs_f64());
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// It was there already, or simply went well.
    Ok,
    /// It was made by this step.
    Made,
    /// It is not there, and only looking was asked for.
    Missing,
    /// It could not be done.
    Failed,
    /// It was not tried.
    Skipped,
}

impl Mark {
    fn painted(self) -> String {
        use anstyle::AnsiColor::{Green, Red, Yellow};
        let (word, colour) = match self {
            Self::Ok => ("ok", Green),
            Self::Made => ("installed", Green),
            Self::Missing => ("missing", Yellow),
            Self::Failed => ("failed", Red),
            Self::Skipped => ("skipped", Yellow),
        };
        let style = colour.on_default();
        format!("{style}{word:>9}{style:#}")
    }
}

/// A piece of work that is under way, shown while it lasts and summed up in one line when it ends.
#[derive(Debug)]
pub(crate) struct Step {
    name: String,
    begun: Instant,
    bar: Option<ProgressBar>,
}

impl Step {
    /// Begins a step.
    pub(crate) fn begin(name: impl Into<String>) -> Self {
        let name = name.into();
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) =
                ProgressStyle::with_template("{spinner:>9} {prefix:<20} {wide_msg} {elapsed:>4}")
            {
                bar.set_style(style);
            }
            bar.set_prefix(name.clone());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { name, begun: Instant::now(), bar }
    }

    /// Says what the step is doing now.
    pub(crate) fn say(&self, what: impl Into<String>) {
        let what = what.into();
        match &self.bar {
            Some(bar) => bar.set_message(what),
            None => eprintln!("      ... {:<20} {what}", self.name),
        }
    }

    /// Ends the step with its line in the summary.
    pub(crate) fn end(self, mark: Mark, detail: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        line(mark, &self.name, self.begun.elapsed(), detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_what_was_printed() {
        assert_eq!(Cmd::new("printf").arg("a b").output().unwrap(), "a b");
        assert_eq!(Cmd::new("cat").input("from us").output().unwrap(), "from us");
    }

    #[test]
    fn a_failure_repeats_what_was_said() {
        let error =
            Cmd::new("sh").args(["-c", "echo no such luck >&2; exit 3"]).output().unwrap_err().to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.contains("no such luck"), "{error}");
    }

    #[test]
    fn a_slow_command_is_stopped() {
        let begun = Instant::now();
        let error = Cmd::new("sleep").arg("60").limit(Duration::from_millis(50)).output().unwrap_err();
        assert!(matches!(error, RunError::Slow { .. }), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_missing_program_says_so() {
        let error = Cmd::new("coi-no-such-program").output().unwrap_err().to_string();
        assert!(error.contains("install `coi-no-such-program`"), "{error}");
    }

    #[test]
    fn a_log_is_named_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        Cmd::new("echo").arg("first").logged(&log).unwrap();
        let error = Cmd::new("sh").args(["-c", "echo second; exit 1"]).logged(&log).unwrap_err().to_string();
        assert!(error.contains(&log.display().to_string()) && error.contains("second"), "{error}");
        assert!(!error.contains("first"), "an error repeats its own command's output only: {error}");
        assert!(std::fs::read_to_string(&log).unwrap().contains("first"));
    }

    #[test]
    fn a_long_command_is_cut() {
        let error = Cmd::new("false").args(["ä"; 200]).output().unwrap_err().to_string();
        assert!(error.starts_with("`false ä ä") && error.contains(" ...` failed"), "{error}");
    }

    #[test]
    fn the_tail_is_short() {
        let long: String = (0..100).map(|n| format!("{n}\n\n")).collect();
        assert_eq!(tail(&long).lines().count(), TAIL_LINES);
        assert!(tail(&long).ends_with("99"));
    }
}
