//! Query strings: what a resource declares, and how its parameters are read (contract §8).
//!
//! A resource declares its parameters as [`Param`]s; the same declarations say what is accepted and fill
//! `/openapi.json`. Nothing is ignored: an unknown name, a single parameter given twice and a value that cannot be
//! read are all collected and told at once. Lists are `a,b` or repeated.

use std::borrow::Cow;

use chrono::NaiveDate;
use chrono_tz::Tz;
use topics::time::{parse_zone, resolve};
use topics::{TaskId, Timestamp, UserId};
use uuid::Uuid;

use crate::problem::{BadParameter, Code, Problem};

/// A parameter of a resource.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    /// Its name.
    pub name: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// What it does, in a sentence.
    pub about: &'static str,
}

/// What the values of a parameter are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text up to so many bytes.
    Text(usize),
    /// One of these words.
    Word(&'static [&'static str]),
    /// A list of these words; with none given here, of any words.
    Words(&'static [&'static str]),
    /// A user id.
    User,
    /// A UUID.
    Id,
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Integer {
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
        /// When absent.
        default: u64,
    },
    /// RFC 3339, or a date: its midnight in `tz`.
    Moment,
    /// An IANA zone.
    Zone,
    /// `partition:offset,…`.
    Positions,
}

impl Kind {
    /// Whether values are lists, so that repeating the parameter is no error.
    pub fn is_list(self) -> bool {
        matches!(self, Kind::Words(_) | Kind::Positions)
    }
}

/// Declares a parameter.
pub const fn param(name: &'static str, kind: Kind, about: &'static str) -> Param {
    Param { name, kind, about }
}

/// Decodes a query string; a pair without `=` has an empty value, `+` is a space.
pub fn pairs(query: &str) -> Result<Vec<(String, String)>, Problem> {
    let mut pairs = Vec::new();
    let mut bad = Vec::new();
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match (decode(name), decode(value)) {
            (Some(name), Some(value)) => pairs.push((name, value)),
            (name, _) => {
                bad.push(BadParameter::new(name.unwrap_or_else(|| "?".to_owned()), "is not percent-encoded UTF-8"))
            }
        }
    }
    if bad.is_empty() { Ok(pairs) } else { Err(Problem::parameters(Code::InvalidParameter, bad)) }
}

/// Undoes percent-encoding; `None` when an escape is broken or the bytes are not UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || (rest.next()? as char).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

/// The words of a list: what stands between commas, where `\,` is a comma within a word.
///
/// ```
/// let words: Vec<_> = query_api::params::words_of(r"home\, sweet,work").collect();
/// assert_eq!(words, ["home, sweet", "work"]);
/// ```
pub fn words_of(list: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let mut rest = Some(list);
    std::iter::from_fn(move || {
        let text = rest?;
        let is_end = |(at, _): &(usize, &str)| !text[..*at].ends_with('\\');
        let end = text.match_indices(',').find(is_end).map_or(text.len(), |(at, _)| at);
        rest = text.get(end + 1..);
        let word = &text[..end];
        Some(if word.contains("\\,") { Cow::Owned(word.replace("\\,", ",")) } else { Cow::Borrowed(word) })
    })
}

/// The parameters of one request, read against what the resource declares.
#[derive(Debug)]
pub struct Params {
    values: Vec<(Param, Vec<String>)>,
    bad: Vec<BadParameter>,
    unknown: bool,
}

