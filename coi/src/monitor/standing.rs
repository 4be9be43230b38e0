//! What has been decided about a watch and what it is held for, where a daemon's sudden end does not take it along.
//!
//! It promises that an [`Intent`] is noted before its action begins, and that noting never waits for a disk: the file is
//! in the runtime directory, which is memory, and each note is one write in place. A boot ends it all, as it ends what was
//! frozen.
//!
//! Each part of the file has one writer: the slots of intents are the pipeline's, the last part is the watch's task's. So
//! an intent that is recorded is not removed; its number is noted as settled.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    sync::{
        Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    private::{Lasting, Private, PrivateError},
    rules::Severity,
    service::api::{ActionName, ActionTaken},
};

/// How long a part is.
const PART: u64 = 8192;
/// How many intents may wait for their records: a watch freezes, then kills.
const SLOTS: u64 = 4;
/// Where the watch's task writes.
const HELD: u64 = SLOTS * PART;
/// So much of a text is kept. What JSON escapes may take six times as much.
const LONGEST: usize = 256;

/// What is going to be done, for the case that it is never recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Which one it is: 1, 2, 3 and so on.
    pub id: u64,
    /// What.
    pub action: ActionName,
    /// The rule that asks for it.
    pub rule_id: String,
    /// The rule's severity.
    pub severity: Severity,
    /// The rule's message.
    pub message: String,
    /// The program of the process it is about.
    pub process_executable: String,
    /// Its pid on the host.
    pub process_pid: u32,
    /// When the event happened, by the kernel's clock.
    pub clock: u64,
}

/// For what something stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldFor {
    /// A rule wanted it.
    Rule,
    /// A person did.
    Person,
    /// The audit log cannot be written.
    FullDisk,
    /// What is protected was changed from inside, or cannot be protected any more.
    Protection,
}

/// Something stands still by the daemon's doing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Held {
    /// For what.
    pub held_for: HeldFor,
    /// For people.
    pub why: String,
    /// What the rule asked for, if one did.
    #[serde(default)]
    pub action: Option<ActionTaken>,
}

/// The last part.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Now {
    boot: String,
    /// Intents up to this one are recorded, or reconciled.
    settled: u64,
    /// What is held, and the id of its cgroup.
    held: Option<(u64, Held)>,
    /// Its network is cut.
    #[serde(default)]
    is_cut: bool,
}

/// What the daemon before has left.
#[derive(Clone, Debug, Default)]
pub struct Left {
    /// Decided, and perhaps neither done nor recorded; in order.
    pub intents: Vec<Intent>,
    /// What stood still by its doing, and in which cgroup.
    pub held: Option<(u64, Held)>,
    /// It had cut the network, or was about to.
    pub is_cut: bool,
}

/// The file of one watch.
#[derive(Debug)]
pub struct Standing {
    /// `None` when the watch is over.
    file: RwLock<Option<File>>,
    /// The number of the last intent.
    last: AtomicU64,
    now: Mutex<Now>,
}

impl Standing {
    /// Opens a watch's file, and says what the daemon before has left in it.
    pub fn open(directory: &Private, name: &str) -> Result<(Self, Left), PrivateError> {
        let failed = |source| PrivateError { path: directory.path().join(name), source };
        let file = directory.in_place(name).map_err(failed)?;
        file.set_len(HELD + PART).map_err(failed)?;
        let boot = boot_id();
        let was: Now = part(&file, HELD).filter(|now: &Now| now.boot == boot).unwrap_or_default();
        // Without the last part nothing is settled; of another boot nothing is left.
        let is_of_this_boot = was.boot == boot;
        let mut intents: Vec<Intent> = (0..SLOTS).filter_map(|slot| part(&file, slot * PART)).collect();
        intents.retain(|intent| is_of_this_boot && intent.id > was.settled);
        intents.sort_by_key(|intent| intent.id);
        let last = intents.last().map_or(was.settled, |intent| intent.id);
        let was_to_be_cut = intents.iter().any(|intent| intent.action == ActionName::CutNetwork);
        let left = Left { intents, held: was.held.clone(), is_cut: was.is_cut || was_to_be_cut };
        let file = RwLock::new(Some(file));
        let standing = Self { file, last: last.into(), now: Mutex::new(Now { boot, ..was }) };
        standing.write_now(|_| ()).map_err(failed)?;
        Ok((standing, left))
    }

    /// Notes what is going to be done; gives its number.
    pub fn intend(&self, mut intent: Intent) -> io::Result<u64> {
        intent.id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        cut(&mut intent.message);
        cut(&mut intent.process_executable);
        self.write((intent.id % SLOTS) * PART, &intent)?;
        Ok(intent.id)
    }

    /// What was intended up to this one is recorded.
    pub fn settle(&self, id: u64) -> io::Result<()> {
        self.write_now(|now| now.settled = now.settled.max(id))
    }

    /// Something stands still now in the cgroup of this id, or nothing does.
    pub fn hold(&self, mut held: Option<(u64, Held)>) -> io::Result<()> {
        if let Some((_, held)) = &mut held {
            cut(&mut held.why);
            if let Some(action) = &mut held.action {
                cut(&mut action.message);
                cut(&mut action.process_executable);
                action.error.as_mut().map(cut);
            }
        }
        self.write_now(|now| now.held = held)
    }

