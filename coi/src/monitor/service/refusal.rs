//! Calls that are not carried out, and why.

use std::io;

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::api::ApiError;
use crate::{
    incus,
    monitor::{
        audit::LogError,
        cgroup::CgroupError,
        pipeline::{self, OrderError},
        private::PrivateError,
        respond::{NetworkError, RespondError},
        rulefiles::drawn,
        rules::{RuleError, TooMuch},
        sensor::SensorError,
    },
};

/// A call that is not carried out.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) error: ApiError,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &str, message: String) -> Self {
        Self { status, error: ApiError { code: code.to_owned(), message } }
    }

    pub(super) fn not_found(message: String) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(super) fn bad_request(message: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(super) fn denied(message: String) -> Self {
        Self::new(StatusCode::FORBIDDEN, "denied", message)
    }

    pub(super) fn internal(message: String) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self.error)).into_response()
    }
}

impl From<incus::Error> for Refusal {
    fn from(error: incus::Error) -> Self {
        match error {
            incus::Error::NotFound { .. } => Self::not_found(error.to_string()),
            error => Self::new(StatusCode::BAD_GATEWAY, "incus", error.to_string()),
        }
    }
}

impl From<CgroupError> for Refusal {
    fn from(error: CgroupError) -> Self {
        match &error {
            CgroupError::Open { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Self::not_found(error.to_string())
            }
            _ => Self::internal(error.to_string()),
        }
    }
}

impl From<RespondError> for Refusal {
    fn from(error: RespondError) -> Self {
        match error {
            RespondError::Incus(error) => error.into(),
            error => Self::internal(error.to_string()),
        }
    }
}

impl From<OrderError> for Refusal {
    fn from(error: OrderError) -> Self {
        match error {
            OrderError::NothingRuns(_) => Self::new(StatusCode::CONFLICT, "bad_request", error.to_string()),
            OrderError::Respond(error) => error.into(),
            OrderError::Ended(error) => error.into(),
        }
    }
}

impl From<TooMuch> for Refusal {
    fn from(error: TooMuch) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "rules", error.to_string())
    }
}

impl From<Vec<RuleError>> for Refusal {
    fn from(errors: Vec<RuleError>) -> Self {
        let words = format!(
            "the rules of the user or the workspace are wrong, and nothing runs without them:\n{}",
            drawn(&errors)
        );
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "rules", words)
    }
}

impl From<SensorError> for Refusal {
    fn from(error: SensorError) -> Self {
        Self::internal(error.to_string())
    }
}

impl From<NetworkError> for Refusal {
    fn from(error: NetworkError) -> Self {
        Self::internal(error.to_string())
    }
}

impl From<LogError> for Refusal {
    fn from(error: LogError) -> Self {
        Self::internal(error.to_string())
    }
}

impl From<PrivateError> for Refusal {
    fn from(error: PrivateError) -> Self {
        Self::internal(error.to_string())
    }
}

impl From<pipeline::Ended> for Refusal {
    fn from(error: pipeline::Ended) -> Self {
        Self::internal(error.to_string())
    }
}
