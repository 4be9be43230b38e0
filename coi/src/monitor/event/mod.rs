//! What happened: the kinds of events and the fields they carry.
//!
//! This module promises one vocabulary. The name of a kind or a field here is its name in a rule, in the
//! audit log, in the live stream and in the SIEM. It knows neither the kernel nor the rules.

mod fields;
mod kind;
pub mod names;
mod process;
mod record;
mod source;

pub use fields::{Field, FieldDef, Record, Type, Value};
pub use kind::EventKind;
pub use process::{Process, ProcessKey};
pub use record::{
    Actor, Changed, Container, Detail, Event, FileDetail, LinkDetail, Mismatch, Text, Texts, stream_kind,
};
pub use source::Source;
