//! The rules' tools as they are typed: the walk of docs/authoring.md, recordings and what becomes of them.

#![expect(clippy::unwrap_used, reason = "what fails here is a test")]

use std::fs;
use std::path::Path;
use std::process::Command;

const WALK: &str = include_str!("../../docs/authoring.md");

/// What a command said: its code and its standard output and error.
struct Said {
    code: i32,
    out: String,
    err: String,
}

/// `coi ARGUMENTS`, in a directory.
fn coi(directory: &Path, line: &str) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coi"));
    // Arguments with blanks are in double quotes, as in the walk.
    let words = line.split('"').enumerate().flat_map(|(n, part)| match n % 2 {
        0 => part.split_whitespace().collect(),
        _ => vec![part],
    });
    // No daemon has a say in this.
    let socket = directory.join("no-daemon.sock");
    command.args(words).current_dir(directory).env("COI_SOCKET", socket).env("HOME", directory.join("home"));
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Said { code: output.status.code().unwrap(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// A command of the walk, and what the walk says that it prints.
#[track_caller]
fn as_written(directory: &Path, line: &str, code: i32) {
    let said = coi(directory, line);
    assert_eq!(said.code, code, "{line}\n{}{}", said.out, said.err);
    let written = format!("```console\n$ coi {line}\n{}```", said.out);
    assert!(WALK.contains(&written), "docs/authoring.md does not have this:\n{written}");
}

/// A command of the walk whose output is not in it.
#[track_caller]
fn typed(directory: &Path, line: &str) -> Said {
    assert!(WALK.contains(&format!("coi {line}")), "docs/authoring.md does not have this: coi {line}");
    let said = coi(directory, line);
    assert_eq!(said.code, 0, "{line}\n{}{}", said.out, said.err);
    said
}

/// Changes a rule file as the walk says: each line for the one that begins alike.
fn edit(file: &Path, from: &str, to: &str) {
    assert!(WALK.contains(&format!("\n{to}\n")), "docs/authoring.md does not have this: {to}");
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(file, text.replacen(from, to, 1)).unwrap();
}

/// An exec of a recording.
fn exec(seconds: u64, name: &str, parent: &str) -> String {
    format!(
        r#"{{"cgroup":8123,"time":{seconds}000000000,"kind":"exec","fields":{{"process.pid":{seconds},"process.entity_id":"{seconds}-1","process.executable":"/tmp/{name}","process.name":"{name}","process.parent.name":"{parent}","process.user.id":"1000"}}}}"#
    )
}

/// A recording of somebody's work with a miner, by hand and from a test.
fn session() -> String {
    let header = r#"{"coi.recording":1,"holds":"everything"}"#.to_owned();
    let execs = [exec(10, "bash", "init"), exec(11, "xmrig", "bash"), exec(12, "xmrig", "ctest")];
    [&[header][..], &execs].concat().join("\n") + "\n"
}

#[test]
fn the_walk_of_the_documentation() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    let file = dir.join("rules/no-miner.toml");
    fs::create_dir(dir.join("rules")).unwrap();

    typed(dir, "rules new no-miner --event exec --output rules/no-miner.toml");
    assert_eq!(coi(dir, "rules test no-miner --rules rules").out, "2 passed, 0 failed\n");
    let condition = "condition = \"process.name == 'xmrig' and process.args_count > 1\"";
    edit(&file, "condition = \"process.name in ['example', 'example2']\"", condition);
    as_written(dir, "rules test no-miner --rules rules", 1);
    let tree = typed(dir, "rules explain no-miner --rules rules --test \"what it is for\"").out;
    assert!(tree.contains("✗ process.name == \"xmrig\""), "{tree}");

    edit(&file, condition, "condition = \"process.name == 'xmrig'\"");
    let miner = "events = [{ event = \"exec\", process.executable = \"/usr/bin/xmrig\" }]";
    edit(&file, "events = [{ event = \"exec\", process.executable = \"/usr/bin/example\" }]", miner);
    as_written(dir, "rules test no-miner --rules rules", 0);
    typed(dir, "rules check --rules rules");

    fs::write(dir.join("session.jsonl"), session()).unwrap();
    as_written(dir, "rules replay session.jsonl --rules rules", 0);
    fs::create_dir(dir.join("rules.old")).unwrap();
    fs::copy(&file, dir.join("rules.old/no-miner.toml")).unwrap();
    let exception = "exceptions = [{ condition = \"process.parent.name == 'ctest'\", reason = \"its job\", expires = 2027-01-31 }]";
    edit(
        &file,
        &format!("# {exception}"),
        "exceptions = [{ condition = \"process.parent.name == 'ctest'\", reason = \"its job\" }]",
    );
    as_written(dir, "rules replay session.jsonl --diff rules.old rules", 0);

    fs::copy(dir.join("session.jsonl"), dir.join("rules/session.jsonl")).unwrap();
    let test = "[[rule.test]]\nname = \"yesterday's session\"\nexpect = \"fire\"\ntimes = 1\nfixture = \"session.jsonl\"";
    assert!(WALK.contains(test), "docs/authoring.md does not have this: {test}");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}\n{test}\n")).unwrap();
    assert_eq!(coi(dir, "rules test no-miner --rules rules").out, "3 passed, 0 failed\n");
}

