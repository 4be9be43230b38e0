//! What an agent is told about where it is: `~/SANDBOX_CONTEXT.md` for it to read, `~/SANDBOX_CONTEXT.json` for programs.

use serde::Serialize;

/// The text's name in the home.
pub(super) const TEXT: &str = "SANDBOX_CONTEXT.md";
/// The same for programs.
pub(super) const DATA: &str = "SANDBOX_CONTEXT.json";

/// Where an agent is.
#[derive(Clone, Debug, Serialize)]
pub struct Context {
    /// The container's name.
    pub container: String,
    /// Where the project is, as seen inside.
    pub workspace: String,
    /// The home.
    pub home: String,
    /// The tool.
    pub tool: String,
    /// Whether it asks before it acts.
    pub permission_mode: super::Permissions,
    /// The container stays when it stops.
    pub persistent: bool,
    /// The image it was made of.
    pub image: String,
    /// It is watched.
    pub monitored: bool,
    /// What of the host it has beside the project.
    pub granted: Vec<String>,
    /// What the profile has it told.
    #[serde(skip)]
    pub profile: Option<String>,
}

impl Context {
    /// The text.
    pub(super) fn text(&self) -> String {
        let Self { container, workspace, persistent, .. } = self;
        let watched = match self.monitored {
            true => {
                "- The container is watched from the host. Programs that take a shell to the network, or that send out what \
                 they have gathered, freeze or end it.\n"
            }
            false => "",
        };
        let granted = match &self.granted[..] {
            [] => String::new(),
            granted => {
                format!("- Of the host you have {}, since your user wants it so.\n", granted.join(" and "))
            }
        };
        let profile = self.profile.as_deref().map(str::trim).unwrap_or_default();
        let profile = match profile {
            "" => String::new(),
            text => format!("\n# What your user's profile says\n\n{text}\n"),
        };
        let stays = match persistent {
            true => "The container stays when it stops, with all that is installed in it.",
            false => {
                "The container is deleted when it stops: only the project and the conversation are kept."
            }
        };
        format!(
            "# Where you are\n\n\
             You run in a Linux container of your own, {container}, made by COI (Code on Incus).\n\n\
             - The project is in `{workspace}`. What you change there is changed on the host at once, as the host's user.\n\
             - {stays} Keep what must last in `{workspace}`.\n\
             {granted}\
             - Nothing else of the host can be reached: no other files, no credentials but this tool's own.\n\
             {watched}\
             - `{DATA}` beside this file says the same for programs.\n{profile}"
        )
    }

    /// The same for programs.
    pub(super) fn data(&self) -> Vec<u8> {
        let mut data = serde_json::to_vec_pretty(self).unwrap_or_default();
        data.push(b'\n');
        data
    }
}

#[cfg(test)]
mod tests {
    use super::super::Permissions;
    use super::*;

    #[test]
    fn what_an_agent_is_told() {
        let context = |persistent| Context {
            container: "coi-1a2b3c4d-1".into(),
            workspace: "/workspace".into(),
            home: "/home/code".into(),
            tool: "claude".into(),
            permission_mode: Permissions::Bypass,
            persistent,
            image: "coi-default".into(),
            monitored: true,
            granted: if persistent { vec!["the ssh agent at SSH_AUTH_SOCK".into()] } else { Vec::new() },
            profile: persistent.then(|| "Use pytest.\n".into()),
        };
        let data = String::from_utf8(context(true).data()).unwrap();
        insta::assert_snapshot!(format!("{}\n{}\n{data}", context(false).text(), context(true).text()));
    }
}
