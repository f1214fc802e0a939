//! References to container images, as podman and skopeo write them (containers-transports(5)).

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::digest::Digest;

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageReference {
    /// `docker://HOST/NAME[:TAG|@DIGEST]`, or the same without `docker://`: an image in a registry.
    Registry(RegistryReference),
    /// `oci:PATH[:NAME|@DIGEST]`: a folder in the OCI image layout.
    OciLayout {
        /// The folder.
        path: PathBuf,
        /// Which of its images; none if it holds one.
        image: Option<LayoutImage>,
    },
    /// `oci-archive:PATH[:NAME|@DIGEST]`: a tar file of an OCI image layout.
    OciArchive {
        /// The file.
        path: PathBuf,
        /// Which of its images; none if it holds one.
        image: Option<LayoutImage>,
    },
    /// `docker-archive:PATH[:NAME:TAG|:@INDEX]`: a file that `docker save` writes.
    DockerArchive {
        /// The file.
        path: PathBuf,
        /// Which of its images; none if it holds one.
        image: Option<String>,
    },
    /// `containers-storage:IMAGE`: an image in the storage of podman and buildah.
    ContainersStorage {
        /// Its name or identifier, in the form that those programs take.
        image: String,
    },
    /// `dir:PATH`: a folder with a manifest and blobs, as `skopeo copy` writes it.
    Directory {
        /// The folder.
        path: PathBuf,
    },
}

/// Which image of an OCI layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayoutImage {
    /// The one with this value of the annotation `org.opencontainers.image.ref.name`.
    Name(String),
    /// The one with this manifest.
    Digest(Digest),
}

/// An image in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryReference {
    /// Host name and port as written, such as `docker.io` or `localhost:5000`.
    pub registry: String,
    /// Name in it, such as `library/debian`.
    pub repository: String,
    /// Tag or digest.
    pub version: Version,
}

/// Which version of an image in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    /// The one that a tag names now.
    Tag(String),
    /// Exactly this one.
    Digest(Digest),
}

/// Text that is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a reference to a container image: {reason}")]
pub struct ReferenceError {
    /// The text, cut to a length that can be printed.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Transports of podman and skopeo that are not for boot images.
const OTHER_TRANSPORTS: [&str; 7] =
    ["docker-daemon:", "ostree:", "sif:", "atomic:", "tarball:", "http://", "https://"];

/// The longest name of an image in a registry (distribution specification, "Pulling manifests").
const NAME_MAX_BYTES: usize = 255;

impl ImageReference {
    /// Reads a reference.
    ///
    /// # Errors
    /// When the text is no reference, or of a transport that is not supported.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let refused = |reason| ReferenceError { text: text.chars().take(300).collect(), reason };
        if text.contains(['\0', '\n', '\r']) {
            return Err(refused("it contains a line break or NUL"));
        }
        if OTHER_TRANSPORTS.iter().any(|prefix| text.starts_with(prefix)) {
            return Err(refused("this transport is not supported"));
        }
        let layout = |rest: &str| -> Result<_, ReferenceError> {
            if let Some((path, digest)) = rest.rsplit_once('@')
                && let Ok(digest) = digest.parse()
            {
                // `PATH:NAME@DIGEST` is no form that anybody writes; the digest alone says enough.
                return Ok((
                    PathBuf::from(non_empty(path).map_err(refused)?),
                    Some(LayoutImage::Digest(digest)),
                ));
            }
            let (path, name) = split_path(rest).map_err(refused)?;
            Ok((path, name.map(LayoutImage::Name)))
        };
        if let Some(rest) = text.strip_prefix("oci:") {
            let (path, image) = layout(rest)?;
            Ok(Self::OciLayout { path, image })
        } else if let Some(rest) = text.strip_prefix("oci-archive:") {
            let (path, image) = layout(rest)?;
            Ok(Self::OciArchive { path, image })
        } else if let Some(rest) = text.strip_prefix("docker-archive:") {
            let (path, image) = split_path(rest).map_err(refused)?;
            Ok(Self::DockerArchive { path, image })
        } else if let Some(rest) = text.strip_prefix("containers-storage:") {
            let wrong = rest.is_empty() || rest.starts_with('-') || rest.contains(char::is_whitespace);
            if wrong {
                return Err(refused("the name of the image is empty, begins with `-`, or has spaces in it"));
            }
            Ok(Self::ContainersStorage { image: rest.to_owned() })
        } else if let Some(rest) = text.strip_prefix("dir:") {
            Ok(Self::Directory { path: PathBuf::from(non_empty(rest).map_err(refused)?) })
        } else {
            let rest = text.strip_prefix("docker://").unwrap_or(text);
            RegistryReference::parse(rest).map(Self::Registry).map_err(refused)
        }
    }
}

