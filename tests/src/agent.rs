//! A stand-in for an agent, whose own servers are out of reach: a script that is called `claude`, keeps its conversation
//! where Claude Code does, and goes on with the newest one of its directory with `--continue`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use serde_json::Value;

use crate::incus::{self, Foreign};
use crate::{Coi, Terminal, end, eventually};

const AGENT: &str = r#"#!/bin/bash
conversations=~/.claude/projects/$(pwd | tr / -)
mkdir -p "$conversations"
file=$conversations/$RANDOM$RANDOM.jsonl
for argument in "$@"; do
    if [ "$argument" = --continue ]; then
        file=$(ls -t "$conversations"/*.jsonl | head -n 1)
        echo "goes on:"; cat "$file"
    fi
done
echo "agent $* sandbox=$IS_SANDBOX"
echo "login $(tr -d ' \n' <~/.claude/.credentials.json 2>/dev/null || echo none)"
while read -r line; do
    [ "$line" = /exit ] && exit 0
    echo "{\"said\":\"$line\"}" >>"$file"
    echo "heard $line"
done
"#;

/// An image with the agent in it. It goes when this does.
#[derive(Debug)]
pub struct Image(pub String);

impl Image {
    /// One that has everything of this one besides.
    pub fn on(base: &str) -> Self {
        let container = Foreign::make(base);
        let mut push =
            incus::incus(&["file", "push", "-", &format!("{}/usr/local/bin/claude", container.name)]);
        let mut push = push.args(["--mode", "755", "--create-dirs"]).stdin(Stdio::piped()).spawn().unwrap();
        push.stdin.take().unwrap().write_all(AGENT.as_bytes()).unwrap();
        assert!(push.wait().unwrap().success());
        let alias = format!("coi-e2e-agent-{}", container.name);
        container.incus(&["publish", &container.name, "--alias", &alias, "--compression", "none"]);
        Self(alias)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = end(&mut incus::incus(&["image", "delete", &self.0]));
    }
}

/// A test with an agent and a login for it.
#[derive(Debug)]
pub struct Bench {
    /// The command line, and a home for the login.
    pub coi: Coi,
    /// What its containers are made of.
    pub image: Arc<Image>,
}

impl Bench {
    /// One whose login has the token `first`.
    pub fn new(image: Arc<Image>) -> Self {
        let bench = Self { coi: Coi::new(), image };
        bench.log_in("first");
        bench
    }

    /// Puts a login into the caller's home, beside another service's.
    pub fn log_in(&self, token: &str) {
        let directory = self.coi.home().join(".claude");
        fs::create_dir_all(&directory).unwrap();
        let text = format!(
            r#"{{"claudeAiOauth": {{"accessToken": "{token}"}}, "mcpOAuth": {{"x": "another-service"}}}}"#
        );
        fs::write(directory.join(".credentials.json"), text).unwrap();
    }

    /// Its container's name.
    pub fn name(&self) -> String {
        self.coi.container()
    }

    /// Starts a session without a terminal.
    #[track_caller]
    pub fn background(&self, arguments: &[&str]) -> String {
        let shell = ["shell", "--background", "--image", &self.image.0];
        self.coi.coi(&[&shell[..], arguments].concat()).expect(0).text().trim().to_owned()
    }

    /// Says it to the agent, which says that it has heard it.
    #[track_caller]
    pub fn say(&self, words: &str) {
        self.coi.coi(&["tmux", "send", &self.name(), words]).expect(0);
        self.until(&format!("heard {words}"));
    }

    /// Waits until the agent has said this.
    #[track_caller]
    pub fn until(&self, text: &str) {
        eventually(&format!("the agent says {text:?}"), || {
            self.coi.coi(&["tmux", "capture", &self.name()]).text().contains(text)
        });
    }

    /// The sessions that are saved, of this home.
    pub fn sessions(&self) -> Vec<Value> {
        let list = self.coi.coi(&["list", "--all", "--format", "json"]).expect(0);
        let list: Value = serde_json::from_slice(&list.stdout).unwrap();
        list.as_array().unwrap().iter().filter(|entry| entry["kind"] == "session").cloned().collect()
    }

    /// Waits until the container is gone; gives its session's directory.
    #[track_caller]
    pub fn saved(&self) -> PathBuf {
        eventually("the container is gone", || incus::instance(&self.name()).is_none());
        let sessions = self.sessions();
        assert_eq!(sessions.len(), 1, "{sessions:?}");
        PathBuf::from(sessions[0]["directory"].as_str().unwrap())
    }

    /// What was said in a saved session.
    pub fn conversation(directory: &Path) -> String {
        let projects = directory.join("home/.claude/projects/-workspace");
        let files = fs::read_dir(projects).unwrap().map(|entry| entry.unwrap().path());
        files.map(|file| fs::read_to_string(file).unwrap()).collect()
    }
}

/// Types a command whose end cannot be mistaken for its echo.
fn enter(terminal: &Terminal, line: &str, mark: &str) {
    let (head, tail) = mark.split_at(1);
    terminal.enter(&format!("{line}; echo \"{head}\"\"{tail}\":$?"));
}

/// A whole session in a real terminal: begun, left, gone on with, shut down, and gone on with in a new container.
pub fn detached_attached_shut_down_and_resumed(bench: &Bench) {
    let (coi, name) = (&bench.coi, bench.name());
    let terminal = Terminal::open(coi);
    enter(&terminal, &format!("coi shell --image {}", bench.image.0), "detached");
    terminal.until("agent --dangerously-skip-permissions sandbox=1");
    terminal.until(r#"login {"claudeAiOauth":{"accessToken":"first"}}"#);
    terminal.enter("remember the blue door");
    terminal.until("heard remember the blue door");
    terminal.press("C-b d");
    let screen = terminal.until("detached:0");
    assert!(
        screen.contains("claude gets its own credentials, and no others: ~/.claude/.credentials.json"),
        "{screen}"
    );
    assert!(screen.contains(&format!("{name} goes on, and is watched")), "{screen}");

    enter(&terminal, "coi attach", "again");
    terminal.until("heard remember the blue door");
    terminal.enter("and the red one");
    terminal.until("heard and the red one");
    terminal.press("C-b d");
    terminal.until("again:0");

    enter(&terminal, &format!("coi shutdown {name} --timeout 10"), "down");
    let screen = terminal.until("down:0");
    assert!(screen.contains("the claude session is saved"), "{screen}");
    let directory = bench.saved();
    assert!(directory.starts_with(coi.home().join(".coi/sessions-claude")), "{directory:?}");
    let said = "{\"said\":\"remember the blue door\"}\n{\"said\":\"and the red one\"}\n";
    assert_eq!(Bench::conversation(&directory), said);
    let metadata: Value =
        serde_json::from_slice(&fs::read(directory.join("metadata.json")).unwrap()).unwrap();
    for (key, value) in
        [("container", name.as_str()), ("tool", "claude"), ("workspace", coi.workspace().to_str().unwrap())]
    {
        assert_eq!(metadata[key], value, "{metadata}");
    }
    assert_eq!((&metadata["persistent"], metadata["saved_at"].is_string()), (&Value::Bool(false), true));

    // The login is another one by now: the old one was not kept.
    bench.log_in("second");
    enter(&terminal, &format!("coi shell --resume --image {}", bench.image.0), "over");
    let screen = terminal.until(r#"login {"claudeAiOauth":{"accessToken":"second"}}"#);
    assert!(screen.contains("goes on:") && screen.contains("agent --continue"), "{screen}");
    terminal.enter("what was it");
    terminal.until("heard what was it");
    terminal.enter("/exit");
    terminal.until("over:0");
    assert_eq!(bench.saved(), directory, "it is the same session");
    assert_eq!(Bench::conversation(&directory), format!("{said}{{\"said\":\"what was it\"}}\n"));
}
