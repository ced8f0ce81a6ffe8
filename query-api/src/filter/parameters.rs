//! From the parameters of a request to a [`TaskQuery`]: every one is judged, none is ignored (contract §8).

use chrono_tz::Tz;
use topics::task::Priority;
use topics::time::parse_zone;
use topics::{Due, TaskId, Timestamp, UserId};

use super::{
    Bounds, DueWord, Facet, Include, PageKey, Sort, SortBy, SortKey, Status, TagFilter, TagsMode, TaskQuery, TextQuery,
};
use crate::cursor::{Cursor, CursorError};
use crate::filter::sort::KEYS_MAX;
use crate::params::words_of;
use crate::text;

/// Largest page.
pub const LIMIT_MAX: usize = 200;
/// Page size when nothing is said.
pub const LIMIT_DEFAULT: usize = 50;

/// The parameters of `GET /v1/tasks` that are read here, by name; `min_position` and `wait` belong to the route.
pub const PARAMETERS: [&str; 22] = [
    "q",
    "status",
    "priority",
    "tags",
    "tagsMode",
    "due",
    "dueAfter",
    "dueBefore",
    "createdAfter",
    "createdBefore",
    "updatedAfter",
    "updatedBefore",
    "recurring",
    "seriesId",
    "userId",
    "tz",
    "sort",
    "counts",
    "facets",
    "include",
    "limit",
    "cursor",
];

/// Those of [`PARAMETERS`] that shape a page and have no meaning for a stream.
const OF_PAGES: [&str; 6] = ["sort", "counts", "facets", "include", "limit", "cursor"];

/// Read by the route, which waits before the query is answered.
const OF_THE_ROUTE: [&str; 2] = ["min_position", "wait"];

/// What a query is read in the light of.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Now, by the clock of the product.
    pub now: Timestamp,
    /// Config `timezone`.
    pub zone: Tz,
    /// The caller, whose zone is the default when no user is named.
    pub caller: Option<&'a UserId>,
    /// Set when the caller may read one user only: then that user is meant, and `userId` is judged by the route.
    pub only: Option<&'a UserId>,
    /// The stored zone of a user.
    pub zone_of: &'a dyn Fn(&UserId) -> Option<Tz>,
}

/// What is wrong with a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such parameter.
    Unknown,
    /// Its value is bad, or it was given twice.
    Invalid,
    /// The cursor is unreadable or too old.
    CursorInvalid,
    /// The cursor belongs to another query.
    CursorMismatch,
}

/// A parameter that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterError {
    /// Its name.
    pub parameter: String,
    /// Why, for the caller.
    pub reason: String,
    /// What kind of mistake.
    pub kind: ErrorKind,
}

impl TaskQuery {
    /// Reads the parameters of `GET /v1/tasks`, decoded, in the order given.
    ///
    /// ```
    /// use query_api::filter::{Context, ErrorKind, TaskQuery};
    /// let now = "2026-03-30T07:30:00Z".parse().unwrap();
    /// let context = Context { now, zone: chrono_tz::UTC, caller: None, only: None, zone_of: &|_| None };
    /// let read = |name: &str, value: &str| TaskQuery::parse(&[(name.to_owned(), value.to_owned())], &context);
    /// assert_eq!(read("limit", "20").unwrap().limit, 20);
    /// assert_eq!(read("limit", "1000").unwrap_err()[0].kind, ErrorKind::Invalid);
    /// assert_eq!(read("colour", "red").unwrap_err()[0].kind, ErrorKind::Unknown);
    /// ```
    pub fn parse(params: &[(String, String)], context: &Context<'_>) -> Result<TaskQuery, Vec<ParameterError>> {
        let mut reader = Reader::new(params, &[]);
        let mut query = reader.filters(context);
        query.sort = reader.sort(query.text.is_some());
        query.limit = reader.limit();
        query.counts = reader.flag("counts").unwrap_or(false);
        query.facets =
            reader.words("facets", |word| Facet::ALL.into_iter().find(|f| f.name() == word)).unwrap_or_default();
        query.include = reader.include();
        let cursor = reader.single("cursor");
        query.digest = crate::cursor::digest(&query.canonical());
        if let (Some(text), true) = (cursor, reader.errors.is_empty()) {
            match Cursor::decode::<PageKey>(text, query.digest, context.now) {
                Ok(cursor) => {
                    query.as_of = cursor.as_of;
                    query.after = Some(cursor.key);
                }
                Err(error) => {
                    let kind = match error {
                        CursorError::Invalid => ErrorKind::CursorInvalid,
                        CursorError::Mismatch => ErrorKind::CursorMismatch,
                    };
                    reader.errors.push(ParameterError { parameter: "cursor".into(), reason: error.to_string(), kind });
                }
            }
        }
        reader.finish(query)
    }

