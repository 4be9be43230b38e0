//! OpenAI's Codex CLI.
//!
//! Its login is `~/.codex/auth.json`, its conversations are `~/.codex/sessions/YEAR/MONTH/DAY/rollout-*.jsonl`. Its
//! `config.toml` may hold other services' secrets, so it is not taken.

use super::{ContextBy, Facts, HostHome, Made, Setting, Tool};

/// Codex.
#[derive(Debug)]
pub(super) struct Codex;

const FACTS: Facts = Facts {
    name: "codex",
    program: "codex",
    bypass: &["--dangerously-bypass-approvals-and-sandbox"],
    interactive: &[],
    resume: &["resume", "--last"],
    environment: &[("IS_SANDBOX", "1")],
    bypass_environment: &[],
    conversations: &[
        ".codex/sessions",
        ".codex/archived_sessions",
        ".codex/session_index.jsonl",
        ".codex/history.jsonl",
    ],
    context: ContextBy::File(".codex/AGENTS.md"),
};

const LOGIN: &str = ".codex/auth.json";
const CONFIG: &str = ".codex/config.toml";

impl Tool for Codex {
    fn facts(&self) -> &'static Facts {
        &FACTS
    }

    fn made(&self, home: &dyn HostHome, setting: &Setting<'_>) -> Vec<Made> {
        let login =
            home.read(LOGIN).map(|content| Made { path: LOGIN, content, is_credential: true, keeps: false });
        // It asks of each new directory whether it is to be trusted.
        let workspace = toml::Value::String(setting.workspace.to_owned());
        let config = Made {
            path: CONFIG,
            content: format!("[projects.{workspace}]\ntrust_level = \"trusted\"\n").into_bytes(),
            is_credential: false,
            keeps: true,
        };
        login.into_iter().chain([config]).collect()
    }
}
