//! docs/api.md, made of the table of calls and of the types themselves.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use serde_json::json;

use super::{
    api::{
        ActionName, ActionTaken, ApiError, Ended, ExtraMount, Hole, Kept, Life, OnMonitorLoss, Reloaded,
        RuleInForce, Status, Subject, Tally, Tree, TreeRequest, Watch, WatchRequest, WatchState,
    },
    calls::{BODY, CALLS, Call},
    connections::HEAD,
};
use crate::{
    monitor::rules::{Action, Origin, OwnRules, Severity},
    session::Saved,
};

const INTRODUCTION: &str = "\
# The daemon's API

HTTP and JSON on the unix socket `/run/coi/coi.sock`. Try it:

```sh
curl --unix-socket /run/coi/coi.sock http://coi/v1/status
```

All calls are below `/v1`. What is there stays as it is; calls, fields, kinds of lines and values may be added, so pass over
what you do not know. Every answer has the daemon's version in its `server` header.

## Who may

The kernel tells the daemon who is at the other end. Root and the members of the group `incus-admin` see and act on
everything; whoever else owns something that is watched, on that, and learns nothing of the rest; anyone else is refused
(403, `denied`). Who owns what is what the daemon wrote down when the container was first watched: who asked, or whom root
named.
";

/// The text.
fn reference() -> String {
    let mut text = INTRODUCTION.to_owned();
    let mut say = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    say("\n## Calls\n");
    say("NAME is that of a container, or a cgroup's path without the leading slash, `/` written as `%2F`.\n");
    say("| call | who | answer |\n|---|---|---|");
    for call in CALLS {
        say(&format!("| [`{}`](#{}) | {} | {} |", title(call), anchor(call), call.who.name(), call.answer));
    }
    for call in CALLS {
        say(&format!("\n### {}\n\n{}\n", title(call), call.what));
        for (name, meaning) in call.query {
            say(&format!("- `?{name}=`: {meaning}"));
        }
        if let Some(body) = call.body {
            say(&format!("- body: {body}"));
        }
        say(&format!("- answer: {}", call.answer));
        say(&format!("\n```sh\ncurl --unix-socket /run/coi/coi.sock {}\n```", call.example));
    }
    say("\n## Types\n\nEach by an example.");
    for (name, value) in types() {
        say(&format!("\n### {name}\n\n```json\n{value:#}\n```"));
    }
    say("\n## Failures\n");
    say(
        "A status of 400 or above, and an `ApiError`. `code` is for programs: `not_found` (404), `bad_request` (400, 405, 408,",
    );
    say(
        "409, 413), `denied` (403), `rules` (422: a rule is wrong, and nothing has changed), `incus` (502: Incus does not do",
    );
    say(
        "it), `workspace` (422: a workspace cannot be protected as it is), `busy` (503: too many connections; 409: it runs again), `monitor` (503: the",
    );
    say("monitor does not work on this machine), `internal` (500).");
    say("\n## Limits\n");
    say(&format!(
        "A head has {} s to come and 16 KiB, a body {} s and 4 KiB, that of a request for a watch 1.6 MiB. Of 256",
        HEAD.as_secs(),
        BODY.as_secs()
    ));
    say(
        "connections users other than root may have 192, one of them 64. An answer that nobody takes for two minutes ends the",
    );
    say("connection.");
    text
}

fn title(call: &Call) -> String {
    format!("{} {}", call.method, call.path)
}

/// As the usual renderers of Markdown make it of a heading.
fn anchor(call: &Call) -> String {
    let kept = title(call).to_lowercase();
    kept.chars()
        .filter(|c| c.is_ascii_alphanumeric() || " -_".contains(*c))
        .collect::<String>()
        .replace(' ', "-")
}

