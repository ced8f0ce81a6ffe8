//! Made-up JSON that is odd and legal: as it is sent, as it must be kept, and as it must travel to the Chat API.
//!
//! Nothing here uses the product: what is expected is written down while the value is made.

use std::collections::BTreeMap;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Map, Value};

/// A value.
#[derive(Clone)]
pub struct Made {
    /// With white space, duplicates and half pairs.
    pub sent: String,
    /// As rows and entries show it.
    pub kept: String,
    /// As a create body has it.
    pub travels: Value,
    /// Whether a half pair was replaced in it.
    pub mended: bool,
}

/// A text: how it is sent and kept, with quotes, and what it says.
#[derive(Clone)]
pub struct Text {
    pub sent: String,
    pub kept: String,
    pub says: String,
    pub mended: bool,
}

impl Text {
    /// What of it the sidecar passes on.
    pub fn travels(&self) -> String {
        self.says.chars().filter(|c| !c.is_control() || ['\t', '\n', '\r'].contains(c)).collect()
    }
}

/// Sent, kept, said.
const PIECES: [(&str, &str, &str); 20] = [
    ("a", "a", "a"),
    ("\\u0061", "\\u0061", "a"),
    ("b c", "b c", "b c"),
    ("ü", "ü", "ü"),
    ("\\u00FC", "\\u00FC", "ü"),
    ("😀", "😀", "😀"),
    ("\\ud83d\\ude00", "\\ud83d\\ude00", "😀"),
    ("\\uD83D\\uDE00", "\\uD83D\\uDE00", "😀"),
    ("\\u0000", "\\u0000", "\0"),
    ("\\u0007", "\\u0007", "\u{7}"),
    ("\\n", "\\n", "\n"),
    ("\\\"", "\\\"", "\""),
    ("\\\\", "\\\\", "\\"),
    ("\\/", "\\/", "/"),
    ("\\ud800x", "\\ufffdx", "\u{fffd}x"),
    ("\\uDfff", "\\ufffd", "\u{fffd}"),
    ("\\udbff\\n", "\\ufffd\\n", "\u{fffd}\n"),
    ("\\\\ud800", "\\\\ud800", "\\ud800"),
    ("\u{2028}<&>", "\u{2028}<&>", "\u{2028}<&>"),
    ("\\ufffd", "\\ufffd", "\u{fffd}"),
];

/// A text of up to `most` pieces.
pub fn text(rng: &mut StdRng, most: usize) -> Text {
    let mut text = Text { sent: "\"".into(), kept: "\"".into(), says: String::new(), mended: false };
    for _ in 0..rng.random_range(0..=most) {
        let (sent, kept, says) = PIECES.choose(rng).expect("there are pieces");
        text.sent.push_str(sent);
        text.kept.push_str(kept);
        text.says.push_str(says);
        text.mended |= sent != kept;
    }
    text.sent.push('"');
    text.kept.push('"');
    text
}

const NUMBERS: [&str; 22] = [
    "0",
    "-0",
    "-0.0",
    "1.50",
    "1E5",
    "1e+2",
    "0e9",
    "1e400",
    "-1e400",
    "1e-400",
    "5e-324",
    "0.1",
    "0.30000000000000004",
    "123456789.123456789123",
    "9007199254740992",
    "9007199254740993",
    "-9007199254740993",
    "18446744073709551616",
    "1e22",
    "1e-7",
    "100000000000000000000.5",
    "3.0",
];

fn number(rng: &mut StdRng) -> Made {
    let digits = |rng: &mut StdRng, most: usize| -> String {
        (0..rng.random_range(1..=most)).map(|_| rng.random_range('0'..='9')).collect()
    };
    let written = match rng.random_range(0..8) {
        0 => format!("7{}", digits(rng, 400)),
        1 => format!("-{}.{}", rng.random_range(0..1000), digits(rng, 30)),
        2 => format!("{}.{}e{}", rng.random_range(1..10), digits(rng, 17), rng.random_range(-330..310)),
        3 => rng.random_range(-1000i64..1000).to_string(),
        _ => (*NUMBERS.choose(rng).expect("there are numbers")).to_owned(),
    };
    Made { travels: number_travels(&written), sent: written.clone(), kept: written, mended: false }
}

/// A number stays one where a double gives it back as it was, and is no integer beyond 2^53.
fn number_travels(written: &str) -> Value {
    let double: f64 = written.parse().expect("a number");
    let is_whole = double.fract() == 0.0;
    let given_back = double.is_finite() && plain(written) == plain(&format!("{double:e}"));
    if !given_back || (is_whole && double.abs() > 9_007_199_254_740_992.0) {
        return Value::from(written);
    }
    if is_whole && !(double == 0.0 && double.is_sign_negative()) {
        return Value::from(double as i64);
    }
    Value::from(double)
}

