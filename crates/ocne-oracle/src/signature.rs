//! Request signatures, version 1: draft-cavage-http-signatures-08 with RSA and SHA-256.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest as _, Sha256};

use crate::key::SigningKey;
use crate::secret::Secret;

/// What is signed of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ToSign<'a> {
    pub method: &'a str,
    /// Path and query, as they are sent.
    pub target: &'a str,
    /// With the port, unless it is the scheme's own.
    pub host: &'a str,
    pub date: &'a str,
    /// The token of the user in whose name an instance speaks, which is sent as `opc-obo-token`.
    pub delegation: Option<&'a str>,
    /// The body, except of uploads of objects and parts, which the service takes unsigned.
    pub body: Option<&'a SignedBody>,
}

/// What is signed of a body, and has to be sent with it.
#[derive(Debug, Clone)]
pub(crate) struct SignedBody {
    pub length: usize,
    pub content_type: &'static str,
    pub sha256: String,
}

impl SignedBody {
    pub fn json(body: &[u8]) -> Self {
        Self {
            length: body.len(),
            content_type: "application/json",
            sha256: BASE64.encode(Sha256::digest(body)),
        }
    }
}

impl ToSign<'_> {
    /// The names that are signed, and the text that is.
    fn text(&self) -> (String, String) {
        let mut lines = vec![
            ("date", self.date.to_owned()),
            ("(request-target)", format!("{} {}", self.method.to_ascii_lowercase(), self.target)),
            ("host", self.host.to_owned()),
        ];
        if let Some(token) = self.delegation {
            lines.push(("opc-obo-token", token.to_owned()));
        }
        if let Some(body) = self.body {
            lines.push(("content-length", body.length.to_string()));
            lines.push(("content-type", body.content_type.to_owned()));
            lines.push(("x-content-sha256", body.sha256.clone()));
        }
        let names: Vec<&str> = lines.iter().map(|(name, _)| *name).collect();
        let text: Vec<String> = lines.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        (names.join(" "), text.join("\n"))
    }

    /// The header `Authorization`. None when the machine gives no randomness.
    pub fn authorization(&self, key_id: &Secret, key: &SigningKey) -> Option<String> {
        let (names, text) = self.text();
        let signature = key.sign(&text)?;
        Some(format!(
            "Signature version=\"1\",keyId=\"{}\",algorithm=\"rsa-sha256\",headers=\"{names}\",signature=\"{signature}\"",
            key_id.reveal()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples in Oracle's documentation of request signatures.
    #[test]
    fn signing_strings() {
        let get = ToSign {
            method: "GET",
            target: "/20160918/instances?availabilityDomain=Pjwf%3A%20PHX-AD-1&compartmentId=ocid1.compartment.oc1..aaaaaaaam3we6vgnherjq5q2idnccdflvjsnog7mlr6rtdb25gilchfeyjxa&displayName=TeamXInstances&volumeId=ocid1.volume.oc1.phx.abyhqljrgvttnlx73nmrwfaux7kcvzfs3s66izvxf2h4lgvyndsdsnoiwr5q",
            host: "iaas.us-phoenix-1.oraclecloud.com",
            date: "Thu, 05 Jan 2014 21:31:40 GMT",
            delegation: None,
            body: None,
        };
        let (names, text) = get.text();
        assert_eq!(names, "date (request-target) host");
        assert_eq!(
            text,
            "date: Thu, 05 Jan 2014 21:31:40 GMT\n(request-target): get /20160918/instances?availabilityDomain=Pjwf%3A%20PHX-AD-1&compartmentId=ocid1.compartment.oc1..aaaaaaaam3we6vgnherjq5q2idnccdflvjsnog7mlr6rtdb25gilchfeyjxa&displayName=TeamXInstances&volumeId=ocid1.volume.oc1.phx.abyhqljrgvttnlx73nmrwfaux7kcvzfs3s66izvxf2h4lgvyndsdsnoiwr5q\nhost: iaas.us-phoenix-1.oraclecloud.com"
        );
    }

    #[test]
    fn bodies_are_signed_by_their_hash() {
        let body = SignedBody::json(b"");
        assert_eq!(body.sha256, "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
        let post = ToSign {
            method: "POST",
            target: "/b",
            host: "h:1",
            date: "d",
            delegation: Some("t"),
            body: Some(&body),
        };
        let (names, text) = post.text();
        assert_eq!(
            names,
            "date (request-target) host opc-obo-token content-length content-type x-content-sha256"
        );
        assert_eq!(
            text,
            "date: d\n(request-target): post /b\nhost: h:1\nopc-obo-token: t\ncontent-length: 0\ncontent-type: application/json\nx-content-sha256: 47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
        );
    }
}
