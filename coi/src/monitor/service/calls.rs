//! The calls: one table from which the router, `GET /v1` and docs/api.md come, and what each does.
//!
//! It promises that a call is only carried out for who may make it, and only once the whole of its request has come, in time
//! and no longer than it may be.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    body::{Body, to_bytes},
    extract::{Path as UrlPath, Query, Request, State, rejection::JsonRejection},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, delete, get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    admission::{Caller, Who},
    api::{Ended, Reloaded, RuleInForce, Status, Subject, Tree, TreeRequest, Watch, WatchRequest, Wish},
    events::events,
    metrics,
    refusal::Refusal,
    watches::Service,
};
use crate::{
    monitor::{guard, pipeline::Order, rules::MOST_BYTES},
    session::Plan,
};

/// How long a request for a watch may be: in JSON a character of a rule file may take six.
const MOST_REQUEST: usize = 6 * MOST_BYTES + (64 << 10);
/// How long what is to be saved may be.
const MOST_PLAN: usize = 64 << 10;
/// How long any other may be: none says anything in its body.
const MOST: usize = 4 << 10;
/// How long a request's body may take to come.
pub(super) const BODY: Duration = Duration::from_secs(10);
/// How many alerts are told if nobody says how many.
const ALERTS: usize = 100;

/// A call.
pub(super) struct Call {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    /// Who may make it.
    pub(super) who: Who,
    /// What it does.
    pub(super) what: &'static str,
    /// What may stand behind the question mark.
    pub(super) query: &'static [(&'static str, &'static str)],
    /// What the body of the request is.
    pub(super) body: Option<&'static str>,
    /// What the body of the answer is.
    pub(super) answer: &'static str,
    /// What curl takes beside the socket.
    pub(super) example: &'static str,
    most: usize,
    handler: fn() -> MethodRouter<Arc<Service>>,
}

/// One that says nothing but its name.
const PLAIN: Call = Call {
    method: "GET",
    path: "",
    who: Who::Owner,
    what: "",
    query: &[],
    body: None,
    answer: "",
    example: "",
    most: MOST,
    handler: MethodRouter::new,
};

