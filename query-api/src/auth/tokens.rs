//! `auth.mode=token`: tokens of a static file, kept as digests only. The file is read again when it changes, so that a
//! token is given or withdrawn without a restart.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use topics::UserId;

use super::{AuthError, Caller, Scope, private};

/// How often the file is looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A file of tokens that is followed.
#[derive(Clone)]
pub struct TokenFile(Arc<Followed>);

struct Followed {
    path: Option<PathBuf>,
    state: Mutex<State>,
}

struct State {
    tokens: Tokens,
    /// Which file was read last, whether or not it could be used.
    read: Option<Version>,
    looked_at: Instant,
}

/// Tells one content of the file from another.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Version {
    file: (u64, u64),
    changed: (i64, i64),
    size: u64,
}

impl Version {
    fn of(meta: &Metadata) -> Version {
        Version { file: (meta.dev(), meta.ino()), changed: (meta.ctime(), meta.ctime_nsec()), size: meta.size() }
    }
}

impl TokenFile {
    /// Reads the file, which others must not be able to read.
    pub fn open(path: &Path) -> Result<TokenFile, AuthError> {
        let (tokens, version) = read(path)?;
        let state = State { tokens, read: Some(version), looked_at: Instant::now() };
        Ok(TokenFile(Arc::new(Followed { path: Some(path.to_owned()), state: Mutex::new(state) })))
    }

    /// The tokens that hold now. A file that cannot be used any more changes nothing: who broke it sees it in the log.
    pub(super) fn tokens(&self) -> Tokens {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = &self.0.path
            && state.looked_at.elapsed() >= LOOK_EVERY
        {
            state.follow(path);
        }
        state.tokens.clone()
    }
}

impl From<Tokens> for TokenFile {
    fn from(tokens: Tokens) -> TokenFile {
        let state = State { tokens, read: None, looked_at: Instant::now() };
        TokenFile(Arc::new(Followed { path: None, state: Mutex::new(state) }))
    }
}

impl State {
    fn follow(&mut self, path: &Path) {
        self.looked_at = Instant::now();
        let now = std::fs::metadata(path).ok().map(|meta| Version::of(&meta));
        if now == self.read {
            return;
        }
        match read(path) {
            Ok((tokens, version)) => {
                (self.tokens, self.read) = (tokens, Some(version));
                tracing::info!("auth.token_file has changed; its tokens hold now");
            }
            Err(error) => {
                self.read = now;
                tracing::error!(error = %error, "auth.token_file has changed and cannot be used; the tokens before it stay");
            }
        }
    }
}

fn read(path: &Path) -> Result<(Tokens, Version), AuthError> {
    let unusable = |reason: String| AuthError::File { path: path.to_owned(), reason };
    let (text, meta) = private::read(path).map_err(unusable)?;
    let text = String::from_utf8(text).map_err(|_| unusable("it is not UTF-8".to_owned()))?;
    Ok((Tokens::parse(&text)?, Version::of(&meta)))
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
    pub(super) fn caller(&self, token: &str) -> Option<Caller> {
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
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const ANN: &str = "token-of-ann-000001 ann tasks:read\n";
    const BOB: &str = "token-of-bob-000001 bob tasks:read\n";

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        write(&path, text).unwrap();
        set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn what_others_can_read_or_change_is_refused() {
        for (mode, usable) in
            [(0o600, true), (0o400, true), (0o440, true), (0o644, false), (0o604, false), (0o660, true), (0o602, false)]
        {
            let (_dir, path) = file(ANN, mode);
            let error = TokenFile::open(&path).err().map(|error| error.to_string());
            assert_eq!(error.is_none(), usable, "{mode:o}: {error:?}");
            if let Some(error) = error {
                assert!(error.contains("auth.token_file") && error.contains("chmod o-rwx"), "{error}");
            }
        }
    }

    #[test]
    fn a_file_that_changes_is_read_again_and_one_that_breaks_is_not() {
        let (dir, path) = file(ANN, 0o600);
        let tokens = TokenFile::open(&path).unwrap();
        let look = || tokens.0.state.lock().unwrap().follow(&path);
        let known =
            || ["token-of-ann-000001", "token-of-bob-000001"].map(|token| tokens.tokens().caller(token).is_some());
        look();
        assert_eq!(known(), [true, false]);
        // As editors and Kubernetes do it: another file in its place.
        let put = |text: &str, mode: u32| {
            let new = dir.path().join("new");
            write(&new, text).unwrap();
            set_permissions(&new, Permissions::from_mode(mode)).unwrap();
            std::fs::rename(new, &path).unwrap();
        };
        put(BOB, 0o600);
        look();
        assert_eq!(known(), [false, true]);
        for (text, mode) in [("half a line", 0o600), (ANN, 0o644), ("", 0o600)] {
            put(text, mode);
            look();
            assert_eq!(known(), [false, true], "{text} {mode:o}");
        }
        std::fs::remove_file(&path).unwrap();
        look();
        assert_eq!(known(), [false, true]);
        put(ANN, 0o600);
        look();
        assert_eq!(known(), [true, false]);
    }
}
