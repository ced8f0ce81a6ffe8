//! Text as the search sees it (contract §8.1): folded, cut into words, compared without regard to case and accents.
//!
//! Folding is NFKC, full case folding, and the removal of diacritics. What is removed are the accents that a reader
//! may leave out: combining marks of the Latin, Greek and Cyrillic kind, Hebrew points, Arabic vowel signs; letters
//! with a stroke and ligatures become their base letters. Marks without which a word is another word (Thai and Indic
//! vowel signs, the Japanese voicing mark) stay.
//!
//! A field is then a row of **runs**, joined by one space: what stands between characters that are neither letters,
//! digits nor symbols; a symbol, emoji among them, is a run of its own. Inside a run the
//! **segments** change where a script that is written without spaces (Chinese, Japanese, Thai …) meets one with spaces.
//! A word of a spaced script matches from the start of a segment on; one of an unspaced script matches anywhere.

use std::borrow::Cow;
use std::sync::LazyLock;

use caseless::Caseless;
use compact_str::CompactString;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// `text` folded: the form that titles are sorted by.
///
/// ```
/// assert_eq!(query_api::text::fold("Größe İstanbul ｷﾛ"), "grosse istanbul キロ");
/// ```
pub fn fold(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let mut out = String::with_capacity(text.len());
    each_folded(text, |c| out.push(c));
    out
}

/// The folded runs of `text`, joined by one space: the form that words and phrases are looked for in.
///
/// ```
/// assert_eq!(query_api::text::runs("Saint-Exupéry, (lesen)!"), "saint exupery lesen");
/// assert_eq!(query_api::text::runs("🎉party C++"), "🎉 party c + +");
/// ```
pub fn runs(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    runs_into(text, &mut out);
    out
}

/// As [`runs`], into a buffer that is cleared first.
pub fn runs_into(text: &str, out: &mut String) {
    out.clear();
    if text.is_ascii() {
        let mut gap = false;
        for byte in text.bytes() {
            let symbol = is_ascii_symbol(byte);
            if symbol || byte.is_ascii_alphanumeric() {
                if (gap || symbol) && !out.is_empty() {
                    out.push(' ');
                }
                gap = symbol;
                out.push(byte.to_ascii_lowercase() as char);
            } else {
                gap = true;
            }
        }
        return;
    }
    let mut gap = true;
    each_folded(text, |c| {
        // A kept mark belongs to the letter before it; without one it separates like any other sign.
        let of_word = c.is_alphanumeric() || (!gap && is_combining_mark(c));
        let symbol = !of_word && is_symbol(c);
        if of_word || symbol {
            if (gap || symbol) && !out.is_empty() {
                out.push(' ');
            }
            gap = symbol;
            out.push(c);
        } else {
            gap = true;
        }
    });
}

/// Whether `c` is a word by itself: emoji, and signs of currencies, of arithmetic and others.
fn is_symbol(c: char) -> bool {
    if c.is_ascii() {
        return is_ascii_symbol(c as u8);
    }
    c.general_category_group() == GeneralCategoryGroup::Symbol
}

/// The same for ASCII.
fn is_ascii_symbol(byte: u8) -> bool {
    matches!(byte, b'$' | b'+' | b'<' | b'=' | b'>' | b'^' | b'`' | b'|' | b'~')
}

/// Whether a byte of an ASCII text belongs to a word together with its neighbours.
fn is_ascii_letter(field: &[u8], at: usize) -> bool {
    field.get(at).is_some_and(u8::is_ascii_alphanumeric)
}

/// Calls `token` with every token of folded runs: each spaced segment, and of unspaced segments each character and
/// each pair of neighbours.
pub fn tokens(runs: &str, mut token: impl FnMut(&str)) {
    for run in runs.split(' ') {
        if run.is_ascii() {
            if !run.is_empty() {
                token(run);
            }
            continue;
        }
        for segment in segments(run) {
            if !segment.starts_with(is_unspaced) {
                token(segment);
                continue;
            }
            let mut before = None;
            for (at, c) in segment.char_indices() {
                let end = at + c.len_utf8();
                token(&segment[at..end]);
                if let Some(start) = before {
                    token(&segment[start..end]);
                }
                before = Some(at);
            }
        }
    }
}

