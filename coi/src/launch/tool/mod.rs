//! The agents that run in sessions, and what each of them needs.
//!
//! A tool is mostly data ([`Facts`]): its program, its flags, where it keeps its credentials and conversations. What
//! is more than data, files that are made for it, is code of its own file. To add one: a file here, and a line in
//! [`ALL`].
//!
//! This module promises that nothing of the host goes in but what [`Tool::made`] names, and that this is the chosen
//! tool's own: of a configuration that may hold other services' secrets only the keys named here are taken.

mod aider;
mod bash;
mod claude;
mod codex;
mod context;
mod install;
mod opencode;

use std::fmt::Debug;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::config::PermissionMode;

pub use context::Context;
pub(super) use install::made;
pub use install::{Installed, install};

/// What is known of a tool.
#[derive(Debug)]
pub struct Facts {
    /// What it is called here.
    pub name: &'static str,
    /// What a session needs in its image.
    pub program: &'static str,
    /// Its arguments when it is to ask for nothing.
    pub bypass: &'static [&'static str],
    /// Its arguments when it is to ask before it acts.
    pub interactive: &'static [&'static str],
    /// Its arguments, before those, when it is to go on with the conversation that was restored.
    pub resume: &'static [&'static str],
    /// What its environment has beyond everybody's.
    pub environment: &'static [(&'static str, &'static str)],
    /// And what it has when it is to ask for nothing.
    pub bypass_environment: &'static [(&'static str, &'static str)],
    /// Where in the home its conversations are.
    pub conversations: &'static [&'static str],
    /// How it learns what [`Context`] says.
    pub context: ContextBy,
}

/// How a tool learns where it is.
#[derive(Clone, Copy, Debug)]
pub enum ContextBy {
    /// It reads this file in the home by itself.
    File(&'static str),
    /// It is told the file's path behind this argument.
    Argument(&'static str),
    /// Nobody is there to be told.
    Nothing,
}

/// Whether a tool asks before it acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Permissions {
    /// It asks for nothing: the container is what confines it.
    #[default]
    Bypass,
    /// It asks before it acts.
    Interactive,
}

impl From<PermissionMode> for Permissions {
    fn from(mode: PermissionMode) -> Self {
        match mode {
            PermissionMode::Bypass => Self::Bypass,
            PermissionMode::Interactive => Self::Interactive,
        }
    }
}

/// What a tool is set up for.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// The home of the container's user.
    pub home: &'a str,
    /// Where the workspace is inside.
    pub workspace: &'a str,
    /// Whether it asks.
    pub permissions: Permissions,
    /// Whether it is told what [`Context`] says.
    pub auto_context: bool,
}

/// A file that is put into the home of the container's user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Where, from the home on.
    pub path: &'static str,
    /// What is in it.
    pub content: Vec<u8>,
    /// It holds a credential: it is said that it goes in.
    pub is_credential: bool,
    /// What is there already stays.
    pub keeps: bool,
}

/// The home on the host, as far as a tool may look: who looks does so as the user whose home it is.
pub trait HostHome {
    /// A file there, if there is one that can be read.
    fn read(&self, path: &str) -> Option<Vec<u8>>;
}

/// An agent.
pub trait Tool: Debug + Sync {
    /// What is known of it.
    fn facts(&self) -> &'static Facts;

    /// The files that it needs: of the host's home its own credentials, and what it would ask a person otherwise.
    fn made(&self, home: &dyn HostHome, setting: &Setting<'_>) -> Vec<Made>;

    /// What starts it.
    fn words(&self, setting: &Setting<'_>, resumes: bool) -> Vec<String> {
        let facts = self.facts();
        let mode = match setting.permissions {
            Permissions::Bypass => facts.bypass,
            Permissions::Interactive => facts.interactive,
        };
        let mut words = vec![facts.program.to_owned()];
        if resumes {
            words.extend(facts.resume.iter().map(|&word| word.to_owned()));
        }
        words.extend(mode.iter().map(|&word| word.to_owned()));
        if let ContextBy::Argument(argument) = facts.context
            && setting.auto_context
        {
            words.extend([argument.to_owned(), format!("{}/{}", setting.home, context::TEXT)]);
        }
        words
    }

    /// What its environment has beyond everybody's.
    fn environment(&self, setting: &Setting<'_>) -> Vec<(&'static str, &'static str)> {
        let facts = self.facts();
        let bypass = match setting.permissions {
            Permissions::Bypass => facts.bypass_environment,
            Permissions::Interactive => &[],
        };
        facts.environment.iter().chain(bypass).copied().collect()
    }
}

/// All there are; the first is the default.
pub const ALL: [&dyn Tool; 5] =
    [&claude::Claude, &opencode::OpenCode, &codex::Codex, &aider::Aider, &bash::Bash];

/// The tool of this name.
pub fn named(name: &str) -> Option<&'static dyn Tool> {
    ALL.into_iter().find(|tool| tool.facts().name == name)
}

