//! `auth.mode=jwt`: who signs in with a token of an identity provider. Signature, `exp`, `nbf`, `iss` and `aud` are
//! checked; the algorithm is a setting and never the token's choice.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, decode, decode_header};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use topics::{Timestamp, UserId};

use super::keys::{Keys, NoKey};
use super::{Caller, Scope, openssl};

pub use super::keys::Place;
pub use super::openssl::SECRET_BYTES;

/// Allowed difference of clocks, in seconds.
const LEEWAY: u64 = 60;
/// The last second of the year 9999: no token lasts longer.
const LAST: f64 = 253_402_300_799.0;
/// Longer tokens are not looked at.
const TOKEN_MAX: usize = 16 * 1024;

/// What checks a signature.
#[derive(Clone, PartialEq, Eq)]
pub enum Trust {
    /// `RS256`: RSA, with keys of a JWKS.
    Rs256(Place),
    /// `ES256`: ECDSA on P-256, with keys of a JWKS.
    Es256(Place),
    /// `EdDSA`: Ed25519, with keys of a JWKS.
    EdDsa(Place),
    /// `HS256`: a secret that both sides have, of 32 bytes at least.
    Hs256(Vec<u8>),
}

/// The settings `auth.jwt.…`.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// `auth.jwt.algorithm`, and its keys.
    pub trust: Trust,
    /// `auth.jwt.issuer`.
    pub issuer: String,
    /// `auth.jwt.audience`.
    pub audience: String,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

/// Why a token says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It is not good.
    Bad,
    /// The keys could not be read yet.
    NotYet,
}

enum Signer {
    Secret(DecodingKey),
    Keys(Keys),
}

/// What judges tokens.
#[derive(Clone)]
pub struct Jwt(Arc<Judge>);

struct Judge {
    signer: Signer,
    validation: Validation,
}

/// What is read of a token. A claim that is there twice, or of another kind, makes it a bad one.
#[derive(Deserialize)]
struct Claims {
    /// One text: a list of issuers says of none that it issued the token.
    #[serde(rename = "iss")]
    _issuer: String,
    /// Seconds since the epoch, which may have a fraction.
    exp: f64,
    nbf: Option<f64>,
    iat: Option<f64>,
    #[serde(default, deserialize_with = "text")]
    sub: Option<String>,
    /// RFC 9068: words with spaces between.
    scope: Option<Value>,
    /// What some providers write instead, mostly as a list.
    scp: Option<Value>,
}

/// A text, where the claim is there: null is none.
fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    String::deserialize(from).map(Some)
}

impl Claims {
    /// When the token ends; `None` where its times cannot be, or are not yet.
    fn ends(&self, now: f64) -> Option<Timestamp> {
        let is_time = |at: f64| (0.0..=LAST).contains(&at);
        let has_come = |at: Option<f64>| at.is_none_or(|at| is_time(at) && at <= now + LEEWAY as f64);
        (is_time(self.exp) && has_come(self.nbf) && has_come(self.iat))
            .then(|| Timestamp::from_millis((self.exp * 1000.0) as i64))
    }
}

/// Whether a header is one of a token as we take it: of type JWT or access token (RFC 9068) where it says so, not one
/// in another, not compressed, and without extensions that must be understood (RFC 7515 §4.1.11).
fn is_plain(header: &Header) -> bool {
    let kind = header.typ.as_deref().map(str::to_ascii_lowercase);
    let kind = kind.as_deref().map(|kind| kind.strip_prefix("application/").unwrap_or(kind));
    matches!(kind, None | Some("jwt" | "at+jwt"))
        && header.cty.is_none()
        && header.crit.is_none()
        && header.zip.is_none()
        && header.enc.is_none()
}

impl Jwt {
    /// Reads the keys.
    pub async fn open(settings: Settings) -> Result<Jwt, super::AuthError> {
        openssl::install();
        let algorithm = match &settings.trust {
            Trust::Rs256(_) => Algorithm::RS256,
            Trust::Es256(_) => Algorithm::ES256,
            Trust::EdDsa(_) => Algorithm::EdDSA,
            Trust::Hs256(_) => Algorithm::HS256,
        };
        let signer = match settings.trust {
            Trust::Hs256(secret) if secret.len() < openssl::SECRET_BYTES => {
                return Err(super::AuthError::ShortSecret(openssl::SECRET_BYTES));
            }
            Trust::Hs256(secret) => Signer::Secret(DecodingKey::from_secret(&secret)),
            Trust::Rs256(place) | Trust::Es256(place) | Trust::EdDsa(place) => {
                Signer::Keys(Keys::open(place, algorithm).await.map_err(super::AuthError::Keys)?)
            }
        };
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_issuer(&[&settings.issuer]);
        validation.set_audience(&[&settings.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        Ok(Jwt(Arc::new(Judge { signer, validation })))
    }

    /// Whom a token speaks for.
    pub(super) async fn caller(&self, token: &str) -> Result<Caller, Refused> {
        if token.len() > TOKEN_MAX {
            return Err(Refused::Bad);
        }
        let bad = |_| Refused::Bad;
        let header = decode_header(token).map_err(bad)?;
        // Before any key is asked for: a token of another algorithm causes no reading of keys.
        if !self.0.validation.algorithms.contains(&header.alg) || !is_plain(&header) {
            return Err(Refused::Bad);
        }
        let key = match &self.0.signer {
            Signer::Secret(key) => key.clone(),
            Signer::Keys(keys) => keys.find(header.kid.as_deref()).await.map_err(|missing| match missing {
                NoKey::Unknown => Refused::Bad,
                NoKey::NotYet => Refused::NotYet,
            })?,
        };
        let claims = decode::<Claims>(token, &key, &self.0.validation).map_err(bad)?.claims;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let ends = claims.ends(now).ok_or(Refused::Bad)?;
        let user = match claims.sub {
            Some(sub) => Some(UserId::parse(&sub).ok_or(Refused::Bad)?),
            None => None,
        };
        let mut scopes = Vec::new();
        for claim in [claims.scope, claims.scp].into_iter().flatten() {
            scopes.extend(words(&claim).ok_or(Refused::Bad)?);
        }
        Ok(Caller::new(user, &scopes).until(ends))
    }
}

/// The scopes that a claim names; those of others are none of ours.
fn words(claim: &Value) -> Option<Vec<Scope>> {
    let known = |word: &str| Scope::ALL.into_iter().find(|scope| scope.name() == word);
    match claim {
        Value::String(text) => Some(text.split(' ').filter_map(known).collect()),
        Value::Array(list) => {
            let texts: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
            Some(texts?.into_iter().filter_map(known).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
