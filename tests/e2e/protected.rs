//! Protected paths: what the host runs is not changed from inside, by nobody, and the host's git goes on working.

#![expect(clippy::unwrap_used, reason = "what fails here is a test")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, lchown, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coi_tests::audit::of_kind;
use coi_tests::incus::{self, incus};
use coi_tests::{
    Coi, DEADLINE, DEFAULT, Ended, Gate, Reached, Running, TINY, USER, end, eventually, text, write_script,
};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// A workspace that is a repository, with a container that waits in it.
struct Session {
    coi: Coi,
    run: Option<Running>,
    gate: Option<Reached>,
}

impl Session {
    /// A repository with a hook that says so when it runs, `.husky`, and whatever else is made here.
    fn repository(coi: Coi, make: impl FnOnce(&Coi)) -> Self {
        let git = |words: &[&str]| git(coi.workspace(), words).expect(0);
        git(&["init", "--quiet", "--initial-branch", "main"]);
        git(&["config", "user.name", "Ann"]);
        git(&["config", "user.email", "ann@example.org"]);
        hook(&coi, "pre-commit", "echo the hook of the host >&2");
        fs::create_dir(coi.workspace().join(".husky")).unwrap();
        fs::write(coi.workspace().join(".husky/pre-push"), "exit 0\n").unwrap();
        own(coi.workspace());
        make(&coi);
        own(coi.workspace());
        Self { coi, run: None, gate: None }
    }

    fn start(mut self, image: &str) -> Self {
        let gate = Gate::new(&self.coi, "gate");
        self.run = Some(self.coi.start(&["run", "--image", image, "--", "sh", "-c", "read x <gate"]));
        self.gate = Some(gate.reached());
        self
    }

    /// Its container ends, and with it all that was mounted for it.
    fn finish(mut self) {
        self.gate.take().unwrap().open();
        self.run.take().unwrap().finish().expect(0);
    }

    fn at(&self, path: &str) -> std::path::PathBuf {
        self.coi.workspace().join(path)
    }

    /// The host's git, as the workspace's owner.
    #[track_caller]
    fn git(&self, words: &[&str]) -> Ended {
        git(self.coi.workspace(), words).expect(0)
    }

    /// A script in the container, as its user or as root there.
    fn inside(&self, user: u32, script: &str) -> Ended {
        let name = self.coi.container();
        let user = user.to_string();
        let how = [
            "exec",
            &name,
            "--user",
            &user,
            "--group",
            &user,
            "--cwd",
            "/workspace",
            "--",
            "sh",
            "-c",
            script,
        ];
        end(&mut incus(&how))
    }

    fn records(&self) -> Vec<Value> {
        of_kind(&self.coi.audit(&self.coi.container()), "protection")
            .map(|record| record["coi"]["protection"].clone())
            .collect()
    }

    fn state(&self) -> String {
        let (status, watch) = self.coi.ask(&format!("/v1/watches/{}", self.coi.container()));
        assert_eq!(status, 200);
        text(&watch["state"])
    }

    /// Asserts that a change of a path is told, and that it cannot be written to from inside any more.
    #[track_caller]
    fn assert_held_again(&self, path: &str, change: &str) {
        // What is made at once in the place of another one is that, perhaps.
        let changes = [change, if change == "made" { "replaced" } else { change }];
        let is_told = |record: &Value| {
            record["path"] == path && changes.iter().any(|change| record["change"] == *change)
        };
        eventually(&format!("{path} was {change}"), || self.records().iter().any(is_told));
        let record = self.records().into_iter().rfind(is_told).unwrap();
        assert_eq!((&record["by"], &record["now"]), (&"outside".into(), &"held".into()), "{record}");
        assert_eq!(record.get("error"), None, "{record}");
        self.assert_running();
        // That was written while it stood still.
        let cgroup = incus::cgroups().join(format!("lxc.payload.{}/cgroup.events", self.coi.container()));
        eventually("it goes on", || fs::read_to_string(&cgroup).unwrap().contains("frozen 0"));
        for user in [USER, 0] {
            let file = if self.at(path).is_dir() { format!("{path}/evil") } else { path.to_owned() };
            // By its exit code: Incus loses what a short command has said now and then.
            let refused = "grep -q 'Read-only file system' && exit 30";
            let ended = self.inside(user, &format!("(echo evil >>{file}) 2>&1 | {refused}; exit 0"));
            assert_eq!(ended.code, 30, "{path} can be written to by {user}: {ended:?}");
        }
        // An attempt that fails is no reason to stop.
        self.assert_running();
    }

