//! An event as a list of fields: written by hand in a test, or read from a recording.

use std::{net::IpAddr, sync::Arc};

use crate::monitor::event::{EventKind, Field, Record, Value};

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Datum {
    Keyword(Arc<str>),
    Integer(i64),
    Boolean(bool),
    Ip(IpAddr),
    Keywords(Arc<[Arc<str>]>),
}

impl Datum {
    /// The same with `{n}` in texts replaced.
    pub(super) fn numbered(&self, n: &str) -> Self {
        match self {
            Self::Keyword(text) => Self::Keyword(text.replace("{n}", n).into()),
            Self::Keywords(texts) => {
                Self::Keywords(texts.iter().map(|text| text.replace("{n}", n).into()).collect())
            }
            other => other.clone(),
        }
    }
}

/// An event that no kernel reported just now.
#[derive(Clone, Debug)]
pub struct Sample {
    kind: EventKind,
    time: u64,
    values: Vec<Datum>,
    /// Where in `values` each field is, by its discriminant.
    places: [u8; FIELDS],
}

const FIELDS: usize = Field::TABLE.len();
/// The place of a field that is not there. There are fewer fields than that, or this would not compile.
const NOWHERE: u8 = u8::MAX;
const _: () = assert!(FIELDS < NOWHERE as usize);

impl Record for Sample {
    fn kind(&self) -> EventKind {
        self.kind
    }

    fn time(&self) -> u64 {
        self.time
    }

    fn get(&self, field: Field) -> Option<Value<'_>> {
        Some(match self.values.get(usize::from(self.places[field as usize]))? {
            Datum::Keyword(text) => Value::Keyword(text),
            Datum::Integer(number) => Value::Integer(*number),
            Datum::Boolean(value) => Value::Boolean(*value),
            Datum::Ip(address) => Value::Ip(*address),
            Datum::Keywords(texts) => Value::Keywords(texts),
        })
    }
}

impl Sample {
    /// An event with these fields; of two values of one field the later counts.
    pub(super) fn new(kind: EventKind, time: u64, fields: Vec<(Field, Datum)>) -> Self {
        let mut sample =
            Self { kind, time, values: Vec::with_capacity(fields.len()), places: [NOWHERE; FIELDS] };
        fields.into_iter().for_each(|(field, datum)| sample.set(field, datum));
        sample
    }

    fn set(&mut self, field: Field, datum: Datum) {
        match self.values.get_mut(usize::from(self.places[field as usize])) {
            Some(old) => *old = datum,
            None => {
                // There are as many places as fields, and each is taken once.
                self.places[field as usize] = self.values.len() as u8;
                self.values.push(datum);
            }
        }
    }

    /// Fills in what follows from what was written.
    pub(super) fn derive(&mut self) {
        let text = |text: &str| Datum::Keyword(text.into());
        self.default(Field::EventAction, |record| Some(text(record.kind.name())));
        self.default(Field::Phase, |_| Some(text("guest")));
        self.default(Field::ContainerName, |_| Some(text("test")));
        self.default(Field::ContainerId, |_| Some(text("test")));
        self.default(Field::ProcessPid, |_| Some(Datum::Integer(1000)));
        self.default(Field::ProcessEntityId, |record| match record.get(Field::ProcessPid) {
            Some(Value::Integer(pid)) => Some(Datum::Keyword(pid.to_string().into())),
            _ => None,
        });
        self.default(Field::EventOutcome, |record| {
            let failed = record.kind == EventKind::ExecFailed || record.get(Field::Errno).is_some();
            Some(text(if failed { "failure" } else { "success" }))
        });
        self.default(Field::ProcessCommandLine, |record| match record.get(Field::ProcessArgs) {
            Some(Value::Keywords(args)) => Some(Datum::Keyword(args.join(" ").into())),
            _ => None,
        });
        self.default(Field::ProcessArgsCount, |record| match record.get(Field::ProcessArgs) {
            Some(Value::Keywords(args)) => i64::try_from(args.len()).ok().map(Datum::Integer),
            _ => None,
        });
        for (path, name) in [
            (Field::ProcessExecutable, Field::ProcessName),
            (Field::ParentExecutable, Field::ParentName),
            (Field::LinkRelayExecutable, Field::LinkRelayName),
            (Field::FilePath, Field::FileName),
        ] {
            self.default(name, |record| record.last_part(path, '/'));
        }
        self.default(Field::FileExtension, |record| {
            let Some(Value::Keyword(name)) = record.get(Field::FileName) else { return None };
            name.contains('.').then(|| record.last_part(Field::FileName, '.'))?
        });
    }

    /// Fills in a field that was left out, if this kind of event has it.
    fn default(&mut self, field: Field, value: impl FnOnce(&Self) -> Option<Datum>) {
        if self.get(field).is_some() || !field.def().kinds.contains(&self.kind) {
            return;
        }
        if let Some(value) = value(self) {
            self.set(field, value);
        }
    }

    fn last_part(&self, of: Field, separator: char) -> Option<Datum> {
        match self.get(of) {
            Some(Value::Keyword(text)) => {
                text.rsplit(separator).next().map(|part| Datum::Keyword(part.into()))
            }
            _ => None,
        }
    }
}
