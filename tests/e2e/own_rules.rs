//! Rules that a user and a workspace bring: they hold for what they came with, and make nothing milder that they may
//! not.

#![expect(clippy::unwrap_used, reason = "what fails here is a test")]

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::Path;
use std::process::Command;

use coi_tests::{
    Cgroup, Coi, Gate, Reached, TINY, USER, Viewer, copy_program, end, eventually, fired, incus, program,
};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// A rule that is told of, about a program of this name.
fn rule(id: &str, name: &str) -> String {
    format!(
        "[[rule]]\nid = \"{id}\"\ntitle = \"t\"\nseverity = \"warning\"\nevent = \"exec\"\n\
         condition = \"process.name == '{name}'\"\n"
    )
}

/// A rule about a file that no other rule looks at.
const FILE: &str = "[[rule]]\nid = \"workspace-file\"\ntitle = \"t\"\nseverity = \"warning\"\nevent = \"open\"\n\
                    condition = \"file.name == 'looked-for'\"\n";

/// A script that runs programs of these names.
fn runs(names: &[&str]) -> String {
    names.iter().map(|name| format!("cp /bin/busybox /tmp/{name}; /tmp/{name} true; ")).collect()
}

/// Writes a rule file of the workspace's.
fn workspace_rules(coi: &Coi, text: &str) {
    let file = coi.workspace_rules().join("theirs.toml");
    fs::write(&file, text).unwrap();
    chown(&file, Some(USER), Some(USER)).unwrap();
}

/// Asserts that nothing runs, nor is watched, nor is left, and what is said.
#[track_caller]
fn refused(coi: &Coi, words: &str) {
    let ended = coi.run(TINY, &["touch", "it-ran"]).expect(6).says(words);
    assert!(!ended.stderr.contains("\u{1b}"), "{}", ended.stderr);
    assert_eq!(incus::of_workspace(coi.workspace()), Vec::<String>::new());
    assert!(!coi.workspace().join("it-ran").exists());
    coi.coi(&["watch", "--", "touch", "it-ran"]).expect(6).says(words);
    assert!(!coi.workspace().join("it-ran").exists());
    let watches = coi.ask("/v1/watches").1;
    let watched = watches.as_array().unwrap().iter().any(|watch| watch["name"] == coi.container().as_str());
    assert!(!watched, "what does not run is watched");
}

#[test]
fn they_hold_for_what_they_came_with() {
    let coi = Coi::new();
    coi.user_rules("mine.toml", &rule("user-rule", "user-prog"));
    let other = coi.beside();
    workspace_rules(&coi, &(rule("workspace-rule", "ws-prog") + FILE));
    workspace_rules(&other, &rule("other-rule", "other-prog"));
    let script = runs(&["user-prog", "ws-prog", "other-prog"]) + "echo >looked-for; cat looked-for";
    // Both at once, so that each is judged while the other is.
    let gates = [&coi, &other].map(|coi| Gate::new(coi, "gate"));
    let script = script + "; read x <gate";
    let all = [&coi, &other].map(|coi| coi.start(&["run", "--image", TINY, "--", "sh", "-c", &script]));
    let gates = gates.map(Gate::reached);
    gates.into_iter().for_each(Reached::open);
    let ended = all.map(|run| run.finish().expect(0));
    let fired = [&coi, &other].map(|coi| fired(&coi.audit(&coi.container())).into_iter().collect::<Vec<_>>());
    assert_eq!(fired[0], ["user-rule", "workspace-file", "workspace-rule"]);
    assert_eq!(fired[1], ["other-rule", "user-rule"]);
    assert!(ended[0].stderr.contains("warning: rule workspace-rule: "), "{}", ended[0].stderr);
}

#[test]
fn a_command_of_the_host_and_a_cgroup_have_them_too() {
    let coi = Coi::new();
    coi.user_rules("mine.toml", &rule("user-rule", "user-prog"));
    workspace_rules(&coi, &rule("workspace-rule", "ws-prog"));
    copy_program("/bin/true", coi.workspace().join("user-prog"));
    copy_program("/bin/true", coi.workspace().join("ws-prog"));
    let watch = coi.start(&["watch", "--", "sh", "-c", "./user-prog; ./ws-prog"]);
    let name = format!("coi.watch-{}", watch.pid());
    watch.finish().expect(0);
    assert_eq!(fired(&coi.audit(&name)).into_iter().collect::<Vec<_>>(), ["user-rule", "workspace-rule"]);

    // Whose workspace a cgroup works on is not known: it has the user's.
    let cgroup = Cgroup::make("own-rules");
    let path = cgroup.path().to_str().unwrap();
    let viewer = Viewer::start(&coi, &["monitor", "--cgroup", path, "--format", "json"]);
    let line = format!("cd {}; ./ws-prog; ./user-prog", coi.workspace().display());
    end(&mut cgroup.command(&line));
    let seen = viewer.until("the alert", |event| event["rule"]["id"] == "user-rule");
    assert!(seen.iter().all(|event| event["rule"]["id"] != "workspace-rule"));
    viewer.leave().expect(0);
}