    #[track_caller]
    fn assert_running(&self) {
        assert_eq!(self.state(), "running", "{:?}", self.why_frozen());
    }

    fn why_frozen(&self) -> Vec<String> {
        let audit = self.coi.audit(&self.coi.container());
        let froze = of_kind(&audit, "action").filter(|record| record["coi"]["action"]["name"] == "freeze");
        froze.map(|record| text(&record["coi"]["message"])).collect()
    }

    /// Asserts that it stands still, and that the log says so, and why.
    #[track_caller]
    fn assert_frozen(&self, path: &str) {
        eventually("it is frozen", || self.state() == "frozen");
        incus::assert_still(&self.coi.container());
        let why = self.why_frozen();
        assert!(why.iter().any(|why| why.contains(path)), "{why:?}");
    }
}

/// The host's git, as the workspace's owner.
fn git(workspace: &Path, words: &[&str]) -> Ended {
    let mut command = Command::new("git");
    command.args(words).current_dir(workspace).uid(USER).gid(USER).env("HOME", "/nonexistent");
    end(command.env("GIT_CONFIG_NOSYSTEM", "1"))
}

fn hook(coi: &Coi, name: &str, line: &str) {
    let path = coi.workspace().join(".git/hooks").join(name);
    write_script(&path, &format!("#!/bin/sh\n{line}\n"));
}

/// Gives everything to the workspace's owner.
fn own(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        lchown_to_user(&entry.path());
        if entry.file_type().unwrap().is_dir() {
            own(&entry.path());
        }
    }
}

fn lchown_to_user(path: &Path) {
    lchown(path, Some(USER), Some(USER)).unwrap();
}

/// All that is protected of a workspace: what each file says, and its mode.
fn protected(workspace: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    fn look(path: &Path, found: &mut BTreeMap<String, (u32, Vec<u8>)>) {
        let Ok(metadata) = path.symlink_metadata() else { return };
        let content = if metadata.is_file() { fs::read(path).unwrap() } else { Vec::new() };
        found.insert(path.display().to_string(), (metadata.mode(), content));
        if metadata.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                look(&entry.unwrap().path(), found);
            }
        }
    }
    let mut found = BTreeMap::new();
    for path in [".git/hooks", ".git/config", ".git/info/attributes", ".husky", ".vscode", ".claude", ".coi"]
    {
        look(&workspace.join(path), &mut found);
    }
    found
}

/// What is tried from inside; each says its name if it works.
const ATTACKS: &str = r#"
try() { name=$1; shift; if sh -c "$*" >/dev/null 2>&1; then echo "$name"; fi; }
try write-hook 'echo evil >>.git/hooks/pre-commit'
try new-hook 'echo evil >.git/hooks/post-commit'
try write-config 'echo evil >>.git/config'
try truncate-config ': >.git/config'
try replace-config 'echo evil >.git/x && mv -f .git/x .git/config'
try remove-config 'rm -f .git/config'
try move-config 'mv .git/config .git/config2'
try move-hooks 'mv .git/hooks .git/hooks2'
try remove-hooks 'rm -r .git/hooks'
try link-hook 'echo evil >.git/x && ln .git/x .git/hooks/post-merge'
try symlink-hook 'ln -s ../x .git/hooks/post-merge'
try mode 'chmod 777 .git/hooks/pre-commit'
try move-parent 'mv .git g2'
try remove-info 'rm -r .git/info; test ! -e .git/info/attributes'
try remove-parent 'rmdir .git/info'
try write-husky 'echo evil >.husky/pre-push'
try move-husky 'mv .husky husky2'
try write-vscode 'echo evil >.vscode/tasks.json'
try move-claude 'mv .claude claude2'
try write-claude 'echo evil >.claude/settings.json'
try write-attributes 'echo evil >>.git/info/attributes'
try move-info 'mv .git/info .git/info2'
"#;

/// What only root there could try. What it mounts over something changes what it sees itself, and nothing else.
const AS_ROOT: &str = r#"
for path in .git/hooks .git/config .git .husky .vscode .claude/settings.json .claude; do
    try "umount-$path" "umount $path"
    try "umount-lazily-$path" "umount -l $path"
    try "remount-$path" "mount -o remount,rw $path && echo evil >>.git/hooks/pre-commit"
    try "rebind-$path" "mount -o remount,bind,rw $path && echo evil >>.git/config"
