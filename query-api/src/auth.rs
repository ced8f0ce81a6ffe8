//! Who asks, and what they may see (contract §8.6). Scopes are checked here and nowhere else.
//!
//! Three modes: `none` (everybody may read everything, `userId` is a plain filter), `token` (a static file) and
//! `jwt` ([`jwt`]: signed tokens of an identity provider).

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use sha2::{Digest, Sha256};
use topics::UserId;

use crate::problem::{Code, Problem};

pub mod jwt;
mod keys;
mod openssl;

pub use keys::origin_of;

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// `events:write`: append to the log.
    EventsWrite,
    /// `tasks:read`: own tasks, occurrences and reminders.
    TasksRead,
    /// `tasks:read:any`: everybody's.
    TasksReadAny,
    /// `audit:read`: own audit entries.
    AuditRead,
    /// `audit:read:any`: everybody's.
    AuditReadAny,
    /// `ops`: outbox, dead letters, clock.
    Ops,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Scope; 6] =
        [Scope::EventsWrite, Scope::TasksRead, Scope::TasksReadAny, Scope::AuditRead, Scope::AuditReadAny, Scope::Ops];

    /// The name in a token.
    pub fn name(self) -> &'static str {
        match self {
            Scope::EventsWrite => "events:write",
            Scope::TasksRead => "tasks:read",
            Scope::TasksReadAny => "tasks:read:any",
            Scope::AuditRead => "audit:read",
            Scope::AuditReadAny => "audit:read:any",
            Scope::Ops => "ops",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// What of a resource is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Tasks, occurrences, reminders and further views.
    Tasks,
    /// The audit timeline.
    Audit,
}

impl Subject {
    fn scopes(self) -> (Scope, Scope) {
        match self {
            Subject::Tasks => (Scope::TasksRead, Scope::TasksReadAny),
            Subject::Audit => (Scope::AuditRead, Scope::AuditReadAny),
        }
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    subject: Option<UserId>,
    scopes: u8,
}

impl Caller {
    /// Somebody who may do everything: the caller with auth `none`.
    pub fn anyone() -> Self {
        Caller { subject: None, scopes: u8::MAX }
    }

    /// The user `subject` (none for a service) with `scopes`.
    pub fn new(subject: Option<UserId>, scopes: &[Scope]) -> Self {
        Caller { subject, scopes: scopes.iter().fold(0, |bits, s| bits | s.bit()) }
    }

    /// Whether the caller has `scope`.
    pub fn has(&self, scope: Scope) -> bool {
        self.scopes & scope.bit() != 0
    }

    /// Refuses a caller without `scope`.
    pub fn require(&self, scope: Scope) -> Result<(), Problem> {
        if self.has(scope) { Ok(()) } else { Err(forbidden(scope)) }
    }

    /// Whose rows a list may show: `asked` (the `userId` parameter) as far as the caller's scopes go.
    /// `None` means everybody's.
    pub fn rows_of(&self, subject: Subject, asked: Option<UserId>) -> Result<Option<UserId>, Problem> {
        let (own, any) = subject.scopes();
        if self.has(any) {
            return Ok(asked);
        }
        self.require(own)?;
        match (&self.subject, asked) {
            (None, _) => Err(forbidden(any)),
            (Some(me), Some(other)) if *me != other => Err(forbidden(any)),
            (Some(me), _) => Ok(Some(me.clone())),
        }
    }

    /// The user who asks, where it is one.
    pub fn subject(&self) -> Option<&UserId> {
        self.subject.as_ref()
    }

    /// Whether the caller may see everybody's.
    pub fn may_see_all(&self, subject: Subject) -> bool {
        self.has(subject.scopes().1)
    }

    /// Whether a thing of `owner` may be shown; if not, it is not there for this caller (404).
    pub fn may_see(&self, subject: Subject, owner: &UserId) -> bool {
        let (own, any) = subject.scopes();
        self.has(any) || (self.has(own) && self.subject.as_ref() == Some(owner))
    }