    /// Reads the filters of a stream: as [`TaskQuery::parse`], but what shapes a page is unknown here.
    pub fn parse_filters(params: &[(String, String)], context: &Context<'_>) -> Result<TaskQuery, Vec<ParameterError>> {
        let mut reader = Reader::new(params, &OF_PAGES);
        let query = reader.filters(context);
        reader.finish(query)
    }
}

struct Reader<'a> {
    params: &'a [(String, String)],
    errors: Vec<ParameterError>,
}

impl<'a> Reader<'a> {
    fn new(params: &'a [(String, String)], without: &[&str]) -> Self {
        let mut reader = Reader { params, errors: Vec::new() };
        let mut unknown: Vec<&str> = Vec::new();
        for (name, _) in params {
            let name = name.as_str();
            let known = PARAMETERS.contains(&name) && !without.contains(&name) || OF_THE_ROUTE.contains(&name);
            if !known && !unknown.contains(&name) {
                unknown.push(name);
                reader.fail_as(ErrorKind::Unknown, name, "is not a parameter of this resource");
            }
        }
        reader
    }

    fn finish(self, mut query: TaskQuery) -> Result<TaskQuery, Vec<ParameterError>> {
        if !self.errors.is_empty() {
            return Err(self.errors);
        }
        query.due = query.due_at(query.as_of);
        Ok(query)
    }

    fn fail_as(&mut self, kind: ErrorKind, parameter: &str, reason: impl Into<String>) {
        self.errors.push(ParameterError { parameter: parameter.to_owned(), reason: reason.into(), kind });
    }

