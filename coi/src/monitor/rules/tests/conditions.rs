//! Each operator, on each type it is for.

use super::*;

/// Whether an event meets a condition.
fn holds(event: &str, condition: &str) -> bool {
    let record = record(event);
    let text = format!(
        "[lists]\nnames = ['sh', 'bash']\nports = [22, 443]\nnets = ['10.0.0.0/8', '::1', 'fe80::/10']\n\
         [macros]\nshell = \"process.name in @names\"\nnested = '$shell and true'\n\
         [[rule]]\nid = 'r'\ntitle = 't'\nseverity = 'info'\nevent = '{}'\ncondition = '''{condition}'''\n",
        crate::monitor::event::Record::kind(&record)
    );
    let mut engine = Engine::new(rules(&text));
    let mut alerts = Vec::new();
    engine.evaluate(&record, 1, &mut alerts);
    !alerts.is_empty()
}

fn check(event: &str, table: &[(&str, bool)]) {
    for (condition, expected) in table {
        assert_eq!(holds(event, condition), *expected, "{condition}");
    }
}

#[test]
fn texts() {
    check(
        "event = 'exec', process.executable = '/usr/bin/Bash', process.name = 'bash', process.args = ['bash']",
        &[
            ("process.name == 'bash'", true),
            ("process.name == \"zsh\"", false),
            ("process.name != 'zsh'", true),
            ("process.name != 'bash'", false),
            ("process.name in ['zsh', 'bash']", true),
            ("process.name in @names", true),
            ("process.name in ['zsh', @names]", true),
            ("process.name not in @names", false),
            ("process.name in ['zsh', 'fish']", false),
            ("process.executable contains 'bin/B'", true),
            ("process.executable contains 'bin/b'", false),
            ("process.executable contains ['nope', 'bin/B']", true),
            ("process.executable not contains 'nope'", true),
            ("process.executable icontains 'BIN/b'", true),
            ("process.executable icontains ['(', 'BIN/b']", true),
            ("process.executable icontains '.'", false),
            ("process.executable starts_with '/usr'", true),
            ("process.executable starts_with ['/bin', '/usr/bin']", true),
            ("process.executable starts_with '/bin'", false),
            ("process.executable ends_with '/Bash'", true),
            ("process.executable ends_with ['/bash', 'sh']", true),
            ("process.executable not ends_with 'x'", true),
            ("process.executable regex '^/usr/s?bin/[A-Z]'", true),
            ("process.executable regex ['^x$', '^y$|^/usr']", true),
            ("process.executable regex '(?i)bash$'", true),
            ("process.executable not regex 'x'", true),
            ("event.action == 'exec'", true),
        ],
    );
}

#[test]
fn globs_know_paths() {
    let event = "event = 'open', file.path = '/home/code/.aws/credentials'";
    check(
        event,
        &[
            ("file.path glob '/home/*/.aws/credentials'", true),
            ("file.path glob '/home/*/credentials'", false),
            ("file.path glob '/home/**/credentials'", true),
            ("file.path glob '**/.aws/*'", true),
            ("file.path glob '*'", false),
            ("file.path glob ['/x', '**/.{aws,azure}/**']", true),
            ("file.path glob '/home/*/.[a-b]ws/credential?'", true),
            ("file.path not glob '/home/**'", false),
        ],
    );
    assert!(holds("event = 'open', file.path = '/proc/12/environ'", "file.path glob '/proc/*/environ'"));
    assert!(!holds(
        "event = 'open', file.path = '/proc/1/task/2/environ'",
        "file.path glob '/proc/*/environ'"
    ));
}

#[test]
fn numbers() {
    check(
        "event = 'connect', destination.port = 443, destination.ip = '10.1.2.3'",
        &[
            ("destination.port == 443", true),
            ("destination.port != 443", false),
            ("destination.port < 443", false),
            ("destination.port <= 443", true),
            ("destination.port > 442", true),
            ("destination.port >= 444", false),
            ("destination.port in [1, 443]", true),
            ("destination.port in @ports", true),
            ("destination.port not in @ports", false),
        ],
    );
    assert!(holds("event = 'read', coi.io.bytes = 52428800", "coi.io.bytes >= 50MiB"));
    assert!(!holds("event = 'read', coi.io.bytes = 52428799", "coi.io.bytes >= 50MiB"));
}

#[test]
fn addresses() {
    check(
        "event = 'connect', destination.ip = '10.1.2.3'",
        &[
            ("destination.ip == '10.1.2.3'", true),
            ("destination.ip != '10.1.2.3'", false),
            ("destination.ip in ['::1', '10.1.2.3']", true),
            ("destination.ip in cidr @nets", true),
            ("destination.ip in cidr ['10.1.2.3']", true),
            ("destination.ip in cidr ['192.168.0.0/16']", false),
            ("destination.ip not in cidr ['192.168.0.0/16']", true),
        ],
    );
    // A socket for IPv6 that speaks IPv4.
    assert!(holds(
        "event = 'connect', destination.ip = '::ffff:10.1.2.3'",
        "destination.ip in cidr ['10.0.0.0/8']"
    ));
    assert!(holds("event = 'connect', destination.ip = '::ffff:10.1.2.3'", "destination.ip == '10.1.2.3'"));
}

#[test]
fn booleans_and_words() {
    check(
        "event = 'open', coi.file.write = true, coi.file.create = false, file.path = '/x/bash', process.executable = '/bin/sh'",
        &[
            ("coi.file.write", true),
            ("coi.file.create", false),
            ("not coi.file.create", true),
            ("coi.file.write and coi.file.create", false),
            ("coi.file.write or coi.file.create", true),
            ("not (coi.file.write or coi.file.create)", false),
            ("coi.file.create and coi.file.create or coi.file.write", true),
            ("coi.file.create and (coi.file.create or coi.file.write)", false),
            ("true", true),
            ("false", false),
            ("$shell", true),
            ("not $nested", false),
        ],
    );
}

#[test]
fn lists_of_texts() {
    check(
        "event = 'exec', process.args = ['curl', '-H', 'Token: x']",
        &[
            ("any(process.args, icontains 'token')", true),
            ("any(process.args, == '-H')", true),
            ("any(process.args, in ['-x', '-H'])", true),
            ("any(process.args, starts_with '--')", false),
            ("any(process.args, not starts_with '-')", true),
            ("all(process.args, contains 'x')", false),
            ("all(process.args, regex '.')", true),
            ("all(process.args, not contains 'y')", true),
        ],
    );
    check(
        "event = 'exec', process.args = []",
        &[
            ("any(process.args, regex '')", false),
            ("all(process.args, regex '')", false),
            ("exists(process.args)", true),
        ],
    );
}

#[test]
fn a_missing_field_passes_no_test() {
    check(
        "event = 'open'",
        &[
            ("file.path == 'x'", false),
            ("file.path != 'x'", false),
            ("file.path not in ['x']", false),
            ("file.path not contains 'x'", false),
            ("file.path not glob 'x'", false),
            ("not file.path == 'x'", true),
            ("not (file.path != 'x')", true),
            ("coi.errno != 1", false),
            ("coi.errno < 1", false),
            ("coi.file.write", false),
            ("not coi.file.write", true),
            ("any(process.args, != 'x')", false),
            ("all(process.args, != 'x')", false),
            ("exists(file.path)", false),
            ("not exists(file.path)", true),
            ("exists(process.pid)", true),
        ],
    );
    assert!(!holds(
        "event = 'connect'",
        "destination.ip != '10.0.0.1' or destination.ip not in cidr ['10.0.0.0/8']"
    ));
}
