//! JSON read without loss: values stay the text that was sent until somebody needs them, and of equal keys the last wins.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::json::unescaped;
pub(super) use crate::json::{has_half_pair, kept, string};

/// Either text of the input, or made here.
enum Raw<'a> {
    Borrowed(&'a RawValue),
    Made(Box<RawValue>),
}

/// A member of an object.
pub(super) struct Member<'a> {
    key: Cow<'a, str>,
    raw: Raw<'a>,
    /// Whether half of a surrogate pair in the key was read as U+FFFD.
    key_mended: bool,
}

impl Member<'_> {
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    pub(super) fn value(&self) -> &RawValue {
        self.raw.value()
    }

    /// Whether the key has half of a surrogate pair.
    pub(super) fn key_mended(&self) -> bool {
        self.key_mended
    }
}

/// An object's members in the order written. Looking for one goes over them all: who wants many goes over them once.
#[derive(Default)]
pub(super) struct Object<'a>(Vec<Member<'a>>);

impl<'a> Object<'a> {
    /// The last member of that name; `null` counts as absent.
    pub(super) fn get(&self, name: &str) -> Option<&RawValue> {
        self.last(name).filter(|raw| raw.get() != "null")
    }

    /// The member of either spelling; the first wins.
    pub(super) fn get_any(&self, name: &str, other: &str) -> Option<&RawValue> {
        self.get(name).or_else(|| self.get(other))
    }

    /// The member of either spelling as written, `null` too; the first wins.
    pub(super) fn raw_any(&self, name: &str, other: &str) -> Option<&RawValue> {
        self.last(name).or_else(|| self.last(other))
    }

    fn last(&self, name: &str) -> Option<&RawValue> {
        self.0.iter().rev().find(|member| member.key == name).map(Member::value)
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
    pub(super) fn iter(&self) -> impl Iterator<Item = &Member<'a>> {
        self.0.iter()
    }

    /// Adds a member whose value is `text`.
    pub(super) fn push_text(&mut self, name: String, text: &str) {
        let json = serde_json::value::to_raw_value(text).expect("a string is JSON");
        self.0.push(Member { key: Cow::Owned(name), raw: Raw::Made(json), key_mended: false });
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
                // The key as written: a text would be refused that has half of a surrogate pair.
                while let Some(key) = map.next_key::<&'de RawValue>()? {
                    let (key, key_mended) = (unescaped(key.get()), has_half_pair(key.get()));
                    members.push(Member { key, raw: Raw::Borrowed(map.next_value()?), key_mended });
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

/// At most 60 characters of `text`, for a message.
pub(super) fn shorten(text: &str) -> String {
    if text.chars().count() <= 60 {
        return text.to_owned();
    }
    text.chars().take(60).chain("…".chars()).collect()
}
