//! The text query `q` (contract §8.1, §13): its grammar, and how a task is matched and ranked by it.
//!
//! ```text
//! query  = { group }                       all groups must hold
//! group  = term { "OR" term } | "-" term   OR binds tighter than the implied AND
//! term   = word | '"' words '"'
//! ```
//! A minus is an operator only at the start of a term and a lone one is nothing; an unclosed quote runs to the end;
//! an `OR` with a side missing is the word «or». What a word is made of after folding (`foo-bar`) must all match.

use std::cell::OnceCell;

use topics::Task;

use crate::text::{self, Found};

/// Longest query text in bytes.
pub const BYTES_MAX: usize = 512;
/// Most words, phrases and exclusions of a query.
pub const TERMS_MAX: usize = 16;

/// A parsed `q`; without groups it matches every task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextQuery {
    pub(crate) groups: Vec<Group>,
}

/// Alternatives of which one must hold, or a term that must not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) excluded: bool,
    pub(crate) any: Vec<Term>,
}

/// Needles that must all be found.
pub(crate) type Term = Vec<Needle>;

/// A word or phrase, folded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Needle {
    pub(crate) text: String,
    pub(crate) phrase: bool,
    ascii: bool,
}

impl Needle {
    fn new(text: &str, phrase: bool) -> Needle {
        Needle { text: text.to_owned(), phrase, ascii: text.is_ascii() }
    }
}

/// Why a `q` is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Over [`BYTES_MAX`].
    #[error("is longer than {BYTES_MAX} bytes")]
    TooLong,
    /// Over [`TERMS_MAX`].
    #[error("has more than {TERMS_MAX} terms")]
    TooManyTerms,
    /// `a OR -b`.
    #[error("joins an exclusion with OR; write it as a term of its own")]
    ExclusionInOr,
}

impl TextQuery {
    /// Reads `q`.
    ///
    /// ```
    /// use query_api::filter::TextQuery;
    /// assert!(TextQuery::parse("milk OR bread -\"oat milk\"").is_ok());
    /// assert!(TextQuery::parse("milk OR -bread").is_err());
    /// ```
    pub fn parse(q: &str) -> Result<TextQuery, QueryError> {
        if q.len() > BYTES_MAX {
            return Err(QueryError::TooLong);
        }
        let pieces = pieces(q);
        let mut groups: Vec<Group> = Vec::new();
        let mut at = 0;
        while at < pieces.len() {
            let joins = pieces[at].or && at > 0 && pieces.get(at + 1).is_some_and(|next| !next.or);
            if joins && !groups.is_empty() {
                let group = groups.last_mut().expect("just seen");
                let next = &pieces[at + 1];
                if group.excluded || next.excluded {
                    return Err(QueryError::ExclusionInOr);
                }
                group.any.push(next.term.clone());
                at += 2;
                continue;
            }
            let piece = &pieces[at];
            groups.push(Group { excluded: piece.excluded, any: vec![piece.term.clone()] });
            at += 1;
        }
        let terms: usize = groups.iter().map(|g| if g.excluded { 1 } else { g.any.iter().map(Vec::len).sum() }).sum();
        if terms > TERMS_MAX {
            return Err(QueryError::TooManyTerms);
        }
        Ok(TextQuery { groups })
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Whether `task` matches.
    pub fn matches(&self, task: &Task) -> bool {
        let document = Document::new(task);
        self.groups.iter().all(|group| {
            let found = group.any.iter().any(|term| term.iter().all(|needle| document.has(needle)));
            found != group.excluded
        })
    }

    /// The relevance of `task`: the sum over all terms of the best class in which each was found, 6 for a whole word
    /// of the title, 5 for the start of one, then tags (4, 3) and description (2, 1).
    pub fn score(&self, task: &Task) -> i64 {
        let document = Document::new(task);
        let wanted = self.groups.iter().filter(|group| !group.excluded);
        wanted.flat_map(|group| group.any.iter().flatten()).map(|needle| document.class(needle)).sum()
    }

    /// One text for all queries that mean the same term by term: for the digest of cursors.
    pub(crate) fn canonical(&self) -> String {
        let mut out = String::new();
        for group in &self.groups {
            out.push(if group.excluded { '-' } else { '+' });
            for term in &group.any {
                out.push('|');
                for needle in term {
                    out.push(if needle.phrase { '"' } else { '&' });
                    out.push_str(&needle.text);
                }
            }
        }
        out
    }
}

/// A term as written, or a possible `OR`, which is also the term «or».
struct Piece {
    or: bool,
    excluded: bool,
    term: Term,
}

fn pieces(q: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut rest = q.trim_start();
    while !rest.is_empty() {
        let minus = rest.starts_with('-');
        let body = rest.strip_prefix('-').unwrap_or(rest);
        let (written, phrase, after) = match body.strip_prefix('"') {
            Some(quoted) => match quoted.split_once('"') {
                Some((inside, after)) => (inside, true, after),
                None => (quoted, true, ""),
            },
            None => {
                let end = body.find(|c: char| c == '"' || c.is_whitespace()).unwrap_or(body.len());
                (&body[..end], false, &body[end..])
            }
        };
        let folded = text::runs(written);
        let term: Term = if phrase {
            (!folded.is_empty()).then(|| Needle::new(&folded, true)).into_iter().collect()
        } else {
            folded.split(' ').filter(|word| !word.is_empty()).map(|word| Needle::new(word, false)).collect()
        };
        if !term.is_empty() {
            pieces.push(Piece { or: !minus && !phrase && written == "OR", excluded: minus, term });
        }
        rest = after.trim_start();
    }
    pieces
}

/// The fields of a task, folded when first needed.
struct Document<'a> {
    task: &'a Task,
    title: OnceCell<String>,
    description: OnceCell<String>,
}