done
try move-mount 'mkdir /tmp/m && mount --move .git/hooks /tmp/m'
try bind 'mkdir /tmp/b && mount --bind /workspace /tmp/b && echo evil >/tmp/b/.git/hooks/post-commit'
try bind-all 'mkdir /tmp/r && mount --rbind /workspace /tmp/r && echo evil >/tmp/r/.git/hooks/post-commit'
try bind-parent 'mkdir /tmp/p && mount --bind .git /tmp/p && echo evil >/tmp/p/hooks/post-commit'
try over 'mkdir /tmp/o && mount --bind /tmp/o .git/hooks && echo evil >/workspace/.git/hooks/post-commit && umount .git/hooks && test -e .git/hooks/post-commit'
try namespace 'unshare -m sh -c "umount -l /workspace/.git/hooks && echo evil >/workspace/.git/hooks/post-commit"'
"#;

#[test]
fn nothing_protected_can_be_changed_from_inside() {
    for (image, who) in [(TINY, USER), (TINY, 0), (DEFAULT, 0)] {
        let session = Session::repository(Coi::new(), |coi| {
            fs::create_dir_all(coi.workspace().join(".vscode")).unwrap();
            fs::create_dir_all(coi.workspace().join(".claude")).unwrap();
            fs::write(coi.workspace().join(".claude/settings.json"), "{}").unwrap();
            fs::write(coi.workspace().join(".git/info/attributes"), "*.c diff\n").unwrap();
        });
        let session = session.start(image);
        let before = protected(session.coi.workspace());
        let script = if who == 0 { format!("{ATTACKS}{AS_ROOT}") } else { ATTACKS.to_owned() };
        assert_eq!(session.inside(who, &script).expect(0).text(), "", "as {who} in {image}");
        assert_eq!(protected(session.coi.workspace()), before, "as {who} in {image}");
        // What is not protected is the container's.
        session.inside(USER, "echo work >file && mkdir .git/own && echo x >.git/own/file").expect(0);
        assert_eq!(fs::read_to_string(session.at("file")).unwrap(), "work\n");
        session.assert_running();
        assert_eq!(session.records(), Vec::<Value>::new());
        session.git(&["commit", "--allow-empty", "--quiet", "--message", "x"]).says("the hook of the host");
        session.finish();
    }
}

/// git in the container, as far as the image has it: it commits, and cannot change its configuration.
#[test]
fn git_works_inside_but_for_its_configuration() {
    let session = Session::repository(Coi::new(), |_| ()).start(DEFAULT);
    if session.inside(USER, "command -v git").code == 0 {
        let commit = "git add . && git commit --quiet --message inside";
        session.inside(USER, &format!("rm -f gate2; {commit}")).expect(0);
        assert_ne!(session.inside(USER, "git config user.name Eve").code, 0);
        assert_eq!(session.git(&["log", "--format=%s"]).text(), "inside\n");
    }
    session.finish();
}

#[test]
fn the_hosts_git_goes_on_and_the_protection_holds_again() {
    let session = Session::repository(Coi::new(), |_| ()).start(TINY);
    session.git(&["config", "alias.st", "status"]);
    session.assert_held_again(".git/config", "replaced");
    // Again, and by others than git.
    session.git(&["config", "alias.br", "branch"]);
    fs::rename(session.at(".git/hooks"), session.at(".git/hooks.old")).unwrap();
    let is_gone = |record: &Value| record["path"] == ".git/hooks" && record["change"] == "removed";
    eventually("it is told that the hooks are gone", || session.records().iter().any(is_gone));
    fs::create_dir(session.at(".git/hooks")).unwrap();
    own(&session.at(".git"));
    session.assert_held_again(".git/hooks", "made");
    fs::remove_dir_all(session.at(".husky")).unwrap();
    fs::create_dir(session.at(".husky")).unwrap();
    lchown_to_user(&session.at(".husky"));
    session.assert_held_again(".husky", "made");
    // What was not there at the start, with the directory above it.
    fs::create_dir(session.at(".claude")).unwrap();
    fs::write(session.at(".claude/settings.json"), "{}").unwrap();
    own(session.coi.workspace());
    session.assert_held_again(".claude/settings.json", "made");
    fs::create_dir(session.at(".vscode")).unwrap();
    lchown_to_user(&session.at(".vscode"));
    session.assert_held_again(".vscode", "made");
    // The host's own hooks are the host's to edit.
    hook(&session.coi, "pre-commit", "echo another hook >&2");
    own(&session.at(".git"));
    session.git(&["commit", "--allow-empty", "--quiet", "--message", "x"]).says("another hook");
    session.assert_running();
    session.finish();
}