fn types() -> [(&'static str, serde_json::Value); 10] {
    let subject = Subject::container("coi-1a2b3c4d-1");
    let request = WatchRequest {
        subject: subject.clone(),
        respond: true,
        monitored: true,
        workspace: Some("/home/ann/app".into()),
        ephemeral: false,
        rules: OwnRules::default(),
        owner: Some(1000),
        launched: true,
        on_monitor_loss: Some(OnMonitorLoss::Freeze),
        tree: Some("0d5b5e0e-7c1f-4b39-9d8a-3f6f1a2b3c4d".into()),
        life: Some(Life {
            delete: true,
            max_seconds: Some(7200),
            grace_seconds: 60,
            has_session: false,
            session: None,
        }),
    };
    let asked = TreeRequest {
        mask_env: true,
        mounts: vec![ExtraMount {
            host: "/home/ann/.cache/pip".into(),
            container: "/cache".into(),
            readonly: true,
        }],
        ..TreeRequest::new("/home/ann/app".into())
    };
    let at = |name: &str| format!("/run/coi/trees/0d5b5e0e-7c1f-4b39-9d8a-3f6f1a2b3c4d/{name}").into();
    let tree = Tree {
        id: "0d5b5e0e-7c1f-4b39-9d8a-3f6f1a2b3c4d".into(),
        workspace: at("workspace"),
        mounts: vec![at("0")],
        held: vec![".git/hooks".into(), ".git/config".into(), ".env".into()],
        notes: Vec::new(),
    };
    let plan = crate::session::example();
    let ended = Ended {
        session: Some(Saved {
            session_id: plan.metadata.session_id.clone(),
            tool: plan.metadata.tool.clone(),
            directory: plan.directory.join(&plan.metadata.session_id),
            files: 3,
            bytes: 48_213,
            left_out: 0,
        }),
        deleted: true,
        why: None,
    };
    let taken = ActionTaken {
        action: ActionName::Kill,
        error: None,
        latency_us: 812,
        rule_id: "reverse-shell-socket".into(),
        severity: Severity::Critical,
        message: "a shell speaks with 203.0.113.7:4444".into(),
        process_executable: "/usr/bin/bash".into(),
        process_pid: 4711,
        timestamp: "2026-11-21T12:00:00.000000001Z".into(),
    };
    let watch = Watch {
        name: "coi-1a2b3c4d-1".into(),
        subject,
        respond: true,
        monitored: true,
        state: WatchState::Killed,
        owner: 1000,
        on_monitor_loss: OnMonitorLoss::Freeze,
        audit: PathBuf::from("/var/log/coi/1000/coi-1a2b3c4d-1.6f0c….jsonl"),
        last_action: Some(taken),
        network_cut: false,
        alerts: 1,
        lost: 0,
        events: BTreeMap::from([("exec".to_owned(), Tally { delivered: 12, lost: 0, throttled: 0 })]),
        passed_over: Vec::new(),
    };
    let hole = Hole {
        id: "io_uring".into(),
        what: "requests of io_uring".into(),
        why: "the kernel has no tracepoint for them".into(),
        routes: vec!["uring-connect".into()],
    };
    let status = Status {
        version: "0.1.0".into(),
        pid: 812,
        programs: vec!["raw/sched_process_exec".into()],
        holes: vec![hole],
        rules: 27,
        watches: 1,
        monitor: None,
    };
    let rule = RuleInForce {
        id: "reverse-shell-socket".into(),
        title: "Reverse shell on a socket".into(),
        severity: Severity::Critical,
        action: Action::Kill,
        enabled: true,
        events: vec!["link"],
        attack: vec!["T1059.004".into()],
        origin: Origin::Builtin,
        file: "rules/reverse-shell.toml".into(),
    };
    let kept = Kept { watch: "coi-1a2b3c4d-1".into(), why: "there is no field `proces.name`".into() };
    [
        ("Status", json!(status)),
        ("WatchRequest", json!(request)),
        ("Plan", json!(plan)),
        ("Ended", json!(ended)),
        ("Watch", json!(watch)),
        ("TreeRequest", json!(asked)),
        ("Tree", json!(tree)),
        ("RuleInForce", json!(rule)),
        ("Reloaded", json!(Reloaded { rules: 27, kept: vec![kept] })),
        (
            "ApiError",
            json!(ApiError { code: "not_found".into(), message: "x is not watched; see `coi list`".into() }),
        ),
    ]
}

/// `COI_UPDATE_DOCS=1 cargo test -p coi the_reference` writes it anew.
#[test]
fn the_reference_of_the_api_is_what_is_committed() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/api.md");
    if std::env::var_os("COI_UPDATE_DOCS").is_some() {
        std::fs::write(path, reference()).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == reference(),
        "docs/api.md is old; COI_UPDATE_DOCS=1 cargo test -p coi the_reference"
    );
}

/// A type that is named is shown, and one that is shown is named.
#[test]
fn every_type_is_in_the_reference() {
    let mut named = String::new();
    CALLS.iter().for_each(|call| {
        let _ = write!(named, "{} {}", call.answer, call.body.unwrap_or_default());
    });
    for (name, _) in types() {
        assert!(name == "ApiError" || named.contains(&format!("`{name}`")), "{name}");
    }
    let words = named.split('`').skip(1).step_by(2).filter(|word| word.chars().all(char::is_alphanumeric));
    for word in words {
        assert!(types().iter().any(|(name, _)| *name == word), "{word}");
    }
}
