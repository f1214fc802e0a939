//! How a program in the pod ended, as the cluster reports it (`metav1.Status` on channel 3).

use kube::core::Status;
use kube::core::response::StatusSummary;

/// How a program in the pod ended. It is what the cluster says, and no proof that all bytes arrived: programs in the
/// pod confirm what they got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecStatus {
    /// Its exit code.
    pub exit_code: i32,
    /// What the cluster says when it is not 0.
    pub message: String,
}

impl ExecStatus {
    /// Reads the report; the error is in words, when the program did not run to its end.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, String> {
        let status: Status =
            serde_json::from_slice(json).map_err(|e| format!("the status cannot be read: {e}"))?;
        if status.status == Some(StatusSummary::Success) {
            return Ok(Self { exit_code: 0, message: String::new() });
        }
        let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
        let code = causes.iter().find(|cause| cause.reason == "ExitCode");
        match code.and_then(|cause| cause.message.parse().ok()) {
            Some(exit_code) if status.reason == "NonZeroExitCode" => {
                Ok(Self { exit_code, message: status.message })
            }
            _ if status.message.is_empty() => Err(format!("the cluster reports `{}`", status.reason)),
            _ => Err(status.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read() {
        let ok = ExecStatus::parse(br#"{"metadata":{},"status":"Success"}"#);
        assert_eq!(ok, Ok(ExecStatus { exit_code: 0, message: String::new() }));
        let failed = ExecStatus::parse(
            br#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#,
        );
        assert_eq!(failed.map(|status| status.exit_code), Ok(7));
        let internal = ExecStatus::parse(
            br#"{"metadata":{},"status":"Failure","message":"error executing command in container: no such file","reason":"InternalError","code":500}"#,
        );
        assert_eq!(internal, Err("error executing command in container: no such file".to_owned()));
        assert!(ExecStatus::parse(b"not JSON").is_err());
        assert!(ExecStatus::parse(b"{}").is_err());
    }
}
