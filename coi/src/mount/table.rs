//! The kernel's table of mounts, /proc/PID/mountinfo.

use std::{borrow::Cow, fs, io};

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The kernel's id of it.
    pub id: u64,
    /// The file system's number.
    pub device: String,
    /// The directory or file of the file system that it shows.
    pub root: String,
    /// Where it is, as seen by the process.
    pub point: String,
    /// Nothing can be written through it.
    pub is_read_only: bool,
}

/// The mounts that a process sees.
pub fn of_process(pid: u32) -> io::Result<Vec<Mount>> {
    Ok(parse(&fs::read_to_string(format!("/proc/{pid}/mountinfo"))?))
}

/// The mounts that this thread sees.
pub fn of_thread() -> io::Result<Vec<Mount>> {
    Ok(parse(&fs::read_to_string("/proc/thread-self/mountinfo")?))
}

/// Reads the table. A line that is none is passed over.
pub fn parse(table: &str) -> Vec<Mount> {
    table.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<Mount> {
    let mut fields = line.split(' ');
    let id = fields.next()?.parse().ok()?;
    let device = fields.nth(1)?.to_owned();
    let (root, point) = (plain(fields.next()?)?, plain(fields.next()?)?);
    let is_read_only = fields.next()?.split(',').any(|option| option == "ro");
    Some(Mount { id, device, root: root.into_owned(), point: point.into_owned(), is_read_only })
}

/// A name in which blanks and the like stand as `\040`. `None` if it is no text.
fn plain(name: &str) -> Option<Cow<'_, str>> {
    if !name.contains('\\') {
        return Some(Cow::Borrowed(name));
    }
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let [first, more @ ..] = rest {
        let digits = more.get(..3).filter(|digits| digits.iter().all(|digit| (b'0'..=b'7').contains(digit)));
        match (first, digits) {
            (b'\\', Some(digits)) => {
                let value = digits.iter().fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0'));
                bytes.push(u8::try_from(value).ok()?);
                rest = &more[3..];
            }
            _ => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// What follows a path that another one is at or below; empty if they are the same.
pub fn below<'a>(path: &'a str, above: &str) -> Option<&'a str> {
    let above = above.strip_suffix('/').unwrap_or(above);
    let rest = path.strip_prefix(above)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines() {
        let table = "\
            36 35 98:0 /home/ann/my\\040app /workspace rw,noatime master:1 - ext4 /dev/root rw,errors=continue\n\
            37 36 98:0 /home/ann/my\\040app/.git /workspace/.git ro - ext4 /dev/root rw\n\
            nonsense\n";
        let mounts = parse(table);
        assert_eq!(mounts.len(), 2);
        assert_eq!((mounts[0].root.as_str(), mounts[0].is_read_only), ("/home/ann/my app", false));
        assert_eq!((mounts[1].id, mounts[1].point.as_str()), (37, "/workspace/.git"));
        assert!(mounts[1].is_read_only);
    }

    #[test]
    fn whole_parts_count() {
        assert_eq!(below("/a/b", "/"), Some("a/b"));
        assert_eq!(below("/a/b", "/a"), Some("b"));
        assert_eq!(below("/a", "/a"), Some(""));
        assert_eq!(below("/ab", "/a"), None);
        assert_eq!(below("/", "/"), Some(""));
    }

    proptest! {
        #[test]
        fn any_text_is_a_table(text in "\\PC*") {
            parse(&text);
            plain(&text);
        }
    }
}