#[test]
fn a_workspace_makes_nothing_milder() {
    let coi = Coi::new();
    for (text, words) in [
        ("[rules.reverse-shell-socket]\nenabled = false\n", "this turns `reverse-shell-socket` off"),
        ("[rules.reverse-shell-socket]\nseverity = \"info\"\n", "lowers its severity from critical to info"),
        (
            "[rules.reverse-shell-socket]\nexceptions = [{ condition = \"true\", reason = \"\\u001b[2J\" }]\n",
            "this adds an exception",
        ),
        ("[lists]\nshells = [\"none\"]\n", "the list `shells` is defined twice"),
        ("[[rule]]\nid = \"reverse-shell-socket\"\n", "the rule `reverse-shell-socket` is defined twice"),
        ("[[rule]]\nid = \"\u{1b}[2J\n", "this is not TOML"),
        ("[[rule]]\nid = \"x\"\nconditon = \"true\"\n", "did you mean `condition`?"),
    ] {
        workspace_rules(&coi, text);
        refused(&coi, words);
    }
    // The user may, of COI's own rules, and says so in his own words only.
    let file = coi.workspace_rules().join("theirs.toml");
    fs::remove_file(file).unwrap();
    coi.user_rules("mine.toml", "[rules.reverse-shell-socket]\nseverity = \"info\"\n");
    coi.run(TINY, &["true"]).expect(0);
    coi.user_rules("mine.toml", "[rules.reverse-shell-sokcet]\nenabled = false\n");
    refused(&coi, "did you mean `reverse-shell-socket`?");
}

#[test]
fn what_the_administrator_has_set_stays() {
    let config = tempfile::tempdir().unwrap();
    let config = config.path().join("config.toml");
    fs::write(&config, "[rules.bulk-read-volume]\nenabled = true\n").unwrap();
    let coi = Coi::with_daemon(&["--config", config.to_str().unwrap()]);
    coi.user_rules("mine.toml", "[rules.bulk-read-volume]\nenabled = false\n");
    refused(&coi, "the administrator has set this rule");
    coi.user_rules("mine.toml", "[rules.reverse-shell-socket]\nenabled = false\n");
    coi.coi(&["watch", "--", "true"]).expect(0);
    // A watch that is still there keeps the rules that it had, and the reload says so.
    eventually("the watch is over", || coi.ask("/v1/watches").1.as_array().is_some_and(Vec::is_empty));
    fs::write(&config, "[users]\nrules = \"tighten\"\n").unwrap();
    coi.coi(&["rules", "reload"]).expect(0);
    refused(&coi, "users may only tighten rules here");
    fs::write(&config, "[rules.bulk-read-volume]\nenabled = true\n[users]\nrules = \"full\"\n").unwrap();
    coi.coi(&["rules", "reload"]).expect(0);
    coi.user_rules("mine.toml", "[rules.bulk-read-volume]\nenabled = false\n");
    coi.coi(&["watch", "--", "true"]).expect(0);
}

/// What stands in the place of a workspace's rules that are none.
#[test]
fn nothing_is_followed_and_nothing_is_waited_for() {
    let refused_with = |words: &str, put: &dyn Fn(&Path)| {
        let coi = Coi::new();
        let rules = coi.workspace_rules();
        put(&rules);
        refused(&coi, words);
        // What only looks at the rules says the same.
        coi.coi(&["rules", "check"]).expect(6).says(words);
    };
    refused_with("theirs.toml is a symbolic link", &|rules| {
        symlink("/etc/shadow", rules.join("theirs.toml")).unwrap();
    });
    refused_with(".coi/rules is a symbolic link", &|rules| {
        fs::remove_dir(rules).unwrap();
        symlink("/root", rules).unwrap();
    });
    refused_with("theirs.toml is a named pipe", &|rules| {
        mkfifo(&rules.join("theirs.toml"), Mode::S_IRWXU).unwrap();
    });
    refused_with("together larger than 256 KiB", &|rules| {
        let file = fs::File::create(rules.join("theirs.toml")).unwrap();
        file.set_len(1 << 40).unwrap();
        chown(rules.join("theirs.toml"), Some(USER), Some(USER)).unwrap();
    });
    refused_with("belongs to uid 4711", &|rules| {
        fs::write(rules.join("theirs.toml"), "").unwrap();
        chown(rules.join("theirs.toml"), Some(4711), None).unwrap();
    });
}