/// All there are.
pub(super) const CALLS: &[Call] = &[
    Call {
        path: "/v1",
        what: "The calls that there are.",
        answer: "`{\"version\": …, \"calls\": […]}`",
        example: "http://coi/v1",
        handler: || get(index),
        ..PLAIN
    },
    Call {
        path: "/v1/status",
        what: "The daemon: its version, what it has loaded, what it cannot see; in `monitor`, why it can monitor nothing, if that is so.",
        answer: "`Status`",
        example: "http://coi/v1/status",
        handler: || get(status),
        ..PLAIN
    },
    Call {
        path: "/v1/watches",
        what: "All that is watched, as far as the caller may see it.",
        answer: "a list of `Watch`",
        example: "http://coi/v1/watches",
        handler: || get(list),
        ..PLAIN
    },
    Call {
        method: "POST",
        path: "/v1/watches",
        what: "Has a container or cgroup watched. The answer comes once it is armed in the kernel. Asking again for what is \
               watched already changes `respond` to true if it was not. A container that was launched with `monitored` false is \
               accompanied, and nothing in it is armed; it is not monitored until it is launched again. Cgroups are root's to have watched. Who is not an \
               administrator may only ask again for what is theirs.",
        body: Some("`WatchRequest`"),
        answer: "`Watch`",
        example: "-H 'content-type: application/json' -d '{\"subject\": {\"type\": \"container\", \"name\": \"NAME\"}, \
                  \"respond\": true, \"life\": {\"delete\": false}}' http://coi/v1/watches",
        most: MOST_REQUEST,
        handler: || post(watch),
        ..PLAIN
    },
    Call {
        path: "/v1/watches/{name}",
        what: "One watch, also for ten minutes after its end. Waits for an action that is under way.",
        answer: "`Watch`",
        example: "http://coi/v1/watches/NAME",
        handler: || get(one),
        ..PLAIN
    },
    Call {
        method: "POST",
        path: "/v1/watches/{name}/freeze",
        what: "Stops all its processes, as a rule would.",
        answer: "`Watch`",
        example: "-X POST http://coi/v1/watches/NAME/freeze",
        handler: || post(freeze),
        ..PLAIN
    },
    Call {
        method: "POST",
        path: "/v1/watches/{name}/unfreeze",
        what: "Undoes what rules or people did to it: it goes on, with its network, armed again.",
        answer: "`Watch`",
        example: "-X POST http://coi/v1/watches/NAME/unfreeze",
        handler: || post(unfreeze),
        ..PLAIN
    },
    Call {
        method: "POST",
        path: "/v1/trees",
        who: Who::Admin,
        what: "Makes the mounts that a container gets at its start: the workspace, in which what is protected can only be read, \
               and what else of the host it is to see, each opened as the caller. They are gone after a minute if no watch claims \
               them.",
        body: Some("`TreeRequest`"),
        answer: "`Tree`",
        example: "-H 'content-type: application/json' -d '{\"workspace\": \"/home/ann/app\", \"protected\": [\".git/hooks\"]}' \
                  http://coi/v1/trees",
        most: MOST_REQUEST,
        handler: || post(make_tree),
        ..PLAIN
    },
    Call {
        method: "DELETE",
        path: "/v1/trees/{name}",
        who: Who::Admin,
        what: "Takes mounts of the caller's away; a container that runs has its own copy. NAME is their id.",
        answer: "nothing",
        example: "-X DELETE http://coi/v1/trees/NAME",
        handler: || delete(discard_tree),
        ..PLAIN
    },
    Call {
        method: "POST",
        path: "/v1/watches/{name}/session",
        what: "Says that a session begins in a container that was given a `life`, and what of it is saved when it has stopped, \
               and where. With nothing of the session running any more the container is stopped. Whose container it is may \
               say so, and root.",
        body: Some("`Plan`, or null where nothing is saved"),
        answer: "`Watch`",
        example: "-H 'content-type: application/json' -d '{\"directory\": \"/home/ann/.coi/sessions-claude\", \"home\": \
                  \"/home/code\", \"paths\": [\".claude/projects\"], \"metadata\": {\"session_id\": \
                  \"0d5b5e0e-0000-4000-8000-000000000001\", \"container\": \"NAME\", \"workspace\": \"/home/ann/app\", \
                  \"tool\": \"claude\"}}' http://coi/v1/watches/NAME/session",
        most: MOST_PLAN,
        handler: || post(set_session),
        ..PLAIN
    },
    Call {
        method: "POST",
        path: "/v1/watches/{name}/keep",
        what: "A container that was given a `life` stays when it stops, from now on.",
        answer: "`Watch`",
        example: "-X POST http://coi/v1/watches/NAME/keep",
        handler: || post(keep),
        ..PLAIN
    },
    Call {
        path: "/v1/events",
        what: "What a watch sees from now on, one JSON object per line, without end. A reader that is too slow is told how \
               many lines it has missed, in their place; one that reads nothing for two minutes is disconnected.",
        query: &[
            ("watch", "the watch's name"),
            (
                "form",
                "`ecs` (events, alerts and states as in the audit log; the default), `alerts` (no events) or \
                      `recording` (for `coi rules replay`)",
            ),
        ],
        answer: "lines of JSON, see audit.schema.json",
        example: "--no-buffer --max-time 3 'http://coi/v1/events?watch=NAME&form=alerts'",
        handler: || get(events),
        ..PLAIN
    },
    Call {
        path: "/v1/alerts",
        what: "The last alerts, oldest first: of the last 1,000 since the daemon began. The audit log has all.",
        query: &[("watch", "only of this watch"), ("limit", "at most so many (100)")],
        answer: "a list of records, see audit.schema.json",
        example: "'http://coi/v1/alerts?watch=NAME&limit=10'",
        handler: || get(alerts),
        ..PLAIN
    },
    Call {
        path: "/v1/rules",
        what: "The rules in force: the machine's, or those that a watch is judged by.",
        query: &[("watch", "the watch's name")],
        answer: "a list of `RuleInForce`",
        example: "'http://coi/v1/rules?watch=NAME'",
        handler: || get(rules),
        ..PLAIN
    },
    Call {
        method: "POST",
        path: "/v1/rules/reload",
        who: Who::Root,
        what: "Reads the machine's rule files again. If one is wrong the old rules stay in force.",
        answer: "`Reloaded`",
        example: "-X POST http://coi/v1/rules/reload",
        handler: || post(reload),
        ..PLAIN
    },
    Call {
        path: "/v1/metrics",
        who: Who::Admin,
        what: "The daemon's numbers in Prometheus's text format.",
        answer: "text",
        example: "http://coi/v1/metrics",
        handler: || get(metrics),
        ..PLAIN
    },
    Call {
        method: "POST",
        path: "/v1/watches/{name}/kill",
        what: "Ends a container at once, as it stands, frozen or not. The answer comes when it is gone.",
        answer: "`Watch`",
        example: "-X POST http://coi/v1/watches/NAME/kill",
        handler: || post(kill),
        ..PLAIN
    },
    Call {
        method: "POST",
        path: "/v1/watches/{name}/finish",
        what: "Brings a stopped container that was given a `life` to its end at once: its session is saved, then it is deleted, \
               unless it is to stay. The daemon does so by itself, too; the answer comes when it is done.",
        query: &[(
            "wish",
            "`as_planned` (the default), `delete` (also one that is to stay), `give_up` (whatever becomes of its session)",
        )],
        answer: "`Ended`",
        example: "-X POST http://coi/v1/watches/NAME/finish",
        handler: || post(finish),
        ..PLAIN
    },
    Call {
        method: "DELETE",
        path: "/v1/watches/{name}",
        what: "Watches it no longer. What runs in it goes on.",
        answer: "`Watch` as it was",
        example: "-X DELETE http://coi/v1/watches/NAME",
        handler: || delete(forget),
        ..PLAIN
    },
];

