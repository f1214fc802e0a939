//! References to ostree content in container images, as rpm-ostree writes them (ostree-ext, `OstreeImageReference`).

use std::fmt;

use crate::reference::{ImageReference, ReferenceError};

/// An image that holds an ostree commit, and who is to vouch for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OstreeReference {
    /// The image.
    pub image: ImageReference,
    /// Who is to vouch for it.
    pub trust: OstreeTrust,
}

/// Who is to vouch for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OstreeTrust {
    /// Nobody: what is not signed is taken.
    Unverified,
    /// Whoever containers-policy.json(5) names.
    Policy,
    /// The keys of this ostree remote.
    Remote(String),
}

impl OstreeReference {
    /// Reads `ostree-unverified-registry:REF`, `ostree-unverified-image:TRANSPORT:REF`, `ostree-image-signed:TRANSPORT:REF`,
    /// `ostree-remote-image:REMOTE:TRANSPORT:REF`, `ostree-remote-registry:REMOTE:REF`, or any [`ImageReference`].
    ///
    /// # Errors
    /// When the text is no reference.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let refused = |reason| ReferenceError { text: text.chars().take(300).collect(), reason };
        let registry = |rest: &str| ImageReference::parse(&format!("docker://{rest}"));
        // `registry:` is another name for `docker://`.
        let image = |rest: &str| match rest.strip_prefix("registry:") {
            Some(rest) => registry(rest),
            None => ImageReference::parse(rest),
        };
        let remote = |rest: &str| match rest.split_once(':') {
            Some((remote, rest)) if !remote.is_empty() => {
                Ok((OstreeTrust::Remote(remote.to_owned()), rest.to_owned()))
            }
            _ => Err(refused("the name of a remote is missing")),
        };
        let (trust, image) = if let Some(rest) = text.strip_prefix("ostree-unverified-registry:") {
            (OstreeTrust::Unverified, registry(rest))
        } else if let Some(rest) = text.strip_prefix("ostree-unverified-image:") {
            (OstreeTrust::Unverified, image(rest))
        } else if let Some(rest) = text.strip_prefix("ostree-image-signed:") {
            (OstreeTrust::Policy, image(rest))
        } else if let Some(rest) = text.strip_prefix("ostree-remote-image:") {
            let (trust, rest) = remote(rest)?;
            (trust, image(&rest))
        } else if let Some(rest) = text.strip_prefix("ostree-remote-registry:") {
            let (trust, rest) = remote(rest)?;
            (trust, registry(&rest))
        } else {
            (OstreeTrust::Unverified, ImageReference::parse(text))
        };
        Ok(Self { image: image?, trust })
    }
}

impl fmt::Display for OstreeReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.trust {
            OstreeTrust::Unverified => write!(f, "ostree-unverified-image:{}", self.image),
            OstreeTrust::Policy => write!(f, "ostree-image-signed:{}", self.image),
            OstreeTrust::Remote(remote) => write!(f, "ostree-remote-image:{remote}:{}", self.image),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_are_read() {
        for (text, full) in [
            (
                "ostree-unverified-registry:r.example/ock-ostree:1.33",
                "ostree-unverified-image:docker://r.example/ock-ostree:1.33",
            ),
            (
                "ostree-unverified-image:registry:r.example/a:b",
                "ostree-unverified-image:docker://r.example/a:b",
            ),
            (
                "ostree-unverified-image:docker://r.example/a:b",
                "ostree-unverified-image:docker://r.example/a:b",
            ),
            ("ostree-unverified-image:oci-archive:/a.tar", "ostree-unverified-image:oci-archive:/a.tar"),
            ("ostree-image-signed:oci:/a:b", "ostree-image-signed:oci:/a:b"),
            (
                "ostree-remote-image:ol:docker://r.example/a:b",
                "ostree-remote-image:ol:docker://r.example/a:b",
            ),
            ("ostree-remote-registry:ol:r.example/a:b", "ostree-remote-image:ol:docker://r.example/a:b"),
            ("r.example/a:b", "ostree-unverified-image:docker://r.example/a:b"),
            ("dir:/a", "ostree-unverified-image:dir:/a"),
        ] {
            let found = OstreeReference::parse(text).unwrap();
            assert_eq!(found.to_string(), full);
            assert_eq!(OstreeReference::parse(full), Ok(found));
        }
        for bad in [
            "",
            "ostree-unverified-registry:",
            "ostree-remote-image::docker://r.example/a",
            "ostree-remote-image:ol",
            "ostree-image-signed:",
        ] {
            assert!(OstreeReference::parse(bad).is_err(), "{bad}");
        }
    }
}
