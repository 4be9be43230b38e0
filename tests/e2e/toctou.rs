//! What is passed to a call changes while the call runs: what is told is what the kernel did, never the decoy, and where
//! the two differ, that is told as well.

use coi_tests::in_containers;

in_containers! {
    |owner| Taken::take(owner, &super::tests::ROUTES),
    tests: opens execs connections datagrams an_open_that_waits a_connection_that_waits a_path_that_waits
}

mod tests {
    #![expect(clippy::unwrap_used, reason = "what fails here is a test")]

    use std::collections::{BTreeMap, BTreeSet};

    use coi_tests::routes::{Route, Taken};
    use coi_tests::text;
    use serde_json::Value;

    pub(super) const ROUTES: [&str; 7] =
        ["flip-open", "flip-exec", "flip-connect", "flip-sendto", "swap-open", "swap-connect", "swap-unix"];

    /// How many calls are made at least.
    const CALLS: u64 = 1000;

    /// A number of the route's report.
    fn number(route: &Route<'_>, key: &str) -> u64 {
        route.fact(key).as_u64().unwrap()
    }

    /// Asserts that either side was told as often as it was done, but for at most so many that are missing.
    #[track_caller]
    fn assert_sides<'a>(
        route: &Route<'_>,
        told: impl Iterator<Item = &'a Value>,
        sides: [&Value; 2],
        missing: u64,
    ) {
        let mut count = BTreeMap::new();
        for told in told {
            *count.entry(told.to_string()).or_insert(0_u64) += 1;
        }
        let [a, b] = sides.map(|side| count.remove(&side.to_string()).unwrap_or(0));
        let (done_a, done_b) = (number(route, "a"), number(route, "b"));
        assert!(done_a + done_b >= CALLS, "{}", route.report);
        assert!(a <= done_a && b <= done_b, "told {a} and {b}, done {done_a} and {done_b}");
        assert!(
            a + b + missing >= done_a + done_b,
            "told {a} and {b}, done {done_a} and {done_b}, lost {missing}"
        );
    }

    pub(super) fn opens(taken: &Taken) {
        let route = taken.route("flip-open");
        let sides = [route.fact("a_path"), route.fact("b_path")];
        let told: Vec<_> =
            route.events("open").filter(|event| sides.contains(&&event["file"]["path"])).collect();
        assert_sides(&route, told.iter().map(|event| &event["file"]["path"]), sides, taken.missing("open"));
        let inodes: BTreeSet<_> = told.iter().map(|event| text(&event["file"]["inode"])).collect();
        let names: BTreeSet<_> =
            told.iter().map(|event| (text(&event["file"]["path"]), text(&event["file"]["inode"]))).collect();
        assert_eq!((inodes.len(), names.len()), (2, 2), "{names:?}");
    }

    pub(super) fn execs(taken: &Taken) {
        let route = taken.route("flip-exec");
        let sides = [route.fact("a_path"), route.fact("b_path")];
        let told = |action| {
            taken
                .events(action)
                .filter(|event| event["process"]["args"] == serde_json::json!(["true", "decoy"]))
        };
        let executables = told("exec").map(|event| &event["process"]["executable"]);
        assert_sides(&route, executables, sides, taken.missing("exec"));
        // What they ended with says which of them ran.
        for exit in told("exit") {
            let ran = if exit["process"]["exit_code"] == 0 { sides[0] } else { sides[1] };
            assert_eq!(exit["process"]["executable"], *ran, "{exit}");
        }
    }

    pub(super) fn connections(taken: &Taken) {
        let route = taken.route("flip-connect");
        let ports = route.events("connect").map(|event| &event["destination"]["port"]);
        assert_sides(&route, ports, [route.fact("a_port"), route.fact("b_port")], taken.missing("connect"));
    }

    pub(super) fn datagrams(taken: &Taken) {
        let route = taken.route("flip-sendto");
        let told = route.events("connect").filter(|event| event["network"]["transport"] == "udp");
        let told: BTreeSet<_> = told.map(|event| text(&event["destination"]["ip"])).collect();
        let mut went: BTreeSet<_> =
            route.fact("went").as_str().unwrap().split_whitespace().map(str::to_owned).collect();
        assert!(number(&route, "a") + number(&route, "b") >= CALLS, "{}", route.report);
        went.insert("127.0.0.1".to_owned());
        assert_eq!(told.difference(&went).next(), None, "where nothing went");
        let missing = taken.missing("connect");
        assert!(told.len() as u64 + missing >= went.len() as u64, "told {}, lost {missing}", told.len());
    }

    /// Asserts that what was done is told in this place of an event, and that the decoy is not.
    #[track_caller]
    fn assert_true(route: &Route<'_>, action: &str, done: &str, real: &str) {
        let told: Vec<_> = route.events(action).filter_map(|event| event.pointer(done)).collect();
        assert!(told.contains(&route.fact(real)), "{} is not told: {told:?}", route.fact(real));
        assert!(!told.contains(&route.fact("decoy")), "the decoy is told as the truth");
    }

    /// The same, and that the difference is told.
    #[track_caller]
    fn assert_swapped(route: &Route<'_>, action: &str, done: &str, passed: &str, real: &str) {
        assert_true(route, action, done, real);
        let mismatches: Vec<_> =
            route.events("mismatch").map(|event| (event.pointer(done), event.pointer(passed))).collect();
        assert_eq!(
            mismatches,
            [(Some(route.fact(real)), Some(route.fact("passed")))],
            "what is told to differ"
        );
    }

    pub(super) fn an_open_that_waits(taken: &Taken) {
        let route = taken.route("swap-open");
        assert_swapped(&route, "open", "/file/path", "/coi/passed/path", "path");
    }

    pub(super) fn a_connection_that_waits(taken: &Taken) {
        let route = taken.route("swap-connect");
        // The caller's memory is compared when the connection begins, not when the wait is over.
        assert_true(&route, "connect", "/destination/port", "port");
    }

    pub(super) fn a_path_that_waits(taken: &Taken) {
        let route = taken.route("swap-unix");
        // The path is the other socket's own; the caller's memory is not asked.
        assert_true(&route, "connect", "/coi/socket/path", "path");
    }
}
