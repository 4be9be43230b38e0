//! What is wrong is said with what to do about it, and has an exit code of its own.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "what fails here is a test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use coi_tests::incus::{self, Foreign};
use coi_tests::{Coi, Ended, TINY, copy_program, end, program};
use nix::unistd::{Gid, Group};
use tempfile::TempDir;

/// Nobody's user and group id, on every distribution.
const NOBODY: u32 = 65534;

/// The program, where everybody may run it.
struct ForAll(TempDir);

impl ForAll {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        copy_program(program(), dir.path().join("coi"));
        Self(dir)
    }

    /// `coi ARGUMENTS` as nobody, in this group.
    fn command(&self, socket: &Path, group: u32, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.0.path().join("coi"));
        command.args(arguments).env("COI_SOCKET", socket).stdin(Stdio::null()).current_dir("/tmp");
        command.uid(NOBODY).gid(group);
        command
    }

    /// Where no daemon listens.
    fn nowhere(&self) -> PathBuf {
        self.0.path().join("coi.sock")
    }
}

/// The group that may use Incus.
fn incus_group() -> Gid {
    Group::from_name("incus-admin").unwrap().expect("Incus has no group").gid
}

/// Asserts that nothing was said on standard output, and one line on standard error.
#[track_caller]
fn one_line(ended: Ended, code: i32, words: &str) {
    let ended = ended.expect(code).says(words);
    assert_eq!(ended.text(), "");
    assert!(ended.stderr.starts_with("coi: ") && ended.stderr.lines().count() == 1, "{}", ended.stderr);
}

#[test]
fn the_help_lists_the_exit_codes() {
    let help = Coi::without_daemon().coi(&["--help"]).expect(0).text();
    let (_, codes) = help.split_once("Exit codes:").unwrap();
    for code in ["0 ", "1 ", "2 ", "3 ", "4 ", "5 ", "6 ", "137 ", "128+N "] {
        assert!(codes.lines().any(|line| line.trim_start().starts_with(code)), "{code} is missing: {codes}");
    }
}

#[test]
fn no_incus() {
    let coi = Coi::without_daemon();
    for arguments in [&["list"][..], &["run", "--", "true"], &["kill", "x"]] {
        let mut command = coi.command(arguments);
        let ended = end(command.env("INCUS_SOCKET", "/nonexistent/unix.socket"));
        one_line(
            ended,
            3,
            "Incus is not running: there is no socket at /nonexistent/unix.socket. Install and start",
        );
    }
    // A socket that nobody listens on.
    let socket = coi.workspace().join("unix.socket");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let ended = end(coi.command(&["list"]).env("INCUS_SOCKET", &socket));
    one_line(ended, 3, "Incus is not running: nothing listens on its socket");
}

#[test]
fn no_permission_on_incus() {
    let all = ForAll::new();
    for arguments in [&["list"][..], &["run", "--", "true"]] {
        let ended = end(&mut all.command(&all.nowhere(), NOBODY, arguments));
        one_line(ended, 3, "you may not use Incus: no permission on its socket");
    }
}

#[test]
fn neither_root_nor_a_daemon() {
    let all = ForAll::new();
    let group = incus_group().as_raw();
    for arguments in
        [&["run", "--image", TINY, "--", "true"][..], &["monitor", "--attach", "x"], &["unfreeze", "x"]]
    {
        let ended = end(&mut all.command(&all.nowhere(), group, arguments));
        one_line(ended, 4, "only root can start one. Run `sudo ");
    }
    for arguments in [&["watch", "--", "true"][..], &["monitor", "--cgroup", "/x"]] {
        let ended = end(&mut all.command(&all.nowhere(), group, arguments));
        one_line(ended, 4, "needs root. Run `sudo coi ");
    }
    let ended = end(&mut all.command(&all.nowhere(), group, &["daemon"]));
    one_line(ended, 4, "the daemon must run as root");
}