/// What the host had changed was found before the kernel had said who it was, and the container stood still for it: one
/// look happened to fall into the change, or one path changed while another one's change was answered.
#[test]
fn whatever_the_host_does_at_once_is_the_hosts() {
    let session = Session::repository(Coi::new(), |_| ()).start(TINY);
    session.git(&["config", "alias.st", "status"]);
    // From now on it is looked at every 100 ms.
    session.assert_held_again(".git/config", "replaced");
    let replace = |path: &str, made: &str| {
        let (path, made) = (session.at(path), session.at(made));
        fs::copy(&path, &made).unwrap();
        lchown_to_user(&made);
        fs::rename(made, path).unwrap();
    };
    std::thread::scope(|scope| {
        // Into the looks, with ever another distance from the one before: nothing is waited for, the pace is what is tried.
        scope.spawn(|| {
            for round in 0..60 {
                replace(".git/config", ".git/config.lock");
                std::thread::sleep(Duration::from_micros(97_000 + 100 * round));
            }
        });
        scope.spawn(|| {
            for _ in 0..200 {
                fs::create_dir(session.at(".husky.new")).unwrap();
                lchown_to_user(&session.at(".husky.new"));
                let at = [".husky.new", ".husky"].map(|path| session.at(path));
                renameat2(AT_FDCWD, &at[0], AT_FDCWD, &at[1], RenameFlags::RENAME_EXCHANGE).unwrap();
                fs::remove_dir_all(&at[0]).unwrap();
            }
        });
    });
    assert_eq!(session.why_frozen(), Vec::<String>::new());
    session.assert_held_again(".git/config", "replaced");
    session.assert_held_again(".husky", "replaced");
    let records = session.records();
    let strange: Vec<_> = records.iter().filter(|record| record["by"] != "outside").collect();
    assert!(strange.is_empty(), "{strange:?}");
    session.finish();
}

/// Where Incus shares the host's mount namespace, nothing may be mounted there that git wants to replace.
#[test]
fn nothing_stays_mounted_where_incus_is() {
    let session = Session::repository(Coi::new(), |_| ()).start(TINY);
    let there = format!("--target={}", incus::pid());
    let config = session.at(".git/config");
    let mut command = Command::new("nsenter");
    command.args([&there, "--mount", "git", "config", "--file"]).arg(&config).args(["alias.st", "status"]);
    eventually("git works in Incus's namespace", || end(&mut command).code == 0);
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", incus::pid())).unwrap();
    let workspace = session.coi.workspace().to_str().unwrap();
    assert_eq!(mounts.lines().find(|mount| mount.contains(workspace)), None);
    lchown_to_user(&config);
    session.assert_held_again(".git/config", "replaced");
    session.finish();
}

/// Somebody who waits for the moment in which the host replaces a file may win it: then it stands still and is told.
#[test]
fn who_uses_the_gap_is_stopped() {
    for who in [USER, 0] {
        let session = Session::repository(Coi::new(), |_| ()).start(TINY);
        let script = "while :; do echo '# evil' >>/workspace/.git/config; done 2>/dev/null";
        session.inside(who, &format!("({script}) >/dev/null 2>&1 </dev/null &")).expect(0);
        session.git(&["config", "alias.st", "status"]);
        let is_told = |record: &Value| record["path"] == ".git/config";
        eventually("it is told", || session.records().iter().any(is_told));
        let evil = || fs::read_to_string(session.at(".git/config")).unwrap().matches("# evil").count();
        if session.records().iter().any(|record| record["by"] == "inside") {
            session.assert_frozen(".git/config");
        }
        // Whatever was written is written; no more is.
        let written = evil();
        assert!(written == 0 || session.state() == "frozen", "{written} lines were written, and it goes on");
        assert_eq!(evil(), written);
        session.git(&["config", "alias.br", "branch"]);
        if session.state() == "frozen" {
            session.coi.coi(&["unfreeze", &session.coi.container()]).expect(0);
        }
        incus::delete(&session.coi.container());
        drop(session.gate);
        session.run.unwrap().finish();
    }
}

