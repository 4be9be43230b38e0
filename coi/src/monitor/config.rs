//! The configuration of this machine, `/etc/coi/config.toml`.
//!
//! ```toml
//! [rules.bulk-read-volume]     # changes to a rule, see `Overrides`
//! enabled = true
//!
//! [users]
//! rules = "tighten"            # what users' own rules may change: `tighten`, `defaults` or `full`, see `Leeway`
//!
//! [monitor]
//! on_monitor_loss = "freeze"   # or "continue": what becomes of what COI has launched when the daemon has gone
//! handover = "30s"             # so long after a planned end another daemon may take over before anything is frozen
//! projects = []                # all containers of these projects of Incus's are watched
//! ```
//!
//! `[audit]` is in docs/audit.md, `[respond]` and `[[notify]]` are in docs/response.md.
//!
//! The other tables of the file are settings of `coi run` and `coi shell`, see [`config`](crate::config), and known here
//! by name only.
//!
//! It is read once, and whoever needs a part of it is handed that part. A table or key that means nothing is an
//! error: a misspelt `[senzor]` that is passed over would look like a setting that does nothing.

use std::path::Path;
use std::sync::LazyLock;

use serde::Deserialize;
use toml::de::DeTable;

use super::rulefiles::{RuleFilesError, read_source};
use super::rules::{self, Leeway, Overrides, Reader, RuleError, Source};
use super::{audit, notify, respond, service};
use crate::config as settings;

const SYSTEM_CONFIG: &str = "/etc/coi/config.toml";

const USERS: &[&str] = &["rules"];

/// All tables that the file may have.
static TABLES: LazyLock<Vec<&str>> =
    LazyLock::new(|| settings::DAEMONS.iter().copied().chain(settings::sections()).collect());

/// What the administrator has set.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// `[rules.ID]`: changes to rules.
    pub rules: Overrides,
    /// `[users] rules`: which rules users' own may make milder.
    pub users: Leeway,
    /// `[audit]`: how the audit log is kept.
    pub audit: audit::Options,
    /// `[respond]`: what is kept before a kill.
    pub respond: respond::Options,
    /// `[[notify]]`: who is told of alerts, and how.
    pub notify: Vec<notify::Sink>,
    /// `[monitor]`: what is watched, and what becomes of it without a monitor.
    pub monitor: service::MonitorOptions,
}

impl Config {
    /// Reads the file of this machine, which need not be there, or the one that stands in for it.
    pub fn read(instead: Option<&Path>) -> Result<Self, RuleFilesError> {
        let path = match instead {
            Some(path) => path,
            None if !Path::new(SYSTEM_CONFIG).exists() => return Ok(Self::default()),
            None => Path::new(SYSTEM_CONFIG),
        };
        Self::parse(&read_source(path)?).map_err(RuleFilesError::Wrong)
    }

    /// Reads a text.
    pub fn parse(source: &Source) -> Result<Self, Vec<RuleError>> {
        #[derive(Deserialize)]
        struct Parts {
            #[serde(default)]
            audit: audit::Options,
            #[serde(default)]
            respond: respond::Options,
            #[serde(default)]
            notify: Vec<notify::Sink>,
            #[serde(default)]
            monitor: service::MonitorOptions,
        }
        let config = rules::read(source, |reader, table| {
            reader.keys(table, "the configuration", &TABLES);
            Self { rules: Overrides::read(reader, table), users: leeway(reader, table), ..Self::default() }
        })?;
        let Parts { audit, respond, notify, monitor } = rules::deserialize(source)?;
        Ok(Self { audit, respond, notify, monitor, ..config })
    }
}

fn leeway(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Leeway {
    let Some((table, _)) = reader.table(table, "users") else { return Leeway::default() };
    reader.keys(table, "[users]", USERS);
    let text = reader.text(table, "rules");
    text.and_then(|text| reader.one_of("leeway", &text, Leeway::ALL)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, Vec<RuleError>> {
        Config::parse(&Source { name: "config.toml".into(), text: text.into() })
    }

    #[test]
    fn what_users_may() {
        assert_eq!(parse("").unwrap().users, Leeway::Defaults);
        assert_eq!(parse("[users]\nrules = 'full'\n").unwrap().users, Leeway::Full);
        let wrong = parse("[users]\nrules = 'tigthen'\nrulez = 1\n").unwrap_err();
        insta::assert_snapshot!(wrong.iter().map(RuleError::drawn).collect::<String>());
    }

    #[test]
    fn what_means_nothing_is_an_error() {
        let text = "[userz]\nrules = 'full'\n[rules.x]\nenabeld = true\n";
        let wrong = parse(text).unwrap_err();
        insta::assert_snapshot!(wrong.iter().map(RuleError::drawn).collect::<String>());
        let wrong = parse("users = 1\nrules = []\n[colours]\n").unwrap_err();
        insta::assert_snapshot!(wrong.iter().map(RuleError::drawn).collect::<String>());
        assert_eq!(
            parse("[users]\nrules = 1\n").unwrap_err()[0].to_string(),
            "config.toml:2:9: `rules` takes a text, this is a whole number"
        );
    }

    #[test]
    fn the_file_need_not_be_there_unless_it_is_named() {
        let named = Config::read(Some(Path::new("/nonexistent/config.toml"))).unwrap_err();
        assert!(matches!(named, RuleFilesError::Read { .. }), "{named}");
    }
}