/// The segments of a run: the longest pieces of one kind of script.
pub fn segments(run: &str) -> impl Iterator<Item = &str> {
    let mut rest = run;
    std::iter::from_fn(move || {
        let kind = is_unspaced(rest.chars().next()?);
        let end = rest.char_indices().find(|(_, c)| is_unspaced(*c) != kind).map_or(rest.len(), |(at, _)| at);
        let (segment, after) = rest.split_at(end);
        rest = after;
        Some(segment)
    })
}

/// How well a needle was found in a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Found {
    /// Not at all.
    Not,
    /// It is the start of a word, or a part of a text without spaces.
    Start,
    /// It is whole words.
    Whole,
}

/// Looks for `needle` (folded runs) in `field` (folded runs); the best place counts.
pub fn find(field: &str, needle: &str) -> Found {
    let (Some(first), Some(last)) = (needle.chars().next(), needle.chars().next_back()) else { return Found::Not };
    let mut best = Found::Not;
    let mut from = 0;
    while let Some(at) = field[from..].find(needle).map(|at| at + from) {
        let end = at + needle.len();
        let edge = |neighbour: Option<char>, own: char| {
            neighbour.is_none_or(|c| c == ' ' || is_unspaced(c) != is_unspaced(own))
        };
        let starts = edge(field[..at].chars().next_back(), first);
        if starts && edge(field[end..].chars().next(), last) {
            return Found::Whole;
        }
        if starts || is_unspaced(first) {
            best = Found::Start;
        }
        from = at + first.len_utf8();
    }
    best
}

/// Whether `phrase` (folded runs) stands in `field` as whole words; in a script without spaces, anywhere.
pub fn has_phrase(field: &str, phrase: &str) -> bool {
    let (Some(first), Some(last)) = (phrase.chars().next(), phrase.chars().next_back()) else { return false };
    let mut from = 0;
    while let Some(at) = field[from..].find(phrase).map(|at| at + from) {
        let end = at + phrase.len();
        let edge = |neighbour: Option<char>, own: char| {
            is_unspaced(own) || neighbour.is_none_or(|c| c == ' ' || is_unspaced(c))
        };
        if edge(field[..at].chars().next_back(), first) && edge(field[end..].chars().next(), last) {
            return true;
        }
        from = at + first.len_utf8();
    }
    false
}

/// As [`find`] for one ASCII word in a raw ASCII field, without folding it first: most titles are ASCII.
pub fn find_ascii_word(field: &[u8], word: &[u8]) -> Found {
    let mut best = Found::Not;
    let is_symbol = word.first().copied().is_some_and(is_ascii_symbol);
    for at in word_starts(field, word) {
        let Some(head) = field.get(at..at + word.len()) else { break };
        if head.eq_ignore_ascii_case(word) {
            if is_symbol || !is_ascii_letter(field, at + word.len()) {
                return Found::Whole;
            }
            best = Found::Start;
        }
    }
    best
}

/// As [`has_phrase`] for an ASCII phrase in a raw ASCII field, without folding it first.
pub fn has_ascii_phrase(field: &[u8], phrase: &[u8]) -> bool {
    word_starts(field, phrase).any(|at| begins_with_phrase(&field[at..], phrase))
}

/// Where in `field` words begin that have the first byte of `needle` (folded): few are left to be compared.
fn word_starts<'a>(field: &'a [u8], needle: &[u8]) -> impl Iterator<Item = usize> + use<'a> {
    let first = needle.first().copied();
    let is_symbol = first.is_some_and(is_ascii_symbol);
    let begins = move |at: usize| at == 0 || is_symbol || !is_ascii_letter(field, at - 1);
    let alike = field.iter().enumerate().filter(move |(_, byte)| Some(byte.to_ascii_lowercase()) == first);
    alike.map(|(at, _)| at).filter(move |at| begins(*at))
}