    /// Refuses a caller who has neither of the read scopes of `subject`.
    pub fn may_read(&self, subject: Subject) -> Result<(), Problem> {
        let (own, any) = subject.scopes();
        if self.has(any) || (self.has(own) && self.subject.is_some()) { Ok(()) } else { Err(forbidden(own)) }
    }
}

fn forbidden(scope: Scope) -> Problem {
    Problem::new(Code::Forbidden, format!("This needs the scope {}.", scope.name()))
}

/// The caller of a request under `/v1`, put there by the router.
impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Caller>().cloned().ok_or_else(unauthorized)
    }
}

fn unauthorized() -> Problem {
    Problem::new(Code::Unauthorized, "Send a known token as \"Authorization: Bearer …\".")
        .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tasktide\""))
}

/// `Config auth.mode`.
#[derive(Clone, Default)]
pub enum Auth {
    /// Everybody may do everything.
    #[default]
    None,
    /// Tokens of a static file.
    Token(Tokens),
    /// Signed tokens of an identity provider.
    Jwt(jwt::Jwt),
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Auth::None => "none",
            Auth::Token(_) => "token",
            Auth::Jwt(_) => "jwt",
        })
    }
}

/// The setting cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The keys of `jwt` mode cannot be read.
    #[error("auth.jwt.jwks cannot be used: {0}")]
    Keys(String),
    /// The secret of `jwt` mode could be guessed.
    #[error("auth.jwt.secret is shorter than {0} bytes; make one with: openssl rand -base64 48")]
    ShortSecret(usize),
    /// A line of the file cannot be read. The line is not printed: it may hold a token.
    #[error("auth.token_file, line {line}: {reason}; a line is: <token> <user or -> <scope,scope,…>")]
    Line {
        /// Counted from 1.
        line: usize,
        /// Why.
        reason: &'static str,
    },
    /// No token at all: nobody could ask anything.
    #[error("auth.token_file has no token; a line is: <token> <user or -> <scope,scope,…>")]
    Empty,
}

impl Auth {
    /// Who sends these headers.
    pub async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        match self {
            Auth::None => Ok(Caller::anyone()),
            Auth::Token(tokens) => tokens.caller(bearer(headers)?).ok_or_else(unauthorized),
            Auth::Jwt(jwt) => jwt.caller(bearer(headers)?).await.map_err(|refused| match refused {
                jwt::Refused::Bad => unauthorized(),
                jwt::Refused::NotYet => {
                    Problem::new(Code::NotReady, "The keys that tokens are checked with cannot be read yet; try again.")
                        .with_header(header::RETRY_AFTER, HeaderValue::from_static("5"))
                }
            }),
        }
    }
}

/// The token of a request.
fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let value = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).ok_or_else(unauthorized)?;
    let (scheme, token) = value.split_once(' ').ok_or_else(unauthorized)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(unauthorized()) }
}

/// The tokens of a static file, kept as digests only.
#[derive(Clone)]
pub struct Tokens(Arc<[([u8; 32], Caller)]>);

