//! A plain shell: for a look around, and for images that have no agent.

use super::{ContextBy, Facts, HostHome, Made, Setting, Tool};

/// A shell.
#[derive(Debug)]
pub(super) struct Bash;

const FACTS: Facts = Facts {
    name: "bash",
    program: "bash",
    bypass: &[],
    interactive: &[],
    resume: &[],
    environment: &[],
    bypass_environment: &[],
    conversations: &[],
    context: ContextBy::Nothing,
};

impl Tool for Bash {
    fn facts(&self) -> &'static Facts {
        &FACTS
    }

    fn made(&self, _: &dyn HostHome, _: &Setting<'_>) -> Vec<Made> {
        Vec::new()
    }
}