impl Params {
    /// Sorts `pairs` to the declared parameters, and notes unknown names and repetitions.
    pub fn read<'a>(pairs: &[(String, String)], declared: impl IntoIterator<Item = &'a Param> + Clone) -> Params {
        let mut read = Params { values: Vec::new(), bad: Vec::new(), unknown: false };
        for (name, value) in pairs {
            if let Some((param, values)) = read.values.iter_mut().find(|(p, _)| p.name == name) {
                if !param.kind.is_list() {
                    read.bad.push(BadParameter::new(name, "is given more than once"));
                }
                values.push(value.clone());
            } else if let Some(param) = declared.clone().into_iter().find(|p| p.name == name) {
                read.values.push((*param, vec![value.clone()]));
            } else if !read.bad.iter().any(|b| b.parameter == *name) {
                read.unknown = true;
                read.bad.push(BadParameter::new(name, "is not a parameter of this resource"));
            }
        }
        read
    }

    /// Whether the parameter is given.
    pub fn has(&self, name: &str) -> bool {
        self.values.iter().any(|(p, _)| p.name == name)
    }

    /// Notes that the parameter cannot be taken.
    pub fn refuse(&mut self, name: &str, reason: impl Into<String>) {
        if !self.bad.iter().any(|b| b.parameter == name) {
            self.bad.push(BadParameter::new(name, reason));
        }
    }

    /// The value of a single parameter, read by `read`, which says in words what it wants instead.
    pub fn one<T>(&mut self, name: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let value = &self.values.iter().find(|(p, _)| p.name == name)?.1[0];
        match read(value) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.refuse(name, reason);
                None
            }
        }
    }

    /// The words of a list parameter, each read by `read`; empty when it is absent.
    pub fn list<T>(&mut self, name: &str, read: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let Some((_, values)) = self.values.iter().find(|(p, _)| p.name == name) else { return Vec::new() };
        match values.iter().flat_map(|v| words_of(v)).map(|word| read(&word)).collect() {
            Ok(values) => values,
            Err(reason) => {
                self.refuse(name, reason);
                Vec::new()
            }
        }
    }

    /// A text as it stands.
    pub fn text(&mut self, name: &str) -> Option<String> {
        let (param, _) = self.values.iter().find(|(p, _)| p.name == name)?;
        let max = if let Kind::Text(max) = param.kind { max } else { usize::MAX };
        self.one(name, |text| match text.len() {
            0 => Err("is empty".to_owned()),
            len if len > max => Err(format!("is longer than {max} bytes")),
            _ => Ok(text.to_owned()),
        })
    }

    /// `true` or `false`.
    pub fn flag(&mut self, name: &str) -> Option<bool> {
        self.one(name, |text| text.parse().map_err(|_| "must be true or false".to_owned()))
    }

    /// A whole number within the declared bounds, or the declared default.
    pub fn integer(&mut self, declared: &Param) -> u64 {
        let Kind::Integer { min, max, default } = declared.kind else { return 0 };
        self.one(declared.name, |text| {
            let digits = text.bytes().all(|b| b.is_ascii_digit());
            let number = text.parse().ok().filter(|n| digits && (min..=max).contains(n));
            number.ok_or_else(|| format!("must be a whole number from {min} to {max}"))
        })
        .unwrap_or(default)
    }

    /// A user id.
    pub fn user(&mut self, name: &str) -> Option<UserId> {
        self.one(name, |text| {
            UserId::parse(text).ok_or_else(|| format!("must have 1 to {} characters", UserId::MAX_CHARS))
        })
    }

    /// A UUID.
    pub fn id(&mut self, name: &str) -> Option<Uuid> {
        self.one(name, |text| TaskId::parse(text).map(|id| id.0).ok_or_else(|| "must be a UUID".to_owned()))
    }

    /// One of the declared words.
    pub fn word(&mut self, name: &str) -> Option<&'static str> {
        let words = self.words_of(name);
        self.one(name, |text| known_word(words, text))
    }

    /// A list of the declared words.
    pub fn words(&mut self, name: &str) -> Vec<&'static str> {
        let words = self.words_of(name);
        self.list(name, |text| known_word(words, text))
    }

    fn words_of(&self, name: &str) -> &'static [&'static str] {
        match self.values.iter().find(|(p, _)| p.name == name) {
            Some((Param { kind: Kind::Word(words) | Kind::Words(words), .. }, _)) => words,
            _ => &[],
        }
    }

    /// A zone by its IANA name.
    pub fn zone(&mut self, name: &str) -> Option<Tz> {
        self.one(name, |text| {
            parse_zone(text).ok_or_else(|| "must be an IANA time zone such as Europe/Berlin".to_owned())
        })
    }

    /// An instant, or a date, which means its midnight in `zone`.
    pub fn moment(&mut self, name: &str, zone: Tz) -> Option<Timestamp> {
        self.one(name, |text| moment(text, zone))
    }

    /// Highest offsets by partition.
    pub fn positions(&mut self, name: &str) -> Vec<(i32, i64)> {
        self.list(name, position)
    }

    /// Ends the reading: a problem that names every parameter at fault, if one is.
    pub fn finish(&mut self) -> Result<(), Problem> {
        if self.bad.is_empty() {
            return Ok(());
        }
        let code = if self.unknown { Code::UnknownParameter } else { Code::InvalidParameter };
        Err(Problem::parameters(code, std::mem::take(&mut self.bad)))
    }
}

