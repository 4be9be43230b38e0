//! Audit logs, as whoever may read the files reads them.
//!
//! It promises that every record that a test looks at, and every one that a daemon of the tests has written, is what
//! `docs/audit.schema.json` says.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::Value;

static SCHEMA: LazyLock<Validator> = LazyLock::new(|| {
    let schema = serde_json::from_str(include_str!("../../docs/audit.schema.json")).unwrap();
    jsonschema::draft202012::new(&schema).unwrap()
});

/// All records of a log, given its newest file: those in its older files come first.
#[track_caller]
pub fn records(newest: &Path) -> Vec<Value> {
    let name = newest.file_name().unwrap().to_str().unwrap();
    let list = || {
        let mut files: Vec<PathBuf> = fs::read_dir(newest.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| {
                let rest =
                    path.file_name().and_then(|file| file.to_str()?.strip_prefix(name)?.strip_prefix('.'));
                rest.is_some_and(|rest| rest.bytes().all(|digit| digit.is_ascii_digit()))
            })
            .collect();
        files.sort();
        files.push(newest.to_owned());
        files
    };
    // Read again if it was rotated meanwhile.
    let texts = loop {
        let files = list();
        let texts: Result<Vec<_>, _> = files.iter().map(fs::read_to_string).collect();
        match texts {
            Ok(texts) if list() == files => break texts,
            Err(error) if error.kind() != io::ErrorKind::NotFound => panic!("{}: {error}", newest.display()),
            _ => {}
        }
    };
    let texts = texts.iter();
    // What a crash has left behind the last line's end is no record.
    let whole = texts.map(|text| text[..text.rfind('\n').map_or(0, |end| end + 1)].to_owned());
    whole.flat_map(|text| text.lines().map(record).collect::<Vec<_>>()).collect()
}

/// A line, which must be a record.
#[track_caller]
pub fn record(line: &str) -> Value {
    let record = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let errors: Vec<_> =
        SCHEMA.iter_errors(&record).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{record:#}");
    record
}

/// All logs in a directory, by the names of their files less the ending.
pub fn logs(directory: &Path) -> BTreeMap<String, Vec<Value>> {
    // There is no directory where nothing was watched.
    let owners = fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path());
    let files = owners.filter(|path| path.is_dir()).flat_map(|path| fs::read_dir(path).unwrap());
    files
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let stem = path.file_name()?.to_str()?.strip_suffix(".jsonl")?.to_owned();
            Some((stem, records(&path)))
        })
        .collect()
}

/// The records of a kind.
pub fn of_kind<'a>(records: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    records.iter().filter(move |record| record["coi"]["record"] == kind)
}
