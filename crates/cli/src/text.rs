//! Text for terminals: made harmless, cut and wrapped.

use unicode_general_category::{GeneralCategory, get_general_category};

/// The columns everything fits in.
pub(crate) const COLUMNS: usize = 100;

/// So many of a thing, in English: `1 data key`, `2 data keys`, `3 capabilities`.
pub fn counted(count: usize, thing: &str) -> String {
    match (count, thing.strip_suffix('y')) {
        (1, _) => format!("1 {thing}"),
        (_, Some(stem)) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{count} {stem}ies"),
        _ => format!("{count} {thing}s"),
    }
}

/// Text in which everything can be seen and nothing drives the terminal: controls, what has no width, what turns the
/// direction of writing and separators that are none to a terminal are written as `\u{202e}` is here. Line feeds stay.
pub(crate) fn harmless(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut before = ' ';
    for c in text.chars() {
        match c {
            '\n' => clean.push('\n'),
            '\t' => clean.push_str("    "),
            '\r' => {}
            // Says that the sign before it is a picture; behind a letter it says nothing, and is not seen.
            '\u{fe0f}' if is_sign(before) => clean.push(c),
            c if is_seen(c) => clean.push(c),
            c => clean.extend(c.escape_unicode()),
        }
        before = c;
    }
    clean
}

/// Whether a character may stand for a picture.
fn is_sign(c: char) -> bool {
    use GeneralCategory::{MathSymbol, OtherSymbol};
    !c.is_ascii() && matches!(get_general_category(c), MathSymbol | OtherSymbol)
}

/// Whether something is to be seen of a character.
fn is_seen(c: char) -> bool {
    use GeneralCategory::{Control, Format, LineSeparator, ParagraphSeparator};
    let is_drawn = || match get_general_category(c) {
        Control | Format | LineSeparator | ParagraphSeparator => false,
        // What is drawn as nothing without being of those kinds: fillers, selectors, and room for more of these.
        _ => {
            !matches!(c, '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{2065}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{e0000}'..='\u{e0fff}')
        }
    };
    matches!(c, ' '..='~') || is_drawn()
}

/// One harmless line of at most `columns` characters.
pub(crate) fn line(text: &str, columns: usize) -> String {
    let flat = harmless(text).split_whitespace().collect::<Vec<_>>().join(" ");
    cut(&flat, columns)
}

/// At most `columns` characters, the last one an ellipsis when something was cut.
pub(crate) fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    let kept: String = text.chars().take(columns.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// The text's lines, wrapped at spaces to `columns` characters; a line's indentation is kept, and what follows a list's mark
/// hangs under its text.
pub(crate) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in harmless(text).trim_end().split('\n') {
        let mut indent: String = paragraph.chars().take_while(|c| *c == ' ').take(columns / 2).collect();
        let mut current = indent.clone();
        if paragraph.trim_start().starts_with("- ") {
            indent.push_str("  ");
        }
        for word in paragraph.split_whitespace() {
            let joined = current.chars().count() + 1 + word.chars().count();
            if !current.trim().is_empty() && joined > columns {
                lines.push(std::mem::replace(&mut current, indent.clone()));
            }
            if !current.trim().is_empty() {
                current.push(' ');
            }
            current.push_str(word);
        }
        lines.push(current.trim_end().to_owned());
    }
    lines
}

/// The first and last lines of a text, each cut to `columns`, and in between how many were left out.
pub(crate) fn excerpt(text: &str, lines_max: usize, columns: usize) -> Vec<String> {
    let clean = harmless(text);
    let lines: Vec<&str> = clean.trim_end().split('\n').collect();
    let shown = |line: &&str| cut(line.trim_end(), columns);
    if lines.len() <= lines_max {
        return lines.iter().map(shown).collect();
    }
    let head = lines_max * 2 / 3;
    let tail = lines_max - head - 1;
    let left_out = lines.len() - head - tail;
    let middle = format!("… {left_out} more lines");
    lines[..head]
        .iter()
        .map(shown)
        .chain([middle])
        .chain(lines[lines.len() - tail..].iter().map(shown))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_said_as_people_do() {
        let counts = [(1, "data key"), (2, "data key"), (0, "capability"), (1, "capability")];
        let said = counts.map(|(count, thing)| counted(count, thing));
        assert_eq!(said, ["1 data key", "2 data keys", "0 capabilities", "1 capability"]);
    }

    #[test]
    fn what_a_pod_writes_cannot_drive_the_terminal() {
        assert_eq!(
            harmless("a\x1b[31mb\r\n\x07\tc\u{202e}d\u{9b}1m"),
            r"a\u{1b}[31mb
\u{7}    c\u{202e}d\u{9b}1m"
        );
    }

    #[test]
    fn what_cannot_be_seen_is_written_out_and_what_people_write_stays() {
        for hidden in [
            '\u{ad}',
            '\u{200b}',
            '\u{200d}',
            '\u{200f}',
            '\u{2060}',
            '\u{2063}',
            '\u{2065}',
            '\u{2066}',
            '\u{3164}',
            '\u{feff}',
            '\u{fe01}',
            '\u{fe0f}',
            '\u{e0041}',
            '\u{e0101}',
            '\u{34f}',
            '\u{115f}',
        ] {
            assert_eq!(harmless(&format!("a{hidden}b")), format!("a{}b", hidden.escape_unicode()));
        }
        for seen in
            ["Ærø — “naïve” 10 °C", "日本語", "שלום", "مرحبا", "e\u{301}", "⚠\u{fe0f}", "👍🏽", "\u{a0}"]
        {
            assert_eq!(harmless(seen), seen);
        }
        assert_eq!(harmless("⚠\u{fe0f}\u{fe0f} é\u{fe0f}"), "⚠\u{fe0f}\\u{fe0f} é\\u{fe0f}");
    }

    #[test]
    fn text_is_wrapped_at_spaces_and_keeps_its_indentation() {
        assert_eq!(wrap("one two three\n  - four five", 9), ["one two", "three", "  - four", "    five"]);
        assert_eq!(wrap("unbreakable-word x", 5), ["unbreakable-word", "x"]);
    }

    #[test]
    fn an_excerpt_says_how_much_it_leaves_out() {
        let text = (1..=10).map(|n| n.to_string()).collect::<Vec<_>>().join("\n");
        assert_eq!(excerpt(&text, 4, 80), ["1", "2", "… 7 more lines", "10"]);
        assert_eq!(excerpt("a\nb\n", 4, 80), ["a", "b"]);
        assert_eq!(excerpt("abcdef", 4, 4), ["abc…"]);
    }
}