/// Their names.
pub fn names() -> impl Iterator<Item = &'static str> {
    ALL.into_iter().map(|tool| tool.facts().name)
}

/// Of a JSON object the values of these keys; a dot leads into an object.
fn picked(text: &[u8], keys: &[&str]) -> serde_json::Map<String, serde_json::Value> {
    let all: serde_json::Value = serde_json::from_slice(text).unwrap_or_default();
    let mut picked = serde_json::Map::new();
    for key in keys {
        let pointer = format!("/{}", key.replace('.', "/"));
        let Some(value) = all.pointer(&pointer) else { continue };
        match key.split_once('.') {
            Some((outer, inner)) => {
                let object = picked.entry(outer).or_insert_with(|| serde_json::json!({}));
                object[inner] = value.clone();
            }
            None => {
                picked.insert((*key).to_owned(), value.clone());
            }
        }
    }
    picked
}

/// A JSON object as a file's content.
fn json_text(object: &serde_json::Map<String, serde_json::Value>) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(object).unwrap_or_default();
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use crate::config::{KEYS, Shape};

    use super::*;

    /// A home of these files.
    struct Home(BTreeMap<&'static str, Value>);

    impl HostHome for Home {
        fn read(&self, path: &str) -> Option<Vec<u8>> {
            self.0.get(path).map(|value| value.to_string().into_bytes())
        }
    }

    fn setting(permissions: Permissions) -> Setting<'static> {
        Setting { home: "/home/code", workspace: "/workspace", permissions, auto_context: true }
    }

    #[test]
    fn how_each_is_started() {
        let mut lines = Vec::new();
        for tool in ALL {
            for permissions in [Permissions::Bypass, Permissions::Interactive] {
                for resumes in [false, true] {
                    let setting = setting(permissions);
                    let environment = tool.environment(&setting);
                    let environment = environment.iter().map(|(key, value)| format!("{key}={value} "));
                    lines.push(environment.collect::<String>() + &tool.words(&setting, resumes).join(" "));
                }
            }
        }
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn who_is_not_told_is_started_without_it() {
        let told = setting(Permissions::Bypass);
        let not_told = Setting { auto_context: false, ..told };
        let words = |setting: &Setting<'_>| aider::Aider.words(setting, false).join(" ");
        assert_eq!(words(&told), "aider --yes-always --read /home/code/SANDBOX_CONTEXT.md");
        assert_eq!(words(&not_told), "aider --yes-always");
    }

    /// Everything that a host may keep beside a tool's own token.
    #[test]
    fn no_other_credential_goes_in() {
        let others = json!({"command": "x", "env": {"TOKEN": "another-service"}});
        let home = Home(BTreeMap::from([
            (
                ".claude/.credentials.json",
                json!({"claudeAiOauth": {"accessToken": "own-claude"}, "mcpOAuth": {"x": "another-service"}}),
            ),
            (
                ".claude.json",
                json!({
                    "oauthAccount": {"emailAddress": "ann@example.org"},
                    "mcpServers": {"x": others}, "projects": {"/home/ann/another-project": {}},
                }),
            ),
            (
                ".claude/settings.json",
                json!({
                    "model": "m", "hooks": {"x": "another-service"}, "apiKeyHelper": "another-service",
                    "env": {"ANTHROPIC_API_KEY": "own-claude-key", "AWS_SECRET_ACCESS_KEY": "another-service"},
                }),
            ),
            (".codex/auth.json", json!({"OPENAI_API_KEY": "own-codex"})),
            (".codex/config.toml", json!("another-service")),
            (".local/share/opencode/auth.json", json!({"anthropic": {"key": "own-opencode"}})),
            (".config/opencode/opencode.json", json!({"model": "m", "mcp": {"x": others}})),
            (".aider.conf.yml", json!("own-aider")),
            (".ssh/id_ed25519", json!("another-service")),
        ]));
        for tool in ALL {
            let name = tool.facts().name;
            let made = tool.made(&home, &setting(Permissions::Bypass));
            let all: String = made.iter().map(|made| String::from_utf8_lossy(&made.content)).collect();
            assert!(!all.contains("another-"), "{name}: {all}");
            let own = format!("own-{name}");
            assert_eq!(all.contains("own-"), name != "bash", "{name}: {all}");
            for made in &made {
                let text = String::from_utf8_lossy(&made.content);
                assert_eq!(text.contains(&own), made.is_credential, "{name}: {}", made.path);
            }
        }
    }

    #[test]
    fn without_credentials_there_are_none() {
        let home = Home(BTreeMap::new());
        for tool in ALL {
            let made = tool.made(&home, &setting(Permissions::Interactive));
            assert!(made.iter().all(|made| !made.is_credential), "{tool:?}");
        }
    }

    #[test]
    fn names_lead_to_tools() {
        let key = KEYS.iter().find(|key| key.name == "tool.name").unwrap();
        let Shape::Word(settable) = key.shape else { panic!("{:?}", key.shape) };
        assert_eq!(names().collect::<Vec<_>>(), settable);
        assert!(named("cursor").is_none());
    }
}
