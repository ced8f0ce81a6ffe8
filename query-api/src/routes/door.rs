//! What is judged by a request's head, before a byte of its body is read: the name that it comes to, who sends it, from
//! where, and what it says that the body is.
//!
//! A page of another site can have a browser send a request here, with a body of the kinds that a form has and without
//! a word of ours. So whatever changes something wants a kind that no form can send, and refuses what a browser says to
//! come of another page; programs say nothing of that and pass. No answer lets another page read it: there are no CORS
//! headers.

use std::collections::HashMap;

use axum::body::{Body, HttpBody};
use axum::extract::{MatchedPath, Request};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, Method, Uri, header};
use sha2::{Digest, Sha256};

use super::{Config, Resource};
use crate::auth::{Caller, Scope};
use crate::problem::{Code, Problem};
use crate::serve::Connection;
use crate::serve::bodies::{Bodies, Share, too_large};

/// Header in which a Dapr sidecar names itself.
const SIDECAR_TOKEN: HeaderName = HeaderName::from_static("dapr-api-token");
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// What a form can send (and a script, without being asked for leave).
const OF_FORMS: [&str; 3] = ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"];

/// Who may use a resource; what a caller may see of it its handler judges.
#[derive(Clone, Debug, Default)]
pub enum Right {
    /// Every caller.
    #[default]
    Caller,
    /// Callers with this scope.
    Scope(Scope),
    /// The sidecar: who knows the token of this digest, where there is one.
    Sidecar(Option<[u8; 32]>),
}

impl Right {
    /// The sidecar, which knows this token.
    pub fn sidecar(token: Option<&str>) -> Right {
        Right::Sidecar(token.map(digest))
    }
}

fn digest(token: impl AsRef<[u8]>) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// What a resource takes as body.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Takes {
    /// None: it is not read.
    Nothing,
    /// One of these media types; perhaps none at all.
    These { media_types: &'static [&'static str], optional: bool },
    /// Whatever no form can send.
    NoForm,
}

/// What is judged of the requests for one resource.
struct Door {
    method: &'static str,
    right: Right,
    takes: Takes,
    bytes_max: usize,
}

/// All of them, by path.
pub(super) struct Doors {
    doors: HashMap<String, Vec<Door>>,
    hosts: Hosts,
    bodies: Bodies,
}

/// Under which names requests come.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    /// Names of ours, without ports: `http.hosts`.
    pub names: Vec<String>,
    /// Whether only these, and those of the machine itself, are answered: a page of another site can have its own name
    /// lead to this machine (DNS rebinding), and would read what everybody here may read.
    pub only: bool,
}

impl Doors {
    pub(super) fn of(resources: &[Resource], config: &Config) -> Doors {
        let mut doors: HashMap<String, Vec<Door>> = HashMap::new();
        for resource in resources {
            let Resource { method, right, takes, bytes_max, .. } = resource;
            let door = Door { method, right: right.clone(), takes: *takes, bytes_max: *bytes_max };
            doors.entry(resource.path.clone()).or_default().push(door);
        }
        Doors { doors, hosts: config.hosts.clone(), bodies: Bodies::new(config.bodies) }
    }

    /// Refuses a request that came to a name of others.
    pub(super) fn is_for_us(&self, request: &Request) -> Result<(), Problem> {
        if !self.hosts.only {
            return Ok(());
        }
        let mut named = request.headers().get_all(header::HOST).iter().map(|value| value.to_str().unwrap_or_default());
        let in_target = request.uri().authority().map(Authority::as_str);
        match named.all(|name| self.hosts.is_ours(name)) && in_target.is_none_or(|name| self.hosts.is_ours(name)) {
            true => Ok(()),
            false => Err(Problem::new(
                Code::Misdirected,
                "This process answers to localhost only; other names are for the setting http.hosts.",
            )),
        }
    }

    /// Judges the head, and then reads the body. What it takes of the budget is held until the answer is there.
    pub(super) async fn admit(&self, request: &mut Request) -> Result<Option<Share>, Problem> {
        let Some(door) = self.door(request) else { return Ok(None) };
        door.lets_in(request)?;
        if !changes(request.method()) {
            return Ok(None);
        }
        self.hosts.is_from_us(request.headers())?;
        let is_empty = request.body().is_end_stream();
        door.takes.judge(request.headers(), is_empty)?;
        if matches!(door.takes, Takes::Nothing) {
            return Ok(None);
        }
        if request.body().size_hint().lower() > door.bytes_max as u64 {
            return Err(too_large(door.bytes_max));
        }
        let connection = request.extensions().get::<Connection>().cloned().unwrap_or_default();
        let body = std::mem::take(request.body_mut());
        let (whole, share) = self.bodies.read(body, door.bytes_max, &connection).await?;
        *request.body_mut() = Body::from(whole);
        Ok(Some(share))
    }

