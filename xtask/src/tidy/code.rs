//! The code of a Rust file without its comments and texts.
//!
//! Not a parser: it knows just enough of the language to tell where a comment or a literal ends.

/// Returns `text` with the inside of comments, strings and characters turned into spaces. Lines stay
/// where they are, and so does every byte that is code.
pub(super) fn only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let in_word = code.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
        let blanked = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if first == '"' {
            quoted(rest, '"')
        } else if !in_word && let Some(length) = raw_string(rest) {
            length
        } else if first == '\'' {
            character(rest)
        } else {
            0
        };
        if blanked == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            let (gone, after) = rest.split_at(blanked);
            code.extend(gone.bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }));
            rest = after;
        }
    }
    code
}

/// The length of a block comment, which may hold others.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of a literal that ends at the first `quote` with no backslash before it.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of `r"…"`, `r#"…"#`, `br"…"` or `cr"…"`, if one begins here.
fn raw_string(text: &str) -> Option<usize> {
    let opened = text.strip_prefix(['b', 'c']).unwrap_or(text).strip_prefix('r')?;
    let inside = opened.trim_start_matches('#');
    let hashes = opened.len() - inside.len();
    let inside = inside.strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let begin = text.len() - inside.len();
    Some(match inside.find(&end) {
        Some(at) => begin + at + end.len(),
        None => text.len(),
    })
}

/// The length of a character literal, or 0 when the tick begins a lifetime.
fn character(text: &str) -> usize {
    let mut inside = text.chars().skip(1);
    match (inside.next(), inside.next()) {
        (Some('\\'), _) => quoted(text, '\''),
        (Some(c), Some('\'')) => c.len_utf8() + 2,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        // Spaces are what is blanked; runs of them are shown as one.
        let shown: Vec<String> =
            only(text).lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(shown.join("\n"), expected);
        assert_eq!(only(text).len(), text.len());
    }

    #[test]
    fn comments_and_texts_are_blanked() {
        check("a // b\nc", "a\nc");
        check("a /* b /* c */ d\n */ e", "a\ne");
        check(r#"f("a \" b // c", 1)"#, "f( , 1)");
        check(r###"g(r#"a " b"#, br"c\")"###, "g( , )");
        check("h('\"', '\\'', 'é', 'a)", "h( , , , 'a)");
        check("let bar\"x\" = 1", "let bar = 1");
        check("for_r\"x\"", "for_r");
        check("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}");
    }
}
