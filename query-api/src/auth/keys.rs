//! The public keys that sign tokens: a JWKS (RFC 7517) in a file or at an address. Read at the start, and again when a
//! token names a key that is not there, at most once a minute, so that a forged name costs the other side nothing.
//! A set that is an hour old is read anew, so that a withdrawn key does not stay valid; while the other side is away,
//! the known keys stay.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;

use super::openssl::is_usable;

/// Least time between two readings.
const PAUSE: Duration = Duration::from_secs(60);
/// The same while no set was ever read.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// A set older than this is read anew.
const AGE_MAX: Duration = Duration::from_secs(3600);
/// How long the other side may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// A set has at most so many bytes.
const SIZE_MAX: usize = 1 << 20;

/// Where a JWKS is.
#[derive(Clone, PartialEq, Eq)]
pub enum Place {
    /// A file, perhaps a mounted secret or config map.
    File(PathBuf),
    /// An `http` or `https` address.
    Url(String),
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::File(path) => write!(f, "{}", path.display()),
            Place::Url(url) => f.write_str(&origin_of(url)),
        }
    }
}

/// What may be shown of an address: scheme, host and port. The rest may hold credentials.
pub fn origin_of(url: &str) -> String {
    match reqwest::Url::parse(url).map(|url| url.origin()) {
        Ok(origin) if origin.is_tuple() => origin.ascii_serialization(),
        _ => "an address that cannot be read".to_owned(),
    }
}

impl Place {
    /// An address, or else the path of a file.
    pub fn parse(text: &str) -> Option<Place> {
        let is_url = text.starts_with("https://") || text.starts_with("http://");
        match (is_url, text.contains("://") || text.is_empty()) {
            (true, _) => Some(Place::Url(text.to_owned())),
            (false, true) => None,
            (false, false) => Some(Place::File(text.into())),
        }
    }

    async fn read(&self, client: &reqwest::Client) -> Result<String, String> {
        let text = match self {
            Place::File(path) => tokio::fs::read(path).await.map_err(|e| format!("{self:?}: {e}"))?,
            Place::Url(url) => fetch(client, url).await.map_err(|e| format!("{self:?}: {e}"))?,
        };
        String::from_utf8(text).map_err(|_| "it is not UTF-8".to_owned())
    }
}

async fn fetch(client: &reqwest::Client, url: &str) -> Result<Vec<u8>, String> {
    let failed = |e: reqwest::Error| e.without_url().to_string();
    let mut response = client.get(url).timeout(PATIENCE).send().await.map_err(failed)?;
    if !response.status().is_success() {
        return Err(format!("the answer has status {}", response.status().as_u16()));
    }
    let mut text = Vec::new();
    while let Some(part) = response.chunk().await.map_err(failed)? {
        text.extend_from_slice(&part);
        if text.len() > SIZE_MAX {
            return Err(format!("the answer has more than {SIZE_MAX} bytes"));
        }
    }
    Ok(text)
}

/// A key with its name.
pub(super) struct Named {
    kid: Option<String>,
    key: DecodingKey,
}

/// The keys of a set that can check `algorithm`. What else the set holds is of others.
pub(super) fn parse(text: &str, algorithm: Algorithm) -> Result<Vec<Named>, String> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set =
        serde_json::from_str(text).map_err(|e| format!("it is not a JWKS, such as {{\"keys\":[…]}}: {e}"))?;
    let keys: Vec<Named> = set
        .keys
        .into_iter()
        .filter_map(|key| serde_json::from_value::<Jwk>(key).ok())
        .filter(|key| is_for(key, algorithm))
        .filter_map(|jwk| {
            let key = DecodingKey::from_jwk(&jwk).ok().filter(|key| is_usable(algorithm, key))?;
            Some(Named { kid: jwk.common.key_id, key })
        })
        .collect();
    if keys.is_empty() { Err(format!("it has no key that checks {algorithm:?}")) } else { Ok(keys) }
}