impl<'a> Document<'a> {
    fn new(task: &'a Task) -> Self {
        Document { task, title: OnceCell::new(), description: OnceCell::new() }
    }

    fn in_title(&self, needle: &Needle) -> Found {
        look(&self.task.title, &self.title, needle)
    }

    fn in_tags(&self, needle: &Needle) -> Found {
        let tags = self.task.tags.iter();
        tags.map(|tag| look(tag, &OnceCell::new(), needle)).max().unwrap_or(Found::Not)
    }

    fn in_description(&self, needle: &Needle) -> Found {
        let description = self.task.description.as_deref();
        description.map_or(Found::Not, |written| look(written, &self.description, needle))
    }

    fn has(&self, needle: &Needle) -> bool {
        self.in_title(needle) != Found::Not
            || self.in_tags(needle) != Found::Not
            || self.in_description(needle) != Found::Not
    }

    fn class(&self, needle: &Needle) -> i64 {
        let places = [(self.in_title(needle), 6), (self.in_tags(needle), 4), (self.in_description(needle), 2)];
        let classes = places.map(|(found, whole)| match found {
            Found::Whole => whole,
            Found::Start => whole - 1,
            Found::Not => 0,
        });
        classes.into_iter().max().unwrap_or(0)
    }
}

fn look(written: &str, folded: &OnceCell<String>, needle: &Needle) -> Found {
    if written.is_ascii() {
        let (field, wanted) = (written.as_bytes(), needle.text.as_bytes());
        return match (needle.ascii, needle.phrase) {
            (false, _) => Found::Not,
            (true, false) => text::find_ascii_word(field, wanted),
            (true, true) => whole_if(text::has_ascii_phrase(field, wanted)),
        };
    }
    let field = folded.get_or_init(|| text::runs(written));
    if needle.phrase { whole_if(text::has_phrase(field, &needle.text)) } else { text::find(field, &needle.text) }
}

