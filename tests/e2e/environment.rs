//! Looking for secrets is told, and stops nobody.

use coi_tests::{Coi, DEFAULT, TINY, actions, fired};

#[test]
fn as_a_user() {
    let coi = Coi::new();
    coi.write("settings.py", "API_KEY = 'none'\n");
    // Another's environment is refused, which is told as well.
    let script = "cat /proc/1/environ; grep -rnE 'api_key|secret' -i . ; echo on";
    let ended =
        coi.run(DEFAULT, &["sh", "-c", script]).expect(0).says("coi: warning: rule proc-environ-read: ");
    assert_eq!(ended.text(), "./settings.py:1:API_KEY = 'none'\non\n");
    let audit = coi.audit(&coi.container());
    assert_eq!(Vec::from_iter(fired(&audit)), ["proc-environ-read", "secret-grep"]);
    assert_eq!(actions(&audit), []);
}

#[test]
fn as_root() {
    let coi = Coi::owned_by(0);
    let script = "tr '\\0' '\\n' </proc/1/environ | grep -c -i key; echo on";
    let ended = coi.run(TINY, &["sh", "-c", script]).expect(0);
    assert_eq!(ended.text(), "0\non\n");
    let audit = coi.audit(&coi.container());
    assert_eq!(Vec::from_iter(fired(&audit)), ["proc-environ-read"]);
    assert_eq!(actions(&audit), []);
}
