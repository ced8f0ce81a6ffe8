//! Bearer tokens from a file, as a cluster mounts them: read anew before they expire.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rdkafka::client::OAuthToken;
use serde::Deserialize;

use crate::source::clock::Clock;

/// How long a token is used that does not say when it ends.
const UNKNOWN_LIFE_MS: i64 = 300_000;

/// Why a token cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    #[error("could not read the token file {path}: {detail}")]
    Unreadable { path: String, detail: String },
    #[error("the token file {path} is empty")]
    Empty { path: String },
    #[error("the token in {path} expired")]
    Expired { path: String },
}

#[derive(Default, Deserialize)]
struct Claims {
    sub: Option<String>,
    exp: Option<f64>,
}

/// Reads the token, and from it whose it is and when it ends.
pub(super) fn read(file: &Path) -> Result<OAuthToken, TokenError> {
    let path = || file.display().to_string();
    let text = std::fs::read_to_string(file)
        .map_err(|error| TokenError::Unreadable { path: path(), detail: error.to_string() })?;
    let token = text.trim();
    if token.is_empty() {
        return Err(TokenError::Empty { path: path() });
    }
    let claims = claims(token).unwrap_or_default();
    let now = Clock::system().now().millis();
    let lifetime_ms = claims.exp.map_or(now + UNKNOWN_LIFE_MS, |seconds| (seconds * 1000.0) as i64);
    if lifetime_ms <= now {
        return Err(TokenError::Expired { path: path() });
    }
    Ok(OAuthToken {
        token: token.to_owned(),
        principal_name: claims.sub.unwrap_or_else(|| "tasktide".to_owned()),
        lifetime_ms,
    })
}

/// What a JSON Web Token says; other tokens say nothing.
fn claims(token: &str) -> Option<Claims> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&payload).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(content: &str, expected: Result<(&str, Option<i64>), &str>) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, content).unwrap();
        match (read(&file), expected) {
            (Ok(token), Ok((name, end))) => {
                assert_eq!((token.principal_name.as_str(), token.token.as_str()), (name, content.trim()));
                assert!(end.is_none_or(|end| end == token.lifetime_ms), "{}", token.lifetime_ms);
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, expected) => panic!("{:?}, not {expected:?}", found.map(|token| token.principal_name)),
        }
    }

    fn jwt(claims: &str) -> String {
        format!("e30.{}.c2ln\n", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn tokens_tell_whose_they_are_and_when_they_end() {
        check(&jwt(r#"{"sub":"ann","exp":4102444800}"#), Ok(("ann", Some(4_102_444_800_000))));
        check(&jwt(r#"{"exp":4102444800.5}"#), Ok(("tasktide", Some(4_102_444_800_500))));
        check("opaque", Ok(("tasktide", None)));
        check(&jwt(r#"{"sub":"ann","exp":1000}"#), Err("expired"));
        check(" \n", Err("is empty"));
        assert!(read(Path::new("/nowhere/token")).err().unwrap().to_string().contains("/nowhere/token"));
    }
}
