//! What the engine's speed is measured with: rules that are made up, and events like those of usual work.

use std::{fmt::Write as _, sync::Arc};

use super::{
    model::Source,
    recording::{Entry, Told},
    sample::{Datum, Sample},
};
use crate::monitor::event::{EventKind, Field, Record, Value};

/// `count` rules of the forms that rules have, no two alike: names, arguments, paths, ports.
pub fn generated(count: usize) -> Source {
    let mut text = String::new();
    for n in 0..count {
        let (event, condition) = match n % 8 {
            0 => ("exec", format!("process.name in ['tool{n}', 'tool{n}-helper']")),
            1 => (
                "exec",
                format!(
                    "process.executable ends_with '/agent{n}' and process.command_line contains '--flag{n}'"
                ),
            ),
            2 => ("exec", format!("process.command_line icontains ['curl evil{n}', 'wget evil{n}']")),
            3 => ("open", format!("file.path glob '**/.config/app{n}/*.key' and not coi.file.write")),
            4 => ("open", format!("file.path starts_with '/opt/product{n}/' and coi.file.write")),
            5 => ("open", format!("file.name == 'secret{n}.json' and process.name not in ['backup{n}']")),
            6 => ("connect", format!("destination.port == {} and process.name == 'miner{n}'", 10_000 + n)),
            _ => (
                "exec",
                format!("any(process.args, ends_with '.payload{n}') and process.parent.name == 'cron'"),
            ),
        };
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "[[rule]]\nid = \"generated-{n}\"\ntitle = \"t\"\nseverity = \"info\"\nevent = \"{event}\"\ncondition = \"{condition}\"\n"
        );
    }
    Source { name: "generated".to_owned(), text }
}

/// Events as a build, a search and a package manager make them.
pub fn usual_work() -> Vec<Sample> {
    let text = |text: String| Datum::Keyword(text.into());
    let programs = [
        "/usr/bin/git",
        "/usr/bin/rg",
        "/usr/bin/node",
        "/usr/lib/gcc/x86_64-linux-gnu/12/cc1",
        "/usr/bin/dash",
    ];
    let sample = |n: u64, kind, fields: Vec<(Field, Datum)>| {
        let program = programs[(n % programs.len() as u64) as usize];
        let mut all = vec![
            (Field::ProcessPid, Datum::Integer(1000 + (n % 64) as i64)),
            (Field::ProcessExecutable, text(program.to_owned())),
            (
                Field::ProcessArgs,
                Datum::Keywords(Arc::new([
                    program.into(),
                    "-c".into(),
                    format!("src/module{}/file{n}.c", n % 40).into(),
                ])),
            ),
            (Field::ParentExecutable, text("/usr/bin/make".to_owned())),
        ];
        all.extend(fields);
        let mut sample = Sample::new(kind, n * 100_000, all);
        sample.derive();
        sample
    };
    let file = |path: String, write| {
        vec![
            (Field::FilePath, Datum::Keyword(path.into())),
            (Field::FileWrite, Datum::Boolean(write)),
            (Field::FileCreate, Datum::Boolean(write)),
            (Field::FileWorkspace, Datum::Boolean(true)),
        ]
    };
    // In proportions like those of a build: most of what happens is files that are opened.
    (0..20_000_u64)
        .map(|n| match n % 16 {
            0 => sample(n, EventKind::Exec, Vec::new()),
            1 => sample(n, EventKind::Fork, Vec::new()),
            2 => sample(n, EventKind::Exit, vec![(Field::ExitCode, Datum::Integer(0))]),
            3 => sample(n, EventKind::Read, vec![(Field::IoBytes, Datum::Integer(4096))]),
            4 => sample(n, EventKind::Open, file(format!("/workspace/target/out{n}.o"), true)),
            5 => sample(n, EventKind::Open, file("/usr/lib/x86_64-linux-gnu/libc.so.6".to_owned(), false)),
            _ => {
                sample(n, EventKind::Open, file(format!("/workspace/src/module{}/file{n}.c", n % 40), false))
            }
        })
        .collect()
}

/// An event at another time.
pub struct Shifted<'a> {
    /// The event.
    pub sample: &'a Sample,
    /// How much later.
    pub by: u64,
}

impl Record for Shifted<'_> {
    fn kind(&self) -> EventKind {
        self.sample.kind()
    }

    fn time(&self) -> u64 {
        self.sample.time() + self.by
    }

    fn get(&self, field: Field) -> Option<Value<'_>> {
        self.sample.get(field)
    }
}

/// The events of a recording.
pub fn events(entries: Vec<Entry>) -> Vec<Sample> {
    let event = |entry: Entry| match entry.told {
        Told::Event(event) => Some(event),
        Told::Mark(_) => None,
    };
    entries.into_iter().filter_map(event).collect()
}
