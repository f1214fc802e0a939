//! Tokens of sessions and resources: JSON web tokens, of which the end and the tenancy are read here.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    exp: Option<u64>,
    #[serde(default)]
    res_tenant: Option<String>,
    #[serde(default)]
    tenant: Option<String>,
}

fn claims(token: &str) -> Option<Claims> {
    let claims = token.split('.').nth(1)?;
    let claims = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&claims).ok()
}

/// When a token ends; none when it does not say.
pub(crate) fn expiry(token: &str) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(claims(token)?.exp?))
}

/// OCID of the tenancy that a token is for.
pub(crate) fn tenancy(token: &str) -> Option<String> {
    let claims = claims(token)?;
    claims.res_tenant.or(claims.tenant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiries() {
        let token = |claims: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        assert_eq!(expiry(&token(r#"{"sub":"x","exp":7}"#)), Some(UNIX_EPOCH + Duration::from_secs(7)));
        for nothing in [token("{}"), token("no"), "a.b".to_owned(), String::new(), token(r#"{"exp":-1}"#)] {
            assert_eq!(expiry(&nothing), None, "{nothing}");
        }
        assert_eq!(tenancy(&token(r#"{"res_tenant":"r","tenant":"t"}"#)).unwrap(), "r");
        assert_eq!(tenancy(&token(r#"{"tenant":"t"}"#)).unwrap(), "t");
    }
}
