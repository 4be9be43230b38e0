//! The configuration: every setting does what it says, by `coi run` and by `coi shell`, from a file and from a flag; and a
//! stranger's repository gains nothing by it.

#![expect(clippy::unwrap_used, reason = "what fails here is a test")]

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use coi_tests::incus::Foreign;
use coi_tests::{Coi, DEFAULT, Ended, Gate, Running, SMALL, TINY, Terminal, USER, end, eventually, incus};
use serde_json::Value;

/// How a setting is seen to have been honoured.
enum Seen {
    /// A command in the container says this.
    Inside(&'static str, &'static str),
    /// Incus has this key for the container.
    Key(&'static str, &'static str),
    /// Incus has this key for its disk.
    Disk(&'static str, &'static str),
}
use Seen::{Disk, Inside, Key};

/// A setting, as a file and as a flag have it.
struct Row(&'static str, &'static str, Option<&'static str>, Seen);

/// All settings but those that have a test of their own.
const TABLE: &[Row] = &[
    Row("container.image", "'coi-default'", Some("--image=coi-default"), Key("user.coi.image", DEFAULT)),
    Row("container.docker", "true", None, Key("security.nesting", "true")),
    Row("defaults.profile", "'mine'", Some("--profile=mine"), Inside("echo $OF_PROFILE", "yes")),
    Row(
        "defaults.forward_env",
        "['FORWARDED', 'UNSET']",
        None,
        Inside("echo $FORWARDED ${UNSET-unset}", "on unset"),
    ),
    Row(
        "defaults.environment",
        "{ GIVEN = 'a  b', LANG = 'C' }",
        Some("--env='GIVEN=a  b' --env=LANG=C"),
        Inside("echo \"$GIVEN $LANG\"", "a  b C"),
    ),
    Row("limits.cpu.count", "'1'", Some("--limit-cpu=1"), Key("limits.cpu", "1")),
    Row(
        "limits.cpu.allowance",
        "'50%'",
        Some("--limit-cpu-allowance=50%"),
        Key("limits.cpu.allowance", "50%"),
    ),
    Row("limits.cpu.priority", "5", Some("--limit-cpu-priority=5"), Key("limits.cpu.priority", "5")),
    Row("limits.memory.limit", "'1GiB'", Some("--limit-memory=1GiB"), Key("limits.memory", "1GiB")),
    Row(
        "limits.memory.enforce",
        "'hard'",
        Some("--limit-memory-enforce=hard"),
        Key("limits.memory.enforce", "hard"),
    ),
    Row(
        "limits.memory.swap",
        "'false'",
        Some("--limit-memory-swap=false"),
        Key("limits.memory.swap", "false"),
    ),
    Row("limits.disk.size", "'9GiB'", Some("--limit-disk-size=9GiB"), Disk("size", "9GiB")),
    Row("limits.runtime.max_processes", "900", Some("--limit-processes=900"), Key("limits.processes", "900")),
    Row("git.name", "'Ann \"A\" Other'", None, Inside("git config user.name", "Ann \"A\" Other")),
    Row("git.email", "'ann@example.org'", None, Inside("git config user.email", "ann@example.org")),
    Row("network.mode", "'open'", None, Inside("ip -4 route show default | cut -d' ' -f1", "default")),
    // No keys in it: the answer of an agent.
    Row(
        "ssh.forward_agent",
        "true",
        None,
        Inside(
            // Incus's proxy ends a connection of which one side is shut, so it is held until there is an answer.
            "mkfifo /tmp/hold$$; { printf '\\0\\0\\0\\1\\13'; cat /tmp/hold$$; } | timeout 20 nc -UN $SSH_AUTH_SOCK | \
             { head -c 9 | od -An -tx1; : >/tmp/hold$$; }",
            " 00 00 00 05 0c 00 00 00 00",
        ),
    ),
    // Which paths there are, and what they hold, is in `by_both`.
    Row(
        "security.protected_paths",
        "['guarded', '.vscode', '.husky']",
        None,
        Inside("touch guarded/x 2>&1 | grep -c Read-only", "1"),
    ),
    Row(
        "security.additional_protected_paths",
        "['kept']",
        None,
        Inside("touch kept/x 2>&1 | grep -c Read-only", "1"),
    ),
    Row("security.writable_paths", "['.vscode']", None, Inside("touch .vscode/x && echo may", "may")),
    Row("git.writable_hooks", "true", None, Inside("touch .husky/x && echo may", "may")),
    Row("security.secret_paths", "['secret']", None, Inside("wc -c <secret", "0")),
    Row("security.mask_env", "true", None, Inside("wc -c <.env", "0")),
    Row(
        "mounts.default",
        "[{ host = '~/shared', container = '/seen', readonly = true }]",
        None,
        Inside("echo $(cat /seen/file; touch /seen/x 2>&1 | grep -c Read-only)", "shared 1"),
    ),
    Row(
        "paths.preserve_workspace_path",
        "true",
        None,
        Inside("case $PWD in /workspace*) echo another;; *) echo same;; esac", "same"),
    ),
    Row("timezone.mode", "'fixed'", None, Inside("date -d @0 +%H", "09")),
    Row("timezone.name", "'Asia/Tokyo'", None, Inside("date +%Z", "JST")),
];

/// Settings that the table leaves to the tests that are named.
const ELSEWHERE: &[(&str, &str)] = &[
    ("limits.disk.read", "limits_of_the_disk_are_incuss"),
    ("limits.disk.write", "limits_of_the_disk_are_incuss"),
    ("limits.disk.max", "limits_of_the_disk_are_incuss"),
    ("limits.disk.priority", "limits_of_the_disk_are_incuss"),
    ("container.persistent", "what_is_kept_and_for_how_long_it_runs"),
    ("container.shutdown_timeout", "what_is_kept_and_for_how_long_it_runs"),
    ("limits.runtime.max_duration", "what_is_kept_and_for_how_long_it_runs"),
    // `coi run` has no agent; `coi shell` has the table's bash by one and by the other.
    ("tool.name", "every_setting_of_a_file_holds_for_both_commands"),
    ("tool.permission_mode", "an_agent_asks_if_it_is_to"),
    // They have a file of tests of their own: agents.rs.
    ("tool.auto_context", "what_an_agent_is_told_and_what_it_is_not"),
    ("git.seed_host_identity", "commits_are_by_whoever_works_on_the_host"),
    // They have a file of tests of their own: build.rs.
    ("container.build.base", "the_image_of_a_profile"),
    ("container.build.agents", "the_image_of_a_profile"),
    ("container.build.commands", "the_image_of_a_profile"),
    ("container.build.compression", "the_image_of_a_profile"),
    ("container.build.docker", "the_whole_of_it"),
    // It has a file of tests of its own: unmonitored.rs.
    ("monitoring.enabled", "a_hostile_workspace_is_refused"),
];

/// What the container is asked, one line each.
fn questions() -> String {
    let inside = TABLE.iter().filter_map(|row| match row.3 {
        Inside(command, _) => Some(format!("{command}\n")),
        _ => None,
    });
    inside.collect()
}

/// Asserts that a container is as the table has it, and what it has answered.
#[track_caller]
fn assert_honoured(name: &str, answers: &str) {
    let instance = incus::instance(name).unwrap();
    let disk = instance["devices"].as_object().unwrap().values().find(|device| device["path"] == "/");
    let mut answers = answers.lines();
    for Row(setting, _, _, seen) in TABLE {
        let (is, wanted) = match seen {
            Inside(_, wanted) => (answers.next().unwrap_or("nothing"), wanted),
            Key(key, wanted) => (instance["config"][key].as_str().unwrap_or("nothing"), wanted),
            Disk(key, wanted) => (disk.unwrap()[key].as_str().unwrap_or("nothing"), wanted),
        };
        assert_eq!(is, *wanted, "{setting} in {name}");
    }
    assert_eq!(answers.next(), None);
}

/// A real agent, without keys.
struct Agent(Child, tempfile::TempDir);

impl Agent {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut agent = Command::new("ssh-agent");
        agent.arg("-D").arg("-a").arg(dir.path().join("agent")).stdout(Stdio::null());
        let agent = Self(agent.spawn().unwrap(), dir);
        eventually("the agent listens", || agent.socket().exists());
        agent
    }

    fn socket(&self) -> PathBuf {
        self.1.path().join("agent")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn user(coi: &Coi, text: &str) {
    fs::create_dir_all(coi.home().join(".coi")).unwrap();
    fs::write(coi.home().join(".coi/config.toml"), text).unwrap();
}

/// Writes the workspace's configuration, as its owner.
fn workspace(coi: &Coi, text: &str) {
    let directory = coi.workspace().join(".coi");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("config.toml"), text).unwrap();
    for path in [&directory, &directory.join("config.toml")] {
        chown(path, Some(USER), Some(USER)).unwrap();
    }
}

/// Has both commands make a container as the table has it.
fn by_both(coi: &Coi, flags: &str) {
    let profile = coi.home().join(".coi/profiles/mine");
    fs::create_dir_all(&profile).unwrap();
    fs::write(profile.join("config.toml"), "[environment]\nOF_PROFILE = 'yes'\n").unwrap();
    fs::create_dir_all(coi.home().join("shared")).unwrap();
    fs::write(coi.home().join("shared/file"), "shared\n").unwrap();
    for directory in ["guarded", "kept", ".vscode", ".husky"] {
        let path = coi.workspace().join(directory);
        fs::create_dir_all(&path).unwrap();
        chown(path, Some(USER), Some(USER)).unwrap();
    }
    for file in ["secret", ".env"] {
        coi.write(file, "what nobody is to see\n");
    }
    coi.write("questions", questions());
    let agent = Agent::start();
    let name = coi.container();
    let gate = Gate::new(coi, "gate");
    let line = format!("exec \"$0\" run {flags} -- sh -c 'sh ./questions >by-run 2>&1; read x <gate'");
    let mut run = Command::new("sh");
    run.args(["-c", &line]).arg(coi_tests::program());
    let own = coi.command(&[]);
    run.envs(own.get_envs().filter_map(|(key, value)| Some((key, value?)))).current_dir(coi.workspace());
    let run = Running::start(run.env("FORWARDED", "on").env("SSH_AUTH_SOCK", agent.socket()));
    let gate = gate.reached();
    assert_honoured(&name, &fs::read_to_string(coi.workspace().join("by-run")).unwrap());
    gate.open();
    run.finish().expect(0);

    let terminal = Terminal::open(coi);
    let socket = agent.socket();
    let line =
        format!("FORWARDED=on SSH_AUTH_SOCK={} coi shell {flags}; echo \"o\"\"ver:$?\"", socket.display());
    terminal.enter(&line);
    terminal.until("code@");
    terminal.enter("sh ./questions >by-shell 2>&1; echo \"ans\"\"wered\"");
    terminal.until("answered");
    assert_honoured(&name, &fs::read_to_string(coi.workspace().join("by-shell")).unwrap());
    terminal.enter("exit 0");
    terminal.until("over:0");
}

#[test]
fn every_setting_of_a_file_holds_for_both_commands() {
    let coi = Coi::new();
    let mut rows: Vec<_> = TABLE.iter().map(|row| format!("{} = {}\n", row.0, row.1)).collect();
    rows.dedup();
    rows.push("tool.name = 'bash'\n".to_owned());
    user(&coi, &rows.concat());
    by_both(&coi, "");
}

#[test]
fn every_flag_goes_before_the_file_for_both_commands() {
    let coi = Coi::new();
    let without = TABLE.iter().filter(|row| row.2.is_none());
    let mut rows: Vec<_> = without.map(|row| format!("{} = {}\n", row.0, row.1)).collect();
    rows.dedup();
    // What flags are to replace.
    rows.push(
        "container.image = 'no-such-image'\nlimits.memory.limit = '2GiB'\nlimits.cpu.count = '2'\n"
            .to_owned(),
    );
    user(&coi, &rows.concat());
    let flags: Vec<_> = TABLE.iter().filter_map(|row| row.2).collect();
    by_both(&coi, &(flags.join(" ") + " --tool=bash"));
}

/// The table and the settings there are.
#[test]
fn no_setting_is_without_a_test() {
    let coi = Coi::new();
    let shown = coi.coi(&["config", "show", "--format", "json"]).expect(0);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let tested = |name: &str| {
        TABLE.iter().any(|row| row.0 == name) || ELSEWHERE.iter().any(|(other, _)| *other == name)
    };
    let untested: Vec<_> = shown.as_object().unwrap().keys().filter(|name| !tested(name)).collect();
    assert!(untested.is_empty(), "{untested:?}");
    let help = coi.coi(&["shell", "--help"]).expect(0).text();
    let flags = help.lines().filter_map(|line| line.split("[setting: ").nth(1)?.split(']').next());
    for name in flags {
        let has_flag = TABLE.iter().any(|row| row.0 == name && row.2.is_some());
        assert!(has_flag || ELSEWHERE.iter().any(|(other, _)| *other == name), "the flag for {name}");
    }
}

/// Where the machine's cgroups cannot enforce them, Incus starts nothing, and so does COI.
#[test]
fn limits_of_the_disk_are_incuss() {
    let coi = Coi::new();
    let all = [
        ("limits.disk.read = '50MiB/s'\n", "--limit-disk-read=50MiB/s", "--device=root,limits.read=50MiB"),
        (
            "limits.disk.write = '900iops'\n",
            "--limit-disk-write=900iops",
            "--device=root,limits.write=900iops",
        ),
        ("limits.disk.max = '50MiB/s'\n", "--limit-disk-max=50MiB/s", "--device=root,limits.max=50MiB"),
        ("limits.disk.priority = 3\n", "--limit-disk-priority=3", "--config=limits.disk.priority=3"),
    ];
    for (file, flag, option) in all {
        let foreign = Foreign::make(TINY);
        let words: Vec<_> = option.split_once('=').unwrap().1.split(['=', ',']).collect();
        let name = &foreign.name;
        let set = match words[..] {
            ["root", key, value] => {
                incus::incus(&["config", "device", "override", name, "root", &format!("{key}={value}")])
            }
            [key, value] => incus::incus(&["config", "set", name, key, value]),
            _ => unreachable!("{option}"),
        };
        // Some are refused at once, some when it starts.
        let set = end(&mut { set });
        let can = if set.code == 0 { end(&mut incus::incus(&["start", name])) } else { set };
        let why = can.stderr.lines().next().unwrap_or_default().trim_start_matches("Error: ").to_owned();
        user(&coi, file);
        let by_file = coi.run(TINY, &["true"]);
        user(&coi, "");
        let by_flag = coi.coi(&["run", "--image", TINY, flag, "--", "true"]);
        for ended in [by_file, by_flag] {
            ended.expect(can.code).says(why.rsplit(": ").next().unwrap());
        }
    }
    // The other command asks for the same.
    let flags = all.map(|(_, flag, _)| flag).join(" ");
    let by_run = coi.coi(&[&["run"][..], &all.map(|(_, flag, _)| flag), &["--", "true"]].concat());
    let terminal = Terminal::open(&coi);
    terminal.enter(&format!("coi shell --tool bash --image {SMALL} {flags}; echo \"o\"\"ver:$?\""));
    if by_run.code == 0 {
        terminal.until("code@");
        terminal.enter("exit 0");
    }
    terminal.until(&format!("over:{}", by_run.code));
}

/// Limits that Incus takes in silence where the machine cannot enforce them.
#[test]
fn limits_hold_or_it_is_said_that_they_do_not() {
    let coi = Coi::new();
    let limits = ["--limit-memory=300MiB", "--limit-processes=99"];
    let script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max 2>/dev/null || \
                  cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max 2>/dev/null || true";
    let ended =
        coi.coi(&[&["run", "--image", TINY][..], &limits, &["--", "sh", "-c", script]].concat()).expect(0);
    if ended.text() != "314572800\n99\n" {
        assert_eq!(ended.text(), "");
        ended
            .says("limits.memory.limit is set, and this")
            .says("limits.runtime.max_processes is set, and this");
    }
}

#[test]
fn what_is_kept_and_for_how_long_it_runs() {
    let coi = Coi::new();
    let name = coi.container();
    // Longer than it takes here until a command runs: what is stopped before is not kept.
    let begun = Instant::now();
    coi.run(TINY, &["true"]).expect(0);
    let most = 2 + 2 * begun.elapsed().as_secs();
    user(
        &coi,
        &format!(
            "container.image = '{SMALL}'\ncontainer.persistent = true\ncontainer.shutdown_timeout = 1\n\
             limits.runtime.max_duration = '{most}s'\n"
        ),
    );
    let ended = coi.run(TINY, &["sleep", "1000"]);
    assert_ne!(ended.code, 0);
    eventually("it is stopped, and kept", || incus::status(&name) == "Stopped");
    coi.coi(&["kill", &name]).expect(0);
    let ended = coi.coi(&["run", "--image", TINY, "--persistent=false", "--", "sleep", "1000"]);
    assert_ne!(ended.code, 0);
    eventually("it is gone", || incus::instance(&name).is_none());

    let terminal = Terminal::open(&coi);
    terminal.enter("coi shell --tool bash; echo \"en\"\"ded:$?\"");
    terminal.until("ended:");
    eventually("it is stopped, and kept", || incus::status(&name) == "Stopped");
    coi.coi(&["kill", &name]).expect(0);
    user(&coi, "");
    let flags = format!("--image {SMALL} --persistent --limit-duration={most}s");
    terminal.enter(&format!("coi shell --tool bash {flags}; echo \"again\"\"ended:$?\""));
    terminal.until("againended:");
    eventually("it is stopped, and kept", || incus::status(&name) == "Stopped");
    coi.coi(&["kill", &name]).expect(0);
}

#[test]
fn an_agent_asks_if_it_is_to() {
    let coi = Coi::new();
    for mode in ["bypass", "interactive"] {
        user(&coi, &format!("tool.name = 'bash'\ntool.permission_mode = '{mode}'\n"));
        let name =
            coi.coi(&["shell", "--background", "--image", SMALL]).expect(0).text().trim_end().to_owned();
        // Incus loses what a short command has said now and then.
        let is_told = || {
            let mut context = incus::exec(&name, "/", &["cat", "/home/code/SANDBOX_CONTEXT.json"]);
            let context = serde_json::from_slice::<Value>(&end(&mut context).expect(0).stdout);
            context.is_ok_and(|context| context["permission_mode"] == mode)
        };
        eventually("the mode is told", is_told);
        coi.coi(&["kill", &name]).expect(0);
    }
}

#[test]
fn commits_are_by_whoever_works_on_the_host() {
    let coi = Coi::new();
    fs::write(coi.home().join(".gitconfig"), "[user]\nname = Of The Host\nemail = host@example.org\n")
        .unwrap();
    // What a repository says about itself is none of it, nor what it would have run.
    coi.write("ran", "");
    user(&coi, "git.email = 'set@example.org'\n");
    let identity =
        |coi: &Coi| coi.run(DEFAULT, &["sh", "-c", "git config user.name; git config user.email"]).text();
    assert_eq!(identity(&coi), "Of The Host\nset@example.org\n");
    // The container's own goes first, and what is not to be told is not told.
    let own = "git config --global user.name Own; git config user.name";
    assert_eq!(coi.run(DEFAULT, &["sh", "-c", own]).expect(0).text(), "Own\n");
    user(&coi, "git.seed_host_identity = false\n");
    assert_eq!(identity(&coi), "");
}

#[test]
fn time_zones_hold_where_none_is_known() {
    let coi = Coi::new();
    let hour = |coi: &Coi| coi.run(TINY, &["date", "-d", "@0", "+%H"]).expect(0).text();
    user(&coi, "[timezone]\nmode = 'fixed'\nname = 'Asia/Tokyo'\n");
    assert_eq!(hour(&coi), "09\n");
    user(&coi, "[timezone]\nmode = 'utc'\nname = 'Asia/Tokyo'\n");
    assert_eq!(hour(&coi), "00\n");
    user(&coi, "[timezone]\nmode = 'fixed'\nname = 'Asia/Atlantis'\n");
    coi.run(TINY, &["true"]).expect(6).says("there is no time zone Asia/Atlantis");
}

#[test]
fn without_an_agent_it_goes_on_and_says_so() {
    let coi = Coi::new();
    user(&coi, "ssh.forward_agent = true\n");
    let mut run = coi.command(&["run", "--image", TINY, "--", "sh", "-c", "echo ${SSH_AUTH_SOCK-none}"]);
    let ended =
        Running::start(run.env_remove("SSH_AUTH_SOCK")).finish().expect(0).says("there is none inside");
    assert_eq!(ended.text(), "none\n");
}

/// Asserts that nothing is made, what is said, and that it steers no terminal.
#[track_caller]
fn refused(coi: &Coi, words: &[&str]) {
    let ended = coi.run(TINY, &["touch", "it-ran"]).expect(6);
    let ended = words.iter().fold(ended, |ended: Ended, words| ended.says(words));
    assert!(!ended.stderr.contains('\u{1b}'), "{}", ended.stderr);
    assert_eq!(incus::of_workspace(coi.workspace()), Vec::<String>::new());
    assert!(!coi.workspace().join("it-ran").exists());
    let watches = coi.ask("/v1/watches").1;
    let watched = watches.as_array().unwrap().iter().any(|watch| watch["name"] == coi.container().as_str());
    assert!(!watched, "what does not run is watched");
}

#[test]
fn a_hostile_workspace_is_refused() {
    let coi = Coi::new();
    const TRUST: &str = "`coi trust` shows what it asks for";
    for (text, words) in [
        ("[defaults]\nforward_env = ['AWS_SECRET_ACCESS_KEY']\n", &["`defaults.forward_env = ", TRUST][..]),
        ("[environment]\nANTHROPIC_BASE_URL = 'http://192.0.2.1'\n", &["`defaults.environment = ", TRUST]),
        ("[ssh]\nforward_agent = true\n", &["`ssh.forward_agent = ", TRUST]),
        ("[git]\nseed_host_identity = false\nname = 'x'\n", &["`git.name = ", TRUST]),
        ("[container]\ndocker = true\n", &["`container.docker = ", TRUST]),
        ("[monitoring]\nenabled = false\n", &["`monitoring.enabled = ", TRUST]),
        (
            "[container]\nimage = 'coi-default'\n[limits.memory]\nlimit = '1GiB'\nenforce = 'soft'\n",
            &["`limits.memory.enforce = ", TRUST],
        ),
        ("[defaults]\nprofile = 'theirs'\n", &["`theirs`"]),
        (
            "[rules.reverse-shell-socket]\nenabled = false\n",
            &["there is no setting `rules`", ".coi/rules/NAME.toml"],
        ),
        ("[monitor]\non_monitor_loss = 'continue'\n", &["the daemon's"]),
        ("[container]\nprivileged = true\n", &["never privileged"]),
        ("[incus]\nconfig = { 'security.privileged' = 'true' }\n", &["never privileged"]),
        ("[network]\nmode = 'restricted'\n", &["cannot be limited yet"]),
        ("[contaner]\nimage = '\\u001b[2J'\n", &["did you mean `container`?"]),
        ("[git]\nname = '\u{1b}]0;x\u{7}'\n", &["this is not TOML"]),
    ] {
        workspace(&coi, text);
        refused(&coi, words);
    }
    // The other command says the same.
    workspace(&coi, "[ssh]\nforward_agent = true\n");
    let terminal = Terminal::open(&coi);
    terminal.enter("coi shell --tool bash; echo \"re\"\"fused:$?\"");
    let screen = terminal.until("refused:6");
    assert!(screen.contains("ssh.forward_agent") && screen.contains("coi trust"), "{screen}");
    assert_eq!(incus::of_workspace(coi.workspace()), Vec::<String>::new());
}

#[test]
fn a_workspace_leads_nowhere_else() {
    let coi = Coi::new();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("config.toml"), "[ssh]\nforward_agent = true\n").unwrap();
    symlink(elsewhere.path(), coi.workspace().join(".coi")).unwrap();
    refused(&coi, &["/.coi is a symbolic link"]);
    fs::remove_file(coi.workspace().join(".coi")).unwrap();
    fs::create_dir(coi.workspace().join(".coi")).unwrap();
    symlink(elsewhere.path().join("config.toml"), coi.workspace().join(".coi/config.toml")).unwrap();
    refused(&coi, &["/.coi/config.toml is a symbolic link"]);
    fs::remove_file(coi.workspace().join(".coi/config.toml")).unwrap();
    // A hard link to what only root may read, such as a test's own file.
    let secret = elsewhere.path().join("secret");
    fs::write(&secret, "password").unwrap();
    chown(&secret, Some(4711), Some(4711)).unwrap();
    if fs::hard_link(&secret, coi.workspace().join(".coi/config.toml")).is_ok() {
        refused(&coi, &["belongs to uid 4711"]);
    } else {
        fs::copy(&secret, coi.workspace().join(".coi/config.toml")).unwrap();
        chown(coi.workspace().join(".coi/config.toml"), Some(4711), Some(4711)).unwrap();
        refused(&coi, &["belongs to uid 4711"]);
    }
}