impl FromStr for ImageReference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

fn non_empty(path: &str) -> Result<&str, &'static str> {
    if path.is_empty() { Err("the path is empty") } else { Ok(path) }
}

/// `PATH[:REST]`, split at the first colon as skopeo does.
fn split_path(text: &str) -> Result<(PathBuf, Option<String>), &'static str> {
    let (path, rest) = match text.split_once(':') {
        Some((path, rest)) => (path, Some(rest)),
        None => (text, None),
    };
    let rest = rest.filter(|r| !r.is_empty()).map(str::to_owned);
    Ok((PathBuf::from(non_empty(path)?), rest))
}

impl RegistryReference {
    /// `[HOST/]NAME[:TAG][@DIGEST]`, completed as docker does: `debian` is `docker.io/library/debian:latest`.
    /// Of a tag and a digest the digest counts.
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest.parse().map_err(|_| "the part after `@` is not a SHA-256 digest")?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        // The first part is a host only if it cannot be part of a name.
        let (registry, name) = match rest.split_once('/') {
            Some((host, name))
                if host.contains(['.', ':', '['])
                    || host == "localhost"
                    || host.chars().any(|c| c.is_ascii_uppercase()) =>
            {
                (host, name)
            }
            _ => ("docker.io", rest),
        };
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
        check_host(registry)?;
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) => (name, Some(tag)),
            None => (name, None),
        };
        let repository = if registry == "docker.io" && !name.contains('/') {
            format!("library/{name}")
        } else {
            name.to_owned()
        };
        check_name(&repository)?;
        if tag.is_some_and(|t| !is_tag(t)) {
            return Err("the tag is empty, too long, or has characters that tags do not have");
        }
        let version = match digest {
            Some(digest) => Version::Digest(digest),
            None => Version::Tag(tag.unwrap_or("latest").to_owned()),
        };
        Ok(Self { registry: registry.to_owned(), repository, version })
    }
}

/// `HOST[:PORT]` or `[ADDRESS][:PORT]`.
fn check_host(text: &str) -> Result<(), &'static str> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']').ok_or("the address lacks its `]`")?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| "the host is not an IPv6 address")?;
            let port = rest.strip_prefix(':');
            if port.is_none() && !rest.is_empty() {
                return Err("the host is not a host name");
            }
            (None, port)
        }
        None => match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        },
    };
    if let Some(host) = host {
        let label = |l: &str| {
            !l.is_empty()
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !l.starts_with('-')
                && !l.ends_with('-')
        };
        if host.len() > 253 || !host.split('.').all(label) {
            return Err("the host is not a host name");
        }
    }
    match port {
        Some(port) if !port.bytes().all(|b| b.is_ascii_digit()) || port.parse::<u16>().is_err() => {
            Err("the port is not a number up to 65535")
        }
        _ => Ok(()),
    }
}

/// Lower case parts, each of letters and digits with single separators between them.
fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > NAME_MAX_BYTES {
        return Err("the name is empty or too long");
    }
    for part in name.split('/') {
        let alphanumeric = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let mut separators = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        let known = |s: &str| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-');
        if !alphanumeric(part.bytes().next()) || !alphanumeric(part.bytes().last()) || !separators.all(known)
        {
            return Err(
                "the name has to consist of lower case letters and digits, separated by `/`, `.`, `_` or `-`",
            );
        }
    }
    Ok(())
}

