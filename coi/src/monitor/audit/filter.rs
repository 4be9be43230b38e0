//! Which records of a log somebody wants to see.

use globset::GlobMatcher;
use jiff::Timestamp;
use serde_json::Value;

use super::record::Kind;
use crate::monitor::rules::Severity;

/// What a record must be. What is empty asks for nothing.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Not before.
    pub since: Option<Timestamp>,
    /// Not after.
    pub until: Option<Timestamp>,
    /// An alert at least so grave.
    pub severity: Option<Severity>,
    /// An alert of one of these rules.
    pub rules: Vec<String>,
    /// About such a process.
    pub process: Option<Process>,
    /// Of one of these kinds.
    pub kinds: Vec<Kind>,
}

/// A process somebody looks for.
#[derive(Clone, Debug)]
pub enum Process {
    /// By its id on the host.
    Pid(u64),
    /// By the path or the name of its program.
    Program(GlobMatcher),
}

impl Filter {
    /// Is it wanted?
    pub fn admits(&self, record: &Value) -> bool {
        let coi = &record["coi"];
        let time = || record["@timestamp"].as_str()?.parse::<Timestamp>().ok();
        let in_time = (self.since.is_none() && self.until.is_none())
            || time().is_some_and(|time| {
                self.since.is_none_or(|since| since <= time) && self.until.is_none_or(|until| time <= until)
            });
        let is_grave = || coi["severity"].as_str().and_then(Severity::from_name) >= self.severity;
        let is_of_rule =
            || record["rule"]["id"].as_str().is_some_and(|id| self.rules.iter().any(|rule| rule == id));
        let is_of_kind = || {
            coi["record"].as_str().and_then(Kind::from_name).is_some_and(|kind| self.kinds.contains(&kind))
        };
        in_time
            && (self.severity.is_none() || is_grave())
            && (self.rules.is_empty() || is_of_rule())
            && (self.kinds.is_empty() || is_of_kind())
            && self.process.as_ref().is_none_or(|process| process.is(&record["process"]))
    }
}

impl Process {
    fn is(&self, process: &Value) -> bool {
        match self {
            Self::Pid(pid) => process["pid"].as_u64() == Some(*pid),
            Self::Program(program) => ["executable", "name"]
                .iter()
                .any(|key| process[key].as_str().is_some_and(|text| program.is_match(text))),
        }
    }
}

#[cfg(test)]
mod tests {
    use globset::Glob;
    use serde_json::json;

    use super::*;

    #[test]
    fn each_condition_counts() {
        let record = json!({
            "@timestamp": "2026-11-20T12:00:00.000000001Z",
            "rule": {"id": "r"}, "process": {"pid": 7, "executable": "/usr/bin/curl", "name": "curl"},
            "coi": {"record": "alert", "severity": "high"},
        });
        let program = |glob| Some(Process::Program(Glob::new(glob).unwrap().compile_matcher()));
        let time = |text: &str| Some(text.parse().unwrap());
        let all = Filter {
            since: time("2026-11-20T12:00:00Z"),
            until: time("2026-11-20T12:00:01Z"),
            severity: Some(Severity::High),
            rules: vec!["x".into(), "r".into()],
            process: program("curl"),
            kinds: vec![Kind::Alert],
        };
        assert!(
            all.admits(&record) && Filter::default().admits(&record) && Filter::default().admits(&json!({}))
        );
        for less in [
            Filter { since: all.until, ..all.clone() },
            Filter { until: all.since, ..all.clone() },
            Filter { severity: Some(Severity::Critical), ..all.clone() },
            Filter { rules: vec!["x".into()], ..all.clone() },
            Filter { process: Some(Process::Pid(8)), ..all.clone() },
            Filter { process: program("/usr/bin/wget*"), ..all.clone() },
            Filter { kinds: vec![Kind::Gap], ..all.clone() },
        ] {
            assert!(!less.admits(&record), "{less:?}");
        }
        assert!(Filter { process: Some(Process::Pid(7)), ..all }.admits(&record));
    }
}