#[test]
fn what_is_trusted_is_had_until_it_changes() {
    let coi = Coi::new();
    let variable = |coi: &Coi| coi.run(TINY, &["sh", "-c", "echo $OF_WORKSPACE"]);
    workspace(&coi, "[environment]\nOF_WORKSPACE = 'one'\n");
    variable(&coi).expect(6);
    let asked = coi.coi(&["trust"]).expect(2).says("say --yes");
    assert!(asked.text().contains("defaults.environment = { OF_WORKSPACE = \"one\" }"), "{}", asked.text());
    variable(&coi).expect(6);
    let terminal = Terminal::open(&coi);
    terminal.enter("coi trust; echo \"de\"\"cided:$?\"");
    terminal.until("trust this? [y/N]");
    terminal.enter("n");
    terminal.until("decided:1");
    variable(&coi).expect(6);
    coi.coi(&["trust", "--yes"]).expect(0);
    assert_eq!(variable(&coi).expect(0).text(), "one\n");
    coi.coi(&["trust"]).expect(0).says("trusted already");
    let list = coi.coi(&["trust", "--list", "--format", "json"]).expect(0);
    let list: Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!(list[0]["asks"][0], "defaults.environment = { OF_WORKSPACE = \"one\" }");
    // What runs inside changes it.
    let change = "cd .coi && sed s/one/two/ config.toml >new && cat new >config.toml";
    let changed = coi.run(TINY, &["sh", "-c", change]);
    if changed.code != 0 {
        // It cannot even do that where the path is protected.
        workspace(&coi, "[environment]\nOF_WORKSPACE = 'two'\n");
    }
    variable(&coi).expect(6).says("it has changed since it was trusted");
    coi.coi(&["trust", "--yes"]).expect(0);
    assert_eq!(variable(&coi).expect(0).text(), "two\n");
    coi.coi(&["untrust"]).expect(0).says("is trusted no more");
    variable(&coi).expect(6);
    assert!(coi.coi(&["trust", "--list"]).expect(0).text().is_empty());
}

