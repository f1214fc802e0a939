//! The system that an image is for.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Operating system and processor, in the names that Go uses (OCI image specification, image-index.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Such as `linux`.
    pub os: String,
    /// Such as `amd64` or `arm64`.
    pub architecture: String,
}

impl Platform {
    /// Linux on this architecture.
    pub fn linux(architecture: impl Into<String>) -> Self {
        Self { os: "linux".to_owned(), architecture: architecture.into() }
    }

    /// Whether an image that says so of itself is for this platform. The first generation of a processor
    /// family may be named or not: `arm64` and `arm64/v8` are the same, and so are `amd64` and `amd64/v1`.
    pub(crate) fn accepts(&self, os: &str, architecture: &str, variant: Option<&str>) -> bool {
        let base = match architecture {
            "arm64" => "v8",
            "amd64" => "v1",
            _ => "",
        };
        let variant = variant.unwrap_or_default();
        self.os == os && self.architecture == architecture && (variant.is_empty() || variant == base)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}

#[cfg(test)]
mod tests {
    use super::Platform;

    #[test]
    fn variants_of_the_first_generation_are_accepted() {
        let arm = Platform::linux("arm64");
        assert!(arm.accepts("linux", "arm64", None));
        assert!(arm.accepts("linux", "arm64", Some("v8")));
        assert!(!arm.accepts("linux", "arm64", Some("v9")));
        assert!(!arm.accepts("linux", "arm", Some("v8")));
        assert!(!arm.accepts("windows", "arm64", None));
        assert!(Platform::linux("amd64").accepts("linux", "amd64", Some("")));
        assert!(!Platform::linux("amd64").accepts("linux", "amd64", Some("v3")));
    }
}
