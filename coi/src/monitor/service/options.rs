//! `[monitor]` of the configuration.

use std::time::Duration;

use serde::Deserialize;

use super::api::OnMonitorLoss;
use crate::monitor::audit;

/// What is watched, and what becomes of it without a monitor.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MonitorOptions {
    /// What becomes of what COI has launched when the daemon has gone.
    pub on_monitor_loss: OnMonitorLoss,
    /// So long after a planned end another daemon may take over before anything is frozen.
    #[serde(deserialize_with = "audit::duration")]
    pub handover: Duration,
    /// All containers of these projects of Incus's are watched, and answered by the rules.
    pub projects: Vec<String>,
}

impl Default for MonitorOptions {
    fn default() -> Self {
        Self {
            on_monitor_loss: OnMonitorLoss::Freeze,
            handover: Duration::from_secs(30),
            projects: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_written() {
        let options: MonitorOptions =
            toml::from_str("on_monitor_loss = \"continue\"\nhandover = \"2s\"\nprojects = [\"a\"]").unwrap();
        let wanted = MonitorOptions {
            on_monitor_loss: OnMonitorLoss::Continue,
            handover: Duration::from_secs(2),
            projects: vec!["a".into()],
        };
        assert_eq!(options, wanted);
        for wrong in ["on_monitor_loss = \"thaw\"", "handover = \"soon\"", "handower = \"2s\""] {
            assert!(toml::from_str::<MonitorOptions>(wrong).is_err(), "{wrong}");
        }
    }
}