#[test]
fn what_is_in_force_is_shown_with_where_it_comes_from() {
    let coi = Coi::new();
    user(&coi, "[container]\nimage = 'coi-tiny'\n[environment]\nA = '1'\n");
    let mut show = coi.command(&["config", "show", "--origin", "--env", "B=2", "--profile", "hardened"]);
    let shown = Running::start(show.env("COI_LIMITS_CPU_COUNT", "1")).finish().expect(0).text();
    let file = coi.home().join(".coi/config.toml");
    for line in [
        &format!("container.image = \"coi-tiny\"  # user: {}:2:9", file.display()),
        "container.docker = false  # profile: built in: hardened:4:10",
        "limits.cpu.count = \"1\"  # environment: COI_LIMITS_CPU_COUNT",
        "  B = \"2\",  # flag: --env",
        "ssh.forward_agent = false  # profile: ",
        "network.mode = \"open\"  # built in",
    ] {
        assert!(shown.contains(line), "{line}\n{shown}");
    }
    let schema = coi.coi(&["config", "schema"]).expect(0);
    let schema: Value = serde_json::from_slice(&schema.stdout).unwrap();
    assert_eq!(schema["properties"]["container"]["properties"]["image"]["default"], "coi-default");
    // What is in force runs.
    assert_eq!(coi.coi(&["run", "--", "sh", "-c", "echo $A; ls /etc/debian_version"]).text(), "1\n");
}

