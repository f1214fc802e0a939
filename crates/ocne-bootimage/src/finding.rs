//! What was found about an image, for people.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The image may well work, but not as one would expect.
    Warning,
    /// The image cannot boot.
    Error,
}

impl Severity {
    /// The name in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Something that a person should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of finding, for programs: words with hyphens.
    pub code: Cow<'static, str>,
    /// What was found, where.
    pub message: String,
    /// What to do about it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<Cow<'static, str>>,
}

impl Finding {
    pub(crate) fn warning(code: &'static str, message: String, hint: Option<&'static str>) -> Self {
        Self { severity: Severity::Warning, code: code.into(), message, hint: hint.map(Cow::Borrowed) }
    }

    pub(crate) fn error(code: &'static str, message: String, hint: Option<&'static str>) -> Self {
        Self { severity: Severity::Error, code: code.into(), message, hint: hint.map(Cow::Borrowed) }
    }
}
