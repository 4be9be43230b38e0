//! What can be wrong with a rule file, and how it is said.

use std::{fmt, sync::Arc};

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};

/// Something wrong with a rule file: what, where, and what to do about it.
#[derive(Clone, Debug)]
pub struct RuleError {
    kind: RuleErrorKind,
    file: Arc<NamedSource<String>>,
    span: std::ops::Range<usize>,
}

/// The kinds of things that can be wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleErrorKind {
    /// The file is not TOML.
    #[error("{0}")]
    Toml(String),
}

impl RuleError {
    /// What is wrong.
    pub fn kind(&self) -> &RuleErrorKind {
        &self.kind
    }
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.name(), self.kind)
    }
}

impl std::error::Error for RuleError {}

impl Diagnostic for RuleError {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.file)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(std::iter::once(LabeledSpan::underline(self.span.clone()))))
    }
}