fn begins_with_phrase(field: &[u8], phrase: &[u8]) -> bool {
    let mut rest = field;
    let mut before = 0;
    for wanted in phrase {
        if *wanted == b' ' {
            let separates = |byte: &&u8| !byte.is_ascii_alphanumeric() && !is_ascii_symbol(**byte);
            let gap = rest.iter().take_while(separates).count();
            // Beside a symbol words need nothing between them.
            if gap == 0 && !is_ascii_symbol(before) && !rest.first().copied().is_some_and(is_ascii_symbol) {
                return false;
            }
            rest = &rest[gap..];
        } else if rest.first().is_some_and(|byte| byte.eq_ignore_ascii_case(wanted)) {
            rest = &rest[1..];
        } else {
            return false;
        }
        before = *wanted;
    }
    is_ascii_symbol(before) || !is_ascii_letter(rest, 0)
}

/// What tags are compared by: the caseless form, accents kept.
pub fn tag_key(tag: &str) -> Cow<'_, str> {
    match tag.is_ascii() {
        true if tag.bytes().any(|byte| byte.is_ascii_uppercase()) => Cow::Owned(tag.to_ascii_lowercase()),
        true => Cow::Borrowed(tag),
        false => Cow::Owned(caseless::default_case_fold_str(tag)),
    }
}

/// Compares two titles as `sort=title` does: by folded text, then by code point.
pub fn compare_titles(a: &str, b: &str) -> std::cmp::Ordering {
    let folded = if a.is_ascii() && b.is_ascii() {
        a.bytes().map(|x| x.to_ascii_lowercase()).cmp(b.bytes().map(|x| x.to_ascii_lowercase()))
    } else {
        fold(a).cmp(&fold(b))
    };
    folded.then_with(|| a.cmp(b))
}

/// The first eight bytes of the folded title as a number that sorts the same way: decides most comparisons.
pub fn title_rank(title: &str) -> u64 {
    let head = |bytes: &[u8]| {
        let mut rank = [0; 8];
        let used = bytes.len().min(8);
        rank[..used].copy_from_slice(&bytes[..used]);
        u64::from_be_bytes(rank)
    };
    if title.is_ascii() {
        let mut lower = [0; 8];
        let used = title.len().min(8);
        lower[..used].copy_from_slice(&title.as_bytes()[..used]);
        lower.make_ascii_lowercase();
        return head(&lower);
    }
    head(fold(title).as_bytes())
}

/// Calls `each` with every character of the folded text.
///
/// Normalising costs much, and most characters do not need it: those of [`is_plain`] fold each by itself, unless a mark
/// or a letter that joins the one before it follows. Only the stretches between them go the general way.
fn each_folded(text: &str, mut each: impl FnMut(char)) {
    let mut odd = None;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if !is_plain(c) {
            odd.get_or_insert(at);
            continue;
        }
        // Nothing before a plain character joins it.
        if let Some(start) = odd.take() {
            folded(&text[start..at]).for_each(&mut each);
        }
        match c {
            '\0'..='\x7f' => each(c.to_ascii_lowercase()),
            '\u{80}'..ALPHABETS_END => ALPHABETS[c as usize].chars().for_each(&mut each),
            _ if chars.peek().is_none_or(|(_, next)| is_plain(*next)) => each(c),
            _ => odd = Some(at),
        }
    }
    if let Some(start) = odd {
        folded(&text[start..]).for_each(each);
    }
}

/// The end of the Latin, Greek, Cyrillic and Armenian blocks. All marks that join their letters are diacritics, which
/// folding removes; so each letter folds the same wherever it stands.
const ALPHABETS_END: char = '\u{590}';

/// What each character below [`ALPHABETS_END`] folds to.
static ALPHABETS: LazyLock<Vec<CompactString>> =
    LazyLock::new(|| ('\0'..ALPHABETS_END).map(|c| folded(c.encode_utf8(&mut [0; 4])).collect()).collect());

