//! Agents in sessions: what goes in, what is saved whichever way a container ends, and what is there again afterwards.
//!
//! The agent is a stand-in ([`coi_tests::agent`]) on the small image; build.rs has it on one that `coi build` has made.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use coi_tests::agent::{Bench, Image, detached_attached_shut_down_and_resumed};
use coi_tests::{Coi, SMALL, Shared, Terminal, end, incus};
use serde_json::Value;

static IMAGE: Shared<Image> = Shared::new();

fn bench() -> Bench {
    Bench::new(IMAGE.get(|| Image::on(SMALL)))
}

#[test]
fn detached_attached_shut_down_and_resumed_in_a_terminal() {
    detached_attached_shut_down_and_resumed(&bench());
}

#[test]
fn it_is_saved_on_every_way_out() {
    let bench = bench();
    let (coi, name) = (&bench.coi, bench.name());
    type Way = (&'static str, fn(&Coi, &str));
    let ways: [Way; 5] = [
        ("the agent's end", |coi, name| drop(coi.coi(&["tmux", "send", name, "/exit"]).expect(0))),
        ("coi shutdown", |coi, name| drop(coi.coi(&["shutdown", name, "--timeout", "5"]).expect(0))),
        ("coi kill", |coi, name| drop(coi.coi(&["kill", name]).expect(0))),
        ("poweroff inside", |_, name| drop(end(&mut incus::incus(&["exec", name, "--", "poweroff"])))),
        ("incus stop", |_, name| drop(end(&mut incus::incus(&["stop", "--force", name])))),
    ];
    for (way, leave) in ways {
        bench.background(&[]);
        bench.say(way);
        leave(coi, &name);
        let directory = bench.saved();
        assert_eq!(Bench::conversation(&directory), format!("{{\"said\":\"{way}\"}}\n"));
        // What was put in does not come out again.
        assert!(!directory.join("home/.claude/.credentials.json").exists(), "{way}");
        let modes = fs::metadata(&directory).unwrap();
        assert_eq!((modes.permissions().mode() & 0o777, modes.uid()), (0o700, 0), "{way}");
        coi.coi(&["clean", "--sessions", "--force"]).expect(0);
        assert_eq!(bench.sessions(), Vec::<Value>::new());
    }
}

#[test]
fn it_is_saved_when_the_command_line_is_killed() {
    let bench = bench();
    let terminal = Terminal::open(&bench.coi);
    terminal.enter(&format!("coi shell --image {} & echo $! >pid; fg", bench.image.0));
    terminal.until("agent --dangerously-skip-permissions");
    terminal.enter("before the end");
    terminal.until("heard before the end");
    let pid = fs::read_to_string(bench.coi.workspace().join("pid")).unwrap();
    end(Command::new("kill").args(["-KILL", pid.trim()])).expect(0);
    // The session goes on without it, and is saved when it is over.
    bench.say("after it");
    bench.coi.coi(&["tmux", "send", &bench.name(), "/exit"]).expect(0);
    let said = "{\"said\":\"before the end\"}\n{\"said\":\"after it\"}\n";
    assert_eq!(Bench::conversation(&bench.saved()), said);
}

#[test]
fn only_sessions_of_this_workspace_are_found() {
    let bench = bench();
    let name = bench.background(&[]);
    bench.say("of the first");
    bench.coi.coi(&["kill", &name]).expect(0);
    bench.saved();
    let beside = bench.coi.beside();
    let mut command = beside.command(&["shell", "--background", "--resume", "--image", &bench.image.0]);
    let ended = end(command.env("HOME", bench.coi.home())).expect(5);
    ended.says("there is no saved session of");
    bench.coi.coi(&["shell", "--background", "--resume", "--tool", "codex"]).expect(5);
    bench.coi.coi(&["shell", "--background", "--resume=ffffffff-0000"]).expect(5);
    // By the beginning of its name it is.
    let id = bench.sessions()[0]["session_id"].as_str().unwrap().to_owned();
    bench.background(&[&format!("--resume={}", &id[..6])]);
    bench.until("{\"said\":\"of the first\"}");
    let info = bench.coi.coi(&["info", &id[..6], "--format", "json"]).expect(0);
    let info: Value = serde_json::from_slice(&info.stdout).unwrap();
    assert_eq!((&info["session_id"], &info["files"]), (&Value::from(id), &Value::from(1)));
    bench.coi.coi(&["info"]).expect(0);
    bench.coi.coi(&["kill", &name]).expect(0);
}

#[test]
fn what_an_agent_is_told_and_what_it_is_not() {
    let bench = bench();
    fs::write(
        bench.coi.home().join(".claude.json"),
        r#"{"mcpServers": {"x": {"env": {"T": "another-service"}}}}"#,
    )
    .unwrap();
    fs::create_dir(bench.coi.home().join(".ssh")).unwrap();
    fs::write(bench.coi.home().join(".ssh/id_ed25519"), "another-service").unwrap();
    let name = bench.background(&[]);
    let inside = |line: &str| {
        let mut exec = incus::exec(&name, "/home/code", &["sh", "-c", line]);
        end(&mut exec).expect(0).text()
    };
    assert_eq!(inside("grep -rl another-service /home/code || true"), "");
    assert!(inside("cat SANDBOX_CONTEXT.md").contains(&name));
    assert_eq!(inside("cat SANDBOX_CONTEXT.md"), inside("cat .claude/CLAUDE.md"));
    let context: Value = serde_json::from_str(&inside("cat SANDBOX_CONTEXT.json")).unwrap();
    assert_eq!((&context["tool"], &context["workspace"]), (&"claude".into(), &"/workspace".into()));
    let owners = inside("stat -c %u:%g:%a .claude .claude/.credentials.json .claude.json");
    assert_eq!(owners, "1000:1000:700\n1000:1000:600\n1000:1000:600\n");
    let state: Value = serde_json::from_str(&inside("cat .claude.json")).unwrap();
    assert_eq!(state["projects"]["/workspace"]["hasTrustDialogAccepted"], true);
    bench.coi.coi(&["kill", &name]).expect(0);
    bench.saved();

    // As somebody wishes who tells it in another way.
    fs::create_dir_all(bench.coi.home().join(".coi")).unwrap();
    fs::write(bench.coi.home().join(".coi/config.toml"), "[tool]\nauto_context = false\n").unwrap();
    bench.background(&[]);
    assert!(inside("cat SANDBOX_CONTEXT.md").contains(&name));
    assert_eq!(inside("ls .claude/CLAUDE.md 2>/dev/null || echo none"), "none\n");
    bench.coi.coi(&["kill", &name]).expect(0);
}

#[test]
fn what_a_container_keeps_there_is_hostile() {
    let bench = bench();
    let name = bench.background(&[]);
    bench.say("honest");
    let projects = "/home/code/.claude/projects";
    let script = format!(
        "cd {projects}; ln -s /etc/shadow link; ln -s /etc directory; mkfifo pipe; mknod null c 1 3; \
         touch \"$(printf 'a\\377b')\" \"$(printf 'c\\nd\\033[2J')\"; mkdir -p $(seq -s / 30); \
         dd if=/dev/zero of=large bs=1M count=1 seek=600 2>/dev/null"
    );
    end(&mut incus::incus(&["exec", &name, "--", "sh", "-c", &script]));
    let outside = bench.coi.home().join("outside");
    fs::create_dir(&outside).unwrap();
    bench.coi.coi(&["kill", &name]).expect(0).says("entries of it were left out");
    let directory = bench.saved();
    assert_eq!(Bench::conversation(&directory), "{\"said\":\"honest\"}\n");
    let mut kinds = vec![directory.clone()];
    while let Some(path) = kinds.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert!(metadata.is_file() || metadata.is_dir(), "{path:?}");
        assert!(metadata.len() < 1 << 20, "{path:?}");
        if metadata.is_dir() {
            kinds.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    // It can be gone on with all the same, and a link that somebody puts there is not read.
    symlink("/etc/shadow", directory.join("home/.claude/projects/-workspace/z.jsonl")).unwrap();
    bench.background(&["--resume"]);
    bench.until("{\"said\":\"honest\"}");
    let shadow =
        end(&mut incus::exec(&name, "/", &["ls", &format!("{projects}/-workspace")])).expect(0).text();
    assert!(!shadow.contains("z.jsonl"), "{shadow}");
    bench.coi.coi(&["kill", &name]).expect(0);
    bench.saved();
}

#[test]
fn a_session_that_cannot_be_saved_is_not_given_up() {
    let bench = bench();
    let name = bench.background(&[]);
    bench.say("precious");
    // Where its directory should be there is a file.
    let place = bench.coi.home().join(".coi/sessions-claude");
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::write(&place, "in the way").unwrap();
    bench.coi.coi(&["kill", &name]).says("could not be saved, so it is kept as it is");
    assert_eq!(incus::status(&name), "Stopped");
    fs::remove_file(&place).unwrap();
    bench.coi.coi(&["shutdown", &name]).expect(0).says("the claude session is saved");
    assert_eq!(Bench::conversation(&bench.saved()), "{\"said\":\"precious\"}\n");

    bench.coi.coi(&["clean", "--sessions", "--force"]).expect(0);
    bench.background(&[]);
    fs::remove_dir_all(&place).unwrap();
    fs::write(&place, "in the way").unwrap();
    bench.coi.coi(&["kill", "--force", &name]).expect(0);
    assert_eq!(incus::instance(&name), None);
}

#[test]
fn one_that_is_kept_goes_on_where_it_was() {
    let bench = bench();
    let name = bench.background(&["--persistent"]);
    bench.say("in the first start");
    bench.coi.coi(&["shutdown", &name, "--timeout", "5"]).expect(0).says("is stopped, and kept");
    assert_eq!(bench.background(&["--continue"]), name);
    bench.until("{\"said\":\"in the first start\"}");
    assert_eq!(bench.sessions().len(), 1, "it is one session");
    bench.coi.coi(&["kill", &name]).expect(0);
    bench.saved();
}