    fn door(&self, request: &Request) -> Option<&Door> {
        let path = request.extensions().get::<MatchedPath>()?;
        let method = match request.method() {
            &Method::HEAD => "GET",
            method => method.as_str(),
        };
        self.doors.get(path.as_str())?.iter().find(|door| door.method.eq_ignore_ascii_case(method))
    }
}

impl Door {
    fn lets_in(&self, request: &Request) -> Result<(), Problem> {
        match &self.right {
            Right::Caller | Right::Sidecar(None) => Ok(()),
            Right::Scope(scope) => match request.extensions().get::<Caller>() {
                Some(caller) => caller.require(*scope),
                None => Err(Problem::internal()),
            },
            // Digests are compared, so how long that takes tells nothing of the token.
            Right::Sidecar(Some(token)) => match request.headers().get(SIDECAR_TOKEN) {
                Some(given) if digest(given.as_bytes()) == *token => Ok(()),
                _ => Err(Problem::new(
                    Code::Unauthorized,
                    "The header dapr-api-token is not that of this application's sidecar.",
                )),
            },
        }
    }
}

impl Takes {
    fn judge(&self, headers: &HeaderMap, is_empty: bool) -> Result<(), Problem> {
        let refused = |detail: String| Err(Problem::new(Code::UnsupportedMediaType, detail));
        let mut given = headers.get_all(header::CONTENT_TYPE).iter();
        let (given, more) = (given.next(), given.next());
        if more.is_some() {
            return refused("A body has one content type.".to_owned());
        }
        let media_type = given.map(|value| value.to_str().unwrap_or_default().split(';').next().unwrap_or_default());
        let media_type = media_type.map(|name| name.trim().to_ascii_lowercase());
        let form = media_type.as_deref().is_some_and(|name| OF_FORMS.contains(&name));
        match (self, media_type.as_deref()) {
            (Takes::Nothing | Takes::These { optional: true, .. }, None) if is_empty => Ok(()),
            (Takes::Nothing, None) => refused("This resource takes no body.".to_owned()),
            (Takes::These { media_types, .. }, name) => match name {
                Some(name) if media_types.contains(&name) => Ok(()),
                _ => refused(format!("This resource takes a body of type {}.", media_types.join(" or "))),
            },
            (Takes::NoForm, None) => refused("The body has no content type.".to_owned()),
            (Takes::Nothing | Takes::NoForm, Some(_)) => match form {
                true => refused("This resource takes nothing that a form can send.".to_owned()),
                false => Ok(()),
            },
        }
    }
}

/// Whether a request may change something.
fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

impl Hosts {
    /// Whether a name, perhaps with a port, is one of this machine itself or of ours.
    fn is_ours(&self, authority: &str) -> bool {
        let Ok(authority) = authority.parse::<Authority>() else { return false };
        let host = authority.host().trim_end_matches('.');
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let is_loopback = address.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
        !authority.as_str().contains('@') && (host.eq_ignore_ascii_case("localhost") || is_loopback || self.has(host))
    }

    fn has(&self, host: &str) -> bool {
        self.names.iter().any(|name| name.eq_ignore_ascii_case(host))
    }

