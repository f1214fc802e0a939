//! Session tokens: JSON web tokens, of which only the time of their end is read here.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

#[derive(Deserialize)]
struct Claims {
    exp: u64,
}

/// When a token ends; none when it does not say.
pub(crate) fn expiry(token: &str) -> Option<SystemTime> {
    let claims = token.split('.').nth(1)?;
    let claims = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
    let claims: Claims = serde_json::from_slice(&claims).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp))
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
    }
}
