//! Bearer tokens from a file, as a cluster mounts them: read anew every few seconds.
//!
//! The client asks for a token anew when most of the life of the last one has passed. It is told of a short life, so
//! that a file that was renewed is taken soon, also where the token in it was wrong and would have lived long.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rdkafka::client::OAuthToken;
use serde::Deserialize;

use topics::clock::Clock;

/// Longest life that the client is told of. It asks again after four fifths of it.
const LIFE_MAX_MS: i64 = 10_000;

/// Why a token cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// There is no such file, or it may not be read.
    #[error("could not read the token file {path}")]
    Unreadable {
        /// Which file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file has no token.
    #[error("the token file {path} is empty")]
    Empty {
        /// Which file.
        path: String,
    },
    /// The token is no longer good.
    #[error("the token in {path} expired")]
    Expired {
        /// Which file.
        path: String,
    },
    /// It is no token, as the client sees it.
    #[error("the token in {path} cannot be used: {detail}")]
    Refused {
        /// Which file.
        path: String,
        /// What the client says.
        detail: String,
    },
}

#[derive(Default, Deserialize)]
struct Claims {
    sub: Option<String>,
    exp: Option<f64>,
}

/// Reads the token, and from it whose it is and when it ends.
pub(super) fn read(file: &Path) -> Result<OAuthToken, TokenError> {
    let path = || file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|source| TokenError::Unreadable { path: path(), source })?;
    let token = text.trim();
    if token.is_empty() {
        return Err(TokenError::Empty { path: path() });
    }
    let claims = claims(token).unwrap_or_default();
    let now = Clock::system().now().millis();
    let ends = claims.exp.map_or(i64::MAX, |seconds| (seconds * 1000.0) as i64);
    if ends <= now {
        return Err(TokenError::Expired { path: path() });
    }
    let lifetime_ms = ends.min(now + LIFE_MAX_MS);
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
    fn check(content: &str, expected: Result<&str, &str>) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, content).unwrap();
        match (read(&file), expected) {
            (Ok(token), Ok(name)) => {
                assert_eq!((token.principal_name.as_str(), token.token.as_str()), (name, content.trim()));
                let life = token.lifetime_ms - Clock::system().now().millis();
                assert!(life <= LIFE_MAX_MS, "the file is read again soon, not after {life} ms");
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
        check(&jwt(r#"{"sub":"ann","exp":4102444800}"#), Ok("ann"));
        check(&jwt(r#"{"exp":4102444800.5}"#), Ok("tasktide"));
        check("opaque", Ok("tasktide"));
        check(&jwt(r#"{"sub":"ann","exp":1000}"#), Err("expired"));
        check(" \n", Err("is empty"));
        assert!(read(Path::new("/nowhere/token")).err().unwrap().to_string().contains("/nowhere/token"));
    }
}