fn whole_if(found: bool) -> Found {
    if found { Found::Whole } else { Found::Not }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shows groups as `+a|b&c` (any of a, or both b and c) and `-d`, phrases with a quote before them.
    #[track_caller]
    fn check(q: &str, expected: &str) {
        let shown = match TextQuery::parse(q) {
            Ok(query) => query.canonical(),
            Err(error) => format!("{error:?}"),
        };
        assert_eq!(shown, expected, "{q}");
    }

    #[test]
    fn grammar() {
        check("", "");
        check("   ", "");
        check("milk", "+|&milk");
        check("Buy MILK", "+|&buy+|&milk");
        check("-milk", "-|&milk");
        check("\"two words\"", "+|\"two words");
        check("-\"two words\"", "-|\"two words");
        check("\"unclosed quote", "+|\"unclosed quote");
        check("a\"b c\"d", "+|&a+|\"b c+|&d");
        check("\"\" - -- -\"\" !!!", "");
        check("foo-bar", "+|&foo&bar");
        check("-foo-bar", "-|&foo&bar");
        check("--foo", "-|&foo");
        check("16-3", "+|&16&3");
        check("🎉 party", "+|&🎉+|&party");
        check("bill -🎉", "+|&bill-|&🎉");
        check("c++", "+|&c&+&+");
        check("+++ --- ...", "+|&+&+&+");
        check("… — !? ·", "");
        check("16 -3", "+|&16-|&3");
        check("headline - subheadline", "+|&headline+|&subheadline");
        check("\u{3000}海风\u{3000}-公司", "+|&海风-|&公司");
    }

    #[test]
    fn or_binds_tighter_than_and() {
        check("a OR b", "+|&a|&b");
        check("a b OR c d", "+|&a+|&b|&c+|&d");
        check("a OR b OR c", "+|&a|&b|&c");
        check("foo-bar OR \"x y\"", "+|&foo&bar|\"x y");
        check("a or b", "+|&a+|&or+|&b");
        check("\"OR\" a", "+|\"or+|&a");
        check("-OR a", "-|&or+|&a");
    }

    #[test]
    fn an_or_without_a_side_is_a_word() {
        check("OR", "+|&or");
        check("OR a", "+|&or+|&a");
        check("a OR", "+|&a+|&or");
        check("a OR OR b", "+|&a+|&or|&b");
        check("a OR -", "+|&a+|&or");
        check("a OR !!!", "+|&a+|&or");
        check("a OR - b", "+|&a|&b");
    }

    #[test]
    fn refused() {
        check("a OR -b", "ExclusionInOr");
        check("-a OR b", "ExclusionInOr");
        check("a OR -\"b c\"", "ExclusionInOr");
        check(&"x".repeat(512), &format!("+|&{}", "x".repeat(512)));
        check(&"x".repeat(513), "TooLong");
        check(&"ä".repeat(257), "TooLong");
        check(&"a ".repeat(16), &"+|&a".repeat(16));
        check(&"a ".repeat(17), "TooManyTerms");
        check(&"-a ".repeat(17), "TooManyTerms");
        check(&format!("{}a-b", "a ".repeat(15)), "TooManyTerms");
        check(&format!("a{}", " OR a".repeat(16)), "TooManyTerms");
    }

    fn task(title: &str, tags: &[&str], description: Option<&str>) -> Task {
        crate::filter::tests::task(1, |task| {
            task.title = title.into();
            task.tags = tags.iter().map(|t| (*t).into()).collect();
            task.description = description.map(Into::into);
        })
    }

    #[track_caller]
    fn check_match(q: &str, expected: bool, score: i64) {
        let task = task("Buy Óat milk, re-order", &["home office", "Shopping"], Some("For the café: two words"));
        let query = TextQuery::parse(q).unwrap();
        assert_eq!((query.matches(&task), query.score(&task)), (expected, score), "{q}");
    }

    #[test]
    fn matches_and_scores() {
        check_match("", true, 0);
        check_match("milk", true, 6);
        check_match("mil", true, 5);
        check_match("shop", true, 3);
        check_match("shopping OFFICE", true, 8);
        check_match("cafe wor", true, 3);
        check_match("lk", false, 0);
        check_match("oat-milk", true, 12);
        check_match("\"oat milk\"", true, 6);
        check_match("\"milk oat\"", false, 0);
        check_match("\"milk re order\"", true, 6);
        check_match("\"office shopping\"", false, 0);
        check_match("\"home off\"", false, 0);
        check_match("\"two words\"", true, 2);
        check_match("-milk", false, 0);
        check_match("-tea", true, 0);
        check_match("-oat-tea", true, 0);
        check_match("tea OR milk", true, 6);
        check_match("tea OR soup", false, 0);
        check_match("buy OR milk", true, 12);
        check_match("milk -\"oat milk\"", false, 6);
    }
}