impl Tokens {
    /// Reads a file of lines `<token> <user or -> <scope,scope,…>`; `#` starts a comment line.
    pub fn parse(text: &str) -> Result<Tokens, AuthError> {
        let mut tokens = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = |reason| AuthError::Line { line: number + 1, reason };
            let mut words = line.split_whitespace();
            let (Some(token), Some(user), Some(scopes), None) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                return Err(bad("it has not three words"));
            };
            if token.len() < 16 {
                return Err(bad("the token is shorter than 16 characters"));
            }
            let user = match user {
                "-" => None,
                user => Some(UserId::parse(user).ok_or(bad("the user id is too long"))?),
            };
            let scopes = scopes
                .split(',')
                .map(|name| Scope::ALL.into_iter().find(|s| s.name() == name).ok_or(bad("it names an unknown scope")))
                .collect::<Result<Vec<_>, _>>()?;
            tokens.push((Sha256::digest(token.as_bytes()).into(), Caller::new(user, &scopes)));
        }
        if tokens.is_empty() { Err(AuthError::Empty) } else { Ok(Tokens(tokens.into())) }
    }

    /// Digests of equal length are compared in full and every token is looked at, so the time tells nothing.
    fn caller(&self, token: &str) -> Option<Caller> {
        let asked: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let mut found = None;
        for (digest, caller) in self.0.iter() {
            let difference = digest.iter().zip(&asked).fold(0u8, |sum, (a, b)| sum | (a ^ b));
            if std::hint::black_box(difference) == 0 {
                found = Some(caller);
            }
        }
        found.cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# tokens of the test\n\
        token-of-ann-000001 ann tasks:read,audit:read\n\
        token-of-support-01 - tasks:read:any\n\
        token-of-the-ops-01 - ops,events:write\n";

    fn caller(token: &str) -> Result<Caller, Problem> {
        let auth = Auth::Token(Tokens::parse(FILE).unwrap());
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(token).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(auth.caller(&headers))
    }

    #[track_caller]
    fn check(token: &str, subject: Subject, asked: Option<&str>, expected: Result<Option<&str>, Code>) {
        let asked = asked.and_then(UserId::parse);
        let rows = caller(token).and_then(|c| c.rows_of(subject, asked));
        let rows = rows.as_ref().map(|u| u.as_ref().map(UserId::as_str)).map_err(Problem::code);
        assert_eq!(rows, expected, "{token}");
    }

    #[test]
    fn scopes_decide_whose_rows_are_shown() {
        use Subject::{Audit, Tasks};
        check("Bearer token-of-ann-000001", Tasks, None, Ok(Some("ann")));
        check("bearer token-of-ann-000001", Tasks, Some("ann"), Ok(Some("ann")));
        check("Bearer token-of-ann-000001", Tasks, Some("bob"), Err(Code::Forbidden));
        check("Bearer token-of-ann-000001", Audit, None, Ok(Some("ann")));
        check("Bearer token-of-support-01", Tasks, None, Ok(None));
        check("Bearer token-of-support-01", Tasks, Some("bob"), Ok(Some("bob")));
        check("Bearer token-of-support-01", Audit, None, Err(Code::Forbidden));
        check("Bearer token-of-the-ops-01", Tasks, None, Err(Code::Forbidden));
        check("Bearer token-of-nobody-001", Tasks, None, Err(Code::Unauthorized));
        check("Basic token-of-ann-000001", Tasks, None, Err(Code::Unauthorized));
    }

    #[test]
    fn others_things_are_not_there() {
        let ann = caller("Bearer token-of-ann-000001").unwrap();
        let (own, other) = (UserId::parse("ann").unwrap(), UserId::parse("bob").unwrap());
        assert!(ann.may_see(Subject::Tasks, &own) && !ann.may_see(Subject::Tasks, &other));
        let ops = caller("Bearer token-of-the-ops-01").unwrap();
        assert!(ops.require(Scope::Ops).is_ok() && !ops.may_see(Subject::Tasks, &own));
    }

    #[track_caller]
    fn check_setting(file: &str, expected: &str) {
        assert_eq!(Tokens::parse(file).err().map(|error| error.to_string()).as_deref(), Some(expected));
    }

    #[test]
    fn bad_settings_name_what_is_wrong_and_never_the_token() {
        let form = "; a line is: <token> <user or -> <scope,scope,…>";
        check_setting("\n# none\n", &format!("auth.token_file has no token{form}"));
        check_setting("abc", &format!("auth.token_file, line 1: it has not three words{form}"));
        check_setting(
            "\nshort ann tasks:read",
            &format!("auth.token_file, line 2: the token is shorter than 16 characters{form}"),
        );
        check_setting(
            "a-token-long-enough ann tasks:write",
            &format!("auth.token_file, line 1: it names an unknown scope{form}"),
        );
    }
}