/// What answers them.
pub(super) fn router(service: Arc<Service>) -> Router {
    let mut router = Router::new();
    for call in CALLS {
        let admission = middleware::from_fn_with_state((Arc::clone(&service), call), admit);
        router = router.route(call.path, (call.handler)().layer(admission));
    }
    router
        .fallback(|| async {
            Refusal::not_found("there is no such call; GET /v1 lists those there are".into())
        })
        .method_not_allowed_fallback(|| async {
            let words = "the call takes another method; GET /v1 lists the calls".into();
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "bad_request", words)
        })
        .layer(middleware::map_response(say_version))
        .with_state(service)
}

/// Every answer says what gave it.
async fn say_version(mut response: Response) -> Response {
    const VERSION: HeaderValue = HeaderValue::from_static(concat!("coi/", env!("CARGO_PKG_VERSION")));
    response.headers_mut().insert(header::SERVER, VERSION);
    response
}

/// Lets a request through whose caller may make it, when it is there as a whole.
async fn admit(
    State((service, call)): State<(Arc<Service>, &'static Call)>,
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    caller.check(call.who, || service.is_owner(caller.uid))?;
    let (parts, body) = request.into_parts();
    let whole = tokio::time::timeout(BODY, to_bytes(body, call.most)).await;
    let whole = whole.map_err(|_| {
        let words = format!("the request did not come within {} s", BODY.as_secs());
        Refusal::new(StatusCode::REQUEST_TIMEOUT, "bad_request", words)
    })?;
    let whole = whole.map_err(|_| {
        let words = format!("the request is longer than {} bytes, or broke off", call.most);
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "bad_request", words)
    })?;
    Ok(next.run(Request::from_parts(parts, Body::from(whole))).await)
}

