//! `auth.mode=jwt`: who signs in with a token of an identity provider. Signature, `exp`, `nbf`, `iss` and `aud` are
//! checked; the algorithm is a setting and never the token's choice.

use std::sync::Arc;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::Value;
use topics::UserId;

use super::keys::{Keys, NoKey};
use super::{Caller, Scope, openssl};

pub use super::keys::Place;
pub use super::openssl::SECRET_BYTES;

/// Allowed difference of clocks, in seconds.
const LEEWAY: u64 = 60;
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

#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    /// RFC 9068: words with spaces between.
    scope: Option<Value>,
    /// What some providers write instead, mostly as a list.
    scp: Option<Value>,
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
        // Before any key is asked for: a token of another algorithm causes no reading of keys. And no extension that
        // must be understood (RFC 7515 §4.1.11) is.
        if !self.0.validation.algorithms.contains(&header.alg) || header.crit.is_some() {
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
        let user = match claims.sub {
            Some(sub) => Some(UserId::parse(&sub).ok_or(Refused::Bad)?),
            None => None,
        };
        let mut scopes = Vec::new();
        for claim in [claims.scope, claims.scp].into_iter().flatten() {
            scopes.extend(words(&claim).ok_or(Refused::Bad)?);
        }
        Ok(Caller::new(user, &scopes))
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
