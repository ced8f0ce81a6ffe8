//! Settings that are kept in a secret store: `secret:<store>/<key>` or `secret:<store>/<key>/<field>` in any setting's
//! place is what the sidecar's secrets API has there when the process starts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use query_api::auth::private;
use serde_json::Value;

use super::SettingError;
use super::list;

/// What begins a reference.
const SCHEME: &str = "secret:";
/// How long a command that ends waits for the sidecar.
pub(super) const SIDECAR_WITHIN: Duration = Duration::from_secs(60);
/// How long it may take to load its stores.
const LOADED_WITHIN: Duration = Duration::from_secs(3);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Where the sidecar is, and what it wants to hear.
#[derive(Clone)]
pub struct Sidecar {
    /// Its address, without a slash at the end.
    pub endpoint: String,
    /// `DAPR_API_TOKEN`.
    pub token: Option<String>,
}

impl std::fmt::Debug for Sidecar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sidecar").field("endpoint", &self.shown()).finish_non_exhaustive()
    }
}

impl Sidecar {
    /// As the environment says (contract §4).
    pub fn from_environment() -> Sidecar {
        let port = std::env::var("DAPR_HTTP_PORT").unwrap_or_else(|_| "3500".to_owned());
        let endpoint = std::env::var("DAPR_HTTP_ENDPOINT").unwrap_or_else(|_| format!("http://127.0.0.1:{port}"));
        let token = std::env::var("DAPR_API_TOKEN").ok().filter(|token| !token.is_empty());
        Sidecar { endpoint: endpoint.trim_end_matches('/').to_owned(), token }
    }

    /// Its address without credentials.
    fn shown(&self) -> String {
        query_api::auth::origin_of(&self.endpoint)
    }
}

/// Puts what they refer to in the place of references; returns the settings that now hold a secret. A sidecar that does
/// not answer is waited for, for ever or no longer than `within`; `waits` hears why, again and again.
pub async fn resolve(
    given: &mut BTreeMap<String, Value>,
    sidecar: &Sidecar,
    within: Option<Duration>,
    mut waits: impl FnMut(&str),
) -> Result<BTreeSet<String>, SettingError> {
    let began = Instant::now();
    let mut goes_on = |why: &str| {
        waits(why);
        within.is_none_or(|within| began.elapsed() < within)
    };
    let mut secret = BTreeSet::new();
    for (key, value) in given.iter_mut() {
        let Some(reference) = value.as_str().and_then(|text| text.strip_prefix(SCHEME)) else { continue };
        *value = Value::String(look_up(key, reference, sidecar, &mut goes_on).await?);
        secret.insert(key.clone());
    }
    Ok(secret)
}

/// Whether a value that was given is a secret itself: no reference, no path, no address without a password.
pub(super) fn is_one(key: &str, value: &Value) -> bool {
    let Some(text) = value.as_str().filter(|_| list::find(key).is_some_and(|setting| setting.secret)) else {
        return false;
    };
    let is_public = match reqwest::Url::parse(text) {
        Ok(address) if address.has_host() => address.password().is_none() && address.query().is_none(),
        _ => std::path::Path::new(text).is_absolute(),
    };
    !text.starts_with(SCHEME) && !is_public
}

/// Refuses a file with a secret that others can read. One that is not there is for whoever reads it.
pub(super) fn only_ours(what: &'static str, path: &Path) -> Result<(), SettingError> {
    if !path.exists() {
        return Ok(());
    }
    let exposed = |reason| SettingError::Exposed { what, path: path.to_owned(), reason };
    private::read(path).map(drop).map_err(exposed)
}

/// `goes_on` hears why nothing was answered, and says whether to ask again.
async fn look_up(
    setting: &str,
    reference: &str,
    sidecar: &Sidecar,
    goes_on: &mut impl FnMut(&str) -> bool,
) -> Result<String, SettingError> {
    let mut parts = reference.splitn(3, '/');
    let (store, name) = (parts.next().unwrap_or_default(), parts.next());
    // A password may begin like a reference; what has the form of one is a name, and no secret.
    let hidden = name.is_none() && list::find(setting).is_none_or(|setting| setting.secret);
    let shown = if hidden { "…" } else { reference };
    let failed = |detail: String| SettingError::Secret { key: setting.to_owned(), reference: shown.to_owned(), detail };
    let Some(name) = name else {
        return Err(failed("a reference is secret:<store>/<key> or secret:<store>/<key>/<field>".to_owned()));
    };
    let field = parts.next();
    let mut url =
        reqwest::Url::parse(&sidecar.endpoint).map_err(|error| failed(format!("the sidecar's address: {error}")))?;
    match url.path_segments_mut() {
        Ok(mut path) => path.pop_if_empty().extend(["v1.0", "secrets", store, name]),
        Err(()) => return Err(failed(format!("the sidecar's address {} is no base", sidecar.shown()))),
    };
    let client = reqwest::Client::builder().timeout(ANSWER_WITHIN).no_proxy().build();
    let client = client.map_err(|error| failed(error.to_string()))?;
    let began = Instant::now();
    let answer = loop {
        let mut request = client.get(url.clone());
        if let Some(token) = &sidecar.token {
            request = request.header("dapr-api-token", token);
        }
        match request.send().await {
            // A sidecar that still loads its stores.
            Ok(answer) if answer.status().is_server_error() && began.elapsed() < LOADED_WITHIN => {
                tokio::time::sleep(ASK_AGAIN).await;
            }
            Ok(answer) => break answer,
            // It may start after us.
            Err(error) => {
                let error = error.without_url();
                let why = topics::chain::chain(&error);
                let failed = failed(format!("the sidecar at {} does not answer ({why})", sidecar.shown()));
                if !goes_on(&failed.to_string()) {
                    return Err(failed);
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
        }
    };
    let status = answer.status();
    let text = answer.text().await.map_err(|error| failed(error.to_string()))?;
    if !status.is_success() || status == reqwest::StatusCode::NO_CONTENT {
        return Err(failed(format!("the sidecar answers {status} {text}")));
    }
    let fields: BTreeMap<String, String> =
        serde_json::from_str(&text).map_err(|_| failed("the sidecar's answer is no map of texts".to_owned()))?;
    let found = match field {
        Some(field) => fields.get(field),
        None => fields.get(name).or_else(|| fields.values().next().filter(|_| fields.len() == 1)),
    };
    found.cloned().ok_or_else(|| {
        let names: Vec<&str> = fields.keys().map(String::as_str).collect();
        failed(format!("it has the fields {}", names.join(", ")))
    })
}
