//! The files of the audit log.

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

/// Where the files are unless `COI_LOG_DIR` names another place.
const DIRECTORY: &str = "/var/log/coi";

/// A record longer than this is an attack on the reader; arguments and paths are capped far below it.
const LONGEST: usize = 64 << 10;

/// Why the log cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the audit log {path}: {source}; make room or set COI_LOG_DIR to another directory")]
pub struct LogError {
    /// The file or directory.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

/// The directory of all audit logs.
pub fn directory() -> PathBuf {
    env::var_os("COI_LOG_DIR").map_or_else(|| DIRECTORY.into(), PathBuf::from)
}

/// The newest log of the containers and cgroups that had this name.
pub fn newest(directory: &Path, name: &str) -> Option<PathBuf> {
    let prefix = format!("{}.", file_name(name));
    fs::read_dir(directory)
        .ok()?
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.strip_prefix(&prefix)
                .and_then(|rest| rest.strip_suffix(".jsonl"))
                .is_some_and(|id| !id.contains('.'))
        })
        .max_by_key(|entry| entry.metadata().and_then(|metadata| metadata.modified()).ok())
        .map(|entry| entry.path())
}

/// How the files of a container or cgroup are called, less the ending.
pub fn stem(name: &str, id: &str) -> String {
    format!("{}.{}", file_name(name), file_name(id))
}

/// Incus's names have neither dots nor slashes; a cgroup's path can have both.
fn file_name(name: &str) -> String {
    name.replace(['/', '.'], "_")
}

/// One container's log.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    sequence: u64,
}

impl Log {
    /// Opens the log of a container, and goes on with its sequence if there is one already.
    pub fn open(directory: &Path, name: &str, id: &str) -> Result<Self, LogError> {
        let path = directory.join(format!("{}.jsonl", stem(name, id)));
        let open = || {
            fs::create_dir_all(directory)?;
            // Others may look for a file whose name they know, as `coi audit path` does.
            fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
            let mut file = OpenOptions::new()
                .read(true)
                .append(true)
                .create(true)
                .mode(0o640)
                .custom_flags(nix::libc::O_NOFOLLOW)
                .open(&path)?;
            if let Some(group) = super::super::service::admin_group() {
                chown(&path, None, Some(group.as_raw()))?;
            }
            let sequence = last_sequence(&mut file)?;
            Ok((file, sequence))
        };
        match open() {
            Ok((file, sequence)) => Ok(Self { path, file, sequence }),
            Err(source) => Err(LogError { path, source }),
        }
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a record with the next sequence number and gives back its line. With `sync` it is on the disk
    /// when this returns.
    pub fn append(&mut self, mut record: Map<String, Value>, sync: bool) -> Result<String, LogError> {
        let sequence = self.sequence + 1;
        if let Some(Value::Object(event)) = record.get_mut("event") {
            event.insert("sequence".into(), sequence.into());
        }
        let mut line = Value::Object(record).to_string();
        if line.len() > LONGEST {
            line = shortened(&line);
        }
        line.push('\n');
        let write = |file: &mut File| {
            file.write_all(line.as_bytes())?;
            if sync { file.sync_data() } else { Ok(()) }
        };
        write(&mut self.file).map_err(|source| LogError { path: self.path.clone(), source })?;
        self.sequence = sequence;
        Ok(line)
    }
}

/// The same record without what can be long.
fn shortened(line: &str) -> String {
    let Ok(Value::Object(mut record)) = serde_json::from_str(line) else { return "{}".into() };
    for (part, keys) in [
        ("process", &["args", "command_line", "parent"][..]),
        ("coi", &["evidence", "link", "process"]),
        ("file", &["path", "name"]),
    ] {
        if let Some(Value::Object(part)) = record.get_mut(part) {
            part.retain(|key, _| !keys.contains(&key.as_str()));
        }
    }
    if let Some(Value::Object(coi)) = record.get_mut("coi") {
        coi.insert("record_truncated".into(), true.into());
    }
    Value::Object(record).to_string()
}

/// The sequence number in a log's last whole line. A line that a crash cut off is ended, so that the next
/// record begins on its own.
fn last_sequence(file: &mut File) -> io::Result<u64> {
    let len = file.seek(SeekFrom::End(0))?;
    if len == 0 {
        return Ok(0);
    }
    file.seek(SeekFrom::Start(len.saturating_sub(2 * LONGEST as u64)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    if tail.last() != Some(&b'\n') {
        file.write_all(b"\n")?;
    }
    let sequence = tail
        .split(|byte| *byte == b'\n')
        .rev()
        .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
        .find_map(|record| record["event"]["sequence"].as_u64());
    Ok(sequence.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(text: &str) -> Map<String, Value> {
        let Value::Object(object) = json!({"event": {"kind": "alert"}, "coi": {"evidence": text}}) else {
            unreachable!()
        };
        object
    }

    fn sequences(path: &Path) -> Vec<u64> {
        fs::read_to_string(path)
            .unwrap()
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok()?["event"]["sequence"].as_u64())
            .collect()
    }

    #[test]
    fn the_sequence_goes_on_after_a_restart_and_a_cut_line() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::open(directory.path(), "c1", "u1").unwrap();
        log.append(record("a"), true).unwrap();
        log.append(record("b"), false).unwrap();
        let path = log.path().to_owned();
        drop(log);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"event\":{\"seq").unwrap();
        let mut log = Log::open(directory.path(), "c1", "u1").unwrap();
        log.append(record("c"), true).unwrap();
        assert_eq!(sequences(&path), [1, 2, 3]);
    }

    #[test]
    fn a_record_that_is_too_long_is_shortened_and_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::open(directory.path(), "c1", "u1").unwrap();
        let line = log.append(record(&"x".repeat(LONGEST)), true).unwrap();
        assert!(line.len() < LONGEST && line.contains("\"record_truncated\":true"), "{line}");
    }

    #[test]
    fn the_newest_log_of_a_name_is_found() {
        let directory = tempfile::tempdir().unwrap();
        for (name, id) in [("c1", "old"), ("c1-2", "other"), ("c1", "new")] {
            Log::open(directory.path(), name, id).unwrap().append(record(""), true).unwrap();
        }
        let found = newest(directory.path(), "c1").unwrap();
        assert_eq!(found.file_name().unwrap(), "c1.new.jsonl");
        assert_eq!(newest(directory.path(), "c"), None);
    }

    #[test]
    fn a_full_disk_is_an_error_and_takes_no_number() {
        let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let mut log = Log { path: "/dev/full".into(), file: full, sequence: 7 };
        let error = log.append(record(""), true).unwrap_err();
        assert!(error.to_string().contains("No space left"), "{error}");
        assert_eq!(log.sequence, 7);
    }
}