#[test]
fn the_rules_of_a_user_and_a_workspace() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    for place in ["home", "app", "rules"] {
        fs::create_dir_all(dir.join(place).join(".coi/rules")).unwrap();
    }
    let mine = "[rules.credential-files]\nexceptions = [{ condition = \"process.name == 'deploy'\", reason = \"its job\" }]";
    assert!(WALK.contains(mine), "docs/authoring.md does not have this: {mine}");
    fs::write(dir.join("home/.coi/rules/mine.toml"), mine).unwrap();
    let theirs = dir.join("app/.coi/rules/theirs.toml");
    let stricter = "[rules.bulk-read-volume]\nenabled = true\nat_least = \"100MiB\"";
    assert!(WALK.contains(stricter), "docs/authoring.md does not have this: {stricter}");
    fs::write(&theirs, stricter).unwrap();
    let checked = coi(dir, "rules check --workspace app");
    assert_eq!(checked.code, 0, "{}", checked.err);

    fs::write(&theirs, mine).unwrap();
    let refused = coi(dir, "rules check --workspace app");
    assert_eq!(refused.code, 6);
    let written = "a workspace may only tighten rules, and this adds an exception";
    assert!(WALK.replace('\n', " ").contains(written) && refused.err.contains(written), "{}", refused.err);
    // In another workspace nothing is wrong; in one that has the home in it, one's own rules are no better.
    assert_eq!(coi(dir, "rules check --workspace rules").code, 0);
    let inside = coi(dir, "rules check");
    assert!(inside.code == 6 && inside.err.contains("mine.toml"), "{}", inside.err);

    fs::write(&theirs, RULE.replace("\"r\"", "\"theirs\"")).unwrap();
    let list = coi(dir, "rules list --workspace app").out;
    assert!(list.contains("theirs                           high     freeze workspace t\n"), "{list}");

    // A recording has them with it.
    let own = serde_json::json!({ "user": [], "workspace": [{ "name": "theirs.toml", "text": RULE }] });
    let header = format!(r#"{{"coi.recording":1,"holds":"everything","rules":{own}}}"#);
    let recorded = session().replacen(r#"{"coi.recording":1,"holds":"everything"}"#, &header, 1);
    fs::write(dir.join("session.jsonl"), recorded).unwrap();
    assert_eq!(coi(dir, "rules replay session.jsonl").out.lines().count(), 2);
    assert_eq!(coi(dir, "rules replay session.jsonl --without-own").out, "");
    let milder = own.to_string().replace("[[rule]]", "[rules.bulk-read]\\nenabled = false\\n[[rule]]");
    let text = fs::read_to_string(dir.join("session.jsonl")).unwrap().replace(&own.to_string(), &milder);
    fs::write(dir.join("session.jsonl"), text).unwrap();
    assert_eq!(coi(dir, "rules replay session.jsonl").code, 6);
}

const RULE: &str = "[[rule]]\nid = \"r\"\ntitle = \"t\"\nseverity = \"high\"\nevent = \"exec\"\n\
                    condition = \"process.name == 'xmrig'\"\nmessage = \"{process.executable}\"\n";

/// A rule's file and the recording, in a directory of their own.
fn rules(name: &str, rule: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(name), rule).unwrap();
    fs::write(directory.path().join("session.jsonl"), session()).unwrap();
    let path = directory.path().display().to_string();
    (directory, path)
}

