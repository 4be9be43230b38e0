//! Rules.

use serde::{Deserialize, Serialize};

/// How grave an alert is, in rising order. It decides the answer: info is logged, warning is shown, high
/// freezes, critical kills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth a line in the log.
    Info,
    /// Worth a person's look.
    Warning,
    /// The container is frozen.
    High,
    /// The container is killed.
    Critical,
}
