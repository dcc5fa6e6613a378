//! A Rust file as a flat row of tokens, each with its line, so that rules about code are not fooled by comments and text.

use std::str::FromStr;

use anyhow::anyhow;
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// One token; a group gives its opening and closing bracket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    /// Counted from one.
    pub line: usize,
}

/// Which items of a file are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Items {
    All,
    /// Items under `#[cfg(test)]` are left out.
    Production,
}

/// The tokens of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens(Vec<Token>);

impl Tokens {
    /// Reads `text` as Rust.
    ///
    /// # Errors
    /// When it is not lexically Rust.
    pub fn read(text: &str, items: Items) -> anyhow::Result<Self> {
        let stream = TokenStream::from_str(text).map_err(|error| anyhow!("not readable as Rust: {error}"))?;
        let mut tokens = Vec::new();
        flatten(stream, items, &mut tokens);
        Ok(Self(tokens))
    }

    /// The lines at which `pattern` stands, token by token.
    pub fn find<'a>(&'a self, pattern: &'a [&str]) -> impl Iterator<Item = usize> + 'a {
        let windows = self.0.windows(pattern.len());
        windows
            .filter(move |window| window.iter().map(|token| &token.text).eq(pattern))
            .map(|window| window[0].line)
    }

    /// The lines at which a name of module `module` of `std` is used, by its path or in a group of imports.
    pub fn find_std(&self, module: &str) -> Vec<usize> {
        let mut lines: Vec<usize> = self.find(&["std", ":", ":", module]).collect();
        for (start, window) in self.0.windows(4).enumerate() {
            if window.iter().map(|token| &token.text).eq(["std", ":", ":", "{"]) {
                lines.extend(grouped(&self.0[start + 3..], module));
            }
        }
        lines
    }

    /// Whether `word` is one of the tokens.
    pub fn has(&self, word: &str) -> bool {
        self.0.iter().any(|token| token.text == word)
    }

    /// Whether there is no code at all.
    pub fn has_no_code(&self) -> bool {
        !self.0.iter().any(|token| token.text == "fn" || token.text == "mod" || token.text == "use")
    }
}

/// The lines at which `name` begins an item of the import group that `tokens` opens with.
fn grouped(tokens: &[Token], name: &str) -> Vec<usize> {
    let mut depth = 0_usize;
    let mut lines = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            text if depth == 1 && text == name && matches!(tokens[index - 1].text.as_str(), "{" | ",") => {
                lines.push(token.line);
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    lines
}

fn flatten(stream: TokenStream, items: Items, out: &mut Vec<Token>) {
    let mut trees = stream.into_iter().peekable();
    while let Some(tree) = trees.next() {
        if items == Items::Production && is_hash(&tree) && trees.peek().is_some_and(is_cfg_test) {
            // The item ends with its body or its semicolon.
            let _ = trees.find(ends_item);
            continue;
        }
        let start = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = brackets(group.delimiter());
                out.push(Token { text: open.to_owned(), line: start });
                flatten(group.stream(), items, out);
                out.push(Token { text: close.to_owned(), line: group.span_close().start().line });
            }
            other => out.push(Token { text: other.to_string(), line: start }),
        }
    }
}

fn is_hash(tree: &TokenTree) -> bool {
    matches!(tree, TokenTree::Punct(punct) if punct.as_char() == '#')
}

fn is_cfg_test(tree: &TokenTree) -> bool {
    let TokenTree::Group(group) = tree else { return false };
    group.stream().to_string().replace(' ', "") == "cfg(test)"
}

fn ends_item(tree: &TokenTree) -> bool {
    match tree {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        TokenTree::Punct(punct) => punct.as_char() == ';',
        TokenTree::Ident(_) | TokenTree::Literal(_) => false,
    }
}

fn brackets(delimiter: Delimiter) -> (&'static str, &'static str) {
    match delimiter {
        Delimiter::Parenthesis => ("(", ")"),
        Delimiter::Brace => ("{", "}"),
        Delimiter::Bracket => ("[", "]"),
        Delimiter::None => ("", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str, pattern: &[&str]) -> Vec<usize> {
        Tokens::read(text, Items::Production).unwrap().find(pattern).collect()
    }

    #[test]
    fn comments_and_text_are_not_code() {
        assert_eq!(
            lines("// todo!()\n/// todo!()\nconst A: &str = \"todo!()\";", &["todo", "!"]),
            Vec::<usize>::new()
        );
        assert_eq!(lines("fn a() {\n    todo!()\n}", &["todo", "!"]), [2]);
    }

    #[test]
    fn items_for_tests_are_left_out_of_production() {
        let text = "#[cfg(test)]\nmod tests {\n    fn a() { todo!() }\n}\nfn b() { todo!() }";
        assert_eq!(lines(text, &["todo", "!"]), [5]);
        assert_eq!(Tokens::read(text, Items::All).unwrap().find(&["todo", "!"]).count(), 2);
        assert_eq!(
            lines("#[cfg(test)]\n#[path = \"t.rs\"]\nmod tests;\nfn b() { todo!() }", &["todo", "!"]),
            [4]
        );
    }

    #[test]
    fn a_module_of_std_is_found_by_path_and_in_groups() {
        let find = |text| Tokens::read(text, Items::All).unwrap().find_std("fs");
        assert_eq!(find("use std::fs::File;"), [1]);
        assert_eq!(find("use std::{fmt,\n    fs};"), [2]);
        assert_eq!(find("use std::{fmt::{self, fs}, io};\nuse crate::fs;"), Vec::<usize>::new());
    }

    #[test]
    fn what_is_not_rust_is_an_error() {
        assert!(Tokens::read("fn a( {", Items::All).is_err());
    }
}