#[test]
fn a_diff_says_what_is_gone_and_what_is_new() {
    let (old, old_path) = rules("r.toml", RULE);
    let (_new, new_path) = rules(
        "r.toml",
        &RULE.replace("\"high\"", "\"warning\"").replace("== 'xmrig'", "in ['xmrig', 'bash']"),
    );
    let line = format!("rules replay session.jsonl --diff {old_path} {new_path}");
    let said = coi(old.path(), &line);
    // What is done about it counts, not the order of the rules.
    assert_eq!(
        said.out,
        "+ 10.000000000 warning notify r: /tmp/bash\n\
         - 11.000000000 high freeze r: /tmp/xmrig\n+ 11.000000000 warning notify r: /tmp/xmrig\n\
         - 12.000000000 high freeze r: /tmp/xmrig\n+ 12.000000000 warning notify r: /tmp/xmrig\n"
    );
    let said = coi(old.path(), &format!("{line} --format json"));
    let changes: Vec<serde_json::Value> = serde_json::from_str(&said.out).unwrap();
    let changes: Vec<_> =
        changes.iter().map(|alert| (alert["change"].as_str(), alert["time"].as_u64())).collect();
    assert_eq!(changes[..2], [(Some("new"), Some(10_000_000_000)), (Some("gone"), Some(11_000_000_000))]);
    let same = coi(old.path(), &format!("rules replay session.jsonl --diff {old_path} {old_path}"));
    assert_eq!((same.code, same.out.as_str(), same.err.as_str()), (0, "", ""));
}

#[test]
fn a_diff_with_a_wrong_rule_says_where() {
    let (old, old_path) = rules("r.toml", RULE);
    let (_new, new_path) = rules("r.toml", &RULE.replace("process.name", "process.nmae"));
    let said = coi(old.path(), &format!("rules replay session.jsonl --diff {old_path} {new_path}"));
    assert_eq!((said.code, said.out.as_str()), (6, ""));
    assert!(said.err.contains("did you mean `process.name`"), "{}", said.err);
}

#[test]
fn a_recording_of_what_was_judged_says_so_to_other_rules() {
    let (rules, path) = rules("r.toml", RULE);
    let file = rules.path().join("session.jsonl");
    fs::write(&file, session().replace("everything", "judged")).unwrap();
    let said = coi(rules.path(), &format!("rules replay session.jsonl --rules {path}"));
    assert_eq!(said.out.lines().count(), 2, "{}", said.out);
    assert!(said.err.contains("what the rules of then looked at"), "{}", said.err);
    assert_eq!(coi(rules.path(), "rules replay session.jsonl").err, "");
}

#[test]
fn a_fixture_is_a_recording_beside_the_rule() {
    let with = |test: &str| {
        format!("{RULE}[[rule.test]]\nname = \"recorded\"\n{test}\nfixture = \"session.jsonl\"\n")
    };
    let verdict = |test: &str| {
        let (rules, path) = rules("r.toml", &with(test));
        let said = coi(rules.path(), &format!("rules test recorded --rules {path}"));
        (said.code, said.out)
    };
    assert_eq!(verdict("expect = \"fire\"\ntimes = 2"), (0, "1 passed, 0 failed\n".to_owned()));
    assert_eq!(
        verdict("expect = \"quiet\""),
        (
            1,
            "FAILED r: recorded: it should have stayed quiet and fired 2 times\n    - stays quiet\n    \
             + fires after 1 s: /tmp/xmrig\n    + fires after 2 s: /tmp/xmrig\n0 passed, 1 failed\n"
                .to_owned()
        )
    );
    let (code, out) = verdict("expect = \"fire\"\ntimes = 3");
    assert_eq!(code, 1);
    assert!(out.contains("it should have fired 3 times and fired 2 times"), "{out}");
}

#[test]
fn a_fixture_that_is_no_recording_fails_its_test() {
    let test = "[[rule.test]]\nname = \"recorded\"\nexpect = \"fire\"\nfixture = \"session.jsonl\"\n";
    let (rules, path) = rules("r.toml", &format!("{RULE}{test}"));
    let line = format!("rules test recorded --rules {path}");
    let file = rules.path().join("session.jsonl");
    for (text, words) in [
        (session() + "{\"cgroup\":1,\"ti", "line 5 of the recording is no JSON object"),
        (session() + "{\"gap\":3,\"why\":\"slow\"}\n", "3 events were not recorded"),
    ] {
        fs::write(&file, text).unwrap();
        let said = coi(rules.path(), &line);
        assert_eq!(said.code, 1, "{}", said.err);
        assert!(said.out.contains(words), "{}", said.out);
    }
    fs::remove_file(&file).unwrap();
    let said = coi(rules.path(), &line);
    assert_eq!(said.code, 1);
    assert!(said.out.contains("cannot read the fixture"), "{}", said.out);
}
