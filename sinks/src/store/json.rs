//! The fields of a JSON object as slices of its text.
//!
//! Audit states are compared, cut and erased field by field, and their unknown fields must stay as they were
//! written; so the text is never parsed into values and written anew.

use std::ops::Range;

/// One `"key":value` of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field<'a> {
    /// The key between its quotes, escapes untouched.
    pub(crate) key: &'a str,
    /// The value.
    pub(crate) value: &'a str,
    /// Where the whole `"key":value` stands.
    pub(crate) place: Range<usize>,
}

/// Walks over the fields of the object `text`, which must be JSON that this project wrote. Ends at the first thing
/// that is no field.
pub(crate) fn fields(text: &str) -> impl Iterator<Item = Field<'_>> {
    let mut at = 1;
    std::iter::from_fn(move || {
        let bytes = text.as_bytes();
        if bytes.get(at) == Some(&b',') {
            at += 1;
        }
        if bytes.get(at) != Some(&b'"') {
            return None;
        }
        let start = at;
        let key_end = end_of_string(bytes, start)?;
        if bytes.get(key_end) != Some(&b':') {
            return None;
        }
        let value_end = end_of_value(bytes, key_end + 1)?;
        at = value_end;
        Some(Field {
            key: &text[start + 1..key_end - 1],
            value: &text[key_end + 1..value_end],
            place: start..value_end,
        })
    })
}

/// The value of the field `key`.
pub(crate) fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    fields(text).find(|f| f.key == key).map(|f| f.value)
}

/// Appends `text` as a JSON string.
pub(crate) fn put_text(text: &str, to: &mut Vec<u8>) {
    // Nearly no text has anything to escape, and that is seen many bytes at a time.
    let escaped = text.bytes().fold(false, |found, byte| found | (byte < b' ') | (byte == b'"') | (byte == b'\\'));
    if escaped {
        return serde_json::to_writer(to, text).expect("text is JSON, and a Vec takes every byte");
    }
    to.reserve(text.len() + 2);
    to.push(b'"');
    to.extend_from_slice(text.as_bytes());
    to.push(b'"');
}

fn end_of_string(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn end_of_value(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    let mut depth = 0usize;
    loop {
        match bytes.get(at)? {
            b'"' => {
                at = end_of_string(bytes, at)?;
                if depth == 0 {
                    return Some(at);
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return Some(at),
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            b',' if depth == 0 => return Some(at),
            _ => {}
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(&str, &str)]) {
        let found: Vec<_> = fields(text).map(|f| (f.key, f.value)).collect();
        assert_eq!(found, expected);
        for f in fields(text) {
            assert_eq!(&text[f.place.clone()], format!("\"{}\":{}", f.key, f.value));
        }
    }

    #[test]
    fn finds_fields() {
        check("{}", &[]);
        check(r#"{"a":1,"b":null,"c":"x"}"#, &[("a", "1"), ("b", "null"), ("c", "\"x\"")]);
        check(r#"{"a":{"a":[1,{"b":"}"}]},"b":["]",[]]}"#, &[("a", r#"{"a":[1,{"b":"}"}]}"#), ("b", r#"["]",[]]"#)]);
        check(r#"{"q":"a\"b\\","r":"\\\""}"#, &[("q", r#""a\"b\\""#), ("r", r#""\\\"""#)]);
        check(r#"{"e":{"x": 1.0 , "y":[ ]},"f":true}"#, &[("e", r#"{"x": 1.0 , "y":[ ]}"#), ("f", "true")]);
        check(r#"{"ä":"ü","z":-1e5}"#, &[("ä", "\"ü\""), ("z", "-1e5")]);
    }

    #[test]
    fn texts_are_written_as_serde_writes_them() {
        for text in
            ["", "plain", "Ölwechsel 海风 😀", "a \"b\"", "back\\slash", "tab\tline\n", "\u{0}\u{1f}\u{7f}\u{2028}</>"]
        {
            let mut written = b"before".to_vec();
            put_text(text, &mut written);
            assert_eq!(&written[6..], serde_json::to_vec(text).unwrap(), "{text}");
        }
    }

    #[test]
    fn stops_at_what_is_no_field() {
        check(r#"{"a":1,"#, &[("a", "1")]);
        check(r#"{"a":"#, &[]);
        check("", &[]);
    }
}
