//! JSON without loss: what a text says, with every number as it was written.
//!
//! A value of `serde_json` makes doubles of numbers, refuses those that no double can hold, and refuses half of a
//! surrogate pair. What was accepted once must be readable by everybody later, so here a number stays its text and a
//! half pair reads as U+FFFD.
//!
//! Reading is one pass over the text, however deep it is nested. Texts of the outside are checked by `serde_json` first;
//! what is no JSON is `None`, and never a panic.

use std::borrow::Cow;
use std::collections::HashSet;

use serde_json::value::RawValue;

pub mod travel;

/// Deepest nesting that is accepted in a value that is kept as written: common parsers read no deeper than 128, and the
/// value stands within a row, an entry and a list.
pub const DEPTH_MAX: usize = 100;

/// Deepest nesting that is read at all.
const READ_DEPTH_MAX: usize = 128;

/// A value, as slices of its text.
#[derive(Clone, Debug)]
pub enum Json<'a> {
    /// `true`, `false` or `null`.
    Word(&'a str),
    /// A number as written.
    Number(&'a str),
    /// A string with its quotes and escapes.
    Text(&'a str),
    /// An array.
    List(Vec<Json<'a>>),
    /// An object's members, keys with their quotes and escapes; of equal keys the last only.
    Object(Vec<(&'a str, Json<'a>)>),
}

impl<'a> Json<'a> {
    /// Reads a text; `None` when it is no JSON, or is nested deeper than 128.
    pub fn parse(text: &'a str) -> Option<Json<'a>> {
        Json::of(serde_json::from_str(text).ok()?)
    }

    /// Reads a value; `None` when it is nested deeper than 128.
    pub fn of(raw: &'a RawValue) -> Option<Json<'a>> {
        Reader { text: raw.get(), at: 0 }.value(READ_DEPTH_MAX)
    }

    fn depth(&self) -> usize {
        match self {
            Json::List(items) => 1 + items.iter().map(Json::depth).max().unwrap_or(0),
            Json::Object(members) => 1 + members.iter().map(|(_, value)| value.depth()).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// Appends the value without white space, half pairs mended.
    fn write(&self, to: &mut String) {
        match self {
            Json::Word(text) | Json::Number(text) => to.push_str(text),
            Json::Text(text) => to.push_str(&mended(text)),
            Json::List(items) => {
                let mut separator = '[';
                for item in items {
                    to.push(std::mem::replace(&mut separator, ','));
                    item.write(to);
                }
                to.push_str(if items.is_empty() { "[]" } else { "]" });
            }
            Json::Object(members) => {
                let mut separator = '{';
                for (key, value) in members {
                    to.push(std::mem::replace(&mut separator, ','));
                    to.push_str(&mended(key));
                    to.push(':');
                    value.write(to);
                }
                to.push_str(if members.is_empty() { "{}" } else { "}" });
            }
        }
    }
}

/// A value is nested deeper than [`DEPTH_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooDeep;

/// A copy of `raw` in the form in which unknown fields are kept: on one line, without white space between tokens, half
/// pairs as U+FFFD, and of members with one name the last only. Numbers and all else are as written.
pub fn kept(raw: &RawValue) -> Result<Box<RawValue>, TooDeep> {
    let text = raw.get();
    let written = match text.as_bytes().first() {
        Some(b'{' | b'[') => {
            let json = Json::of(raw).filter(|json| json.depth() <= DEPTH_MAX).ok_or(TooDeep)?;
            let mut to = String::with_capacity(text.len());
            json.write(&mut to);
            Cow::Owned(to)
        }
        Some(b'"') => mended(text),
        _ => Cow::Borrowed(text),
    };
    Ok(RawValue::from_string(written.into_owned()).expect("tokens of JSON in their order are JSON"))
}

/// The value of `text` as `serde_json` has it, to compare it with another: a number that it would write differently is
/// `{"$number": text}`, so that two numbers are equal exactly when they are written alike. `None` when it is no JSON.
pub fn value(text: &str) -> Option<serde_json::Value> {
    Json::parse(text).map(|json| json.to_value())
}

impl Json<'_> {
    fn to_value(&self) -> serde_json::Value {
        use serde_json::{Number, Value};
        match self {
            Json::Word(text) => serde_json::from_str(text).unwrap_or_default(),
            Json::Number(text) => match serde_json::from_str::<Number>(text) {
                Ok(number) if number.to_string() == **text => Value::Number(number),
                _ => serde_json::json!({ "$number": text }),
            },
            Json::Text(text) => Value::String(unescaped(text).into_owned()),
            Json::List(items) => items.iter().map(Json::to_value).collect(),
            Json::Object(members) => {
                members.iter().map(|(key, value)| (unescaped(key).into_owned(), value.to_value())).collect()
            }
        }
    }
}

/// What a string says, half pairs as U+FFFD; `None` when `raw` is something else.
pub fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    raw.get().starts_with('"').then(|| unescaped(raw.get()))
}

/// What a string with its quotes says.
pub fn unescaped(literal: &str) -> Cow<'_, str> {
    let inner = literal.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(literal);
    if !inner.contains('\\') {
        return Cow::Borrowed(inner);
    }
    match serde_json::from_str(&mended(literal)) {
        Ok(text) => Cow::Owned(text),
        Err(_) => Cow::Borrowed(inner),
    }
}

/// Whether a string within a JSON text has half of a surrogate pair.
pub fn has_half_pair(text: &str) -> bool {
    half_pairs(text).next().is_some()
}

/// A JSON text whose half pairs are the escape of U+FFFD.
fn mended(text: &str) -> Cow<'_, str> {
    let mut halves = half_pairs(text).peekable();
    if halves.peek().is_none() {
        return Cow::Borrowed(text);
    }
    let mut mended = String::with_capacity(text.len());
    let mut from = 0;
    for at in halves {
        mended.push_str(&text[from..at]);
        mended.push_str("\\ufffd");
        from = at + ESCAPE;
    }
    mended.push_str(&text[from..]);
    Cow::Owned(mended)
}

/// Bytes of `\uXXXX`.
const ESCAPE: usize = 6;

/// Where the escapes of half pairs begin.
fn half_pairs(text: &str) -> impl Iterator<Item = usize> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            // Outside of strings JSON has no backslash.
            let here = at + text[at..].find('\\')?;
            let Some(unit) = unit_at(text, here) else {
                at = text.len().min(here + 2);
                while !text.is_char_boundary(at) {
                    at += 1;
                }
                continue;
            };
            at = here + ESCAPE;
            match unit {
                0xd800..=0xdbff if matches!(unit_at(text, at), Some(0xdc00..=0xdfff)) => at += ESCAPE,
                0xd800..=0xdfff => return Some(here),
                _ => {}
            }
        }
    })
}

