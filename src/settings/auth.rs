//! Who may ask (contract §8.6): `auth.mode` and what each mode needs.

use std::path::PathBuf;

use query_api::auth::jwt::{Place, Settings, Trust};

use super::{Given, SettingError};

/// `auth.mode`, with what it needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AuthSettings {
    /// Everybody may do everything.
    #[default]
    None,
    /// `auth.token_file`.
    Token(PathBuf),
    /// `auth.jwt.…`.
    Jwt(Settings),
}

impl AuthSettings {
    pub(super) fn read(from: &mut Given) -> Result<AuthSettings, SettingError> {
        let mode = from.text("auth.mode", "none, token or jwt", "none", |t| {
            matches!(t, "none" | "token" | "jwt").then(|| t.to_owned())
        })?;
        let file = from.text("auth.token_file", "a path", "/etc/tasktide/tokens", |t| Some(PathBuf::from(t)))?;
        let algorithm = from.text("auth.jwt.algorithm", "RS256, ES256, EdDSA or HS256", "RS256", |t| {
            matches!(t, "RS256" | "ES256" | "EdDSA" | "HS256").then(|| t.to_owned())
        })?;
        let keys = from.text("auth.jwt.jwks", "a path, or an http or https address", JWKS, Place::parse)?;
        let secret = from.text("auth.jwt.secret", "a text", SECRET, |t| Some(t.as_bytes().to_vec()))?;
        let some = |t: &str| (!t.is_empty()).then(|| t.to_owned());
        let issuer = from.text("auth.jwt.issuer", "a name", ISSUER, some)?;
        let audience = from.text("auth.jwt.audience", "a name", "tasktide", some)?;
        match mode.as_deref() {
            Some("token") => need("auth.token_file", file, "a path, as auth.mode=token needs", "/etc/tasktide/tokens")
                .map(Self::Token),
            Some("jwt") => {
                let algorithm = need("auth.jwt.algorithm", algorithm, "named, as auth.mode=jwt needs", "RS256")?;
                let trust = if algorithm == "HS256" {
                    Trust::Hs256(need("auth.jwt.secret", secret, "a secret, as HS256 needs", SECRET)?)
                } else {
                    let place = need("auth.jwt.jwks", keys, "a path or address of keys, as auth.mode=jwt needs", JWKS)?;
                    match &*algorithm {
                        "RS256" => Trust::Rs256(place),
                        "ES256" => Trust::Es256(place),
                        _ => Trust::EdDsa(place),
                    }
                };
                let issuer = need("auth.jwt.issuer", issuer, "a name, as auth.mode=jwt needs", ISSUER)?;
                let audience = need("auth.jwt.audience", audience, "a name, as auth.mode=jwt needs", "tasktide")?;
                Ok(Self::Jwt(Settings { trust, issuer, audience }))
            }
            _ => Ok(Self::None),
        }
    }
}

const JWKS: &str = "https://login.example.org/keys.json";
const SECRET: &str = "at least 32 bytes";
const ISSUER: &str = "https://login.example.org";

fn need<T>(
    key: &'static str,
    value: Option<T>,
    expected: &'static str,
    example: &'static str,
) -> Result<T, SettingError> {
    value.ok_or(SettingError::Invalid { key, value: "not set".into(), expected, example })
}
