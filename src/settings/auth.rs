//! Who may ask (contract §8.6): `auth.mode` and what each mode needs.

use std::path::PathBuf;

use query_api::auth::jwt::{Place, SECRET_BYTES, Settings, Trust};

use super::given::{Given, SettingError};
use super::some;

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
    /// What is set, and whether `auth.mode` is.
    pub(super) fn read(from: &mut Given) -> Result<(AuthSettings, bool), SettingError> {
        let mode = from.optional_word("auth.mode")?;
        let file = from.optional("auth.token_file", |t| some(t).map(PathBuf::from))?;
        let algorithm = from.optional_word("auth.jwt.algorithm")?;
        let keys = from.optional("auth.jwt.jwks", Place::parse)?;
        let secret = from.optional("auth.jwt.secret", |t| (t.len() >= SECRET_BYTES).then(|| t.as_bytes().to_vec()))?;
        let issuer = from.optional("auth.jwt.issuer", some)?;
        let audience = from.optional("auth.jwt.audience", some)?;
        let auth = match mode {
            Some("token") => Self::Token(file.ok_or(SettingError::missing("auth.token_file", "auth.mode=token"))?),
            Some("jwt") => {
                let missing = |name| SettingError::missing(name, "auth.mode=jwt");
                let algorithm = algorithm.ok_or(missing("auth.jwt.algorithm"))?;
                let trust = if algorithm == "HS256" {
                    Trust::Hs256(secret.ok_or(SettingError::missing("auth.jwt.secret", "auth.jwt.algorithm=HS256"))?)
                } else {
                    let place = keys.ok_or(missing("auth.jwt.jwks"))?;
                    match algorithm {
                        "RS256" => Trust::Rs256(place),
                        "ES256" => Trust::Es256(place),
                        _ => Trust::EdDsa(place),
                    }
                };
                let issuer = issuer.ok_or(missing("auth.jwt.issuer"))?;
                let audience = audience.ok_or(missing("auth.jwt.audience"))?;
                Self::Jwt(Settings { trust, issuer, audience })
            }
            _ => Self::None,
        };
        Ok((auth, mode.is_some()))
    }
}
