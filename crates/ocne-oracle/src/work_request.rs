//! Work requests: what a service does for minutes.

use serde::{Deserialize, Serialize};

use crate::client::{Call, Client, encode};
use crate::error::OracleError;
use crate::region::Service;

/// A work request.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkRequest {
    /// Its OCID.
    pub id: String,
    /// How far it is.
    pub status: WorkRequestStatus,
    /// From 0 to 100.
    #[serde(default)]
    pub percent_complete: Option<f32>,
    /// What it works on.
    #[serde(default)]
    pub resources: Vec<Resource>,
}

/// What a work request works on.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource {
    /// What it is, such as `image`.
    #[serde(default)]
    pub entity_type: String,
    /// Its OCID.
    #[serde(default)]
    pub identifier: String,
}

/// How far a work request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum WorkRequestStatus {
    /// It has not begun.
    Accepted,
    /// It is being done.
    InProgress,
    /// It did not work.
    Failed,
    /// It is done.
    Succeeded,
    /// Somebody cancels it.
    Canceling,
    /// Somebody cancelled it.
    Canceled,
    /// A word that is not known yet.
    #[serde(other)]
    Unknown,
}

/// Why a work request failed, or what it says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct WorkRequestProblem {
    /// The service's word for it; none in logs.
    #[serde(default)]
    pub code: Option<String>,
    /// The service's words for people.
    #[serde(default)]
    pub message: Option<String>,
}

impl std::fmt::Display for WorkRequestProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let message = self.message.as_deref().unwrap_or_default().trim().trim_end_matches('.');
        match &self.code {
            Some(code) => write!(f, "{code}: {message}"),
            None => f.write_str(message),
        }
    }
}

impl WorkRequest {
    /// The OCID of the image that it makes.
    pub fn image_id(&self) -> Option<&str> {
        let is_image = |resource: &&Resource| {
            resource.entity_type.eq_ignore_ascii_case("image")
                || resource.identifier.starts_with("ocid1.image.")
        };
        self.resources.iter().find(is_image).map(|resource| resource.identifier.as_str())
    }
}

impl Client {
    /// A work request, and how long the service wants to be left alone.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn work_request(
        &self,
        id: &str,
    ) -> Result<(WorkRequest, Option<std::time::Duration>), OracleError> {
        let answer = self.send(work_request_call("look at the work request", id, "")).await?;
        Ok((answer.json()?, ocne_http::retry_after(&answer.headers)))
    }

    /// The work requests that work on a resource, newest first. They do not say what else they work on.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn work_requests_of(
        &self,
        compartment: &str,
        resource_id: &str,
    ) -> Result<Vec<WorkRequest>, OracleError> {
        self.list(|| {
            Call::get(format!("list the work requests of {resource_id}"), Service::Compute, "/workRequests")
                .right("read work-requests in compartment NAME")
                .query("compartmentId", compartment)
                .query("resourceId", resource_id)
        })
        .await
    }

    /// Why a work request failed.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn work_request_errors(&self, id: &str) -> Result<Vec<WorkRequestProblem>, OracleError> {
        self.list(|| work_request_call("list the errors of the work request", id, "/errors")).await
    }

    /// What a work request says of what it does.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn work_request_logs(&self, id: &str) -> Result<Vec<WorkRequestProblem>, OracleError> {
        self.list(|| work_request_call("list the log of the work request", id, "/logs")).await
    }
}

fn work_request_call(action: &str, id: &str, rest: &str) -> Call<'static> {
    Call::get(format!("{action} {id}"), Service::Compute, format!("/workRequests/{}{rest}", encode(id)))
        .right("read work-requests in compartment NAME")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_are_not_known_are_no_failure() {
        let read = |status: &str| {
            serde_json::from_str::<WorkRequest>(&format!("{{\"id\":\"x\",\"status\":\"{status}\"}}"))
                .unwrap()
                .status
        };
        assert_eq!(read("IN_PROGRESS"), WorkRequestStatus::InProgress);
        assert_eq!(read("NEW_WORD"), WorkRequestStatus::Unknown);
    }
}