fn is_for(key: &Jwk, algorithm: Algorithm) -> bool {
    let common = &key.common;
    let kind = match &key.algorithm {
        AlgorithmParameters::RSA(_) => algorithm == Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) => algorithm == Algorithm::ES256 && key.curve == EllipticCurve::P256,
        AlgorithmParameters::OctetKeyPair(key) => algorithm == Algorithm::EdDSA && key.curve == EllipticCurve::Ed25519,
        // A secret in a public set is none.
        _ => false,
    };
    kind && common.public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature)
        && common.key_operations.as_ref().is_none_or(|of| of.contains(&KeyOperations::Verify))
        && common.key_algorithm.is_none_or(|of| of.to_string() == format!("{algorithm:?}"))
}

/// What is known of the set, and when it was asked for.
#[derive(Default)]
struct Asked {
    at: Option<Instant>,
    succeeded: Option<Instant>,
}

/// A set of keys that follows its place.
pub(super) struct Keys {
    place: Place,
    algorithm: Algorithm,
    client: reqwest::Client,
    /// None until it was read once.
    known: RwLock<Option<Arc<Vec<Named>>>>,
    asked: Mutex<Asked>,
}

/// Why there is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// The set does not have it.
    Unknown,
    /// The set could not be read yet.
    NotYet,
}

impl Keys {
    /// Reads the set. A file must be readable; an address may be away at the start and is asked again.
    pub(super) async fn open(place: Place, algorithm: Algorithm) -> Result<Keys, String> {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| format!("no HTTP client: {e}"))?;
        let keys = Keys { place, algorithm, client, known: RwLock::default(), asked: Mutex::default() };
        let read = keys.read(&mut *keys.asked.lock().await).await;
        match (read, &keys.place) {
            (Err(reason), Place::File(_)) => Err(reason),
            (Err(reason), Place::Url(_)) => {
                tracing::warn!(reason, "auth.jwt.jwks cannot be read yet; will ask again");
                Ok(keys)
            }
            (Ok(()), _) => Ok(keys),
        }
    }

    /// The key named `kid`; without a name, the only one of the set.
    pub(super) async fn find(&self, kid: Option<&str>) -> Result<DecodingKey, NoKey> {
        let found = self.look(kid);
        if let Ok(key) = &found {
            // One asks; the others go on with what is known.
            if let Ok(mut asked) = self.asked.try_lock()
                && asked.succeeded.is_none_or(|at| at.elapsed() > AGE_MAX)
            {
                self.refresh(&mut asked).await;
                return self.look(kid);
            }
            return Ok(key.clone());
        }
        self.refresh(&mut *self.asked.lock().await).await;
        self.look(kid)
    }

    fn look(&self, kid: Option<&str>) -> Result<DecodingKey, NoKey> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or(NoKey::NotYet)?;
        let found = match kid {
            Some(kid) => known.iter().find(|named| named.kid.as_deref() == Some(kid)),
            None => known.first().filter(|_| known.len() == 1),
        };
        found.map(|named| named.key.clone()).ok_or(NoKey::Unknown)
    }

    /// Reads the set anew, unless that was done just now.
    async fn refresh(&self, asked: &mut Asked) {
        let pause = if asked.succeeded.is_none() { FIRST_PAUSE } else { PAUSE };
        if asked.at.is_some_and(|at| at.elapsed() < pause) {
            return;
        }
        if let Err(reason) = self.read(asked).await {
            tracing::warn!(reason, "auth.jwt.jwks cannot be read; the known keys stay");
        }
    }

    async fn read(&self, asked: &mut Asked) -> Result<(), String> {
        asked.at = Some(Instant::now());
        let keys = parse(&self.place.read(&self.client).await?, self.algorithm)?;
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(keys));
        asked.succeeded = asked.at;
        Ok(())
    }
}
