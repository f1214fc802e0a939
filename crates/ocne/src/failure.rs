//! How a run that did not succeed is reported: message, causes, hint and exit status.

use std::error::Error;

use ocne_build::{BuildError, FailureKind};

/// Refused or failed.
pub const EXIT_FAILED: u8 = 1;
/// Wrong usage, or a wrong setting.
pub const EXIT_USAGE: u8 = 2;
/// The other side refused.
pub const EXIT_REMOTE_REFUSED: u8 = 3;
/// Interrupted or failed, but the next run goes on where this one stopped.
pub const EXIT_RESUMABLE: u8 = 4;
/// Ended by a signal, and cleaned up.
pub const EXIT_INTERRUPTED: u8 = 130;

/// A run that did not succeed.
#[derive(Debug)]
pub struct Failure {
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
    exit_code: u8,
}

impl Failure {
    /// A failure with the error's causes and exit status 1.
    pub fn new(error: &(dyn Error + 'static)) -> Self {
        let message = error.to_string();
        let mut causes = Vec::new();
        let mut last = message.clone();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Many errors already end with what their source says.
            if !last.ends_with(&text) {
                causes.push(text.clone());
                last = text;
            }
            source = cause.source();
        }
        Self { message, causes, hint: None, exit_code: EXIT_FAILED }
    }

    /// A failure to do `what`, because of `error`.
    pub fn message(what: impl Into<String>, error: &(dyn Error + 'static)) -> Self {
        let inner = Self::new(error);
        let causes = std::iter::once(inner.message).chain(inner.causes).collect();
        Self { message: what.into(), causes, hint: None, exit_code: EXIT_FAILED }
    }

    /// A refusal that is no error of anything below.
    pub fn refused(message: impl Into<String>) -> Self {
        Self { message: message.into(), causes: Vec::new(), hint: None, exit_code: EXIT_FAILED }
    }

    /// Wrong usage that the parser cannot see.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), causes: Vec::new(), hint: None, exit_code: EXIT_USAGE }
    }

    /// The same failure with a next step.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same failure with another exit status.
    pub fn with_exit_code(mut self, exit_code: u8) -> Self {
        self.exit_code = exit_code;
        self
    }

    /// What failed.
    pub fn text(&self) -> &str {
        &self.message
    }

    /// Why, outermost first.
    pub fn causes(&self) -> &[String] {
        &self.causes
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The exit status.
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        let failure = Self::new(&error).with_exit_code(match error.kind() {
            FailureKind::Failed => EXIT_FAILED,
            FailureKind::Usage => EXIT_USAGE,
            FailureKind::RemoteRefused => EXIT_REMOTE_REFUSED,
            FailureKind::Resumable => EXIT_RESUMABLE,
            FailureKind::Interrupted => EXIT_INTERRUPTED,
        });
        match error.hint() {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        }
    }
}

impl From<ocne_upload::UploadError> for Failure {
    fn from(error: ocne_upload::UploadError) -> Self {
        use ocne_upload::FailureKind;
        let failure = Self::new(&error).with_exit_code(match error.kind() {
            FailureKind::Failed => EXIT_FAILED,
            FailureKind::Usage => EXIT_USAGE,
            FailureKind::RemoteRefused => EXIT_REMOTE_REFUSED,
            FailureKind::Resumable => EXIT_RESUMABLE,
            FailureKind::Interrupted => EXIT_INTERRUPTED,
        });
        match error.hint() {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Failure;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the image: {source}")]
    struct Outer {
        source: Middle,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the header")]
    struct Middle {
        source: std::io::Error,
    }

    #[test]
    fn causes_that_the_message_holds_are_not_repeated() {
        let error = Outer { source: Middle { source: std::io::Error::other("broken pipe") } };
        let failure = Failure::new(&error);
        assert_eq!(failure.text(), "cannot open the image: cannot read the header");
        assert_eq!(failure.causes(), ["broken pipe"]);
    }
}
