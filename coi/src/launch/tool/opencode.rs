//! opencode.
//!
//! Its logins are in `~/.local/share/opencode/auth.json`, its conversations beside them: in `opencode.db` since 1.2, in
//! `storage/` before. `OPENCODE_CONFIG_CONTENT` is merged over its configuration files.

use super::{ContextBy, Facts, HostHome, Made, Setting, Tool, json_text, picked};

/// opencode.
#[derive(Debug)]
pub(super) struct OpenCode;

const FACTS: Facts = Facts {
    name: "opencode",
    program: "opencode",
    bypass: &[],
    interactive: &[],
    resume: &["--continue"],
    environment: &[("IS_SANDBOX", "1")],
    bypass_environment: &[("OPENCODE_CONFIG_CONTENT", r#"{"permission":"allow"}"#)],
    conversations: &[
        ".local/share/opencode/opencode.db",
        ".local/share/opencode/opencode.db-wal",
        ".local/share/opencode/opencode.db-shm",
        ".local/share/opencode/storage",
    ],
    context: ContextBy::File(".config/opencode/AGENTS.md"),
};

const LOGINS: &str = ".local/share/opencode/auth.json";
const CONFIG: &str = ".config/opencode/opencode.json";

impl Tool for OpenCode {
    fn facts(&self) -> &'static Facts {
        &FACTS
    }

    fn made(&self, home: &dyn HostHome, _: &Setting<'_>) -> Vec<Made> {
        let logins = home.read(LOGINS).map(|content| Made {
            path: LOGINS,
            content,
            is_credential: true,
            keeps: false,
        });
        let config = home.read(CONFIG).map(|text| picked(&text, &["model", "small_model", "theme"]));
        let config = config.filter(|config| !config.is_empty()).map(|config| Made {
            path: CONFIG,
            content: json_text(&config),
            is_credential: false,
            keeps: true,
        });
        logins.into_iter().chain(config).collect()
    }
}
