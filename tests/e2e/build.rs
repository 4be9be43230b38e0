//! `coi build`: images that are made, made again, refused, given up and left; and one whole build with the real agents.

#![expect(clippy::unwrap_used, reason = "what fails here is a test")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use coi_tests::incus::{self, Foreign};
use coi_tests::{Coi, DEFAULT, Ended, Running, TINY, USER, agent, end, eventually, text};
use nix::sys::signal::Signal;
use serde_json::Value;

/// A test with the name of an image of its own.
struct Bench {
    coi: Coi,
    alias: String,
}

impl Bench {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Self { coi: Coi::new(), alias: format!("coi-e2e-build-{}-{number}", std::process::id()) }
    }

    /// Writes a script of the user's, outside the workspace.
    fn script(&self, text: &str) -> String {
        let path = self.coi.home().join("script");
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The words of `coi build custom` by a script.
    fn custom(&self, script: &str, more: &[&str]) -> Vec<String> {
        let script = self.script(script);
        let words = ["build", "custom", &self.alias, "--script", &script];
        words.iter().chain(more).map(|&word| word.to_owned()).collect()
    }

    fn build(&self, script: &str, more: &[&str]) -> Ended {
        let words = self.custom(script, more);
        self.coi.coi(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn start(&self, script: &str, more: &[&str]) -> Running {
        let words = self.custom(script, more);
        self.coi.start(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn image(&self) -> Option<Value> {
        image(&self.alias)
    }

    fn log(&self) -> PathBuf {
        self.coi.home().join(format!(".coi/logs/build-{}.log", self.alias))
    }

    /// The containers in which its image is built.
    fn containers(&self) -> Vec<String> {
        let (_, answer) = incus::call(incus::socket(), "GET", "/1.0/instances?recursion=1");
        let all = answer["metadata"].as_array().unwrap().iter();
        all.filter(|instance| instance["config"]["user.coi.build"] == self.alias.as_str())
            .map(|instance| text(&instance["name"]))
            .collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let left = self.containers();
        left.iter().for_each(|name| incus::delete(name));
        let _ = end(&mut incus::incus(&["image", "delete", &self.alias]));
        if !std::thread::panicking() {
            assert!(left.is_empty(), "build containers are left: {left:?}");
        }
    }
}

fn image(alias: &str) -> Option<Value> {
    match incus::call(incus::socket(), "GET", &format!("/1.0/images/aliases/{alias}")) {
        (200, answer) => {
            let fingerprint = text(&answer["metadata"]["target"]);
            let (_, mut answer) = incus::call(incus::socket(), "GET", &format!("/1.0/images/{fingerprint}"));
            Some(answer["metadata"].take())
        }
        _ => None,
    }
}

fn json(ended: &Ended) -> Value {
    serde_json::from_slice(&ended.stdout)
        .unwrap_or_else(|error| panic!("{error}\n{}\n{}", ended.text(), ended.stderr))
}

const MAKES: &str =
    "#!/bin/sh\nset -e\nid -u; pwd; env\nls /workspace 2>&1 || true\nls -lan $0\necho made >/made\n";

#[test]
fn an_image_by_a_script() {
    let bench = Bench::new();
    let words = bench.custom(MAKES, &["--base", TINY, "--format", "json", "--compression", "gzip"]);
    let mut build = bench.coi.command(&words.iter().map(String::as_str).collect::<Vec<_>>());
    build.env("AWS_SECRET_ACCESS_KEY", "of-the-host").env("http_proxy", "http://proxy.test:3128");
    let built = json(&end(&mut build).expect(0));
    let made = bench.image().unwrap();
    assert_eq!(
        (&built["image"], &built["base"], &built["up_to_date"]),
        (&bench.alias.as_str().into(), &TINY.into(), &false.into())
    );
    assert_eq!((&built["fingerprint"], &built["size"]), (&made["fingerprint"], &made["size"]));
    assert_eq!(made["properties"]["coi.recipe"], built["recipe"]);
    let steps: Vec<_> = built["steps"].as_array().unwrap().iter().map(|step| text(&step["name"])).collect();
    assert_eq!(steps, ["wait until the system is up", "run the build script", "pack the image"]);

    // Whose the log is, and what the script saw: the proxy, and nothing else of the host.
    assert_eq!(built["log"], bench.log().to_str().unwrap());
    assert_eq!(fs::metadata(bench.log()).unwrap().permissions().mode() & 0o777, 0o600);
    let log = fs::read_to_string(bench.log()).unwrap();
    let said: Vec<_> = log.lines().skip_while(|line| *line != "== run the build script").skip(1).collect();
    assert_eq!(said[..2], ["0", "/"], "{log}");
    assert!(log.contains("http_proxy=http://proxy.test:3128") && !log.contains("of-the-host"), "{log}");
    assert!(log.contains("/workspace: No such file"), "{log}");
    assert!(said.iter().any(|line| line.starts_with("-rwx------ ") && line.contains(" 0 ")), "{log}");

    // It is one like any other; nothing of the script is left in it.
    let ran = bench.coi.run(&bench.alias, &["sh", "-c", "cat /made; ls /var/tmp"]).expect(0);
    assert_eq!(ran.text(), "made\n");

    // What is there is not built again, until something of it changes.
    let again =
        bench.build(MAKES, &["--base", TINY]).expect(0).says(&format!("{} is up to date", bench.alias));
    assert_eq!(again.text(), format!("{} {}\n", bench.alias, text(&built["fingerprint"])));
    let unchanged = json(&bench.build(MAKES, &["--base", TINY, "--format", "json"]).expect(0));
    assert_eq!((&unchanged["up_to_date"], &unchanged["fingerprint"]), (&true.into(), &built["fingerprint"]));
    for (script, more) in [(MAKES, &["--force"][..]), ("echo other >/made", &[])] {
        let before = text(&bench.image().unwrap()["fingerprint"]);
        let ended =
            bench.build(script, &[&["--base", TINY], more].concat()).expect(0).says("is built on coi-tiny");
        assert!(ended.stderr.contains("coi: [2/3] run the build script: "), "{}", ended.stderr);
        let after = text(&bench.image().unwrap()["fingerprint"]);
        assert_ne!(after, before);
        // The old one is gone with its name.
        assert_eq!(incus::call(incus::socket(), "GET", &format!("/1.0/images/{before}")).0, 404);
    }
}

#[test]
fn a_script_that_fails_changes_nothing() {
    let bench = Bench::new();
    bench.build(MAKES, &["--base", TINY]).expect(0);
    let before = bench.image();
    let script = "#!/bin/sh\nfor n in $(seq 30); do echo line $n; done\nprintf 'red \\033[31mherring\\033[0m\\n' >&2; exit 7\n";
    let ended =
        bench.build(script, &["--base", TINY]).expect(1).says("exit code 7").says("  | red herring\n");
    assert!(ended.stderr.contains("| line 30\n") && !ended.stderr.contains("| line 3\n"), "{}", ended.stderr);
    assert!(
        ended.stderr.contains(&format!("All that was said is in {}", bench.log().display())),
        "{}",
        ended.stderr
    );
    assert!(fs::read_to_string(bench.log()).unwrap().contains("line 1\n"));
    assert_eq!(bench.image(), before);
    assert!(bench.containers().is_empty());
}

/// Starts a build, and waits until its script runs.
fn reached(bench: &Bench) -> Running {
    let build = bench.start("#!/bin/sh\necho reached\nsleep 1000\n", &["--base", TINY]);
    eventually("the script runs", || {
        fs::read_to_string(bench.log()).is_ok_and(|log| log.contains("reached"))
    });
    build
}

#[test]
fn an_interrupted_build_leaves_nothing() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let bench = Bench::new();
        let build = reached(&bench);
        build.signal(signal);
        build.finish().expect(128 + signal as i32).says("interrupted");
        assert!(bench.containers().is_empty());
        assert_eq!(bench.image(), None);
    }
}

#[test]
fn what_a_killed_build_leaves_is_found() {
    let bench = Bench::new();
    let build = reached(&bench);
    let clean = ["clean", "--orphans", "--workspace", ".", "--force"];
    bench.coi.coi(&clean).expect(0).says("nothing to be removed");
    build.signal(Signal::SIGKILL);
    build.finish().expect(137);
    let [name] = &bench.containers()[..] else { panic!("one container is left") };
    let listed = bench.coi.coi(&[&clean[..4], &["--dry-run"]].concat()).expect(0).text();
    assert_eq!(listed, format!("build container {name} of {}\n", bench.coi.workspace().display()));
    bench.coi.coi(&clean).expect(0).says(&format!("{name} is gone"));
    assert!(bench.containers().is_empty());
}

#[test]
fn an_image_of_somebody_else_stays() {
    let bench = Bench::new();
    let foreign = Foreign::make(TINY);
    // What is published says nothing of COI, whatever it was made from.
    foreign.incus(&[
        "publish",
        &foreign.name,
        "--alias",
        &bench.alias,
        "--compression",
        "none",
        "coi.recipe=",
    ]);
    let strip = ["image", "unset-property", &bench.alias, "coi.recipe"];
    foreign.incus(&strip);
    let before = bench.image().unwrap();
    bench.build(MAKES, &["--base", TINY, "--force"]).expect(1).says("was not made by COI");
    assert_eq!(bench.image().unwrap(), before);
    // As a base it is as good as any.
    let other = Bench::new();
    other.build(MAKES, &["--base", &bench.alias]).expect(0);
}

#[test]
fn what_cannot_be_built() {
    let bench = Bench::new();
    let all = [
        (vec!["--base", "no-such-image"], 5, "Incus has no image no-such-image to build on"),
        (vec!["--base", &bench.alias], 2, "cannot be built on itself"),
        (vec!["--base", "docker:debian"], 2, "no server that COI knows"),
        (vec!["--compression", "zip"], 2, "zstd"),
        (vec!["--host-ca=/proc/self"], 1, "no certificate authorities"),
    ];
    for (more, code, says) in all {
        bench.build(MAKES, &more).expect(code).says(says);
    }
    bench.coi.coi(&["build", "custom", "../x", "--script", "/dev/null"]).expect(2).says("it takes letters");
    bench.coi.coi(&["build", "custom", &bench.alias, "--script", "/no/such"]).expect(1).says("/no/such");
    bench.coi.coi(&["build", "--agents", "aider"]).expect(2).says("no agent that npm has");
    assert_eq!(bench.image(), None);
}

/// Writes a profile, the user's or the workspace's.
fn profile(bench: &Bench, home: bool, settings: &str, script: &str) {
    let root = if home { bench.coi.home() } else { bench.coi.workspace() };
    let directory = root.join(".coi/profiles/mine");
    fs::create_dir_all(&directory).unwrap();
    for (name, text) in [("config.toml", settings), ("build.sh", script)] {
        fs::write(directory.join(name), text).unwrap();
        if !home {
            chown(directory.join(name), Some(USER), Some(USER)).unwrap();
        }
    }
}

#[test]
fn the_image_of_a_profile() {
    let bench = Bench::new();
    let settings = format!(
        "[container]\nimage = '{}'\n[container.build]\nbase = '{TINY}'\nagents = []\ncompression = 'none'\n\
         commands = ['echo \"$(cat /made) and more\" >/made']\n",
        bench.alias
    );
    profile(&bench, true, &settings, MAKES);
    let build = |more: &[&str]| bench.coi.coi(&[&["build", "--profile", "mine"], more].concat());
    build(&[]).expect(0).says("run the build script").says(&format!("{} is built on {TINY}", bench.alias));
    build(&[]).expect(0).says("is up to date");
    // What is run by the profile is its image.
    let ran = bench.coi.coi(&["run", "--profile", "mine", "cat", "/made"]).expect(0);
    assert_eq!(ran.text(), "made and more\n");
    profile(&bench, true, &settings, "#!/bin/sh\necho other >/made\n");
    build(&[]).expect(0).says("is built on");
    profile(&bench, true, &settings.replace("and more", "and less"), "#!/bin/sh\necho other >/made\n");
    build(&[]).expect(0).says("is built on");
    let ran = bench.coi.coi(&["run", "--profile", "mine", "cat", "/made"]).expect(0);
    assert_eq!(ran.text(), "other and less\n");
}

#[test]
fn a_script_of_the_workspace_is_not_run_by_itself() {
    let bench = Bench::new();
    let build = || {
        let mut build = bench.coi.command(&["build", "--profile", "mine", "--agents="]);
        // Nothing but the script is the workspace's.
        build.env("COI_CONTAINER_BUILD_BASE", TINY);
        end(&mut build)
    };
    profile(&bench, false, "", MAKES);
    build().expect(6).says("build.sh").says("`coi trust` shows");
    let asked = bench.coi.coi(&["trust", "--yes"]).expect(0).text();
    assert!(asked.contains("build.sh, sha256 "), "{asked}");
    let delete = || end(&mut incus::incus(&["image", "delete", "coi-mine"]));
    let ended = build();
    delete();
    ended.expect(0).says("coi-mine is built on");
    // What was trusted is that script.
    profile(&bench, false, "", "#!/bin/sh\nreboot\n");
    build().expect(6).says("`coi trust` shows");
    // It says nothing about running what is there.
    bench.coi.coi(&["run", "--profile", "mine", "--image", TINY, "true"]).expect(0);
}

#[test]
fn authorities_are_brought_along() {
    let bench = Bench::new();
    let directory = bench.coi.home().join("authorities");
    fs::create_dir(&directory).unwrap();
    let at = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let mut make = Command::new("openssl");
    make.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=e2e authority"]);
    end(make.args(["-keyout", &at("key"), "-out", &at("mine.crt")])).expect(0);
    let flag = format!("--host-ca={}", directory.display());
    let script = "#!/bin/sh\nset -e\ncat /usr/local/share/ca-certificates/mine.crt\n\
                  openssl verify /usr/local/share/ca-certificates/mine.crt\n";
    bench.build(script, &["--base", DEFAULT, "--compression", "none"]).expect(1);
    bench.build(script, &["--base", DEFAULT, "--compression", "none", &flag]).expect(0);
    let ls = ["ls", "-lan", "/usr/local/share/ca-certificates/mine.crt"];
    let listed = bench.coi.run(&bench.alias, &ls).expect(0).text();
    let fields: Vec<_> = listed.split_whitespace().take(4).collect();
    assert_eq!(fields, ["-rw-r--r--", "1", "0", "0"]);
    let words = ["openssl", "verify", "/usr/local/share/ca-certificates/mine.crt"];
    assert!(bench.coi.run(&bench.alias, &words).expect(0).text().contains("OK"));
    let node =
        bench.coi.run(&bench.alias, &["sh", "-c", "grep -c CERT \"$NODE_EXTRA_CA_CERTS\""]).expect(0).text();
    assert_ne!(node, "0\n");
    // A key beside it stays here, and so does all, if one is in it.
    fs::copy(at("key"), at("oops.pem")).unwrap();
    bench.build(script, &["--base", DEFAULT, &flag]).expect(1).says("oops.pem").says("private key");
}

/// Bases whose network does not work, in their own namespace: what a step that fails there says.
#[test]
fn why_there_is_no_network() {
    let no_dhcp = "sed -i '/udhcpc -i/d' /etc/rc";
    // Nothing listens there.
    let no_server = "sed -i 's/echo nameserver $server/echo nameserver 127.0.0.9/' /etc/udhcpc.sh";
    let no_name = "echo 'Temporary failure resolving deb.test'; exit 1";
    let untrusted = "echo 'npm ERR! code SELF_SIGNED_CERT_IN_CHAIN'; exit 1";
    for (base, script, says) in [
        (no_dhcp, no_name, "got no address by DHCP"),
        (no_server, no_name, "no name server answers the build container; it asks 127.0.0.9"),
        ("true", no_name, "do not know a name"),
        ("true", untrusted, "certificate authorities along: --host-ca"),
    ] {
        let (broken, bench) = (Bench::new(), Bench::new());
        broken.build(&format!("#!/bin/sh\n{base}\n"), &["--base", TINY]).expect(0);
        bench.build(&format!("#!/bin/sh\n{script}\n"), &["--base", &broken.alias]).expect(1).says(says);
    }
}

/// A minimal Debian is made on this machine, and not in a container.
#[test]
fn an_interrupted_debootstrap_leaves_nothing() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let bench = Bench::new();
        profile(&bench, true, &format!("[container]\nimage = '{}'\n", bench.alias), "");
        let place = tempfile::tempdir().unwrap();
        let before = image("coi-base-bookworm");
        let words = ["build", "--profile", "mine", "--base", "debootstrap:bookworm", "--force"];
        let build = Running::start(bench.coi.command(&words).env("TMPDIR", place.path()));
        eventually("debootstrap is at work", || {
            fs::read_to_string(bench.log()).is_ok_and(|log| log.contains("I: "))
        });
        assert!(works_in(place.path()));
        build.signal(signal);
        build.finish().expect(128 + signal as i32);
        eventually("nobody is at work there", || !works_in(place.path()));
        // Killed, it leaves an empty directory: what was mounted there was seen by nobody else.
        for left in fs::read_dir(place.path()).unwrap() {
            assert_eq!(signal, Signal::SIGKILL);
            assert!(fs::read_dir(left.unwrap().path()).unwrap().next().is_none());
        }
        assert_eq!(bench.image(), None);
        if before.is_some() {
            assert_eq!(image("coi-base-bookworm"), before);
        }
    }
}