#[test]
fn a_reload_leaves_each_its_own() {
    let rules = tempfile::tempdir().unwrap();
    let base = |name: &str| rules.path().join(name);
    let one = Coi::with_daemon(&["--rules", rules.path().to_str().unwrap()]);
    let two = one.beside();
    workspace_rules(&one, &rule("one-rule", "one-prog"));
    workspace_rules(&two, &(rule("two-rule", "two-prog") + FILE));
    let gates = [&one, &two].map(|coi| (Gate::new(coi, "begin"), Gate::new(coi, "end")));
    let script = format!(
        "read x <begin; {}echo >looked-for; read x <end",
        runs(&["one-prog", "two-prog", "base-prog"])
    );
    let all = [&one, &two].map(|coi| coi.start(&["run", "--image", TINY, "--", "sh", "-c", &script]));
    let gates = gates.map(|(begin, end)| (begin.reached(), end));

    fs::write(base("base.toml"), rule("base-rule", "base-prog")).unwrap();
    one.coi(&["rules", "reload"]).expect(0);
    // Wrong rules leave everything as it is.
    fs::write(base("wrong.toml"), "[[rule]]\nid = \"x\"\n").unwrap();
    one.coi(&["rules", "reload"]).expect(6).says("stay in force").says("needs the key `title`");
    // Of those that do not go with a workspace's, only that workspace's container is kept out.
    fs::write(base("wrong.toml"), rule("one-rule", "some-prog")).unwrap();
    let kept = one.coi(&["rules", "reload"]).expect(6);
    let kept = kept.says(&format!("{} keeps the rules that it had", one.container()));
    assert!(!kept.stderr.contains(&format!("{} keeps", two.container())), "{}", kept.stderr);
    fs::remove_file(base("wrong.toml")).unwrap();
    one.coi(&["rules", "reload"]).expect(0);

    for (begin, end) in gates {
        begin.open();
        end.reached().open();
    }
    for run in all {
        run.finish().expect(0);
    }
    let fired = [&one, &two].map(|coi| fired(&coi.audit(&coi.container())).into_iter().collect::<Vec<_>>());
    assert_eq!(fired[0], ["base-rule", "one-rule"]);
    assert_eq!(fired[1], ["base-rule", "two-rule", "workspace-file"]);
    let text = one.audit(&one.container()).iter().map(ToString::to_string).collect::<String>();
    assert!(text.contains("its own do not go with the machine's any more"), "{text}");
}

#[test]
fn who_comes_later_finds_the_rules_that_it_began_with() {
    let coi = Coi::new();
    coi.user_rules("mine.toml", &rule("user-rule", "user-prog"));
    let gate = Gate::new(&coi, "gate");
    let run = coi.start(&["run", "--image", TINY, "--", "sh", "-c", "read x <gate"]);
    let gate = gate.reached();
    let attach = || coi.coi(&["monitor", "--attach", &coi.container(), "--detach"]).expect(0);
    assert!(!attach().stderr.contains("keeps the rules"));
    coi.user_rules("more.toml", &rule("more", "more"));
    let said = attach().says("keeps the rules that it began with; not in force are: ");
    assert!(said.stderr.contains("more.toml") && !said.stderr.contains("mine.toml"), "{}", said.stderr);
    gate.open();
    run.finish().expect(0);
}

#[test]
fn the_tools_say_whose_they_are() {
    let coi = Coi::new();
    coi.user_rules("mine.toml", &rule("user-rule", "user-prog"));
    workspace_rules(&coi, &rule("workspace-rule", "ws-prog"));
    let list = coi.coi(&["rules", "list"]).expect(0).text();
    let origin = |id: &str| {
        let line = list.lines().find(|line| line.starts_with(&format!("{id} "))).unwrap();
        line.split_whitespace().nth(3).unwrap().to_owned()
    };
    let ids = ["user-rule", "workspace-rule", "reverse-shell-socket"];
    assert_eq!(ids.map(origin), ["user", "workspace", "builtin"]);
    let list = coi.coi(&["rules", "list", "--format", "json"]).expect(0);
    let list: Vec<serde_json::Value> = serde_json::from_slice(&list.stdout).unwrap();
    let mine = list.iter().find(|rule| rule["id"] == "user-rule").unwrap();
    assert_eq!(mine["origin"], "user");
    assert!(mine["file"].as_str().unwrap().ends_with("/.coi/rules/mine.toml"), "{mine}");
    coi.coi(&["rules", "check"]).expect(0).says("1 user, 1 workspace");
    coi.coi(&["rules", "test", "workspace-rule"]).expect(1);
}

/// It is started by a command, which then knows why it did not start.
#[test]
fn a_daemon_that_does_not_start_for_its_rules_says_so() {
    let coi = Coi::without_daemon();
    let etc = tempfile::tempdir().unwrap();
    fs::create_dir_all(etc.path().join("coi/rules.d")).unwrap();
    fs::write(etc.path().join("coi/rules.d/wrong.toml"), "[[rule]]\nid = \"x\"\nconditon = \"true\"\n")
        .unwrap();
    let line = "mount -t overlay overlay -o \"lowerdir=$ETC:/etc\" /etc && exec \"$0\" watch -- touch it-ran";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", line]).arg(program()).env("ETC", etc.path());
    for (name, value) in coi.command(&[]).get_envs() {
        command.env(name, value.unwrap());
    }
    let ended = end(command.current_dir(coi.workspace())).expect(6);
    ended.says("the COI daemon does not start: ").says("did you mean `condition`?");
    assert!(!coi.workspace().join("it-ran").exists());
}
