//! The stream of what a watch sees.

use std::{io, sync::Arc};

use axum::{
    Extension,
    body::Body,
    extract::{Query, State},
    response::{IntoResponse, Response},
};
use futures_util::stream::{self, StreamExt as _};
use serde::Deserialize;

use super::{admission::Caller, refusal::Refusal, watches::Service};
use crate::monitor::{
    audit::Record,
    pipeline::Watched,
    rules::recording,
    viewers::{Shown, View},
};

#[derive(Deserialize)]
pub(super) struct EventsQuery {
    watch: String,
    #[serde(default)]
    form: Form,
}

/// What the lines are to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Form {
    /// Events, alerts and states with ECS names.
    #[default]
    Ecs,
    /// Alerts and states only: no event is sent by the kernel for their sake.
    Alerts,
    /// A recording.
    Recording,
}

/// Lines from now on; the first ones are the coverage and the watch's state, so that a viewer knows it is there.
pub(super) async fn events(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<EventsQuery>,
) -> Result<Response, Refusal> {
    let watching = service.find(&query.watch, &caller)?;
    let view = watching.watched.viewers.join(query.form != Form::Alerts);
    let onlooker = match query.form {
        Form::Alerts => None,
        Form::Ecs | Form::Recording => Some(watching.pipeline.look(Arc::clone(&watching.watched)).await??),
    };
    let state =
        |why: &str| Record::state(&watching.watched.container, watching.state(), why).line().to_string();
    let form = query.form;
    let coverage = service.coverage(&watching).line().to_string();
    let first = match form {
        Form::Ecs | Form::Alerts => vec![coverage, state("you see what happens from now on")],
        Form::Recording => {
            let Watched { container, own, .. } = &*watching.watched;
            vec![recording::header(&container.name, recording::Holds::Everything, own) + "\n"]
        }
    };
    let container = Arc::clone(&watching.watched.container);
    let now = Arc::clone(&watching);
    let shown = stream::unfold(view, async |mut view: View| view.next().await.map(|shown| (shown, view)));
    let rest = shown.filter_map(move |shown| {
        std::future::ready(match shown {
            shown if form == Form::Recording => shown.into_recording(),
            Shown::Missed(missed) => {
                let why = format!(
                    "this viewer was too slow and has missed {missed} lines; the audit log has all alerts"
                );
                Some(Record::state(&container, now.state(), &why).line().to_string())
            }
            shown => shown.into_line(),
        })
    });
    let body = stream::iter(first).chain(rest).map(move |line| {
        // As long as there is a body, somebody looks.
        let _looks = &onlooker;
        Ok::<_, io::Error>(line)
    });
    Ok(([("content-type", "application/x-ndjson")], Body::from_stream(body)).into_response())
}