    fn fail(&mut self, parameter: &str, reason: impl Into<String>) {
        self.fail_as(ErrorKind::Invalid, parameter, reason);
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &'a str> + use<'a, '_> {
        let name = name.to_owned();
        self.params.iter().filter(move |(n, _)| *n == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that may be given once.
    fn single(&mut self, name: &str) -> Option<&'a str> {
        let mut values = self.all(name);
        let first = values.next();
        if values.next().is_some() {
            drop(values);
            self.fail(name, "is given more than once");
            return None;
        }
        first
    }

    /// The values of a list parameter, `a,b` or repeated; trimmed.
    fn list(&self, name: &str) -> Option<Vec<String>> {
        let values: Vec<_> = self.all(name).flat_map(words_of).map(|word| word.trim().to_owned()).collect();
        (!values.is_empty()).then_some(values)
    }

    /// A single parameter read by `read`, or an error that says what is allowed.
    fn read<T>(&mut self, name: &str, allowed: &str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let value = self.single(name)?;
        let read = read(value);
        if read.is_none() {
            self.fail(name, format!("\"{}\" is not {allowed}", shorten(value)));
        }
        read
    }

    fn flag(&mut self, name: &str) -> Option<bool> {
        self.read(name, "true or false", |value| value.parse().ok())
    }

    /// A list of words read by `read`, each kept once.
    fn words<T: PartialEq>(&mut self, name: &str, read: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
        let mut words = Vec::new();
        for value in self.list(name)? {
            match read(&value) {
                Some(word) if words.contains(&word) => {}
                Some(word) => words.push(word),
                None => self.fail(name, format!("\"{}\" is not a value of this parameter", shorten(&value))),
            }
        }
        Some(words)
    }

    fn filters(&mut self, context: &Context<'_>) -> TaskQuery {
        let named = self.read("userId", "a user id of 1 to 128 characters", UserId::parse);
        let user = context.only.cloned().or(named);
        let own_zone = || user.as_ref().or(context.caller).and_then(context.zone_of);
        let zone = self.read("tz", "an IANA time zone", parse_zone).or_else(own_zone).unwrap_or(context.zone);

        let mut query = TaskQuery::everything(user, zone, context.now);
        let statuses = "open, completed or all";
        query.status = self
            .read("status", statuses, |value| match value {
                "open" => Some(Status::Open),
                "completed" => Some(Status::Completed),
                "all" => Some(Status::All),
                _ => None,
            })
            .unwrap_or_default();
        query.priorities = self.words("priority", Priority::parse).map(|mut list| {
            list.sort();
            list
        });
        query.recurring = self.flag("recurring");
        query.series = self.read("seriesId", "a UUID", TaskId::parse);
        query.tags = self.tags();
        query.due_words = self.words("due", DueWord::parse).unwrap_or_default();
        query.due_words.sort();
        query.due_range = self.bounds("dueAfter", "dueBefore", zone);
        query.created = self.bounds("createdAfter", "createdBefore", zone);
        query.updated = self.bounds("updatedAfter", "updatedBefore", zone);
        query.text = self.single("q").and_then(|q| match TextQuery::parse(q) {
            Ok(text) => Some(text),
            Err(error) => {
                self.fail("q", error.to_string());
                None
            }
        });
        query
    }

    fn tags(&mut self) -> Option<TagFilter> {
        let mode = self
            .read("tagsMode", "any, all or none", |value| match value {
                "any" => Some(TagsMode::Any),
                "all" => Some(TagsMode::All),
                "none" => Some(TagsMode::None),
                _ => None,
            })
            .unwrap_or_default();
        let values = self.list("tags")?;
        let mut keys: Vec<_> =
            values.iter().filter(|tag| !tag.is_empty()).map(|tag| text::tag_key(tag).into_owned()).collect();
        if !keys.is_empty() && keys.len() < values.len() {
            self.fail("tags", "has an empty tag among others; tags= alone means tasks without tags");
        }
        keys.sort();
        keys.dedup();
        Some(TagFilter { mode, keys })
    }

    fn bounds(&mut self, after: &str, before: &str, zone: Tz) -> Bounds {
        let allowed = "an RFC 3339 instant or a date YYYY-MM-DD";
        let instant = |value: &str| match Due::parse(value) {
            Some(Due::Floating(_)) => None,
            Some(due) => Some(due.to_instant(zone)),
            None => Timestamp::parse_rfc3339(value),
        };
        Bounds { after: self.read(after, allowed, instant), before: self.read(before, allowed, instant) }
    }

    fn sort(&mut self, searched: bool) -> Sort {
        let Some(words) = self.list("sort") else { return Sort::default() };
        let mut keys: Vec<SortKey> = Vec::new();
        for word in words {
            match SortKey::parse(&word) {
                None => self.fail("sort", format!("\"{}\" is not a sort key", shorten(&word))),
                Some(key) if keys.iter().any(|known| known.by == key.by) => {
                    self.fail("sort", format!("names {} twice", key.by.name()));
                }
                Some(key) if key.by == SortBy::Relevance && !searched && self.all("q").next().is_none() => {
                    self.fail("sort", "relevance needs q");
                }
                Some(key) => keys.push(key),
            }
        }
        if keys.len() > KEYS_MAX {
            self.fail("sort", format!("has more than {KEYS_MAX} keys"));
            keys.truncate(KEYS_MAX);
        }
        Sort(keys)
    }

    fn limit(&mut self) -> usize {
        let digits = |value: &str| {
            let plain = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| value.parse().ok()).flatten().filter(|limit| (1..=LIMIT_MAX).contains(limit))
        };
        self.read("limit", "a whole number from 1 to 200", digits).unwrap_or(LIMIT_DEFAULT)
    }

    fn include(&mut self) -> Include {
        let known = |word: &str| match word {
            "occurrence" => Some(true),
            "reminders" => Some(false),
            _ => None,
        };
        let words = self.words("include", known).unwrap_or_default();
        Include { occurrence: words.contains(&true), reminders: words.contains(&false) }
    }
}

/// Enough of a value to recognise it by.
fn shorten(value: &str) -> &str {
    &value[..value.floor_char_boundary(60)]
}
