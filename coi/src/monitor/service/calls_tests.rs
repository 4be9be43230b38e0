use std::collections::BTreeSet;

use nix::unistd::Gid;
use proptest::prelude::*;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::super::{api::ApiError, connections, unmonitored};
use super::*;

fn admin() -> Caller {
    Caller::new(1000, 1000, vec![994], Some(Gid::from_raw(994)))
}

fn user() -> Caller {
    Caller::new(1000, 1000, vec![], Some(Gid::from_raw(994)))
}

/// Status and body of the answer to one request.
async fn ask(
    service: &Arc<Service>,
    caller: Caller,
    method: &str,
    target: &str,
    body: &str,
) -> (u16, String) {
    let length = body.len();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nhost: coi\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
    let answer = unmonitored::talk(service, caller, request.as_bytes()).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(concat!("server: coi/", env!("CARGO_PKG_VERSION"))), "{head}");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// With a name in the place of `{name}`.
fn target(call: &Call) -> String {
    let path = call.path.replace("{name}", "NAME");
    if call.query.iter().any(|(name, _)| *name == "watch") { path + "?watch=NAME" } else { path }
}

#[tokio::test]
async fn every_call_is_answered_by_who_it_is_for() {
    let directory = tempfile::tempdir().unwrap();
    let service = unmonitored::service(directory.path());
    for call in CALLS {
        for (caller, may) in [
            (Caller::root(), true),
            (admin(), call.who != Who::Root),
            // Nothing is theirs here.
            (user(), false),
        ] {
            let uid = caller.uid;
            let (status, body) = ask(&service, caller, call.method, &target(call), "").await;
            assert_eq!(status != 403, may, "{} {} as {uid}: {status} {body}", call.method, call.path);
            assert!(![405, 501].contains(&status), "{} {}: {status}", call.method, call.path);
            if status >= 400 {
                serde_json::from_str::<ApiError>(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
            }
        }
    }
}

#[test]
fn an_example_makes_its_call() {
    let mut seen = BTreeSet::new();
    for call in CALLS {
        assert!(seen.insert((call.method, call.path)), "{} {} is there twice", call.method, call.path);
        let method = match call.example {
            example if example.contains("-X POST") || example.contains(" -d ") => "POST",
            example if example.contains("-X DELETE") => "DELETE",
            _ => "GET",
        };
        assert_eq!(method, call.method, "{}", call.example);
        let path = call.path.replace("{name}", "NAME");
        let called = call.example.split_once("http://coi").unwrap().1.split(['\'', '?', ' ']).next().unwrap();
        assert_eq!(called, path, "{}", call.example);
    }
}

#[tokio::test]
async fn the_calls_are_listed() {
    let directory = tempfile::tempdir().unwrap();
    let service = unmonitored::service(directory.path());
    let (status, body) = ask(&service, admin(), "GET", "/v1", "").await;
    let index: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, index["calls"].as_array().unwrap().len()), (200, CALLS.len()));
    assert_eq!(index["version"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn what_is_no_call_is_said_to_be_none() {
    let directory = tempfile::tempdir().unwrap();
    let service = unmonitored::service(directory.path());
    for (method, target, wanted, code) in [
        ("GET", "/", 404, "not_found"),
        ("GET", "/v2/status", 404, "not_found"),
        ("POST", "/v1/status", 405, "bad_request"),
        ("GET", "/v1/watches/a/b", 404, "not_found"),
    ] {
        let (status, body) = ask(&service, admin(), method, target, "").await;
        let error: ApiError = serde_json::from_str(&body).unwrap();
        assert_eq!((status, error.code.as_str()), (wanted, code), "{method} {target}");
    }
}

#[tokio::test]
async fn what_only_root_may_ask_for() {
    let directory = tempfile::tempdir().unwrap();
    let service = unmonitored::service(directory.path());
    let watch = |subject: &str, more: &str| format!("{{\"subject\": {subject}, \"respond\": true{more}}}");
    let container = "{\"type\": \"container\", \"name\": \"c\"}";
    let cgroup = "{\"type\": \"cgroup\", \"path\": \"/x\"}";
    for body in [watch(cgroup, ""), watch(container, ", \"owner\": 0")] {
        let (status, answer) = ask(&service, admin(), "POST", "/v1/watches", &body).await;
        assert_eq!(status, 403, "{answer}");
    }
    // It would be asked for now, if there were an Incus.
    let (status, answer) =
        ask(&service, admin(), "POST", "/v1/watches", &watch(container, ", \"owner\": 1000")).await;
    assert_eq!(status, 502, "{answer}");
}

#[tokio::test]
async fn a_request_has_a_length() {
    let directory = tempfile::tempdir().unwrap();
    let service = unmonitored::service(directory.path());
    for call in CALLS {
        let body = "x".repeat(call.most + 1);
        let (status, answer) = ask(&service, Caller::root(), call.method, &target(call), &body).await;
        assert_eq!(status, 413, "{} {}: {answer}", call.method, call.path);
        let chunked = format!(
            "{} {} HTTP/1.1\r\nhost: coi\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            call.method,
            target(call),
            body.len()
        );
        let answer = unmonitored::talk(&service, Caller::root(), chunked.as_bytes()).await;
        assert!(answer.starts_with(b"HTTP/1.1 413"), "{}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let service = unmonitored::service(directory.path());
    let (mut here, there) = UnixStream::pair().unwrap();
    tokio::spawn(connections::serve(there, router(Arc::clone(&service)), Caller::root()));
    here.write_all(b"POST /v1/watches HTTP/1.1\r\nhost: coi\r\ncontent-length: 100\r\n\r\n{").await.unwrap();
    let began = tokio::time::Instant::now();
    let mut answer = Vec::new();
    let _ = here.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
    assert!(began.elapsed() >= BODY);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes is answered in the protocol, and the next is answered all the same.
    #[test]
    fn junk_is_answered(
        junk in proptest::collection::vec(any::<u8>(), 0..2000),
        method in "(GET|POST|DELETE|[A-Z]{1,9})",
        path in "/(v1/[a-z]{1,9}|v1/watches/[^ \r\n]{0,20}(/kill)?|[ -~]{0,30})",
        body in "[\\PC\n]{0,200}",
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let directory = tempfile::tempdir().unwrap();
        runtime.block_on(async {
            let service = unmonitored::service(directory.path());
            let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            for bytes in [&junk[..], request.as_bytes()] {
                let answer = unmonitored::talk(&service, admin(), bytes).await;
                assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{}", String::from_utf8_lossy(&answer));
            }
            assert_eq!(ask(&service, admin(), "GET", "/v1/status", "").await.0, 200);
        });
    }
}