/// Is there a process that makes a Debian below this directory?
fn works_in(place: &Path) -> bool {
    let wanted = format!("DIRECTORY={}/", place.display());
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes.filter_map(|process| fs::read(process.path().join("environ")).ok()).any(|environment| {
        environment.split(|byte| *byte == 0).any(|line| line.starts_with(wanted.as_bytes()))
    })
}

/// Everything: Debian's packages, npm's agents, this machine's authorities. It takes minutes, more than other tests may.
#[test]
fn the_whole_of_it() {
    let bench = Bench::new();
    profile(
        &bench,
        true,
        &format!("[container]\nimage = '{}'\n", bench.alias),
        "#!/bin/sh\necho mine >/mine\n",
    );
    let mut words =
        vec!["build", "--profile", "mine", "--base", "debootstrap:bookworm", "--docker", "--format", "json"];
    if fs::read_dir("/usr/local/share/ca-certificates").is_ok_and(|mut all| all.next().is_some()) {
        words.push("--host-ca");
    }
    let Output { status, stdout, stderr } = bench.coi.command(&words).output().unwrap();
    let said = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{said}");
    let built: Value = serde_json::from_slice(&stdout).unwrap();
    assert!(said.contains("install claude, opencode, codex: "), "{said}");
    let base = image("coi-base-bookworm").unwrap();
    assert_eq!(base["properties"]["os"], "debian");

    let run = |line: &str| bench.coi.run(&bench.alias, &[line]).expect(0).text();
    let versions =
        run("id -un; claude --version; opencode --version; codex --version; cat /mine; docker --version");
    let [user, claude, opencode, codex, mine, docker] = &versions.lines().collect::<Vec<_>>()[..] else {
        panic!("{versions}")
    };
    assert_eq!((*user, *mine), ("code", "mine"));
    assert!(docker.starts_with("Docker version"), "{docker}");
    let agents = text(&built["agents"]);
    for (agent, told) in agents.split(", ").zip([claude, opencode, codex]) {
        let version = agent.split_once(' ').unwrap().1;
        assert!(!version.is_empty() && told.contains(version), "{agents}: {told}");
    }
    let has = "for p in git tmux gcc make node npm python3 sudo; do command -v $p >/dev/null || echo no $p; done; sudo id -u";
    assert_eq!(run(has), "0\n");

    // The agents' first screens: nobody is logged in.
    for (tool, shows) in [("claude", "Claude Code"), ("opencode", "█▀▀█ █▀▀█"), ("codex", "OpenAI Codex")]
    {
        let shell = ["shell", "--background", "--image", &bench.alias, "--tool", tool];
        let name = bench.coi.coi(&shell).expect(0).text().trim().to_owned();
        eventually(&format!("{tool} draws its screen"), || {
            bench.coi.coi(&["tmux", "capture", &name]).text().contains(shows)
        });
        bench.coi.coi(&["kill", &name, "--force"]).expect(0);
    }
    let owner = fs::metadata(bench.log()).unwrap();
    assert_eq!(owner.uid(), nix::unistd::geteuid().as_raw());

    // Their servers are out of reach: what a session is like is shown with another one in claude's place.
    let image = Arc::new(agent::Image::on(&bench.alias));
    agent::detached_attached_shut_down_and_resumed(&agent::Bench::new(image));
}
