//! Claude Code.
//!
//! It keeps conversations in `~/.claude/projects/`, one directory for each working directory, and its login in
//! `~/.claude/.credentials.json`, beside the tokens of MCP servers. `~/.claude.json` says what it has asked already;
//! it also holds MCP servers with their secrets and the paths of all projects of the host.

use serde_json::{Map, Value, json};

use super::{ContextBy, Facts, HostHome, Made, Permissions, Setting, Tool, json_text, picked};

/// Claude Code.
#[derive(Debug)]
pub(super) struct Claude;

const FACTS: Facts = Facts {
    name: "claude",
    program: "claude",
    bypass: &["--dangerously-skip-permissions"],
    interactive: &[],
    // The last conversation of the working directory.
    resume: &["--continue"],
    // Else it refuses to skip permissions where the workspace belongs to root.
    environment: &[("IS_SANDBOX", "1")],
    bypass_environment: &[],
    conversations: &[
        ".claude/projects",
        ".claude/todos",
        ".claude/tasks",
        ".claude/plans",
        ".claude/file-history",
        ".claude/history.jsonl",
    ],
    context: ContextBy::File(".claude/CLAUDE.md"),
};

const CREDENTIALS: &str = ".claude/.credentials.json";
const SETTINGS: &str = ".claude/settings.json";
const STATE: &str = ".claude.json";

impl Tool for Claude {
    fn facts(&self) -> &'static Facts {
        &FACTS
    }

    fn made(&self, home: &dyn HostHome, setting: &Setting<'_>) -> Vec<Made> {
        let take = |path, keys: &[&str]| home.read(path).map(|text| picked(&text, keys)).unwrap_or_default();
        let made = |path, object: Map<String, Value>, is_credential| Made {
            path,
            content: json_text(&object),
            is_credential,
            keeps: false,
        };
        let mut all = Vec::new();
        let login = take(CREDENTIALS, &["claudeAiOauth"]);
        if !login.is_empty() {
            all.push(made(CREDENTIALS, login, true));
        }
        let bypass = setting.permissions == Permissions::Bypass;

        let tokens = ["env.ANTHROPIC_API_KEY", "env.ANTHROPIC_AUTH_TOKEN", "env.CLAUDE_CODE_OAUTH_TOKEN"];
        let mut settings = take(SETTINGS, &tokens);
        let has_token = !settings.is_empty();
        let others = ["model", "effortLevel", "theme", "env.ANTHROPIC_BASE_URL"];
        for (key, value) in take(SETTINGS, &others) {
            match (settings.get_mut(&key), value) {
                (Some(Value::Object(there)), Value::Object(more)) => there.extend(more),
                (_, value) => {
                    settings.insert(key, value);
                }
            }
        }
        if bypass {
            settings.insert("skipDangerousModePermissionPrompt".to_owned(), json!(true));
        }
        all.push(made(SETTINGS, settings, has_token));

        let key = take(STATE, &["primaryApiKey"]);
        let has_key = !key.is_empty();
        let mut state = take(STATE, &["oauthAccount", "customApiKeyResponses", "userID"]);
        state.extend(key);
        state.insert("hasCompletedOnboarding".to_owned(), json!(true));
        if bypass {
            state.insert("bypassPermissionsModeAccepted".to_owned(), json!(true));
        }
        let trusted = json!({ "hasTrustDialogAccepted": true, "hasCompletedProjectOnboarding": true });
        state.insert("projects".to_owned(), json!({ setting.workspace: trusted }));
        all.push(made(STATE, state, has_key));
        all
    }
}
