//! What help and documents tell people to type is what the command line takes.

use std::path::Path;

use clap::CommandFactory;

use super::Cli;

/// Every command without commands of its own, with the words that lead to it.
fn leaves(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        let path = format!("{path} {}", inner.get_name());
        match inner.has_subcommands() {
            true => leaves(inner, &path, found),
            false => found.push((path, inner.clone())),
        }
    }
}

/// The words of this program in each command line of a shell's text, behind its name.
fn calls(text: &str) -> Vec<Vec<String>> {
    let joined = text.replace("\\\n", " ");
    let parts = joined.lines().flat_map(|line| commands(line.trim()));
    let called = parts.filter_map(|words| {
        // Variables that are set for the one command.
        let at =
            words.iter().position(|word| word.split_once('=').is_none_or(|(name, _)| name.contains('-')))?;
        (words[at] == "freehold").then(|| words[at + 1..].to_vec())
    });
    called.collect()
}

/// The commands of a line, their words without quotes and without what redirects them.
fn commands(line: &str) -> Vec<Vec<String>> {
    let (mut all, mut words, mut word, mut quote) = (Vec::new(), Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '|' | ';' | '&') => {
                words.extend(word.take());
                all.push(std::mem::take(&mut words));
            }
            (None, '#') if word.is_none() => break,
            (None, ' ') => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    all.push(words);
    for words in &mut all {
        if let Some(at) = words.iter().position(|word| matches!(word.as_str(), "<" | ">" | "2>")) {
            words.truncate(at);
        }
    }
    all
}

/// An id as documents shorten it, in full.
fn in_full(word: String) -> String {
    let is_short = |kind: &str| word.strip_prefix(kind).is_some_and(|rest| rest.ends_with("..."));
    let kinds = ["ws_", "task_", "session_", "api_key_", "token_", "approval_"];
    match kinds.into_iter().find(|kind| is_short(kind)) {
        Some(kind) => format!("{kind}01933b5a000070008000000000000001"),
        None => word,
    }
}

fn refusal(words: Vec<String>) -> Option<String> {
    let words = ["freehold".to_owned()].into_iter().chain(words.into_iter().map(in_full));
    let words = freehold_cli::verb_first(&Cli::command(), words.map(Into::into));
    let error = <Cli as clap::Parser>::try_parse_from(words).err()?;
    let is_shown =
        matches!(error.kind(), clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion);
    (!is_shown).then(|| error.to_string())
}

#[test]
fn every_verb_says_what_it_does_and_shows_examples_that_it_takes() {
    let command = Cli::command();
    command.clone().debug_assert();
    let mut found = Vec::new();
    leaves(&command, "", &mut found);
    assert!(found.len() > 50, "{}", found.len());
    for (path, verb) in found {
        assert!(verb.get_about().is_some(), "`freehold{path}` does not say what it does");
        for arg in verb.get_arguments().filter(|arg| !arg.is_hide_set()) {
            assert!(arg.get_help().is_some(), "`freehold{path}` says nothing of `{}`", arg.get_id());
        }
        let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
        let examples = help.split("\n\n").next().unwrap_or_default();
        let examples = calls(examples);
        assert!(!examples.is_empty(), "`freehold{path} --help` has no examples");
        for words in examples {
            let shown = words.join(" ");
            let own = path.split_whitespace().all(|word| words.iter().any(|given| given == word));
            assert!(own, "`freehold{path} --help` has the example `{shown}`");
            assert_eq!(refusal(words), None, "in `freehold{path} --help`: {shown}");
        }
    }
}

#[test]
fn every_command_in_the_documents_is_one_that_the_command_line_takes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files: Vec<_> =
        std::fs::read_dir(root.join("docs")).unwrap().map(|it| it.unwrap().path()).collect();
    files.push(root.join("README.md"));
    let mut seen = 0;
    for file in files.iter().filter(|file| file.extension().is_some_and(|it| it == "md")) {
        let text = std::fs::read_to_string(file).unwrap();
        let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
        for words in blocks.flat_map(calls) {
            seen += 1;
            let shown = words.join(" ");
            assert_eq!(refusal(words), None, "{}: {shown}", file.display());
        }
    }
    assert!(seen > 30, "{seen}");
}