async fn index() -> Json<Value> {
    Json(listed())
}

/// The calls, for programs.
fn listed() -> Value {
    let calls = CALLS.iter().map(|call| {
        json!({
            "method": call.method,
            "path": call.path,
            "who": call.who.name(),
            "what": call.what,
            "query": call.query.iter().copied().collect::<BTreeMap<_, _>>(),
            "body": call.body,
            "answer": call.answer,
            "example": call.example,
        })
    });
    json!({ "version": env!("CARGO_PKG_VERSION"), "calls": calls.collect::<Value>() })
}

async fn status(State(service): State<Arc<Service>>, Extension(caller): Extension<Caller>) -> Json<Status> {
    Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        programs: service.programs.clone(),
        holes: service.holes.clone(),
        rules: service.rule_count(),
        watches: service.seen_by(&caller).len(),
        monitor: service.blind.as_ref().map(ToString::to_string),
    })
}

/// Waits until what has happened so far is judged. If the monitor's thread hangs, what is known is told: who asks wants to
/// know why everything stands still by then, as the guard will have it.
async fn caught_up(service: &Service) -> Result<(), Refusal> {
    match tokio::time::timeout(guard::SILENCE, service.pipeline.catch_up()).await {
        Ok(caught_up) => Ok(caught_up?),
        Err(_) => {
            tracing::warn!("the monitor's thread does not answer");
            Ok(())
        }
    }
}

async fn list(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Vec<Watch>>, Refusal> {
    caught_up(&service).await?;
    let mut watches: Vec<_> = service.seen_by(&caller).iter().map(|watching| watching.describe()).collect();
    watches.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Json(watches))
}

async fn watch(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    request: Result<Json<WatchRequest>, JsonRejection>,
) -> Result<Json<Watch>, Refusal> {
    let Json(request) = request.map_err(|rejection| Refusal::bad_request(rejection.body_text()))?;
    if matches!(request.subject, Subject::Cgroup { .. }) && !caller.is_root() {
        let words = "only root may have a cgroup of the host watched; run the command with sudo".to_owned();
        return Err(Refusal::denied(words));
    }
    if request.owner.is_some_and(|owner| owner != caller.uid) && !caller.is_root() {
        let words = "only root may say whose container it is; leave out `owner`".to_owned();
        return Err(Refusal::denied(words));
    }
    // The caller may go away; what was begun is carried through.
    let watching = tokio::spawn(async move { service.watch(request, &caller).await });
    watching.await.map_err(|error| Refusal::internal(error.to_string()))?.map(Json)
}

async fn one(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    UrlPath(name): UrlPath<String>,
) -> Result<Json<Watch>, Refusal> {
    let watching = service.find(&name, &caller)?;
    caught_up(&service).await?;
    watching.settled().await;
    Ok(Json(watching.describe()))
}

async fn forget(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    UrlPath(name): UrlPath<String>,
) -> Result<Json<Watch>, Refusal> {
    let watching = service.find(&name, &caller)?;
    let was = watching.describe();
    service.end(&watching).await?;
    Ok(Json(was))
}

async fn make_tree(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    request: Result<Json<TreeRequest>, JsonRejection>,
) -> Result<Json<Tree>, Refusal> {
    let Json(request) = request.map_err(|rejection| Refusal::bad_request(rejection.body_text()))?;
    let incus = service.incus.clone();
    // The caller may go away; what was begun is carried through.
    let made = tokio::spawn(async move { service.trees.prepare(request, caller, incus).await });
    made.await.map_err(|error| Refusal::internal(error.to_string()))?.map(Json)
}

async fn discard_tree(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    UrlPath(id): UrlPath<String>,
) -> Result<Json<()>, Refusal> {
    service.trees.discard(&id, &caller, &service.incus).await.map(Json)
}

