//! The rules in force for a watch: those of the machine, and what its user and its workspace bring.
//!
//! It promises that equal rules are compiled once and kept once, and that what a workspace wants to see costs that
//! workspace's container alone.

use std::{
    path::Path,
    sync::{Arc, LazyLock},
};

use super::{
    config::Config,
    rulefiles::{self, RuleFilesError},
    rules::{Leeway, OwnRules, RuleError, RuleSet, Wanted},
};

/// The rules of the machine, and what others may change about them.
#[derive(Clone, Debug)]
pub struct Base {
    /// In force where nobody brings any of their own.
    pub rules: Arc<InForce>,
    users: Leeway,
}

/// What a watch is judged by.
#[derive(Debug)]
pub struct InForce {
    /// The rules.
    pub set: Arc<RuleSet>,
    /// What they want of every container: all but the workspace's own, which anybody may have written.
    pub wanted: Wanted,
    /// Whether the workspace's own want more than that: then every event of this one container is sent.
    pub everything: bool,
    /// Those of the machine that it was made of.
    base: Arc<RuleSet>,
}

impl InForce {
    /// No rules: those of a watch that is over.
    pub fn none() -> Arc<Self> {
        static NONE: LazyLock<Arc<InForce>> = LazyLock::new(|| {
            let set: Arc<RuleSet> = Arc::default();
            Arc::new(InForce { wanted: Wanted::nothing(), everything: false, base: Arc::clone(&set), set })
        });
        Arc::clone(&NONE)
    }
}

impl Base {
    /// Reads the rules of the machine; `extra` is a directory of more, `config` stands in for the system's.
    pub fn load(extra: Option<&Path>, config: Option<&Path>) -> Result<Self, RuleFilesError> {
        Self::of(&Config::read(config)?, extra)
    }

    /// The same, with a configuration that is read already.
    pub fn of(config: &Config, extra: Option<&Path>) -> Result<Self, RuleFilesError> {
        Ok(Self::new(rulefiles::load(extra, &config.rules)?, config.users))
    }

    /// These rules as those of the machine.
    pub fn new(set: RuleSet, users: Leeway) -> Self {
        let (wanted, set) = (set.wanted(), Arc::new(set));
        let base = Arc::clone(&set);
        Self { rules: Arc::new(InForce { set, wanted, everything: false, base }), users }
    }

    /// How many rules are in force where nobody brings any.
    pub fn count(&self) -> usize {
        self.rules.set.rules().iter().filter(|rule| rule.enabled).count()
    }

    /// Whether these were made of the machine's rules as they are now.
    pub fn is_under(&self, rules: &InForce) -> bool {
        Arc::ptr_eq(&self.rules.set, &rules.base)
    }

    /// The rules for a watch whose user and workspace bring these.
    pub fn with(&self, own: &OwnRules) -> Result<Arc<InForce>, Vec<RuleError>> {
        if own.is_empty() {
            return Ok(Arc::clone(&self.rules));
        }
        let users = self.rules.set.with_user(&own.user, self.users)?;
        let wanted = users.wanted();
        let set = users.with_workspace(&own.workspace)?;
        let everything = !wanted.covers(&set.wanted());
        let base = Arc::clone(&self.rules.set);
        Ok(Arc::new(InForce { set: Arc::new(set), wanted, everything, base }))
    }
}

/// What rules want of every container, taken together.
pub fn wanted<'a>(rules: impl Iterator<Item = &'a Arc<InForce>>) -> Wanted {
    let mut seen: Vec<&Arc<InForce>> = Vec::new();
    for rules in rules {
        if !seen.iter().any(|other| Arc::ptr_eq(other, rules)) {
            seen.push(rules);
        }
    }
    seen.iter().fold(Wanted::nothing(), |all, rules| all.union(&rules.wanted))
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;
    use crate::monitor::{
        event::EventKind,
        rules::{Opens, Origin, RuleText, builtin_sources},
    };

    fn base() -> Base {
        Base::new(RuleSet::compile(&builtin_sources(), date(2026, 7, 1)).unwrap(), Leeway::Defaults)
    }

    fn file(event: &str, condition: &str) -> Vec<RuleText> {
        let text = format!(
            "[[rule]]\nid = 'mine'\ntitle = 't'\nseverity = 'info'\nevent = '{event}'\ncondition = \"{condition}\"\n"
        );
        vec![RuleText { name: "mine.toml".into(), text }]
    }

    #[test]
    fn where_nobody_brings_any_the_machines_are_used_as_they_are() {
        let base = base();
        assert!(Arc::ptr_eq(&base.with(&OwnRules::default()).unwrap(), &base.rules));
    }

    #[test]
    fn what_is_below_is_shared() {
        let base = base();
        let own = OwnRules { user: file("exec", "true"), ..OwnRules::default() };
        let rules = base.with(&own).unwrap();
        let (below, all) = (base.rules.set.rules(), rules.set.rules());
        assert_eq!(all.len(), below.len() + 1);
        assert!(below.iter().zip(all).all(|(one, other)| Arc::ptr_eq(one, other)));
        assert_eq!(all.last().map(|rule| rule.origin), Some(Origin::User));
    }

    /// Its opens would take the room that another container's opens need.
    #[test]
    fn what_a_workspace_wants_is_sent_of_its_container_alone() {
        let base = base();
        let workspace =
            |event, condition| OwnRules { workspace: file(event, condition), ..OwnRules::default() };
        let exec = base.with(&workspace("exec", "process.name == 'x'")).unwrap();
        let open = base.with(&workspace("open", "true")).unwrap();
        assert_eq!((exec.everything, open.everything), (false, true));
        let user = base.with(&OwnRules { user: file("open", "true"), ..OwnRules::default() }).unwrap();
        assert_eq!((user.everything, &user.wanted.opens), (false, &Opens::All));

        assert_eq!(wanted([&base.rules, &exec, &open].into_iter()), base.rules.wanted);
        assert_eq!(wanted([&base.rules, &user, &open].into_iter()), user.wanted);
        let nothing = wanted([].into_iter());
        assert!(!nothing.kinds.contains(EventKind::Exec) && nothing.opens == Opens::None);
    }
}
