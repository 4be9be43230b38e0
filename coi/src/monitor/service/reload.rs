//! The rules are read again.
//!
//! It promises that every watch is judged by the rules as they are then, or none.

use std::sync::{Arc, atomic::Ordering};

use axum::http::StatusCode;

use super::{
    api::{Kept, Reloaded},
    memory::give_back,
    refusal::Refusal,
    watches::Service,
};
use crate::monitor::{
    audit::{Record, RulesInForce},
    inforce::{Base, InForce},
    pipeline::NewRules,
    rulefiles::{RuleFilesError, drawn},
    rules::OwnRules,
};

impl Service {
    /// Has every watch judged by the rules as they are now, or none. What a watch has brought may not go with them any
    /// more; it keeps the rules that it has, and that is said.
    pub(super) async fn reload(&self, by: u32) -> Result<Reloaded, Refusal> {
        let mut base = self.base.write().await;
        let (files, config) = (self.rule_files.clone(), self.config.clone());
        let live = self.monitored();
        let brought: Vec<_> = live.iter().map(|watching| Arc::clone(&watching.watched.own)).collect();
        let compile = move || {
            let base = Base::load(files.as_deref(), config.as_deref())?;
            let compiled = compile_all(&base, brought);
            Ok::<_, RuleFilesError>((base, compiled))
        };
        let compiled = tokio::task::spawn_blocking(compile).await;
        let compiled = compiled.map_err(|error| Refusal::internal(error.to_string()))?;
        let (new, compiled) = compiled.map_err(|error| {
            let words = format!("the rules that were in force stay in force; {error}");
            tracing::warn!("{words}");
            Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "rules", words)
        })?;
        let mut rules: Vec<NewRules> = Vec::new();
        let mut misfits = Vec::new();
        for (watching, compiled) in live.into_iter().zip(compiled) {
            match compiled {
                Ok(compiled) => rules.push((Arc::clone(&watching.watched), compiled)),
                Err(why) => misfits.push((watching, why)),
            }
        }
        let told: Vec<_> = rules
            .iter()
            .map(|(watched, rules)| (Arc::clone(watched), RulesInForce::of(&rules.set)))
            .collect();
        // What is denied is refused before its rules judge it.
        for (watched, rules) in &rules {
            if let Some(watching) = self.named(&watched.container.name) {
                watching.deny_by(rules.set.denied()).await?;
            }
        }
        self.pipeline.use_rules(rules).await??;
        for (watched, in_force) in told {
            if let Some(watching) = self.named(&watched.container.name) {
                watching.record(Record::rules(&watched.container, by, &in_force));
            }
        }
        *base = new;
        let rules = base.count();
        self.rules.store(rules, Ordering::Relaxed);
        drop(base);
        give_back();
        tracing::info!(rules, "the rules were read again");
        let mut kept = Vec::new();
        for (watching, why) in misfits {
            let container = &watching.watched.container;
            let words =
                format!("it keeps its rules, since its own do not go with the machine's any more: {why}");
            tracing::warn!(name = container.name, "{words}");
            watching.record(Record::note(container, &words));
            kept.push(Kept { watch: container.name.clone(), why });
        }
        Ok(Reloaded { rules, kept })
    }
}

/// Rules, or what is wrong with them, drawn.
type Compiled = Result<Arc<InForce>, String>;

/// The rules for watches that have brought these, in the same order; those that have brought the same share theirs.
fn compile_all(base: &Base, brought: Vec<Arc<OwnRules>>) -> Vec<Compiled> {
    let mut done: Vec<(Arc<OwnRules>, Compiled)> = Vec::new();
    let compile = |own: Arc<OwnRules>| match done.iter().find(|(other, _)| *other == own) {
        Some((_, rules)) => rules.clone(),
        None => {
            let rules = base.with(&own).map_err(|errors| drawn(&errors));
            done.push((own, rules.clone()));
            rules
        }
    };
    brought.into_iter().map(compile).collect()
}