#[test]
fn what_is_made_from_inside_stops_it() {
    for path in [".git/hooks", ".vscode", ".coi", ".claude"] {
        let session = Session::repository(Coi::new(), |coi| {
            fs::remove_dir_all(coi.workspace().join(".git/hooks")).unwrap();
        });
        let session = session.start(TINY);
        // Beside it, so that it comes all at once; it may stand still before this has ended.
        let script =
            format!("mkdir {path}.new && echo evil >{path}.new/settings.json && mv {path}.new {path}");
        let made = Running::start(&mut incus(&[
            "exec",
            &session.coi.container(),
            "--cwd",
            "/workspace",
            "--",
            "sh",
            "-c",
            &script,
        ]));
        session.assert_frozen(path);
        let record = session.records().into_iter().find(|record| record["by"] == "inside").unwrap();
        assert_eq!((&record["change"], &record["now"]), (&"made".into(), &"held".into()));
        session.coi.coi(&["unfreeze", &session.coi.container()]).expect(0);
        made.finish();
        // Whoever has looked at it lets it go on; it is protected now.
        for user in [USER, 0] {
            assert_ne!(session.inside(user, &format!("echo evil >>{path}/settings.json")).code, 0);
        }
        session.finish();
    }
}

/// What root inside takes away that was put right during the session is put right again, and it stands still.
#[test]
fn what_was_put_right_cannot_be_taken_away_unnoticed() {
    let session = Session::repository(Coi::new(), |_| ()).start(TINY);
    session.git(&["config", "alias.st", "status"]);
    session.assert_held_again(".git/config", "replaced");
    session.inside(0, "umount /workspace/.git/config").expect(0);
    session.assert_frozen(".git/config");
    session.coi.coi(&["unfreeze", &session.coi.container()]).expect(0);
    assert_ne!(session.inside(USER, "echo evil >>.git/config").code, 0);
    session.finish();
}

/// Root there can have the whole workspace go from its place; what is changed then cannot be put right there.
#[test]
fn a_workspace_that_was_hidden_stops_with_the_next_change() {
    let session = Session::repository(Coi::new(), |_| ()).start(TINY);
    session.inside(0, "umount -l /workspace").expect(0);
    session.git(&["config", "alias.st", "status"]);
    session.assert_frozen(".git/config");
    incus::delete(&session.coi.container());
    drop(session.gate);
    session.run.unwrap().finish();
}

