//! The form of JSON that the sidecar passes on unchanged (contract §4), so that the signed bytes are the received bytes.
//!
//! The sidecar reads a body into Go values and writes it again: keys sorted, no spaces, `<` `>` `&` U+2028 U+2029 as
//! escapes, numbers as doubles. What is written here is what it would write. A number that a double does not give back
//! as it was, and a whole number beyond 2^53, travels as a string. Control characters are removed, but for the line ends
//! and tabs of a description.

use std::collections::BTreeMap;

use super::{Json, unescaped};

/// The form of a JSON text; `None` when it is no JSON that can be read.
pub fn of_text(json: &str) -> Option<String> {
    let mut out = String::with_capacity(json.len() + 16);
    write(&Json::parse(json)?, &mut out);
    Some(out)
}

/// Appends the form of a value.
pub fn write(json: &Json<'_>, out: &mut String) {
    match json {
        Json::Word(text) => out.push_str(text),
        Json::Number(text) => push_number(out, text),
        Json::Text(text) => push_text(out, &unescaped(text)),
        Json::List(items) => {
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        Json::Object(members) => {
            // Two names may differ in what does not travel only: the last one.
            let fields = members.iter().map(|(key, value)| (name(&unescaped(key)), value));
            out.push('{');
            for (n, (name, value)) in fields.collect::<BTreeMap<_, _>>().into_iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                push_text(out, &name);
                out.push(':');
                write(value, out);
            }
            out.push('}');
        }
    }
}

/// What of a text travels.
fn travels(c: char) -> bool {
    !c.is_control() || matches!(c, '\n' | '\r' | '\t')
}

/// A member's name as it travels.
pub fn name(text: &str) -> String {
    text.chars().filter(|c| travels(*c)).collect()
}

/// Appends `text` as a JSON string.
pub fn push_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars().filter(|c| travels(*c)) {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Whole numbers up to this are the same as integers and as doubles.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

fn push_number(out: &mut String, text: &str) {
    let number: f64 = text.parse().unwrap_or(f64::INFINITY);
    let shown = go_number(number);
    let held =
        number.is_finite() && digits(text) == digits(&shown) && (number.fract() != 0.0 || number.abs() <= EXACT_MAX);
    if held {
        out.push_str(&shown);
    } else {
        push_text(out, text);
    }
}

/// A double as Go writes it in JSON.
fn go_number(number: f64) -> String {
    if number == 0.0 {
        return if number.is_sign_negative() { "-0".to_owned() } else { "0".to_owned() };
    }
    if (1e-6..1e21).contains(&number.abs()) {
        return format!("{number}");
    }
    let scientific = format!("{number:e}");
    match scientific.split_once('e') {
        Some((digits, exponent)) if !exponent.starts_with('-') => format!("{digits}e+{exponent}"),
        _ => scientific,
    }
}

/// The value of a decimal text as significant digits and a power of ten, to compare two of them exactly.
fn digits(text: &str) -> Option<(bool, String, i64)> {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent = exponent.parse::<i64>().ok()?.checked_sub(fraction.len() as i64)?;
    let all = format!("{whole}{fraction}");
    let significant = all.trim_start_matches('0').trim_end_matches('0');
    if significant.is_empty() {
        return Some((negative, String::new(), 0));
    }
    let trailing = all.len() - all.trim_end_matches('0').len();
    Some((negative, significant.to_owned(), exponent.checked_add(trailing as i64)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, expected: &str) {
        assert_eq!(of_text(json).as_deref(), Some(expected), "{json}");
        assert_eq!(of_text(expected).as_deref(), Some(expected), "the form of the form is itself");
    }

    #[test]
    fn keys_are_sorted_and_spaces_are_gone() {
        check(
            r#" { "b" : 1 , "a" : [ true , null , { } ] , "B":{"z":1,"y":2} } "#,
            r#"{"B":{"y":2,"z":1},"a":[true,null,{}],"b":1}"#,
        );
        check(r#"{"a":1,"a":2}"#, r#"{"a":2}"#);
        check(r#"{"é":1,"\u0065":2}"#, r#"{"e":2,"é":1}"#);
    }

    #[test]
    fn texts_are_escaped_as_go_does() {
        check(r#""<b>&amp;</b>""#, r#""\u003cb\u003e\u0026amp;\u003c/b\u003e""#);
        check("\"a\u{2028}b\u{2029}\u{7f}c\"", r#""a\u2028b\u2029c""#);
        check(r#""a\u0000\u0007\bb""#, r#""ab""#);
        check(r#""line\r\n\tline \/ \\ \"""#, r#""line\r\n\tline / \\ \"""#);
        check(r#""\ud83d\ude00 ü""#, r#""😀 ü""#);
    }

    #[test]
    fn numbers_are_doubles_or_strings() {
        for same in ["0", "1", "-7", "1.5", "0.1", "9007199254740992", "-9007199254740992", "0.000001", "1e-7"] {
            check(same, same);
        }
        check("1.50", "1.5");
        check("1e2", "100");
        check("1.0", "1");
        check("0.0000001", "1e-7");
        check("9007199254740993", r#""9007199254740993""#);
        check("18446744073709551615", r#""18446744073709551615""#);
        check("100000000000000000000", r#""100000000000000000000""#);
        check("0.12345678901234567890", r#""0.12345678901234567890""#);
        check("1e400", r#""1e400""#);
        check("-1e-400", r#""-1e-400""#);
        check("1e22", r#""1e22""#);
        check("-0", "-0");
        check("0e9", "0");
    }

    #[test]
    fn what_is_not_json_is_none() {
        for bad in ["", "{", "nope", "{\"a\":}", "1 2"] {
            assert_eq!(of_text(bad), None, "{bad}");
        }
        assert_eq!(of_text(&format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))), None);
        assert!(of_text(&format!("{}{}", "[".repeat(120), "]".repeat(120))).is_some());
    }

    #[test]
    fn names_that_travel_alike_are_one() {
        check(r#"{"a":1,"a\u0000":2}"#, r#"{"a":2}"#);
    }
}