#[test]
fn no_permission_on_the_daemon() {
    let coi = Coi::new();
    let all = ForAll::new();
    fs::set_permissions(coi.daemon().socket().parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    let ended = end(&mut all.command(&coi.daemon().socket(), NOBODY, &["monitor", "--attach", "x"]));
    one_line(ended, 4, "nothing that COI watches belongs to you (uid 65534)");
    // Who may use Incus may use it, but for the host's own cgroups.
    let ended = end(&mut all.command(&coi.daemon().socket(), incus_group().as_raw(), &["unfreeze", "x"]));
    one_line(ended, 5, "x is not watched");
}

#[test]
fn no_such_image_or_workspace() {
    let coi = Coi::new();
    let ended = coi.coi(&["run", "--image", "no-such-image", "--", "true"]);
    one_line(ended, 5, "Incus has no image no-such-image; it has ");
    let ended = coi.coi(&["run", "--workspace", "no/such/dir", "--", "true"]);
    one_line(
        ended,
        5,
        "the workspace no/such/dir does not exist. Name an existing directory with --workspace",
    );
    coi.write("file", "");
    let ended = coi.coi(&["run", "--workspace", "file", "--", "true"]);
    one_line(ended, 5, "the workspace file is not a directory");
    one_line(coi.coi(&["run", "--workspace", "/", "--", "true"]), 5, "it is the whole machine");
}

#[test]
fn no_such_container() {
    let coi = Coi::new();
    for arguments in [
        &["monitor", "--attach", "no-such"][..],
        &["unfreeze", "no-such"],
        &["kill", "no-such"],
        &["audit", "path", "no-such"],
    ] {
        one_line(coi.coi(arguments), 5, "no-such");
    }
    let foreign = Foreign::make(TINY);
    one_line(coi.coi(&["kill", &foreign.name]), 5, "was not made by COI, and COI does not touch it");
    assert_eq!(incus::status(&foreign.name), "Stopped");
}

#[test]
fn no_terminal() {
    let coi = Coi::without_daemon();
    one_line(coi.coi(&["shell"]), 2, "a session needs a terminal");
}

#[test]
fn a_wrong_command_line() {
    let coi = Coi::without_daemon();
    for arguments in
        [&["run"][..], &["run", "--imaeg", "x", "--", "true"], &["monitor"], &["no-such-command"], &[]]
    {
        let ended = coi.coi(arguments).expect(2);
        assert!(ended.stderr.contains("Usage: coi"), "{}", ended.stderr);
    }
    coi.coi(&["daemon", "--ready-fd", "99"]).expect(2).says("no such descriptor is open");
}

/// Runs the daemon where these mounts hide a part of the kernel's files.
fn daemon_behind(mounts: &str) -> Ended {
    let coi = Coi::without_daemon();
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--mount", "sh", "-ec", &format!("{mounts}; exec \"$0\" daemon --idle-exit 1s")])
        .arg(program());
    unshare.envs(coi.command(&[]).get_envs().filter_map(|(key, value)| Some((key, value?))));
    end(unshare.stdin(Stdio::null()))
}

#[test]
fn no_types_of_the_kernel() {
    // What is not to be monitored is accompanied all the same.
    let ended =
        daemon_behind("mount -t tmpfs none /sys/kernel/btf").expect(0).says("/sys/kernel/btf/vmlinux");
    assert!(ended.stderr.contains("nothing can be monitored"), "{}", ended.stderr);
    assert!(ended.stderr.contains("CONFIG_DEBUG_INFO_BTF"), "what to do is not said: {}", ended.stderr);
}

#[test]
fn a_second_daemon() {
    let coi = Coi::new();
    let ended = coi.coi(&["daemon"]).expect(4).says("a COI daemon runs already and answers on ");
    assert_eq!(ended.text(), "");
    assert_eq!(coi.ask("/v1/status").0, 200);
}

#[test]
fn a_rule_with_a_typo() {
    let rules = tempfile::tempdir().unwrap();
    let path = rules.path().join("mine.toml");
    let rule = "[[rule]]\nid = \"x\"\ntitle = \"X\"\nseverity = \"high\"\nevent = \"exec\"\n\
                condition = \"proces.name == 'x'\"\nmessage = \"x\"\n";
    fs::write(&path, rule).unwrap();
    let dir = rules.path().to_str().unwrap();
    let coi = Coi::without_daemon();
    let position = format!("{}:6:14", path.display());
    let ended = coi.coi(&["daemon", "--rules", dir]).expect(6);
    let ended = ended.says(&format!("{position}: there is no field `proces.name`"));
    ended.says("did you mean `process.name`?");
    assert_eq!(coi.daemon().pid(), None);
    let ended = coi.coi(&["rules", "test", "--rules", dir]).expect(2).says("there is no field `proces.name`");
    assert!(ended.stderr.contains(&position) && ended.stderr.contains("process.name"), "{}", ended.stderr);
    assert_eq!(ended.text(), "");
}