/// A copy of the workspace that root inside has made beforehand is found.
#[test]
fn a_copy_made_beforehand_is_protected_again_too() {
    let session = Session::repository(Coi::new(), |_| ()).start(DEFAULT);
    session.inside(0, "mkdir /tmp/copy && mount --rbind /workspace /tmp/copy").expect(0);
    let other = "unshare -m sh -c 'sleep 1000' </dev/null >/dev/null 2>&1 &";
    session.inside(0, other).expect(0);
    session.git(&["config", "alias.st", "status"]);
    session.assert_held_again(".git/config", "replaced");
    for user in [USER, 0] {
        assert_ne!(session.inside(user, "echo evil >>/tmp/copy/.git/config").code, 0, "{user}");
    }
    let enter = "for pid in /proc/[0-9]*; do
        if grep -q sleep $pid/cmdline 2>/dev/null; then nsenter -m -t ${pid#/proc/} sh -c 'echo evil >>/workspace/.git/config' && echo got; fi
    done 2>/dev/null; true";
    assert_eq!(session.inside(0, enter).expect(0).text(), "");
    session.finish();
}

#[test]
fn a_symbolic_link_in_the_way_is_refused() {
    for (link, said) in [(".git", ".git is a symbolic link"), (".claude", ".claude is a symbolic link")] {
        let coi = Coi::new();
        let elsewhere = coi.workspace().join("elsewhere");
        fs::create_dir_all(elsewhere.join("hooks")).unwrap();
        symlink("elsewhere", coi.workspace().join(link)).unwrap();
        coi.run(TINY, &["true"]).expect(1).says(said);
        assert_eq!(incus::of_workspace(coi.workspace()), Vec::<String>::new());
    }
}

/// Somebody who swaps a directory for a link while its mounts are made gains nothing by it.
#[test]
fn a_link_that_is_swapped_in_meanwhile_gains_nothing() {
    let session = Session::repository(Coi::new(), |_| ());
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir(outside.path().join("hooks")).unwrap();
    fs::write(outside.path().join("config"), "").unwrap();
    symlink(outside.path(), session.at("link")).unwrap();
    let workspace = session.coi.workspace().to_str().unwrap().to_owned();
    let stop = AtomicBool::new(false);
    let swap = || {
        // Atomically, there and back.
        let (git, link) = (session.at(".git"), session.at("link"));
        while !stop.load(Ordering::Relaxed) {
            renameat2(AT_FDCWD, &git, AT_FDCWD, &link, RenameFlags::RENAME_EXCHANGE).unwrap();
        }
        // An odd number of times, perhaps.
        if git.is_symlink() {
            renameat2(AT_FDCWD, &git, AT_FDCWD, &link, RenameFlags::RENAME_EXCHANGE).unwrap();
        }
    };
    let wanted = json!({ "workspace": workspace, "protected": [".git/hooks", ".git/config"] }).to_string();
    let refused = std::thread::scope(|scope| {
        scope.spawn(swap);
        let tries = (0..50).filter(|_| {
            let (status, tree) = post(&session.coi.daemon().socket(), "/v1/trees", &wanted);
            if status == 422 {
                return true;
            }
            assert_eq!(status, 200, "{tree}");
            let spot = text(&tree["workspace"]);
            let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", incus::pid())).unwrap();
            let made = mounts.lines().filter(|mount| mount.contains(&spot));
            for root in made.map(|mount| mount.split(' ').nth(3).unwrap()) {
                assert!(root.starts_with(&workspace), "a link was followed to {root}");
            }
            let id = text(&tree["id"]);
            assert_eq!(
                incus::call(session.coi.daemon().socket(), "DELETE", &format!("/v1/trees/{id}")).0,
                200
            );
            false
        });
        let refused = tries.count();
        stop.store(true, Ordering::Relaxed);
        refused
    });
    println!("{refused} of 50 were refused");
}

/// A call with a body.
fn post(socket: &Path, target: &str, body: &str) -> (u16, Value) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let length = body.len();
    let head = format!(
        "POST {target} HTTP/1.0\r\nHost: e2e\r\ncontent-type: application/json\r\ncontent-length: {length}"
    );
    write!(stream, "{head}\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
    (status, serde_json::from_str(body).unwrap_or_default())
}

#[test]
fn the_next_daemon_takes_it_up_again() {
    let coi = Coi::with_daemon(&[]);
    let mut session = Session::repository(coi, |_| ()).start(TINY);
    // Who launched it would start another daemon.
    let run = session.run.take().unwrap();
    run.signal(Signal::SIGKILL);
    run.finish();
    session.coi.daemon().kill();
    let name = session.coi.container();
    let cgroup = incus::cgroups().join(format!("lxc.payload.{name}"));
    let is_frozen = || fs::read_to_string(cgroup.join("cgroup.events")).unwrap().contains("frozen 1");
    eventually("the guard has frozen it", is_frozen);
    session.coi.daemon().start_again();
    eventually("it runs", || session.state() == "running");
    session.git(&["config", "alias.st", "status"]);
    session.assert_held_again(".git/config", "replaced");

    // What changes while nobody looks is told, and a person is asked.
    session.coi.daemon().kill();
    eventually("the guard has frozen it", is_frozen);
    session.git(&["config", "alias.br", "branch"]);
    session.coi.daemon().start_again();
    session.assert_frozen(".git/config");
    session.coi.coi(&["unfreeze", &name]).expect(0);
    assert_ne!(session.inside(0, "echo evil >>.git/config").code, 0);
    incus::delete(&name);
    drop(session.gate);
}

#[test]
fn a_worktree_is_protected_by_its_file() {
    let session = Session::repository(Coi::new(), |_| ());
    session.git(&["commit", "--allow-empty", "--quiet", "--message", "x"]);
    let worktree = session.at("tree");
    session.git(&["worktree", "add", "--quiet", worktree.to_str().unwrap()]);
    let ended = end(session.coi.command(&["run", "--image", TINY, "--workspace"]).arg(&worktree).args([
        "--",
        "sh",
        "-c",
        "echo evil >.git; mv .git other; echo 'gitdir: /workspace/evil' >.git",
    ]));
    assert_ne!(ended.code, 0);
    assert!(ended.stderr.contains("the workspace's .git is a file"), "{}", ended.stderr);
    assert!(fs::read_to_string(worktree.join(".git")).unwrap().contains("/.git/worktrees/tree"));
}