    /// Refuses what a browser says to come from a page that is not ours.
    fn is_from_us(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let foreign =
            || Problem::new(Code::Forbidden, "This changes something, and a page of another origin asks for it.");
        let sites = headers.get_all(FETCH_SITE);
        if sites.iter().any(|site| !matches!(site.as_bytes(), b"same-origin" | b"none")) {
            return Err(foreign());
        }
        let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_own = |origin: &str| {
            let Ok(origin) = origin.parse::<Uri>() else { return false };
            let (Some(scheme), Some(authority)) = (origin.scheme_str(), origin.authority()) else { return false };
            let port = if scheme == "https" { ":443" } else { ":80" };
            let plain = |name: &str| name.strip_suffix(port).unwrap_or(name).to_ascii_lowercase();
            plain(authority.as_str()) == plain(host) || self.has(authority.host())
        };
        let origins = headers.get_all(header::ORIGIN);
        match origins.iter().all(|origin| origin.to_str().is_ok_and(is_own)) {
            true => Ok(()),
            false => Err(foreign()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_host(name: &str, ours: bool) {
        let hosts = Hosts { names: vec!["tasks.example.org".to_owned()], only: true };
        let request = Request::builder().uri("/v1/tasks").header(header::HOST, name).body(Body::empty()).unwrap();
        let doors = Doors { doors: HashMap::new(), hosts, bodies: Bodies::new(Default::default()) };
        assert_eq!(doors.is_for_us(&request).is_ok(), ours, "{name}");
        if !name.is_empty() {
            let uri = format!("http://{name}/v1/tasks");
            let Ok(request) = Request::builder().uri(uri).header(header::HOST, "localhost").body(Body::empty()) else {
                return;
            };
            assert_eq!(doors.is_for_us(&request).is_ok(), ours, "{name} in the target");
        }
    }

    #[test]
    fn names_of_this_machine_and_of_the_setting() {
        for ours in [
            "localhost",
            "localhost:8080",
            "LOCALHOST:1",
            "localhost.",
            "127.0.0.1",
            "127.0.0.1:8080",
            "127.8.8.8",
            "[::1]",
            "[::1]:8080",
            "[::ffff:127.0.0.1]:80",
            "tasks.example.org",
            "Tasks.Example.Org:443",
        ] {
            check_host(ours, true);
        }
        for foreign in [
            "",
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "notlocalhost",
            "10.0.0.1",
            "[2001:db8::1]",
            "0.0.0.0",
            "localhost@evil.example",
            "evil.example@localhost",
            "sub.tasks.example.org",
            "local host",
        ] {
            check_host(foreign, false);
        }
    }

    #[track_caller]
    fn check_origin(headers: &[(&str, &str)], passes: bool) {
        let hosts = Hosts { names: vec!["tasks.example.org".to_owned()], only: false };
        let mut map = HeaderMap::new();
        map.insert(header::HOST, "localhost:8080".parse().unwrap());
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        assert_eq!(hosts.is_from_us(&map).is_ok(), passes, "{headers:?}");
    }

    #[test]
    fn pages_of_ours_and_programs_pass() {
        check_origin(&[], true);
        check_origin(&[("origin", "http://localhost:8080")], true);
        check_origin(&[("origin", "http://LOCALHOST:8080"), ("sec-fetch-site", "same-origin")], true);
        check_origin(&[("origin", "https://tasks.example.org")], true);
        check_origin(&[("sec-fetch-site", "none")], true);
        for foreign in [
            &[("origin", "http://evil.example")][..],
            &[("origin", "http://localhost:8081")],
            &[("origin", "http://localhost")],
            &[("origin", "null")],
            &[("origin", "")],
            &[("origin", "localhost:8080")],
            &[("origin", "http://localhost:8080.evil.example")],
            &[("origin", "http://localhost:8080"), ("origin", "http://evil.example")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "")],
            &[("origin", "http://localhost:8080"), ("sec-fetch-site", "same-site")],
            &[("origin", "http://evil.example"), ("sec-fetch-site", "same-origin")],
        ] {
            check_origin(foreign, false);
        }
    }

    #[track_caller]
    fn check_type(takes: Takes, content_type: Option<&str>, is_empty: bool, taken: bool) {
        let mut headers = HeaderMap::new();
        headers.extend(content_type.map(|name| (header::CONTENT_TYPE, name.parse().unwrap())));
        assert_eq!(takes.judge(&headers, is_empty).is_ok(), taken, "{takes:?} {content_type:?}");
    }

    #[test]
    fn what_a_form_can_send_is_taken_nowhere() {
        let json = |optional| Takes::These { media_types: &["application/json"], optional };
        for takes in [Takes::Nothing, json(false), json(true), Takes::NoForm] {
            for form in OF_FORMS {
                check_type(takes, Some(form), true, false);
                check_type(takes, Some(&format!("{}; charset=utf-8", form.to_uppercase())), false, false);
            }
            check_type(takes, None, false, false);
            check_type(takes, Some("application/json"), false, true);
            check_type(takes, Some("Application/JSON; charset=utf-8"), false, true);
        }
        check_type(json(true), None, true, true);
        check_type(json(false), None, true, false);
        check_type(Takes::Nothing, None, true, true);
        check_type(Takes::NoForm, None, true, false);
        check_type(Takes::NoForm, Some("application/octet-stream"), false, true);
        check_type(json(false), Some("application/octet-stream"), false, false);
    }
}