#[test]
fn profiles_are_made_listed_and_checked() {
    let coi = Coi::new();
    let file = coi.coi(&["profile", "create", "rust-dev", "--inherits", "hardened"]).expect(0).text();
    assert_eq!(file.trim_end(), coi.home().join(".coi/profiles/rust-dev/config.toml").to_str().unwrap());
    coi.coi(&["profile", "create", "rust-dev"]).expect(2).says("there is a profile `rust-dev` already");
    coi.coi(&["profile", "create", "../up"]).expect(2);
    coi.coi(&["profile", "create", "lost", "--inherits", "hardned"])
        .expect(6)
        .says("did you mean `hardened`?");
    coi.coi(&["profile", "create", "shared", "--project"]).expect(0);
    let list = coi.coi(&["profile", "list", "--format", "json"]).expect(0);
    let list: Value = serde_json::from_slice(&list.stdout).unwrap();
    let rows: Vec<_> =
        list.as_array().unwrap().iter().map(|row| format!("{} {}", row["name"], row["from"])).collect();
    assert_eq!(
        rows,
        [
            "\"default\" \"builtin\"",
            "\"hardened\" \"builtin\"",
            "\"rust-dev\" \"user\"",
            "\"shared\" \"workspace\""
        ]
    );
    let info = coi.coi(&["profile", "info", "rust-dev"]).expect(0).text();
    assert!(info.starts_with("rust-dev, which builds on hardened\n"), "{info}");
    coi.coi(&["profile", "validate"])
        .expect(0)
        .says("nothing is wrong with default, hardened, rust-dev, shared");
    fs::write(file.trim_end(), "inherits = 'rust-dev'\n").unwrap();
    coi.coi(&["profile", "validate", "rust-dev"]).expect(6).says("without end");
    coi.coi(&["run", "--profile", "rust-dev", "--", "true"]).expect(6).says("without end");
    coi.coi(&["profile", "validate", file.trim_end()]).expect(0);
    // The same name twice is nobody's.
    fs::create_dir_all(coi.home().join(".coi/profiles/shared")).unwrap();
    fs::write(coi.home().join(".coi/profiles/shared/config.toml"), "").unwrap();
    coi.coi(&["run", "--profile", "shared", "--", "true"]).expect(6).says("there are two profiles `shared`");
}
