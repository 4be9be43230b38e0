//! The first steps as people know them, word for word, one after the other.

use std::fs;
use std::os::unix::fs::chown;
use std::sync::Arc;

use coi_tests::agent::{Bench, Image};
use coi_tests::{DEFAULT, SMALL, Terminal, USER, eventually, incus};

/// `~/.coi/config.toml` as the old README has it, but for the image.
const CONFIG: &str = r#"
[defaults]
image = "@IMAGE@"
[tool]
name = "claude"
permission_mode = "bypass"
auto_context = true
[limits.cpu]
count = "2"
[limits.memory]
limit = "2GiB"
[limits.runtime]
max_duration = "2h"
[monitoring]
enabled = true
"#;

const RUST_DEV: &str = r#"
image = "@IMAGE@"
persistent = true
context = "CONTEXT.md"
forward_env = ["CARGO_HOME"]
[environment]
RUST_BACKTRACE = "1"
[tool]
name = "claude"
permission_mode = "bypass"
[limits.cpu]
count = "4"
"#;

const NIGHTLY: &str = r#"
inherits = "rust-dev"
[environment]
RUST_CHANNEL = "nightly"
"#;

#[test]
fn the_first_steps_word_for_word() {
    let bench = Bench::new(Arc::new(Image::on(SMALL)));
    let (coi, name) = (&bench.coi, bench.name());
    let second = format!("{}2", name.trim_end_matches('1'));
    let with_image = |text: &str| text.replace("@IMAGE@", &bench.image.0);
    let home = coi.home().join(".coi");
    for (profile, text) in [("rust-dev", with_image(RUST_DEV)), ("rust-dev-nightly", NIGHTLY.to_owned())] {
        let directory = home.join("profiles").join(profile);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("config.toml"), text).unwrap();
        fs::write(directory.join("CONTEXT.md"), "Use clippy.\n").unwrap();
    }
    fs::write(home.join("config.toml"), with_image(CONFIG)).unwrap();

    let terminal = Terminal::open(coi);
    let mut steps = 0;
    let mut enter = |line: &str| {
        steps += 1;
        terminal.enter(&format!("{line}; echo \"step\"\"{steps}:$?\""));
        format!("step{steps}:0")
    };

    // An interactive session, and what was said in it again.
    let over = enter("coi shell");
    terminal.until("agent --dangerously-skip-permissions");
    terminal.enter("the first thing");
    terminal.until("heard the first thing");
    terminal.enter("/exit");
    terminal.until(&over);
    let over = enter("coi shell --resume");
    terminal.until("{\"said\":\"the first thing\"}");
    terminal.enter("/exit");
    terminal.until(&over);

    // One that is kept, and one beside it.
    let over = enter("coi shell --persistent");
    terminal.until("agent --dangerously-skip-permissions");
    terminal.press("C-b d");
    terminal.until(&over);
    let over = enter("coi shell --slot 2");
    terminal.until("agent --dangerously-skip-permissions");
    assert_eq!(incus::status(&second), "Running");
    terminal.press("C-b d");
    terminal.until(&over);
    let over = enter("coi list --all");
    let screen = terminal.until(&over);
    assert!(screen.contains(&name) && screen.contains(&second), "{screen}");
    let over = enter(&format!("coi attach {name}"));
    terminal.until("agent --dangerously-skip-permissions");
    terminal.press("C-b d");
    terminal.until(&over);
    let over = enter(&format!("coi freeze {name} && coi resume {name}"));
    terminal.until(&over);
    let over = enter(&format!("coi persist {second}"));
    terminal.until(&over);
    for container in [&name, &second] {
        let over = enter(&format!("coi shutdown {container}"));
        terminal.until(&over);
        assert_eq!(incus::status(container), "Stopped");
        let over = enter(&format!("coi kill {container}"));
        terminal.until(&over);
        assert_eq!(incus::instance(container), None);
    }

    // Profiles.
    let over = enter("coi profile list");
    let screen = terminal.until(&over);
    assert!(screen.contains("rust-dev-nightly"), "{screen}");
    let over = enter("coi profile info rust-dev");
    terminal.until(&over);
    let over = enter("coi shell --profile rust-dev-nightly");
    terminal.until("agent --dangerously-skip-permissions");
    let inside = |line: &str| {
        let mut exec = incus::exec(&name, "/home/code", &["sh", "-c", line]);
        coi_tests::end(&mut exec).expect(0).text()
    };
    assert!(inside("cat SANDBOX_CONTEXT.md").contains("Use clippy."));
    assert_eq!(incus::instance(&name).unwrap()["config"]["limits.cpu"], "4");
    // As its user would type it there.
    coi_tests::end(&mut incus::incus(&["exec", &name, "--", "poweroff"]));
    terminal.until(&over.replace(":0", ":"));
    eventually("it has stopped", || incus::status(&name) == "Stopped");
    let over = enter(&format!("coi kill {name}"));
    terminal.until(&over);

    // A command in a container of its own, by the image with everything in it.
    fs::write(home.join("config.toml"), CONFIG.replace("@IMAGE@", DEFAULT)).unwrap();
    coi.write("package.json", r#"{ "name": "e2e", "scripts": { "test": "echo the tests pass" } }"#);
    chown(coi.workspace().join("package.json"), Some(USER), Some(USER)).unwrap();
    let over = enter("coi run \"npm test\"");
    let screen = terminal.until(&over);
    assert!(screen.contains("\nthe tests pass"), "{screen}");

    // What cannot be had is refused, not taken and not enforced.
    fs::write(home.join("config.toml"), "[network]\nmode = \"restricted\"\n").unwrap();
    let over = enter("coi run true");
    let screen = terminal.until(&over.replace(":0", ":6"));
    assert!(screen.contains("cannot be limited yet"), "{screen}");
}