/// The digits before and after the point, without zeros that say nothing.
fn plain(number: &str) -> (bool, String, String) {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let mut shift: i64 = exponent.parse().expect("an exponent");
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut whole: Vec<char> = whole.trim_start_matches('-').chars().collect();
    let mut fraction: std::collections::VecDeque<char> = fraction.chars().collect();
    while shift > 0 {
        whole.push(fraction.pop_front().unwrap_or('0'));
        shift -= 1;
    }
    while shift < 0 {
        fraction.push_front(whole.pop().unwrap_or('0'));
        shift += 1;
    }
    let whole: String = whole.into_iter().collect();
    let fraction: String = fraction.into_iter().collect();
    (number.starts_with('-'), whole.trim_start_matches('0').to_owned(), fraction.trim_end_matches('0').to_owned())
}

fn space(rng: &mut StdRng) -> &'static str {
    ["", "", "", " ", "\t", "\n", " \r\n "].choose(rng).expect("not empty")
}

/// A value nested at most `depth` deep.
pub fn value(rng: &mut StdRng, depth: usize) -> Made {
    match rng.random_range(0..if depth == 0 { 4 } else { 8 }) {
        0 => {
            let word = *["true", "false", "null"].choose(rng).expect("not empty");
            let travels = serde_json::from_str(word).expect("a word");
            Made { sent: word.into(), kept: word.into(), travels, mended: false }
        }
        1 => {
            let text = text(rng, 6);
            Made { travels: Value::from(text.travels()), sent: text.sent, kept: text.kept, mended: text.mended }
        }
        2 | 3 => number(rng),
        4 | 5 => list(rng, depth - 1),
        _ => object(rng, depth - 1),
    }
}

fn list(rng: &mut StdRng, depth: usize) -> Made {
    let items: Vec<Made> = (0..rng.random_range(0..5)).map(|_| value(rng, depth)).collect();
    let sent: Vec<String> = items.iter().map(|item| format!("{}{}{}", space(rng), item.sent, space(rng))).collect();
    let kept: Vec<&str> = items.iter().map(|item| item.kept.as_str()).collect();
    Made {
        sent: format!("[{}{}]", sent.join(","), space(rng)),
        kept: format!("[{}]", kept.join(",")),
        travels: items.iter().map(|item| item.travels.clone()).collect(),
        mended: items.iter().any(|item| item.mended),
    }
}

fn object(rng: &mut StdRng, depth: usize) -> Made {
    // Short names, so that many come twice.
    let members: Vec<(Text, Made)> = (0..rng.random_range(0..6)).map(|_| (text(rng, 2), value(rng, depth))).collect();
    let mut made = Made { sent: "{".into(), kept: "{".into(), travels: Value::Null, mended: false };
    let mut travels = Map::new();
    for (at, (name, value)) in members.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        made.sent.push_str(&format!("{comma}{}{}{}:{}{}", space(rng), name.sent, space(rng), space(rng), value.sent));
        made.mended |= name.mended || value.mended;
        if members[at + 1..].iter().any(|(later, _)| later.says == name.says) {
            continue;
        }
        let comma = if made.kept.len() == 1 { "" } else { "," };
        made.kept.push_str(&format!("{comma}{}:{}", name.kept, value.kept));
        travels.insert(name.travels(), value.travels.clone());
    }
    made.sent.push('}');
    made.kept.push('}');
    made.travels = Value::Object(travels);
    made
}

/// Unknown fields of a task.
pub struct Extra {
    /// Members, without the braces.
    pub sent: String,
    /// The object as it is shown.
    pub kept: String,
    /// By the name that travels.
    pub travels: Map<String, Value>,
    /// Names of those in which something was replaced.
    pub mended: Vec<String>,
}

/// Some unknown fields.
pub fn extra(rng: &mut StdRng, depth: usize) -> Extra {
    let mut fields: BTreeMap<String, (Made, bool, String)> = BTreeMap::new();
    let mut sent = Vec::new();
    for _ in 0..rng.random_range(1..8) {
        let mut name = text(rng, 2);
        for part in [&mut name.sent, &mut name.kept] {
            part.insert(1, 'x');
        }
        name.says.insert(0, 'x');
        let value = value(rng, depth);
        sent.push(format!("{}{}{}:{}{}", space(rng), name.sent, space(rng), space(rng), value.sent));
        match value.kept.as_str() {
            "null" => drop(fields.remove(&name.says)),
            _ => drop(fields.insert(name.says.clone(), (value, name.mended, name.travels()))),
        }
    }
    let shown = |name: &str| serde_json::to_string(name).expect("a text");
    let kept: Vec<String> =
        fields.iter().map(|(name, (value, ..))| format!("{}:{}", shown(name), value.kept)).collect();
    let mended = fields.iter().filter(|(_, (value, mended, _))| *mended || value.mended);
    Extra {
        sent: sent.join(","),
        kept: format!("{{{}}}", kept.join(",")),
        mended: mended.map(|(name, _)| name.clone()).collect(),
        travels: fields.into_values().map(|(value, _, name)| (name, value.travels)).collect(),
    }
}
