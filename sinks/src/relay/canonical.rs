//! The form of JSON that the sidecar passes on unchanged (contract §4), so that the signed bytes are the received bytes.
//!
//! The sidecar reads a body into Go values and writes it again: keys sorted, no spaces, `<` `>` `&` U+2028 U+2029 as
//! escapes, numbers as doubles. What is written here is what it would write. Numbers that a double cannot hold
//! travel as strings. Control characters are removed, but for the line ends and tabs of a description.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// The canonical form of a JSON text; `None` when it is not JSON.
pub fn canonical(json: &str) -> Option<String> {
    let mut out = String::with_capacity(json.len() + 16);
    write_raw(serde_json::from_str(json).ok()?, &mut out)?;
    Some(out)
}

/// As deep as the parser of the events goes.
const DEPTH_MAX: usize = 128;

/// Appends the canonical form of `value`; `None` when it is nested too deeply.
pub fn write_raw(value: &RawValue, out: &mut String) -> Option<()> {
    write_nested(value, DEPTH_MAX, out)
}

fn write_nested(value: &RawValue, depth: usize, out: &mut String) -> Option<()> {
    let deeper = depth.checked_sub(1)?;
    let json = value.get();
    match json.as_bytes().first()? {
        b'{' => {
            // A name that comes twice: the last one.
            let fields: BTreeMap<String, &RawValue> = serde_json::from_str(json).ok()?;
            out.push('{');
            for (n, (name, value)) in fields.into_iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                write_text(&name, out);
                out.push(':');
                write_nested(value, deeper, out)?;
            }
            out.push('}');
        }
        b'[' => {
            let elements: Vec<&RawValue> = serde_json::from_str(json).ok()?;
            out.push('[');
            for (n, value) in elements.into_iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                write_nested(value, deeper, out)?;
            }
            out.push(']');
        }
        b'"' => match json.contains('\\') {
            false => write_text(&json[1..json.len() - 1], out),
            true => write_text(&serde_json::from_str::<String>(json).ok()?, out),
        },
        b't' | b'f' | b'n' => out.push_str(json),
        _ => write_number(json, out),
    }
    Some(())
}

/// Appends `text` as a JSON string.
pub fn write_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
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
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Whole numbers up to this are the same as integers and as doubles.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

fn write_number(text: &str, out: &mut String) {
    let number: f64 = text.parse().unwrap_or(f64::INFINITY);
    let shown = go_number(number);
    let held =
        number.is_finite() && digits(text) == digits(&shown) && (number.fract() != 0.0 || number.abs() <= EXACT_MAX);
    if held {
        out.push_str(&shown);
    } else {
        write_text(text, out);
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
        assert_eq!(canonical(json).as_deref(), Some(expected), "{json}");
        assert_eq!(canonical(expected).as_deref(), Some(expected), "the form of the form is itself");
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
    }

    #[test]
    fn what_is_not_json_is_none() {
        for bad in ["", "{", "nope", "{\"a\":}", "1 2"] {
            assert_eq!(canonical(bad), None, "{bad}");
        }
        assert_eq!(canonical(&format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))), None);
        assert!(canonical(&format!("{}{}", "[".repeat(120), "]".repeat(120))).is_some());
    }
}
