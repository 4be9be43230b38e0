//! Files have the same owner on both sides, whoever that is.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use coi_tests::incus::incus;
use coi_tests::{Coi, DEFAULT, Gate, TINY, end};

/// Root, the images' own user, and one whom no image knows.
const OWNERS: [u32; 3] = [0, 1000, 1234];

#[test]
fn what_is_made_inside_belongs_to_the_owner_outside() {
    for (image, owners) in [(TINY, &OWNERS[..]), (DEFAULT, &OWNERS[2..])] {
        for &owner in owners {
            let coi = Coi::owned_by(owner);
            let script = "mkdir made && echo x >made/file && ln -s file made/link && id -u && id -g";
            let ended = coi.run(image, &["sh", "-c", script]).expect(0);
            assert_eq!(ended.text(), format!("{owner}\n{owner}\n"), "{image}");
            for name in ["made", "made/file", "made/link"] {
                let found = fs::symlink_metadata(coi.workspace().join(name)).unwrap();
                assert_eq!((found.uid(), found.gid()), (owner, owner), "{name} in {image}");
            }
        }
    }
}

#[test]
fn what_is_made_outside_belongs_to_the_owner_inside() {
    for owner in OWNERS {
        let coi = Coi::owned_by(owner);
        let file = coi.workspace().join("mine");
        fs::write(&file, "x\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&file, Some(owner), Some(owner)).unwrap();
        // A private file is read, written, replaced and given away by its owner and nobody else.
        let script = "stat -c %u:%g:%a mine && cat mine && echo y >>mine && chmod 640 mine && mv mine yours";
        let ended = coi.run(TINY, &["sh", "-c", script]).expect(0);
        assert_eq!(ended.text(), format!("{owner}:{owner}:600\nx\n"));
        let found = fs::metadata(coi.workspace().join("yours")).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (owner, owner, 0o640));
        assert_eq!(fs::read_to_string(coi.workspace().join("yours")).unwrap(), "x\ny\n");
    }
}

#[test]
fn others_stay_others() {
    for owner in [1000, 1234] {
        let coi = Coi::owned_by(owner);
        // Somebody else's on the host is somebody else's inside.
        let file = coi.workspace().join("theirs");
        fs::write(&file, "x").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&file, Some(4321), Some(4321)).unwrap();
        let gate = Gate::new(&coi, "gate");
        chown(coi.workspace().join("gate"), Some(owner), Some(owner)).unwrap();
        let script = "stat -c %u theirs; cat theirs; read x <gate";
        let run = coi.start(&["run", "--image", TINY, "--", "sh", "-c", script]);
        let gate = gate.reached();
        // Root there has root's rights on the workspace, and no others: what it makes is root's.
        let as_root = "echo x >roots && chown 4321:4321 theirs && stat -c %u roots";
        let ended =
            end(&mut incus(&["exec", &coi.container(), "--cwd", "/workspace", "--", "sh", "-c", as_root]));
        assert_eq!(ended.expect(0).text(), "0\n");
        assert_eq!(fs::metadata(coi.workspace().join("roots")).unwrap().uid(), 0);
        gate.open();
        let ended = run.finish();
        assert!(ended.text().starts_with("4321\n"), "{}", ended.text());
        assert!(ended.stderr.contains("Permission denied"), "{}", ended.stderr);
    }
}