/// Whether `c` folds by itself when another plain character follows, and never joins the one before it. Beyond the
/// alphabets these are signs that fold to themselves.
fn is_plain(c: char) -> bool {
    matches!(c,
        '\0'..='\u{2ff}' | '\u{370}'..='\u{482}' | '\u{48a}'..='\u{58f}'
        // Dashes and quotes.
        | '\u{2013}'..='\u{2016}' | '\u{2018}'..='\u{201f}'
        // Ideographic comma and full stop, kana, Han, Hangul.
        | '\u{3001}'..='\u{3002}' | '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30fa}' | '\u{30fc}'
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}'
        // Pictures.
        | '\u{1f300}'..='\u{1faff}')
}

fn folded(text: &str) -> impl Iterator<Item = char> {
    // Decomposed first, so that case folding meets the bare letters; composed last, so that Hangul and the
    // marks that stay have one form.
    text.nfkd().default_case_fold().nfkd().filter(|c| !is_diacritic(*c)).flat_map(base_letters).nfc()
}

/// Letters that no decomposition takes apart, as a reader without their keys writes them.
fn base_letters(c: char) -> impl Iterator<Item = char> {
    let (first, second) = match c {
        'ł' => ('l', None),
        'ø' => ('o', None),
        'đ' | 'ð' => ('d', None),
        'ħ' => ('h', None),
        'ŧ' => ('t', None),
        'ı' => ('i', None),
        'æ' => ('a', Some('e')),
        'œ' => ('o', Some('e')),
        'þ' => ('t', Some('h')),
        other => (other, None),
    };
    std::iter::once(first).chain(second)
}

fn is_diacritic(c: char) -> bool {
    matches!(c,
        '\u{300}'..='\u{36f}' | '\u{483}'..='\u{489}'
        // Hebrew points, Arabic vowel signs and hamza marks.
        | '\u{591}'..='\u{5bd}' | '\u{5bf}' | '\u{5c1}'..='\u{5c2}' | '\u{5c4}'..='\u{5c5}' | '\u{5c7}'
        | '\u{610}'..='\u{61a}' | '\u{64b}'..='\u{65f}' | '\u{670}' | '\u{6d6}'..='\u{6dc}'
        | '\u{6df}'..='\u{6e4}' | '\u{6e7}'..='\u{6e8}' | '\u{6ea}'..='\u{6ed}'
        | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}' | '\u{20d0}'..='\u{20ff}' | '\u{fe20}'..='\u{fe2f}'
        // Variation selectors choose a glyph, not a letter.
        | '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}')
}

