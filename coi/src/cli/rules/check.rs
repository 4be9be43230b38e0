//! `coi rules check`

use clap::Args;

use super::{Code, Here, Result, show};
use crate::monitor::rules::Origin;
use crate::monitor::service::client::Client;
use crate::ui;

/// Say what is wrong with the rules, and what is hardly meant: unused lists, conditions that nothing meets, rules that
/// another one makes needless.
///
/// The user's and the workspace's own rules are looked at as a watch would take them: a workspace may only tighten.
/// Where a daemon runs, also which rules none of its kernel programs feeds.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coi rules check\n  coi rules check --rules ./my.toml --strict")]
pub(super) struct Check {
    #[command(flatten)]
    here: Here,
    /// Fail on what is only hardly meant, too.
    #[arg(long)]
    strict: bool,
}

impl Check {
    pub(super) async fn execute(self) -> Result {
        let set = self.here.load()?;
        let status = Client::from_env().status().await.ok();
        let found = set.lint(status.as_ref().map(|status| status.programs.as_slice()));
        found.iter().for_each(show);
        if status.is_none() {
            ui::err("coi: no daemon answers, so it is not known which of these events it reports");
        }
        let of = |origin| set.rules().iter().filter(|rule| rule.origin == origin).count();
        let origins = [Origin::Builtin, Origin::System, Origin::User, Origin::Workspace];
        let origins = origins.map(|origin| (of(origin), origin)).into_iter().filter(|(count, _)| *count > 0);
        let origins =
            origins.map(|(count, origin)| format!("{count} {origin}")).collect::<Vec<_>>().join(", ");
        ui::err(&format!("coi: {} rules ({origins}), {} warnings", set.rules().len(), found.len()));
        Ok(if self.strict && !found.is_empty() { Code::RULE } else { Code::OK })
    }
}