/// The UTF-16 unit of an escape at `at`.
fn unit_at(text: &str, at: usize) -> Option<u16> {
    let digits = text.get(at..at + ESCAPE)?.strip_prefix("\\u")?;
    u16::from_str_radix(digits, 16).ok()
}

/// Takes a text apart that is known to be JSON.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next byte that is no white space.
    fn token(&mut self) -> Option<u8> {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        self.peek()
    }

    fn value(&mut self, depth: usize) -> Option<Json<'a>> {
        match self.token()? {
            b'"' => self.string().map(Json::Text),
            b'[' => {
                let depth = depth.checked_sub(1)?;
                let mut items = Vec::new();
                while self.goes_on(b']', items.is_empty())? {
                    items.push(self.value(depth)?);
                }
                Some(Json::List(items))
            }
            b'{' => {
                let depth = depth.checked_sub(1)?;
                let mut members = Vec::new();
                while self.goes_on(b'}', members.is_empty())? {
                    self.token()?;
                    let key = self.string()?;
                    (self.token()? == b':').then(|| self.at += 1)?;
                    members.push((key, self.value(depth)?));
                }
                last_of_each(&mut members);
                Some(Json::Object(members))
            }
            first => {
                let rest = &self.text[self.at..];
                let end = rest.find([',', ']', '}', ' ', '\t', '\n', '\r']).unwrap_or(rest.len());
                self.at += end;
                let text = &rest[..end];
                Some(if first.is_ascii_alphabetic() { Json::Word(text) } else { Json::Number(text) })
            }
        }
    }

    /// Whether another element follows, past what opens or separates; past `end` when none does.
    fn goes_on(&mut self, end: u8, first: bool) -> Option<bool> {
        if first {
            self.at += 1;
        }
        let more = match self.token()? {
            byte if byte == end => false,
            b',' if !first => true,
            _ if first => return Some(true),
            _ => return None,
        };
        self.at += 1;
        Some(more)
    }

    /// A string with its quotes.
    fn string(&mut self) -> Option<&'a str> {
        let start = self.at;
        if self.peek() != Some(b'"') {
            return None;
        }
        self.at += 1;
        loop {
            self.at += self.text.as_bytes().get(self.at..)?.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
            if self.peek() == Some(b'"') {
                self.at += 1;
                return self.text.get(start..self.at);
            }
            self.at += 2;
        }
    }
}

