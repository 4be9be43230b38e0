//! The calls, as [`super::api`] lists them: each takes its request apart, and asks the daemon's state.

use std::sync::{Arc, atomic::Ordering};

use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, Path as UrlPath, State, rejection::JsonRejection},
    http::StatusCode,
    middleware,
    routing::{get, post},
};

use super::{
    admission::{Peer, admit},
    api::{Reloaded, Status, Subject, Watch, WatchRequest},
    events::events,
    refusal::Refusal,
    watches::Service,
};
use crate::monitor::{pipeline::Order, rules::MOST_BYTES};

/// How long a request for a watch may be: in JSON a character of a rule file may take six.
const MOST_REQUEST: usize = 6 * MOST_BYTES + (64 << 10);

/// What answers them.
pub(super) fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/watches", get(list).post(watch).layer(DefaultBodyLimit::max(MOST_REQUEST)))
        .route("/v1/watches/{name}", get(one).delete(forget))
        .route("/v1/watches/{name}/freeze", post(freeze))
        .route("/v1/watches/{name}/unfreeze", post(unfreeze))
        .route("/v1/watches/{name}/kill", post(kill))
        .route("/v1/rules/reload", post(reload))
        .route("/v1/events", get(events))
        .fallback(|| async {
            Refusal::not_found("there is no such call; see the documentation of /v1".into())
        })
        .layer(DefaultBodyLimit::max(64 << 10))
        .layer(middleware::from_fn(admit))
        .with_state(service)
}

async fn status(State(service): State<Arc<Service>>) -> Json<Status> {
    Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        programs: service.programs.clone(),
        holes: service.holes.clone(),
        rules: service.rules.load(Ordering::Relaxed),
        watches: service.watches().values().filter(|entry| entry.over.is_none()).count(),
    })
}

async fn list(State(service): State<Arc<Service>>) -> Result<Json<Vec<Watch>>, Refusal> {
    service.pipeline.catch_up().await?;
    let mut watches: Vec<_> = service
        .watches()
        .values()
        .filter(|entry| entry.over.is_none())
        .map(|entry| entry.watching.describe())
        .collect();
    watches.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Json(watches))
}

async fn watch(
    State(service): State<Arc<Service>>,
    Extension(peer): Extension<Peer>,
    request: Result<Json<WatchRequest>, JsonRejection>,
) -> Result<Json<Watch>, Refusal> {
    let Json(request) = request.map_err(|rejection| Refusal::bad_request(rejection.body_text()))?;
    if matches!(request.subject, Subject::Cgroup { .. }) && !peer.is_root() {
        let words = "only root may have a cgroup of the host watched; run the command with sudo".into();
        return Err(Refusal::new(StatusCode::FORBIDDEN, "denied", words));
    }
    if request.owner.is_some_and(|owner| owner != peer.uid()) && !peer.is_root() {
        let words = "only root may say whose container it is; leave out `owner`".into();
        return Err(Refusal::new(StatusCode::FORBIDDEN, "denied", words));
    }
    // The caller may go away; what was begun is carried through.
    let watching = tokio::spawn(async move { service.watch(request, peer.uid()).await });
    watching.await.map_err(|error| Refusal::internal(error.to_string()))?.map(Json)
}

async fn one(
    State(service): State<Arc<Service>>,
    UrlPath(name): UrlPath<String>,
) -> Result<Json<Watch>, Refusal> {
    let watching = service.find(&name)?;
    service.pipeline.catch_up().await?;
    watching.settled().await;
    Ok(Json(watching.describe()))
}

async fn forget(
    State(service): State<Arc<Service>>,
    UrlPath(name): UrlPath<String>,
) -> Result<Json<Watch>, Refusal> {
    let watching = service.find(&name)?;
    let was = watching.describe();
    service.end(&watching).await?;
    Ok(Json(was))
}

async fn freeze(
    State(service): State<Arc<Service>>,
    Extension(peer): Extension<Peer>,
    UrlPath(name): UrlPath<String>,
) -> Result<Json<Watch>, Refusal> {
    service.order(&name, Order::Freeze, peer.uid()).await.map(Json)
}

async fn unfreeze(
    State(service): State<Arc<Service>>,
    Extension(peer): Extension<Peer>,
    UrlPath(name): UrlPath<String>,
) -> Result<Json<Watch>, Refusal> {
    service.order(&name, Order::Thaw, peer.uid()).await.map(Json)
}

async fn kill(
    State(service): State<Arc<Service>>,
    Extension(peer): Extension<Peer>,
    UrlPath(name): UrlPath<String>,
) -> Result<Json<Watch>, Refusal> {
    service.order(&name, Order::Kill, peer.uid()).await.map(Json)
}

/// Reads the rule files again. Only root may: rules decide what is frozen, and the files are root's.
async fn reload(
    State(service): State<Arc<Service>>,
    Extension(peer): Extension<Peer>,
) -> Result<Json<Reloaded>, Refusal> {
    if !peer.is_root() {
        let words = "only root may change the rules in force; run: sudo coi rules reload".into();
        return Err(Refusal::new(StatusCode::FORBIDDEN, "denied", words));
    }
    // The caller may go away; what was begun is carried through.
    let reloaded = tokio::spawn(async move { service.reload(peer.uid()).await });
    reloaded.await.map_err(|error| Refusal::internal(error.to_string()))?.map(Json)
}
