//! aider.
//!
//! Its conversation is `.aider.chat.history.md` in the workspace, which stays anyway. Keys are in `~/.aider.conf.yml`, or
//! in the environment, of which nothing goes in unless it is named.

use super::{ContextBy, Facts, HostHome, Made, Setting, Tool};

/// aider.
#[derive(Debug)]
pub(super) struct Aider;

const FACTS: Facts = Facts {
    name: "aider",
    program: "aider",
    bypass: &["--yes-always"],
    interactive: &[],
    resume: &["--restore-chat-history"],
    environment: &[("IS_SANDBOX", "1")],
    bypass_environment: &[],
    conversations: &[],
    context: ContextBy::Argument("--read"),
};

const CONFIG: &str = ".aider.conf.yml";

impl Tool for Aider {
    fn facts(&self) -> &'static Facts {
        &FACTS
    }

    fn made(&self, home: &dyn HostHome, _: &Setting<'_>) -> Vec<Made> {
        let config = home.read(CONFIG);
        let made = |content| Made { path: CONFIG, content, is_credential: true, keeps: false };
        config.map(made).into_iter().collect()
    }
}
