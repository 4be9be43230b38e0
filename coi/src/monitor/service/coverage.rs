//! What cannot be seen of one container: the sensor's holes, less those that its own configuration closes.
//!
//! It knows what a container was configured to be when its watch began; who changes that and restarts it changes what
//! is true.

use std::collections::BTreeMap;

use super::api::Hole;

/// The id of the hole that a container without io_uring has not.
pub(super) const IO_URING: &str = "io-uring";

/// The holes that are left, given an instance's configuration with that of its profiles.
pub(super) fn left(holes: &[Hole], config: &BTreeMap<String, String>) -> Vec<Hole> {
    let closed = has_no_io_uring(config);
    holes.iter().filter(|hole| !(closed && hole.id == IO_URING)).cloned().collect()
}

/// Without io_uring_setup(2) there are no rings. A raw policy stands in place of the list.
fn has_no_io_uring(config: &BTreeMap<String, String>) -> bool {
    let denied = config.get("security.syscalls.deny").map_or("", String::as_str);
    let mut names = denied.lines().filter_map(|line| line.split_whitespace().next());
    !config.contains_key("raw.seccomp") && names.any(|name| name == "io_uring_setup")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(config: &[(&str, &str)]) -> Vec<String> {
        let hole = |id: &str| Hole { id: id.into(), what: String::new(), why: String::new(), routes: vec![] };
        let config = config.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        left(&[hole(IO_URING), hole("int80")], &config).into_iter().map(|hole| hole.id).collect()
    }

    #[test]
    fn a_container_without_io_uring_has_no_such_hole() {
        assert_eq!(ids(&[]), [IO_URING, "int80"]);
        assert_eq!(ids(&[("security.syscalls.deny", "bpf\nio_uring_setup errno 38")]), ["int80"]);
        assert_eq!(ids(&[("security.syscalls.deny", "io_uring_setup_not")]), [IO_URING, "int80"]);
        assert_eq!(
            ids(&[("security.syscalls.deny", "io_uring_setup errno 38"), ("raw.seccomp", "2")]),
            [IO_URING, "int80"]
        );
    }
}
