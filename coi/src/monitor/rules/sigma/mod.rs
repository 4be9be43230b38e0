//! Sigma rules for Linux as rules of our own.
//!
//! It promises that an imported rule compiles, passes its generated tests and means what the Sigma rule means, or is
//! skipped with a reason: nothing is left out in silence. What differs is said here: texts of command lines are compared
//! whether ASCII letters are large or small, as Sigma does; paths are not, since on Linux they differ. A rule of the
//! level high or critical asks to notify only: whoever imports it decides whether it may freeze.

mod condition;
mod detection;
mod example;

use std::fmt::Write as _;

use serde_json::Value as Json;

use self::detection::{Detection, Source};
use super::{
    attack,
    load::is_name,
    model::{RuleSet, Source as File},
    testing,
};

/// Why a rule is not imported.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Skipped {
    /// It is not YAML, or several documents.
    #[error("it is not one YAML document: {0}")]
    Yaml(String),
    /// A key is missing, or something else is there.
    #[error("its `{0}` is missing or not of the usual form")]
    Form(&'static str),
    /// Events that COI does not report.
    #[error("log source not reported by COI: {0}")]
    Source(String),
    /// A field that COI's events do not have.
    #[error("field not known to COI: {0}")]
    Field(String),
    /// A modifier that has no counterpart.
    #[error("modifier not supported: {0}")]
    Modifier(String),
    /// Texts to look for anywhere in an event.
    #[error("keywords without a field")]
    Keywords,
    /// A condition that counts, or that names what is not there.
    #[error("condition not supported: {0}")]
    Condition(String),
    /// A value of another type than the field's.
    #[error("value not supported: {0}")]
    Value(String),
    /// The rule that came out is refused.
    #[error("the imported rule is refused: {0}")]
    Refused(String),
    /// No event was found that it fires on, or stays quiet on.
    #[error("no test could be generated")]
    NoTest,
}

impl Skipped {
    /// The reason without what differs from rule to rule, for counting.
    pub fn reason(&self) -> String {
        match self {
            Self::Yaml(_) => "not YAML".to_owned(),
            Self::Refused(_) => "the imported rule is refused".to_owned(),
            Self::Condition(_) => "condition not supported".to_owned(),
            Self::Value(_) => "value not supported".to_owned(),
            other => other.to_string(),
        }
    }
}

/// A rule that was imported.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Its id here.
    pub id: String,
    /// A rule file with this one rule.
    pub toml: String,
    /// ATT&CK techniques that it named and that COI does not know.
    pub dropped: Vec<String>,
}

/// Imports one Sigma rule. `name` is its file's name, from which the id is made.
pub fn import(name: &str, yaml: &str) -> Result<Imported, Skipped> {
    let rule: Json = serde_saphyr::from_str(yaml)
        .map_err(|error| Skipped::Yaml(error.to_string().lines().next().unwrap_or_default().to_owned()))?;
    let text = |key: &'static str| rule.get(key).and_then(Json::as_str);
    let title = text("title").ok_or(Skipped::Form("title"))?;
    let source = Source::of(&rule)?;
    let detection = Detection::read(&rule, source)?;
    let condition = detection.to_string();
    let (severity, action) = match text("level").unwrap_or("medium") {
        "informational" | "low" => ("info", None),
        "high" => ("high", Some("notify")),
        "critical" => ("critical", Some("notify")),
        _ => ("warning", None),
    };
    let tags = rule.get("tags").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str);
    let techniques = tags.filter_map(|tag| tag.strip_prefix("attack.")).map(str::to_uppercase);
    let techniques = techniques.filter(|id| attack::is_technique_id(id));
    let (known, dropped): (Vec<_>, Vec<_>) = techniques.partition(|id| attack::is_known(id));
    let id = id_of(name);
    let mut head = format!("[[rule]]\nid = {}\ntitle = {}\n", quote(&id), quote(title.trim()));
    let origin = text("id").map(|id| format!("Imported from the Sigma rule {id}.")).unwrap_or_default();
    let description = format!("{}\n{origin}", text("description").unwrap_or_default().trim());
    // Writing to a string does not fail.
    let _ = writeln!(head, "description = {}", quote(description.trim()));
    let _ = writeln!(head, "severity = \"{severity}\"");
    if let Some(action) = action {
        let _ = writeln!(head, "action = \"{action}\"");
    }
    let _ = writeln!(head, "attack = {}", toml::Value::from(known));
    let _ = writeln!(head, "event = \"{}\"\ncondition = {}", source.kind(), quote(&condition));
    with_tests(&head, &detection).map(|toml| Imported { id, toml, dropped })
}

/// The rule with the first generated tests that it passes.
fn with_tests(head: &str, detection: &Detection) -> Result<String, Skipped> {
    let quiet = example::quiet(detection.source.kind());
    for fires in example::fires(detection) {
        let toml = format!(
            "{head}\n  [[rule.test]]\n  name = \"what it looks for\"\n  expect = \"fire\"\n  events = [{fires}]\n\n  \
             [[rule.test]]\n  name = \"something else\"\n  expect = \"quiet\"\n  events = [{quiet}]\n"
        );
        let file = File { name: "sigma".to_owned(), text: toml.clone() };
        // Imported rules have no exceptions that could expire.
        let rules = RuleSet::compile(&[file], jiff::civil::Date::MIN).map_err(|errors| {
            let first = errors.first().map(|error| error.kind().to_string());
            Skipped::Refused(first.unwrap_or_default())
        })?;
        if testing::run(&rules, None, &|_, name| Err(name.to_owned())).passed() {
            return Ok(toml);
        }
    }
    Err(Skipped::NoTest)
}

fn id_of(name: &str) -> String {
    let stem = name.rsplit('/').next().unwrap_or(name);
    let stem = stem.strip_suffix(".yml").or_else(|| stem.strip_suffix(".yaml")).unwrap_or(stem);
    let plain: String =
        stem.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let id = format!("sigma-{}", plain.trim_matches('-'));
    debug_assert!(is_name(&id), "{id}");
    id
}

/// A text as TOML writes it.
fn quote(text: &str) -> String {
    toml::Value::from(text).to_string()
}