fn known_word(words: &'static [&'static str], text: &str) -> Result<&'static str, String> {
    words.iter().find(|w| **w == text).copied().ok_or_else(|| match words {
        [one] => format!("must be {one}"),
        [start @ .., last] => format!("must be {} or {last}", start.join(", ")),
        [] => "has no such word".to_owned(),
    })
}

/// Reads an instant, or a date as its midnight in `zone`.
pub fn moment(text: &str, zone: Tz) -> Result<Timestamp, String> {
    if let Some(at) = Timestamp::parse_rfc3339(text) {
        return Ok(at);
    }
    let date = (text.len() == 10).then(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()).flatten();
    match date {
        Some(date) => Ok(resolve(zone, date.and_time(chrono::NaiveTime::MIN))),
        None if text.contains(' ') => Err("must be RFC 3339 or a date; write + as %2B".to_owned()),
        None => Err("must be RFC 3339 such as 2026-03-30T07:30:00Z, or a date".to_owned()),
    }
}

/// Reads one `partition:offset`.
pub fn position(text: &str) -> Result<(i32, i64), String> {
    let read = || {
        let (partition, offset) = text.split_once(':')?;
        let plain = offset.bytes().all(|b| b.is_ascii_digit()) && !partition.starts_with('+');
        let place: (i32, i64) = (partition.parse().ok()?, offset.parse().ok()?);
        (plain && place.0 >= -1).then_some(place)
    };
    read().ok_or_else(|| "must be partition:offset,… such as 0:120,1:98".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECLARED: &[Param] = &[
        param("limit", Kind::Integer { min: 1, max: 200, default: 50 }, ""),
        param("state", Kind::Words(&["ACTIVE", "ENDED"]), ""),
        param("late", Kind::Flag, ""),
        param("userId", Kind::User, ""),
        param("taskId", Kind::Id, ""),
        param("from", Kind::Moment, ""),
        param("tz", Kind::Zone, ""),
        param("actor", Kind::Text(8), ""),
        param("min_position", Kind::Positions, ""),
    ];

    fn read(query: &str) -> Result<String, Problem> {
        let mut params = Params::read(&pairs(query)?, DECLARED);
        let zone = params.zone("tz").unwrap_or(Tz::UTC);
        let limit = params.integer(&DECLARED[0]);
        let shown = format!(
            "{limit} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            params.words("state"),
            params.flag("late"),
            params.user("userId"),
            params.id("taskId").map(|id| id.to_string()),
            params.moment("from", zone).map(|at| at.to_string()),
            params.text("actor"),
            params.positions("min_position"),
        );
        params.finish().map(|()| shown)
    }

    #[track_caller]
    fn check(query: &str, expected: &str) {
        let shown = match read(query) {
            Ok(shown) => shown,
            Err(problem) => problem.to_string(),
        };
        assert_eq!(shown, expected, "{query}");
    }

    #[test]
    fn a_comma_within_a_word_is_written_with_a_backslash() {
        for (list, expected) in [
            ("", &[""][..]),
            ("a,b", &["a", "b"]),
            (r"a\,b", &["a,b"]),
            (r"a\,b,c\,", &["a,b", "c,"]),
            (r"\,", &[","]),
            (r"a\b\", &[r"a\b\"]),
            (",", &["", ""]),
        ] {
            assert_eq!(words_of(list).collect::<Vec<_>>(), expected, "{list}");
        }
    }

    #[test]
    fn values_are_read() {
        check("", "50 [] None None None None None []");
        check("limit=200&late=true", "200 [] Some(true) None None None None []");
        check("state=ACTIVE,ENDED&state=ACTIVE", r#"50 ["ACTIVE", "ENDED", "ACTIVE"] None None None None None []"#);
        check("userId=a%20b+c&actor=%C3%BC", r#"50 [] None Some(a b c) None None Some("ü") []"#);
        check(
            "taskId=6F1C0B1E-7B0A-4A57-9D7E-2F5F0A3B9C11",
            r#"50 [] None None Some("6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11") None None []"#,
        );
        check("from=2026-03-01&tz=Europe/Berlin", r#"50 [] None None None Some("2026-02-28T23:00:00.000Z") None []"#);
        check("from=2026-03-01T00:00:00%2B02:00", r#"50 [] None None None Some("2026-02-28T22:00:00.000Z") None []"#);
        check("min_position=0:12,1:3&min_position=-1:0", "50 [] None None None None None [(0, 12), (1, 3), (-1, 0)]");
        check("&&limit=1&", "1 [] None None None None None []");
    }

    #[test]
    fn nothing_is_ignored() {
        check("limit=0", "invalid-parameter: \"limit\" must be a whole number from 1 to 200");
        check("limit=+5", "invalid-parameter: \"limit\" must be a whole number from 1 to 200");
        check("limit=5&limit=5", "invalid-parameter: \"limit\" is given more than once");
        check("Limit=5", "unknown-parameter: \"Limit\" is not a parameter of this resource");
        check(
            "colour=red&late=yes",
            "unknown-parameter: \"colour\" is not a parameter of this resource; \"late\" must be true or false",
        );
        check("state=", "invalid-parameter: \"state\" must be ACTIVE or ENDED");
        check("state=ACTIVE,,ENDED", "invalid-parameter: \"state\" must be ACTIVE or ENDED");
        check("state=active", "invalid-parameter: \"state\" must be ACTIVE or ENDED");
        check("userId=", "invalid-parameter: \"userId\" must have 1 to 128 characters");
        check("taskId=7", "invalid-parameter: \"taskId\" must be a UUID");
        check("tz=Mars/Olympus", "invalid-parameter: \"tz\" must be an IANA time zone such as Europe/Berlin");
        check(
            "from=2026-03-01T00:00:00+02:00",
            "invalid-parameter: \"from\" must be RFC 3339 or a date; write + as %2B",
        );
        check(
            "from=2026-02-30",
            "invalid-parameter: \"from\" must be RFC 3339 such as 2026-03-30T07:30:00Z, or a date",
        );
        check("actor=123456789", "invalid-parameter: \"actor\" is longer than 8 bytes");
        check("actor=%zz", "invalid-parameter: \"actor\" is not percent-encoded UTF-8");
        check("actor=%ff", "invalid-parameter: \"actor\" is not percent-encoded UTF-8");
        let positions = "invalid-parameter: \"min_position\" must be partition:offset,… such as 0:120,1:98";
        for bad in ["0", "0:", "a:1", "0:-1", "0:+1", "-2:1", "0:1,", "0:99999999999999999999"] {
            check(&format!("min_position={bad}"), positions);
        }
    }
}