async fn freeze(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    UrlPath(name): UrlPath<String>,
) -> Result<Json<Watch>, Refusal> {
    service.order(&name, Order::Freeze, &caller).await.map(Json)
}

async fn unfreeze(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    UrlPath(name): UrlPath<String>,
) -> Result<Json<Watch>, Refusal> {
    service.order(&name, Order::Thaw, &caller).await.map(Json)
}

async fn kill(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    UrlPath(name): UrlPath<String>,
) -> Result<Json<Watch>, Refusal> {
    service.order(&name, Order::Kill, &caller).await.map(Json)
}

async fn set_session(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    UrlPath(name): UrlPath<String>,
    plan: Result<Json<Option<Plan>>, JsonRejection>,
) -> Result<Json<Watch>, Refusal> {
    let watching = service.find(&name, &caller)?;
    let Json(plan) = plan.map_err(|rejection| Refusal::bad_request(rejection.body_text()))?;
    if caller.uid != watching.owner && !caller.is_root() {
        let words =
            format!("{name} belongs to uid {}, who alone says where its session is saved", watching.owner);
        return Err(Refusal::denied(words));
    }
    service.set_session(&watching, plan).await?;
    Ok(Json(watching.describe()))
}

async fn keep(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    UrlPath(name): UrlPath<String>,
) -> Result<Json<Watch>, Refusal> {
    let watching = service.find(&name, &caller)?;
    service.keep(&watching).await?;
    Ok(Json(watching.describe()))
}

#[derive(Deserialize)]
struct FinishQuery {
    #[serde(default)]
    wish: Wish,
}

async fn finish(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    UrlPath(name): UrlPath<String>,
    Query(query): Query<FinishQuery>,
) -> Result<Json<Ended>, Refusal> {
    let watching = service.find(&name, &caller)?;
    // The caller may go away; what was begun is carried through.
    let finished = tokio::spawn(async move { service.bring_to_end(&watching, query.wish).await });
    finished.await.map_err(|error| Refusal::internal(error.to_string()))?.map(Json)
}

async fn reload(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Reloaded>, Refusal> {
    // The caller may go away; what was begun is carried through.
    let reloaded = tokio::spawn(async move { service.reload(caller.uid).await });
    reloaded.await.map_err(|error| Refusal::internal(error.to_string()))?.map(Json)
}

#[derive(Deserialize)]
struct AlertsQuery {
    watch: Option<String>,
    limit: Option<usize>,
}

async fn alerts(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<AlertsQuery>,
) -> Response {
    let is_wanted = |alert: &super::ledger::Alert| {
        caller.may_see(alert.owner) && query.watch.as_ref().is_none_or(|watch| **watch == *alert.watch)
    };
    let alerts = service.ledger.alerts(query.limit.unwrap_or(ALERTS), is_wanted);
    // They are JSON already.
    let lines: Vec<_> = alerts.iter().map(|alert| alert.line.trim_end()).collect();
    ([(header::CONTENT_TYPE, "application/json")], format!("[{}]", lines.join(","))).into_response()
}

#[derive(Deserialize)]
struct RulesQuery {
    watch: Option<String>,
}

async fn rules(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<RulesQuery>,
) -> Result<Json<Vec<RuleInForce>>, Refusal> {
    let in_force = match query.watch {
        Some(name) => service.find(&name, &caller)?.watched.rules(),
        None => Arc::clone(&service.base.read().await.rules),
    };
    Ok(Json(in_force.set.rules().iter().map(|rule| RuleInForce::of(rule)).collect()))
}

async fn metrics(State(service): State<Arc<Service>>) -> Response {
    // What is on its way is counted; without a monitor the numbers are those of its end.
    let _ = caught_up(&service).await;
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::text(&service)).into_response()
}

#[cfg(test)]
#[path = "calls_tests.rs"]
mod tests;
