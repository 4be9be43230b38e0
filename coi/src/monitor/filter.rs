//! What rules want to see, in the kernel side's terms.
//!
//! It promises that whatever a test of the rules accepts, the kernel side's accepts too.

use coi_common::{
    AFFIX, FORM_DIRECTORY, FORM_NAME, FORM_PREFIX, FORM_SUFFIX, Kind, NameKey, OPEN_CREATE, OPEN_WRITE,
    TEST_SPACE,
};

use super::{
    event::EventKind,
    rules::{Form, Only, Opens, Wanted},
    sensor::Filter,
};

/// Records that are always wanted: lineage is made of them, and the way of streams to sockets.
const ALWAYS: [Kind; 6] = [Kind::Exec, Kind::Fork, Kind::Exit, Kind::Connect, Kind::Accept, Kind::Redirect];

/// The kernel side's filter for what rules want.
pub(super) fn filter(wanted: &Wanted) -> Filter {
    let mut filter = Filter::default();
    for kind in ALWAYS.into_iter().chain(wanted.kinds.iter().flat_map(records)) {
        filter.wanted.kinds |= kind.bit();
    }
    match &wanted.opens {
        Opens::None => {}
        Opens::All => filter.wanted.any |= tests(Only::default()),
        Opens::Some(names) => {
            for test in names {
                add(&mut filter, test.form, test.text.as_bytes(), test.only);
            }
        }
    }
    filter
}

/// The records that events of a kind are made of.
fn records(kind: EventKind) -> impl Iterator<Item = Kind> {
    let records: &[Kind] = match kind {
        EventKind::Exec => &[Kind::Exec],
        EventKind::ExecFailed => &[Kind::ExecFailed],
        EventKind::Fork => &[Kind::Fork],
        EventKind::Exit => &[Kind::Exit],
        EventKind::Connect => &[Kind::Connect],
        EventKind::Accept => &[Kind::Accept],
        EventKind::Redirect => &[Kind::Redirect],
        EventKind::Link => &[Kind::Exec, Kind::Connect, Kind::Accept, Kind::Redirect],
        EventKind::Open => &[Kind::Open],
        EventKind::Read => &[Kind::Read],
        EventKind::Send => &[Kind::Send],
        EventKind::Bind => &[Kind::Bind],
        EventKind::Listen => &[Kind::Listen],
        EventKind::Change => &[Kind::Change],
        EventKind::Map => &[Kind::Map],
        EventKind::Syscall => &[Kind::Syscall],
        EventKind::IoUring => &[Kind::IoUring],
        // Of opens, what rules want of opens is what is compared.
        EventKind::Mismatch => &[Kind::Connect],
        EventKind::Loss => &[],
    };
    records.iter().copied()
}

/// The bit of a test that asks for these attributes, see `coi_common::passing`. Refused opens are sent whatever they
/// are called.
fn tests(only: Only) -> u32 {
    let attributes = if only.write { OPEN_WRITE } else { 0 } | if only.create { OPEN_CREATE } else { 0 };
    1 << attributes
}

fn add(filter: &mut Filter, form: Form, text: &[u8], only: Only) {
    if only.refused {
        return;
    }
    let tests = tests(only);
    let wanted = &mut filter.wanted;
    let set = |bytes: &mut [u64; 4], byte: Option<&u8>| {
        if let Some(byte) = byte {
            bytes[usize::from(byte >> 6)] |= 1 << (byte & 63);
        }
    };
    let form = match form {
        Form::Name if !text.is_empty() && text.len() <= TEST_SPACE => {
            wanted.name_lengths |= 1 << text.len();
            set(&mut wanted.name_first, text.first());
            FORM_NAME
        }
        Form::Directory if !text.is_empty() && text.len() <= TEST_SPACE => {
            wanted.directory_lengths |= 1 << text.len();
            set(&mut wanted.directory_first, text.first());
            FORM_DIRECTORY
        }
        Form::Prefix if text.len() == AFFIX => {
            set(&mut wanted.prefix_first, text.first());
            FORM_PREFIX
        }
        Form::Suffix if text.len() == AFFIX => {
            set(&mut wanted.suffix_last, text.last());
            FORM_SUFFIX
        }
        Form::Workspace => {
            wanted.workspace |= tests;
            return;
        }
        // What cannot be compared there is compared here.
        _ => {
            wanted.any |= tests;
            return;
        }
    };
    let mut key = NameKey { form, text: [0; TEST_SPACE] };
    key.text[..text.len()].copy_from_slice(text);
    *filter.names.entry(key).or_default() |= tests;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::rules::NameTest;

    fn some(form: Form, text: &str, only: Only) -> Filter {
        let test = NameTest { form, text: text.into(), only };
        filter(&Wanted { kinds: [EventKind::Open].into_iter().collect(), opens: Opens::Some(vec![test]) })
    }

    #[test]
    fn what_rules_do_not_want_is_not_sent() {
        let nothing = filter(&Wanted { kinds: [].into_iter().collect(), opens: Opens::None });
        assert_eq!(nothing.wanted.kinds & Kind::Open.bit(), 0);
        assert_ne!(nothing.wanted.kinds & Kind::Fork.bit(), 0);
    }

    #[test]
    fn a_name_is_looked_for_by_its_length_and_first_byte() {
        let filter = some(Form::Name, ".netrc", Only::default());
        assert_eq!(filter.wanted.name_lengths, 1 << 6);
        assert_eq!(filter.wanted.name_first, [1 << b'.', 0, 0, 0]);
        let (key, tests) = filter.names.iter().next().unwrap();
        assert_eq!((key.form, &key.text[..7], *tests), (FORM_NAME, &b".netrc\0"[..], 1));
    }

    #[test]
    fn attributes_are_asked_for_together() {
        let only = Only { write: true, create: true, refused: false };
        let filter = some(Form::Any, "", only);
        let passing: Vec<_> = (0..4).filter(|n| coi_common::passing(*n) & filter.wanted.any != 0).collect();
        assert_eq!(passing, [3]);
        let filter = some(Form::Any, "", Only { create: false, ..only });
        let passing: Vec<_> = (0..4).filter(|n| coi_common::passing(*n) & filter.wanted.any != 0).collect();
        assert_eq!(passing, [1, 3]);
    }

    #[test]
    fn what_is_too_long_to_compare_is_sent() {
        let filter = some(Form::Directory, &"d".repeat(TEST_SPACE + 1), Only::default());
        assert_eq!((filter.names.len(), filter.wanted.any), (0, 1));
    }
}