pub(crate) fn is_tag(tag: &str) -> bool {
    (1..=128).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let image = |f: &mut fmt::Formatter<'_>, image: &Option<LayoutImage>| match image {
            Some(LayoutImage::Name(name)) => write!(f, ":{name}"),
            Some(LayoutImage::Digest(digest)) => write!(f, "@{digest}"),
            None => Ok(()),
        };
        match self {
            Self::Registry(reference) => write!(f, "docker://{reference}"),
            Self::OciLayout { path, image: i } => {
                write!(f, "oci:{}", path.display())?;
                image(f, i)
            }
            Self::OciArchive { path, image: i } => {
                write!(f, "oci-archive:{}", path.display())?;
                image(f, i)
            }
            Self::DockerArchive { path, image } => {
                write!(f, "docker-archive:{}", path.display())?;
                image.iter().try_for_each(|name| write!(f, ":{name}"))
            }
            Self::ContainersStorage { image } => write!(f, "containers-storage:{image}"),
            Self::Directory { path } => write!(f, "dir:{}", path.display()),
        }
    }
}

impl fmt::Display for RegistryReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match &self.version {
            Version::Tag(tag) => write!(f, ":{tag}"),
            Version::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn references_are_completed() {
        for (text, full) in [
            ("debian", "docker://docker.io/library/debian:latest"),
            ("docker://debian:12", "docker://docker.io/library/debian:12"),
            ("index.docker.io/a/b", "docker://docker.io/a/b:latest"),
            ("docker.io/debian", "docker://docker.io/library/debian:latest"),
            ("a/b", "docker://docker.io/a/b:latest"),
            ("localhost/a", "docker://localhost/a:latest"),
            ("localhost:5000/a:b", "docker://localhost:5000/a:b"),
            ("[::1]:5000/a", "docker://[::1]:5000/a:latest"),
            ("r.example.com/a__b/c-d.e---f:V1.2_3", "docker://r.example.com/a__b/c-d.e---f:V1.2_3"),
            ("oci:/a/b", "oci:/a/b"),
            ("oci:/a/b:c:d", "oci:/a/b:c:d"),
            ("oci-archive:x.tar", "oci-archive:x.tar"),
            ("docker-archive:x.tar:a:b", "docker-archive:x.tar:a:b"),
            ("dir:/a:b", "dir:/a:b"),
            ("containers-storage:[vfs@/a]localhost/b:c", "containers-storage:[vfs@/a]localhost/b:c"),
        ] {
            assert_eq!(ImageReference::parse(text).map(|r| r.to_string()), Ok(full.to_owned()), "{text}");
        }
        let exact = format!("docker://r.example.com/a@{DIGEST}");
        assert_eq!(ImageReference::parse(&exact).unwrap().to_string(), exact);
        let both = ImageReference::parse(&format!("r.example.com/a:tag@{DIGEST}")).unwrap();
        assert_eq!(both.to_string(), exact, "the digest counts");
        let layout = format!("oci-archive:/a.tar@{DIGEST}");
        let ImageReference::OciArchive { image, .. } = ImageReference::parse(&layout).unwrap() else {
            panic!("not an archive")
        };
        assert_eq!(image, Some(LayoutImage::Digest(DIGEST.parse().unwrap())));
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        // Too long with the `library/` that Docker Hub adds.
        let (long, too_long) = ("a".repeat(300), "a".repeat(248));
        for text in [
            "",
            "docker://",
            "a/",
            "/a",
            "A",
            "a/B",
            "a b",
            "a:",
            "a:-x",
            "a:b:c",
            "a//b",
            "a..b",
            "a/-b",
            "a_/b",
            "a@b",
            "a@sha256:00",
            "r.example.com:99999/a",
            "r.example.com:x/a",
            "-r.com/a",
            "[::1/a",
            "[x]/a",
            "oci:",
            "oci::a",
            "dir:",
            "oci-archive:",
            "containers-storage:",
            "containers-storage:-x",
            "http://r.example.com/a",
            "a\nb",
            &long,
            &too_long,
        ] {
            assert!(ImageReference::parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn the_full_form_means_the_same(text in "(docker://|oci:|dir:|docker-archive:)?[a-zA-Z0-9.:/@_\\[\\]-]{0,40}") {
            if let Ok(reference) = ImageReference::parse(&text) {
                let full = reference.to_string();
                prop_assert_eq!(ImageReference::parse(&full), Ok(reference), "{}", full);
            }
        }
    }
}
