//! Rules: typed conditions over events, and the engine that applies them.
//!
//! This module promises that a rule file either means exactly what it says or is refused with the place and
//! the reason: unknown keys, fields, lists, macros, event kinds and techniques are errors, and so is a
//! condition that could never hold because no event of the rule carries the field. It promises that judging
//! an event that matches nothing allocates nothing, that its state is capped and every eviction counted, and
//! that the same events give the same alerts: time is the events' own.
//!
//! It knows no I/O, no clock and no kernel. It is given texts and returns rules, is given events and returns
//! alerts; what is done about an alert is somebody else's business.
//!
//! The way of a rule through the files: `load` reads the TOML layer, `lexer` and `parser` turn each
//! condition into a tree with spans, `check` types the tree against the table of fields, `eval` runs it.
//! `state` holds windows and sequences, `engine` puts all of it together, [`testing`] runs the tests
//! that rules carry.

mod attack;
pub mod bench;
mod check;
mod deny;
mod docs;
mod engine;
mod error;
mod eval;
pub mod explain;
mod index;
mod layer;
mod lexer;
mod lint;
mod load;
mod meaning;
mod message;
mod model;
mod overrides;
mod parser;
mod print;
mod quantity;
pub mod recording;
mod sample;
pub mod sigma;
mod state;
mod template;
pub mod testing;
pub mod wanted;

pub use deny::{Denied, MOST_NETWORKS};
pub use docs::{fields_table, reference};
pub use engine::{Alert, Counters, Engine, Evidence, Unsaid};
pub(crate) use error::{Place, nearest};
pub use error::{RuleError, RuleErrorKind};
pub use layer::{Bound, Leeway, MOST_BYTES, MOST_FILES, Origin, OwnRules, RuleText, TooMuch};
pub(crate) use load::{Reader, deserialize, read};
pub(crate) use message::safe;
pub use model::{Action, Exception, KindSet, Rule, RuleSet, Severity, Source, builtin_sources};
pub use overrides::{Amount, AtLeast, Override, Overrides};
pub use sample::Sample;
pub use template::template;
pub use wanted::{Form, NameTest, Only, Opens, Wanted};

#[cfg(test)]
mod tests;
