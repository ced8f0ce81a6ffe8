//! JSON read without loss: values stay the text that was sent until somebody needs them, and of equal keys the last wins.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A key or text that borrows from the input when it has no escapes.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Either text of the input, or made here.
enum Raw<'a> {
    Borrowed(&'a RawValue),
    Made(Box<RawValue>),
}

/// An object's members in the order written.
#[derive(Default)]
pub(super) struct Object<'a>(Vec<(Cow<'a, str>, Raw<'a>)>);

impl<'a> Object<'a> {
    /// The last member of that name; `null` counts as absent.
    pub(super) fn get(&self, name: &str) -> Option<&RawValue> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, raw)| raw.value()).filter(|raw| raw.get() != "null")
    }

    /// The member of either spelling; the first wins.
    pub(super) fn get_any(&self, name: &str, other: &str) -> Option<&RawValue> {
        self.get(name).or_else(|| self.get(other))
    }

    /// The member of either spelling as written, `null` too; the first wins.
    pub(super) fn raw_any(&self, name: &str, other: &str) -> Option<&RawValue> {
        let find = |name: &str| self.0.iter().rev().find(|(key, _)| key == name).map(|(_, raw)| raw.value());
        find(name).or_else(|| find(other))
    }

    /// A member that is a string.
    pub(super) fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        self.get(name).and_then(string)
    }

    /// A member of either spelling that is a string.
    pub(super) fn text_any(&self, name: &str, other: &str) -> Option<Cow<'_, str>> {
        self.get_any(name, other).and_then(string)
    }

    /// Every member, `null`s too.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.0.iter().map(|(key, raw)| (key.as_ref(), raw.value()))
    }

    /// Adds a member whose value is `text`.
    pub(super) fn push_text(&mut self, name: String, text: &str) {
        let json = serde_json::value::to_raw_value(text).expect("a string is JSON");
        self.0.push((Cow::Owned(name), Raw::Made(json)));
    }
}

impl Raw<'_> {
    fn value(&self) -> &RawValue {
        match self {
            Raw::Borrowed(raw) => raw,
            Raw::Made(raw) => raw,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(16);
                while let Some(Text(key)) = map.next_key()? {
                    members.push((key, Raw::Borrowed(map.next_value()?)));
                }
                Ok(Object(members))
            }
        }
        from.deserialize_map(Members)
    }
}

/// `raw` as an object, or `None` when it is something else.
pub(super) fn object(raw: &RawValue) -> Option<Object<'_>> {
    raw.get().starts_with('{').then(|| serde_json::from_str(raw.get()).ok()).flatten()
}

/// `raw` as an array.
pub(super) fn array(raw: &RawValue) -> Option<Vec<&RawValue>> {
    raw.get().starts_with('[').then(|| serde_json::from_str(raw.get()).ok()).flatten()
}

/// `raw` as a string.
pub(super) fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    let text = raw.get();
    if !text.starts_with('"') {
        return None;
    }
    serde_json::from_str::<Text<'_>>(text).ok().map(|Text(text)| text)
}

/// At most 60 characters of `text`, for a message.
pub(super) fn shorten(text: &str) -> String {
    if text.chars().count() <= 60 {
        return text.to_owned();
    }
    text.chars().take(60).chain("…".chars()).collect()
}

/// Deepest nesting that is kept as written: deeper values could not be read again by common parsers.
const DEPTH_MAX: usize = 100;

/// A copy of `raw` without insignificant white space, so that a row or entry is always one line of text.
/// A value nested deeper than 100 becomes `null`.
pub(super) fn compact(raw: &RawValue) -> Box<RawValue> {
    let text = raw.get();
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0usize, false, false);
    let mut kept = String::with_capacity(text.len());
    for c in text.chars() {
        if in_string {
            kept.push(c);
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match c {
            ' ' | '\t' | '\n' | '\r' => continue,
            '"' => in_string = true,
            '{' | '[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            '}' | ']' => depth -= 1,
            _ => {}
        }
        kept.push(c);
    }
    if deepest > DEPTH_MAX {
        kept = "null".to_owned();
    }
    RawValue::from_string(kept).expect("white space between tokens does not matter")
}