/// Whether `c` belongs to a script that is written without spaces between words.
pub fn is_unspaced(c: char) -> bool {
    if c < '\u{e00}' {
        return false;
    }
    matches!(c,
        // Thai, Lao, Burmese, Khmer, Tai scripts, Balinese, Javanese.
        '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{1950}'..='\u{19ff}'
        | '\u{1a20}'..='\u{1aaf}' | '\u{1b00}'..='\u{1b7f}' | '\u{a980}'..='\u{a9ff}' | '\u{aa60}'..='\u{aadf}'
        // Han, kana, bopomofo, Yi.
        | '\u{2e80}'..='\u{2fdf}' | '\u{3005}'..='\u{3007}' | '\u{3021}'..='\u{3029}' | '\u{3031}'..='\u{3035}'
        | '\u{3038}'..='\u{303c}' | '\u{3041}'..='\u{312f}' | '\u{31a0}'..='\u{31bf}' | '\u{31f0}'..='\u{31ff}'
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{a000}'..='\u{a4cf}' | '\u{f900}'..='\u{faff}'
        | '\u{1b000}'..='\u{1b16f}' | '\u{20000}'..='\u{3ffff}')
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};

    use super::*;

    #[track_caller]
    fn check_runs(text: &str, expected: &str) {
        assert_eq!(runs(text), expected, "{text}");
    }

    #[test]
    fn folds_case_width_and_accents() {
        check_runs("Mörk Borg", "mork borg");
        check_runs("Mo\u{308}rk", "mork");
        check_runs("ÖBB-Ticket №7", "obb ticket no7");
        check_runs("STRASSE straße", "strasse strasse");
        check_runs("İstanbul ISPARTA", "istanbul isparta");
        check_runs("ﬁle ｗｉｄｅ x²", "file wide x2");
        check_runs("Ὀδυσσεύς", "οδυσσευσ");
        check_runs("Ёлка", "елка");
        check_runs("한국어", "한국어");
        check_runs("snake_case a.b", "snake case a b");
        check_runs("ｶﾞｲﾄﾞ", "ガイド");
        check_runs("हिन्दी", "हिन्दी");
        check_runs("Łódź Ørsted Đặng Ħal Ŧam ısı", "lodz orsted dang hal tam isi");
        check_runs("Ærø Œuvre Þór Eiður ẞ Ǿ ǽ", "aero oeuvre thor eidur ss o ae");
        check_runs("☀\u{fe0f} 🎉", "☀ 🎉");
        check_runs("a🎉b 1€", "a 🎉 b 1 €");
        check_runs("👍🏽 👨\u{200d}👩 🇩🇪", "👍 🏽 👨 👩 🇩 🇪");
        check_runs("c++ a+b <i>", "c + + a + b < i >");
        check_runs("−5 ± x^2", "− 5 ± x ^ 2");
        check_runs("", "");
        check_runs(" - ", "");
    }

    /// Both ways of folding and of making runs, against the one way that knows no shortcut.
    #[track_caller]
    fn check_ways(text: &str) {
        let general: String = folded(text).collect();
        let mut quick = String::new();
        each_folded(text, |c| quick.push(c));
        assert_eq!(quick, general, "{text:?}");
        assert_eq!(fold(text), general, "{text:?}");
        let mut words = String::new();
        for c in general.chars() {
            let joins = |words: &String| !words.is_empty() && !words.ends_with(' ');
            if c.is_alphanumeric() || (is_combining_mark(c) && joins(&words)) {
                words.push(c);
            } else if c.general_category_group() == GeneralCategoryGroup::Symbol {
                if joins(&words) {
                    words.push(' ');
                }
                words.extend([c, ' ']);
            } else if !words.is_empty() && !words.ends_with(' ') {
                words.push(' ');
            }
        }
        assert_eq!(runs(text), words.trim_end_matches(' '), "{text:?}");
    }

    #[test]
    fn the_quick_ways_agree_with_the_general_one() {
        let mut random = rand::rngs::StdRng::seed_from_u64(11);
        for _ in 0..5000 {
            let ascii: String = (0..random.random_range(0..40)).map(|_| random.random_range('\0'..='\x7f')).collect();
            check_ways(&ascii);
            // Letters, marks and joining letters of every kind side by side.
            let any: String = (0..random.random_range(0..12))
                .map(|_| match random.random_range(0..10) {
                    0 => random.random_range('a'..='z'),
                    1 => random.random_range('\u{80}'..'\u{590}'),
                    2 => random.random_range('\u{300}'..='\u{36f}'),
                    3 => random.random_range('\u{590}'..='\u{11ff}'),
                    4 => random.random_range('\u{1e00}'..='\u{2fff}'),
                    5 => random.random_range('\u{3000}'..='\u{30ff}'),
                    6 => ['\u{3099}', '\u{309a}', '\u{ff9e}', '\u{ff9f}'][random.random_range(0..4)],
                    7 => random.random_range('\u{ac00}'..='\u{d7ff}'),
                    8 => random.random_range('\u{f900}'..='\u{ffff}'),
                    _ => random.random(),
                })
                .collect();
            check_ways(&any);
        }
    }

    #[test]
    fn every_plain_character_folds_by_itself() {
        for c in ('\0'..=char::MAX).filter(|c| is_plain(*c)) {
            check_ways(c.encode_utf8(&mut [0; 4]));
            check_ways(&format!("か{c}x"));
        }
    }

    #[track_caller]
    fn check_tokens(text: &str, expected: &[&str]) {
        let mut all = Vec::new();
        tokens(&runs(text), |token| all.push(token.to_owned()));
        assert_eq!(all, expected, "{text}");
    }

    #[test]
    fn unspaced_scripts_become_characters_and_pairs() {
        check_tokens("Pay rent", &["pay", "rent"]);
        check_tokens("買iPhone", &["買", "iphone"]);
        check_tokens("海风局", &["海", "风", "海风", "局", "风局"]);
        check_tokens("3月5日", &["3", "月", "5", "日"]);
        check_tokens("", &[]);
    }

    #[track_caller]
    fn check_find(field: &str, needle: &str, expected: Found) {
        assert_eq!(find(&runs(field), needle), expected, "{needle} in {field}");
        if field.is_ascii() && needle.bytes().all(|b| b.is_ascii_alphanumeric() || is_ascii_symbol(b)) {
            assert_eq!(find_ascii_word(field.as_bytes(), needle.as_bytes()), expected, "{needle} in raw {field}");
        }
    }

    #[test]
    fn words_match_at_their_start_and_unspaced_text_anywhere() {
        check_find("Buy milk", "milk", Found::Whole);
        check_find("Buy milkshake", "milk", Found::Start);
        check_find("milkshake and milk", "milk", Found::Whole);
        check_find("Buttermilk", "milk", Found::Not);
        check_find("C++ and C", "+", Found::Whole);
        check_find("a+b", "b", Found::Whole);
        check_find("a+b", "+", Found::Whole);
        check_find("bill 💸", "💸", Found::Whole);
        check_find("party🎉", "party", Found::Whole);
        check_find("milk", "milky", Found::Not);
        check_find("", "milk", Found::Not);
        check_find("aab aa", "aa", Found::Whole);
        check_find("ba a a", "a a", Found::Whole);
        check_find("two words here", "two words", Found::Whole);
        check_find("two wordsmiths", "two words", Found::Start);
        check_find("海风证券", "风证", Found::Start);
        check_find("海风证券", "海风证券", Found::Whole);
        check_find("海风 公园", "海风公园", Found::Not);
        check_find("買iPhone15", "iphone", Found::Start);
        check_find("買iPhone", "iphone", Found::Whole);
        check_find("x15日", "5日", Found::Not);
        check_find("abc海风", "abc海", Found::Start);
        check_find("xabc海风", "abc海", Found::Not);
    }

    #[track_caller]
    fn check_phrase(field: &str, phrase: &str, expected: bool) {
        assert_eq!(has_phrase(&runs(field), phrase), expected, "{phrase} in {field}");
        if field.is_ascii() && phrase.is_ascii() {
            assert_eq!(has_ascii_phrase(field.as_bytes(), phrase.as_bytes()), expected, "{phrase} in raw {field}");
        }
    }

    #[test]
    fn phrases_are_whole_words_in_a_row() {
        check_phrase("Two words here", "two words", true);
        check_phrase("two wordsmiths", "two words", false);
        check_phrase("two wordsmiths, two-words", "two words", true);
        check_phrase("ba a a", "a a", true);
        check_phrase("Re-order:  NOW", "re order now", true);
        check_phrase("write C++ now", "c + + now", true);
        check_phrase("write C + + now", "c + +", true);
        check_phrase("write C+x", "c x", false);
        check_phrase("a+b", "a +", true);
        check_phrase("🎉 party", "🎉 party", true);
        check_phrase("reorder now", "re order", false);
        check_phrase("two", "two words", false);
        check_phrase("words two", "two words", false);
        check_phrase("", "two", false);
        check_phrase("海风基金-河边", "海风基金", true);
        check_phrase("小海风基金会", "海风基金", true);
        check_phrase("海风-基金", "海风基金", false);
        check_phrase("買iPhone", "iphone", true);
        check_phrase("買iPhones", "iphone", false);
    }

    #[test]
    fn titles_sort_by_fold_then_by_code_point() {
        let mut titles = ["b", "Äb", "ab", "Ab", "a c", "éa", "Z", "", "aB"];
        titles.sort_by(|a, b| compare_titles(a, b));
        assert_eq!(titles, ["", "a c", "Ab", "aB", "ab", "Äb", "b", "éa", "Z"]);
        for pair in titles.windows(2) {
            assert!(title_rank(pair[0]) <= title_rank(pair[1]), "{pair:?}");
        }
    }
}
