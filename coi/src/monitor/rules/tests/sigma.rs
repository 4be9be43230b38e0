//! Sigma rules of our own writing: each modifier and each form of condition, and what is skipped.

use super::*;
use crate::monitor::rules::sigma::{Skipped, import};

fn sigma(category: &str, detection: &str) -> String {
    format!(
        "title: A rule\nid: 0\nlogsource:\n  product: linux\n  category: {category}\ndetection:\n{detection}\nlevel: medium\n"
    )
}

/// How often the imported rule fires on this event.
fn fires(yaml: &str, event: &str) -> usize {
    let imported = import("a/my_rule.yml", yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    assert_eq!(imported.id, "sigma-my-rule");
    let mut bench = Bench::new(&imported.toml);
    assert!(bench.engine.rules().lint(None).is_empty(), "{}", imported.toml);
    bench.see(event)
}

fn check(category: &str, event: &str, table: &[(&str, &str, &str)]) {
    for (detection, yes, no) in table {
        let yaml = sigma(category, detection);
        assert_eq!(fires(&yaml, &format!("event = '{event}', {yes}")), 1, "{detection}\nmust fire on {yes}");
        assert_eq!(
            fires(&yaml, &format!("event = '{event}', {no}")),
            0,
            "{detection}\nmust stay quiet on {no}"
        );
    }
}

const NC: &str = "process.executable = '/usr/bin/nc'";
const LS: &str = "process.executable = '/usr/bin/ls'";

#[test]
fn modifiers() {
    let line = |line: &str| format!("process.command_line = '{line}'");
    check(
        "process_creation",
        "exec",
        &[
            ("  s:\n    Image: /usr/bin/nc\n  condition: s", NC, LS),
            ("  s:\n    Image:\n      - /bin/nc\n      - /usr/bin/nc\n  condition: s", NC, LS),
            ("  s:\n    Image|endswith: /nc\n  condition: s", NC, "process.executable = '/usr/bin/NC'"),
            ("  s:\n    Image|startswith: /usr/bin/n\n  condition: s", NC, LS),
            ("  s:\n    Image|contains: bin/n\n  condition: s", NC, LS),
            ("  s:\n    Image: '*/nc'\n  condition: s", NC, LS),
            ("  s:\n    Image: '/usr/bin/?c'\n  condition: s", NC, LS),
            ("  s:\n    CommandLine|contains: Evil\n  condition: s", &line("x EVIL y"), &line("x eil y")),
            (
                "  s:\n    CommandLine|contains|cased: Evil\n  condition: s",
                &line("x Evil y"),
                &line("x EVIL y"),
            ),
            (
                "  s:\n    CommandLine|contains|all:\n      - ' -e'\n      - nc\n  condition: s",
                &line("nc -e sh"),
                &line("nc sh"),
            ),
            ("  s:\n    CommandLine|startswith: 'nc '\n  condition: s", &line("NC -l"), &line("sudo nc -l")),
            (
                "  s:\n    CommandLine|endswith: ' sh'\n  condition: s",
                &line("nc -e SH"),
                &line("nc -e sh -l"),
            ),
            ("  s:\n    CommandLine: 'nc -l'\n  condition: s", &line("NC -l"), &line("nc -l 1")),
            ("  s:\n    CommandLine|contains: 'a*b'\n  condition: s", &line("xa...by"), &line("xay")),
            ("  s:\n    CommandLine|contains: 'a\\*b'\n  condition: s", &line("xa*by"), &line("xaxby")),
            (
                "  s:\n    CommandLine|re: '^nc\\s+-[el]{1,2}'\n  condition: s",
                &line("nc  -e"),
                &line("NC -e"),
            ),
            ("  s:\n    CommandLine|re|i: '^nc'\n  condition: s", &line("NC -e"), &line("x nc")),
            ("  s:\n    CommandLine|exists: true\n  condition: s", &line("x"), LS),
            (
                "  s:\n    ParentImage|exists: false\n    Image|endswith: nc\n  condition: s",
                NC,
                &format!("{NC}, process.parent.executable = '/x'"),
            ),
            (
                "  s:\n    ParentCommandLine: null\n    Image|endswith: nc\n  condition: s",
                NC,
                &format!("{NC}, process.parent.command_line = 'x'"),
            ),
            (
                "  s:\n    ParentImage|endswith: /cron\n  condition: s",
                "process.parent.executable = '/usr/sbin/cron'",
                NC,
            ),
            (
                "  s:\n    User: root\n    Image|endswith: nc\n  condition: s",
                &format!("{NC}, process.user.id = '0'"),
                &format!("{NC}, process.user.id = '1000'"),
            ),
        ],
    );
    check(
        "network_connection",
        "connect",
        &[
            (
                "  s:\n    DestinationPort: 4444\n  condition: s",
                "destination.port = 4444",
                "destination.port = 443",
            ),
            (
                "  s:\n    DestinationPort:\n      - 4444\n      - '5555'\n    Initiated: 'true'\n  condition: s",
                "destination.port = 5555",
                "destination.port = 443",
            ),
            (
                "  s:\n    DestinationPort|gte: 60000\n  condition: s",
                "destination.port = 60000",
                "destination.port = 443",
            ),
            (
                "  s:\n    DestinationPort|gt: 443\n  condition: s",
                "destination.port = 444",
                "destination.port = 443",
            ),
            (
                "  s:\n    DestinationPort|lt: 80\n  condition: s",
                "destination.port = 79",
                "destination.port = 80",
            ),
            (
                "  s:\n    DestinationPort|lte: 80\n  condition: s",
                "destination.port = 80",
                "destination.port = 81",
            ),
            (
                "  s:\n    DestinationIp: 192.0.2.1\n  condition: s",
                "destination.ip = '192.0.2.1'",
                "destination.ip = '192.0.2.2'",
            ),
            (
                "  s:\n    DestinationIp|cidr: 192.0.2.0/24\n  condition: s",
                "destination.ip = '192.0.2.9'",
                "destination.ip = '192.0.3.9'",
            ),
            (
                "  s:\n    DestinationIp|startswith: '10.1.'\n  condition: s",
                "destination.ip = '10.1.2.3'",
                "destination.ip = '10.11.2.3'",
            ),
        ],
    );
    check(
        "file_event",
        "open",
        &[
            (
                "  s:\n    TargetFilename|startswith: /etc/cron\n  condition: s",
                "file.path = '/etc/cron.d/x', coi.file.write = true",
                "file.path = '/etc/cron.d/x', coi.file.write = false",
            ),
            (
                "  s:\n    TargetFilename|endswith:\n      - .so\n      - .ko\n  condition: s",
                "file.path = '/a.ko', coi.file.write = true",
                "file.path = '/a.c', coi.file.write = true",
            ),
        ],
    );
}

#[test]
fn forms_of_conditions() {
    let a = "  sel_a:\n    Image|endswith: nc\n  sel_b:\n    CommandLine|contains: x\n  filter_c:\n    CommandLine|contains: y\n";
    let with = |condition: &str| format!("{a}  condition: {condition}");
    let (nc, x) = (format!("{NC}, process.command_line = 'a'"), format!("{LS}, process.command_line = 'x'"));
    let (nc_x, nc_xy) =
        (format!("{NC}, process.command_line = 'x'"), format!("{NC}, process.command_line = 'xy'"));
    for (condition, yes, no) in [
        ("sel_a and sel_b", &nc_x, &nc),
        ("sel_a or sel_b", &x, &format!("{LS}, process.command_line = 'a'")),
        ("sel_a and not sel_b", &nc, &nc_x),
        ("1 of sel_*", &x, &format!("{LS}, process.command_line = 'a'")),
        ("any of sel_*", &nc, &format!("{LS}, process.command_line = 'a'")),
        ("all of sel_*", &nc_x, &nc),
        ("1 of them", &nc, &format!("{LS}, process.command_line = 'a'")),
        ("all of them", &nc_xy, &nc_x),
        ("all of sel_* and not 1 of filter_*", &nc_x, &nc_xy),
        ("(sel_a or sel_b) and not filter_c", &nc_x, &nc_xy),
        ("not (not sel_a)", &nc, &x),
    ] {
        check("process_creation", "exec", &[(&with(condition), yes, no)]);
    }
    let many = "  s:\n    - Image|endswith: nc\n    - CommandLine|contains: x\n  condition: s";
    check("process_creation", "exec", &[(many, &x, &format!("{LS}, process.command_line = 'a'"))]);
    let several =
        "  s:\n    Image|endswith: nc\n  t:\n    Image|endswith: ls\n  condition:\n    - s\n    - t";
    check("process_creation", "exec", &[(several, LS, "process.executable = '/bin/cat'")]);
}

#[test]
fn what_is_skipped_has_its_reason() {
    let process =
        |detection: &str| import("x.yml", &sigma("process_creation", detection)).unwrap_err().to_string();
    for (detection, reason) in [
        ("  s:\n    Hashes|contains: x\n  condition: s", "field not known to COI: Hashes"),
        (
            "  s:\n    CommandLine|base64offset|contains: x\n  condition: s",
            "modifier not supported: base64offset",
        ),
        ("  s:\n    CommandLine|windash|contains: ' -e'\n  condition: s", "modifier not supported: windash"),
        ("  s:\n    - one\n    - two\n  condition: s", "keywords without a field"),
        ("  s:\n    Image: x\n  condition: s | count() > 5", "condition not supported: s | count() > 5"),
        ("  s:\n    Image: x\n  condition: 2 of s*", "condition not supported: 2 of s*"),
        ("  s:\n    Image: x\n  condition: s and (s", "condition not supported: s and (s"),
        ("  s:\n    Image: x\n  condition: other", "condition not supported: other"),
        ("  s:\n    User: mysql\n  condition: s", "value not supported: User: mysql"),
        ("  s:\n    Image: []\n  condition: s", "value not supported: an empty list"),
        (
            "  s:\n    CommandLine|re: '('\n  condition: s",
            "the imported rule is refused: `(` is no regular expression",
        ),
        ("  s:\n    Image: x\n  condition: s and not s", "no test could be generated"),
    ] {
        let said = process(detection);
        assert!(said.starts_with(reason), "{said}");
    }
    let other = import("x.yml", &sigma("dns_query", "  s:\n    Image: x\n  condition: s")).unwrap_err();
    assert_eq!(other, Skipped::Source("linux/dns_query/-".to_owned()));
    assert!(matches!(import("x.yml", "a: b: c"), Err(Skipped::Yaml(_))));
    assert_eq!(import("x.yml", "title: t").unwrap_err(), Skipped::Form("logsource"));
}

#[test]
fn what_is_said_of_a_rule() {
    let yaml = "title: 'It''s one'\nid: 1-2\ndescription: |\n  Two\n  lines\ntags:\n  - attack.execution\n  - attack.t1059.004\n  - attack.t9999\n\
                logsource:\n  product: linux\n  category: process_creation\ndetection:\n  s:\n    Image|endswith: /nc\n  condition: s\nlevel: critical\n";
    let imported = import("rules/linux/My Rule.yml", yaml).unwrap();
    assert_eq!(imported.dropped, ["T9999"]);
    insta::assert_snapshot!(imported.toml);
}