    /// Its network is to be cut, or has been given back.
    pub fn sever(&self, is_cut: bool) -> io::Result<()> {
        self.write_now(|now| now.is_cut = is_cut)
    }

    fn write_now(&self, change: impl FnOnce(&mut Now)) -> io::Result<()> {
        // It is changed in one place, and written whole.
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut now);
        self.write(HELD, &*now)
    }

    fn write(&self, at: u64, value: &impl Serialize) -> io::Result<()> {
        // Each writes its own part; nobody waits but for the watch's end.
        let file = self.file.read().unwrap_or_else(PoisonError::into_inner);
        file.as_ref().map_or(Ok(()), |file| write_part(file, at, value))
    }

    /// The watch is over: what would be noted from now on is nobody's business any more.
    pub fn close(&self) {
        *self.file.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Forgets a watch that is over.
    pub fn remove(directory: &Private, name: &str) -> io::Result<()> {
        directory.remove(name, Lasting::ThisBoot)
    }
}

/// Which boot of the machine this is.
pub fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

fn cut(text: &mut String) {
    text.truncate(text.floor_char_boundary(LONGEST));
}

/// What is not there, or not whole, is nothing: a write that was interrupted was not acted upon.
fn part<T: DeserializeOwned>(file: &File, at: u64) -> Option<T> {
    let mut bytes = vec![0; usize::try_from(PART).ok()?];
    file.read_exact_at(&mut bytes, at).ok()?;
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    serde_json::from_slice(&bytes[..end]).ok()
}

fn write_part(file: &File, at: u64, value: &impl Serialize) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(value)?;
    bytes.push(b'\n');
    if bytes.len() as u64 > PART {
        return Err(io::Error::other("a note is longer than its place"));
    }
    // JSON has no line's end but the one behind it: what is left of a longer one there is not read.
    file.write_all_at(&bytes, at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn intent(message: &str) -> Intent {
        Intent {
            id: 0,
            action: ActionName::Kill,
            rule_id: "r".into(),
            severity: Severity::Critical,
            message: message.into(),
            process_executable: "/bin/sh".into(),
            process_pid: 7,
            clock: 9,
        }
    }

    fn private() -> (tempfile::TempDir, Private) {
        let directory = tempfile::tempdir().unwrap();
        let private = Private::open(&directory.path().join("standing")).unwrap();
        (directory, private)
    }

    #[test]
    fn what_is_not_settled_is_left() {
        let (_directory, private) = private();
        let (standing, left) = Standing::open(&private, "x").unwrap();
        assert!(left.intents.is_empty() && left.held.is_none());
        assert_eq!((standing.intend(intent("1")).unwrap(), standing.intend(intent("2")).unwrap()), (1, 2));
        standing.settle(1).unwrap();
        let held = Held { held_for: HeldFor::Rule, why: "w".into(), action: None };
        standing.hold(Some((4711, held))).unwrap();
        standing.sever(true).unwrap();
        // As after a kill: nothing is closed in order.
        let (again, left) = Standing::open(&private, "x").unwrap();
        assert_eq!(left.intents, [Intent { id: 2, ..intent("2") }]);
        assert!(matches!(left.held, Some((4711, Held { held_for: HeldFor::Rule, .. }))));
        assert!(left.is_cut);
        assert_eq!(again.intend(intent("3")).unwrap(), 3, "numbers go on");
        again.settle(3).unwrap();
        again.hold(None).unwrap();
        again.sever(false).unwrap();
        let (_, left) = Standing::open(&private, "x").unwrap();
        assert!(left.intents.is_empty() && left.held.is_none() && !left.is_cut);
        Standing::remove(&private, "x").unwrap();
        assert!(private.names().unwrap().is_empty());
    }

    #[test]
    fn what_is_of_another_boot_is_nothing() {
        let (_directory, private) = private();
        let (standing, _) = Standing::open(&private, "x").unwrap();
        standing.intend(intent("1")).unwrap();
        standing.write_now(|now| now.boot = "another".into()).unwrap();
        let (_, left) = Standing::open(&private, "x").unwrap();
        assert!(left.intents.is_empty());
    }

    proptest! {
        /// The texts are the container's.
        #[test]
        fn whatever_is_in_it_fits(message in ".{0,3000}", executable in "\\PC{0,3000}|[\u{1}-\u{1f}]{0,3000}") {
            let (_directory, private) = private();
            let (standing, _) = Standing::open(&private, "x").unwrap();
            let noted = Intent { process_executable: executable.clone(), ..intent(&message) };
            standing.intend(noted).unwrap();
            let (_, left) = Standing::open(&private, "x").unwrap();
            prop_assert!(message.starts_with(&left.intents[0].message));
            prop_assert!(executable.starts_with(&left.intents[0].process_executable));
        }

        /// Whatever stands in the file, it is opened.
        #[test]
        fn junk_is_nothing(junk in proptest::collection::vec(any::<u8>(), 0..200), at in 0..50_000_u64) {
            let (_directory, private) = private();
            let file = private.in_place("x").unwrap();
            file.write_all_at(&junk, at).unwrap();
            let (_, left) = Standing::open(&private, "x").unwrap();
            prop_assert!(left.intents.is_empty());
        }
    }
}