/// Few enough members to compare each with each.
const FEW: usize = 8;

/// Leaves the last member of each name.
fn last_of_each(members: &mut Vec<(&str, Json<'_>)>) {
    let mut kept = vec![true; members.len()];
    let names: Vec<Cow<'_, str>> = members.iter().map(|(key, _)| unescaped(key)).collect();
    if members.len() <= FEW {
        for at in 0..names.len() {
            kept[at] = !names[at + 1..].contains(&names[at]);
        }
    } else {
        let mut later: HashSet<&str> = HashSet::with_capacity(names.len());
        for (at, name) in names.iter().enumerate().rev() {
            kept[at] = later.insert(name);
        }
    }
    drop(names);
    if kept.contains(&false) {
        let mut kept = kept.into_iter();
        members.retain(|_| kept.next().unwrap_or(true));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let raw = serde_json::from_str::<&RawValue>(text).unwrap();
        assert_eq!(kept(raw).unwrap().get(), expected, "{text}");
    }

    #[test]
    fn values_are_kept_as_written_but_for_space_and_duplicates() {
        check(
            r#" { "b" : [ 1e400 , 1.50, -0 , true ] , "a" : { } , "c":[ ]} "#,
            r#"{"b":[1e400,1.50,-0,true],"a":{},"c":[]}"#,
        );
        check(r#"{"a":1,"b":2,"\u0061":3}"#, r#"{"b":2,"\u0061":3}"#);
        check(r#"[{"x":{"a":1,"a":{"b":1,"b":2}}}]"#, r#"[{"x":{"a":{"b":2}}}]"#);
        let many: Vec<String> = (0..40).map(|n| format!(r#""k{}":{n}"#, n % 20)).collect();
        let last: Vec<String> = (20..40).map(|n| format!(r#""k{}":{n}"#, n % 20)).collect();
        check(&format!("{{{}}}", many.join(" ,\n")), &format!("{{{}}}", last.join(",")));
        check(r#""a \" b\\""#, r#""a \" b\\""#);
        check("12345678901234567890.5", "12345678901234567890.5");
    }

    #[test]
    fn half_pairs_are_mended() {
        check(r#""\ud800""#, r#""\ufffd""#);
        check(r#"["\uDC00\ud83d\ude00\uD83Dx\\ud800"]"#, r#"["\ufffd\ud83d\ude00\ufffdx\\ud800"]"#);
        check(r#"{"\ud800":1,"\ufffd":2}"#, r#"{"\ufffd":2}"#);
        assert_eq!(unescaped(r#""\udfff\ud800\u0041ü\/""#), "\u{fffd}\u{fffd}Aü/");
        assert!(!has_half_pair(r#"["\\ud800","\ud83d\ude00","\ü"]"#));
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        let kept_at = |depth: usize| kept(serde_json::from_str(&nested(depth)).unwrap()).map(drop);
        assert_eq!((kept_at(100), kept_at(101), kept_at(400_000)), (Ok(()), Err(TooDeep), Err(TooDeep)));
        assert!(value(&nested(128)).is_some() && value(&nested(129)).is_none());
    }

    #[test]
    fn values_compare_by_what_is_written() {
        for (one, other, same) in [
            ("1e400", "1e401", false),
            ("1e400", "1e400", true),
            ("1.50", "1.5", false),
            ("123456789.123456789123", "123456789.123456789124", false),
            (r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#, true),
            (r#""\u0041""#, r#""A""#, true),
            ("-0", "0", false),
        ] {
            assert_eq!(value(one) == value(other), same, "{one} {other}");
        }
        assert_eq!(value("7"), Some(serde_json::json!(7)));
        for bad in ["", "{", "[1,]", "nul", "\"", "{\"a\"}"] {
            assert_eq!(value(bad), None, "{bad}");
        }
    }
}
