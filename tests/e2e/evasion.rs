//! Whatever is done around an act to hide it, the act is seen, with the program that did it.

use coi_tests::in_containers;

in_containers! {
    |owner| Taken::take_with(owner, &super::tests::ROUTES, &[], super::tests::RULE),
    tests: long_arguments another_name a_copy_of_another_name namespaces_of_its_own a_cgroup_of_its_own
           a_parent_that_is_gone a_flood_of_opens a_flood_of_forks a_flood_of_execs a_flood_of_datagrams
}

mod tests {
    use coi_tests::routes::{Route, Taken};
    use serde_json::{Value, json};

    pub(super) const ROUTES: [&str; 10] = [
        "evade-long-arguments",
        "evade-name",
        "evade-renamed",
        "evade-namespaces",
        "evade-cgroup",
        "evade-orphan",
        "evade-flood-opens",
        "evade-flood-forks",
        "evade-flood-execs",
        "evade-flood-sends",
    ];

    /// A viewer may be too slow for a flood, the audit log is not. It has alerts, so rules make one of each connection
    /// and of each program that is run with a route's name.
    pub(super) const RULE: &str = r#"
        [[rule]]
        id = "a-program"
        title = "A program"
        description = "Run by a route."
        severity = "info"
        attack = ["T1059"]
        event = "exec"
        condition = 'process.args_count == 2 and any(process.args, == "true")'
        message = "{process.executable}"

        [[rule]]
        id = "a-connection"
        title = "A connection"
        description = "Of TCP."
        severity = "info"
        attack = ["T1095"]
        event = "connect"
        condition = 'network.transport == "tcp"'
        message = "{process.executable}"
    "#;

    /// The route, which must have worked.
    #[track_caller]
    fn route<'a>(taken: &'a Taken, name: &str) -> Route<'a> {
        let route = taken.route(name);
        assert_eq!(route.report["done"], true, "{}", route.report);
        route
    }

    pub(super) fn long_arguments(taken: &Taken) {
        let route = route(taken, "evade-long-arguments");
        let exec = taken.events("exec").find(|event| event["process"]["vpid"] == *route.fact("pid"));
        // Its arguments are those of this program until it runs the other one.
        let exec = exec.unwrap_or(&Value::Null);
        assert_eq!(exec["process"]["executable"], *route.fact("path"));
        assert_eq!(exec["coi"]["process"]["args_truncated"], true);
    }

    /// Asserts that the connection is told with the program that made it.
    #[track_caller]
    fn connected(taken: &Taken, name: &str) -> Value {
        let route = route(taken, name);
        let to = (route.fact("ip"), route.fact("port"));
        let told: Vec<_> = taken
            .alerts("a-connection")
            .filter(|alert| alert["process"]["vpid"] == *route.fact("pid"))
            .filter(|alert| (&alert["destination"]["ip"], &alert["destination"]["port"]) == to)
            .map(|alert| &alert["process"])
            .collect();
        let lost: Vec<_> = taken.events("loss").map(|event| &event["coi"]["loss"]).collect();
        let [process] = told[..] else { panic!("{to:?} is told {} times; lost: {lost:?}", told.len()) };
        assert_eq!(process["executable"], *route.fact("executable"));
        process.clone()
    }

    pub(super) fn another_name(taken: &Taken) {
        let process = connected(taken, "evade-name");
        assert_eq!(process["args"], json!(["[kworker/0:1]", "evade-name"]));
    }

    pub(super) fn a_copy_of_another_name(taken: &Taken) {
        let process = connected(taken, "evade-renamed");
        assert_eq!(process["executable"], "/workspace/git");
    }

    /// Asserts that one program was run with the route's name as its argument, and gives the event.
    #[track_caller]
    fn executed(taken: &Taken, name: &str) -> Value {
        let route = route(taken, name);
        let told =
            taken.alerts("a-program").filter(|alert| alert["process"]["args"] == json!(["true", name]));
        let told: Vec<_> = told.collect();
        let [exec] = told[..] else { panic!("told {} times", told.len()) };
        assert_eq!(exec["process"]["executable"], *route.fact("path"));
        exec.clone()
    }

    pub(super) fn namespaces_of_its_own(taken: &Taken) {
        let exec = executed(taken, "evade-namespaces");
        assert_eq!(exec["process"]["vpid"], 1);
    }

    pub(super) fn a_cgroup_of_its_own(taken: &Taken) {
        executed(taken, "evade-cgroup");
    }

    pub(super) fn a_parent_that_is_gone(taken: &Taken) {
        let exec = executed(taken, "evade-orphan");
        let ancestors = &exec["coi"]["process"]["ancestors"];
        assert_eq!(ancestors[0], "/workspace/routes", "{ancestors}");
    }

    pub(super) fn a_flood_of_opens(taken: &Taken) {
        connected(taken, "evade-flood-opens");
    }

    pub(super) fn a_flood_of_forks(taken: &Taken) {
        connected(taken, "evade-flood-forks");
    }

    pub(super) fn a_flood_of_execs(taken: &Taken) {
        connected(taken, "evade-flood-execs");
    }

    pub(super) fn a_flood_of_datagrams(taken: &Taken) {
        connected(taken, "evade-flood-sends");
    }
}
