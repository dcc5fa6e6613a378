//! The words of the command line before they are parsed.

use std::{collections::BTreeMap, ffi::OsString};

use clap::{Arg, Command};

/// Puts flags that stand before the verb behind it, where they are declared: `freehold --output json role list` is
/// `freehold role list --output json`. What is not understood stays as it is, for the parser to refuse. `words` begins with
/// the program.
pub fn verb_first(command: &Command, words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<OsString> = words.into_iter().collect();
    let mut flags = BTreeMap::new();
    collect(command, &mut flags);
    let mut verb = 1;
    while let Some(word) = words.get(verb).and_then(|word| word.to_str()).filter(|word| word.starts_with('-'))
    {
        let (name, has_value) = match word.strip_prefix("--") {
            Some(long) => long.split_once('=').map_or((long, false), |(name, _)| (name, true)),
            None => match word.char_indices().nth(2) {
                Some((end, _)) => (&word[1..end], true),
                None => (&word[1..], false),
            },
        };
        let Some(takes_value) = flags.get(name) else { return words };
        verb += if *takes_value && !has_value { 2 } else { 1 };
    }
    if verb == 1 || verb >= words.len() {
        return words;
    }
    // Behind the last word that names a verb, so that nothing after `--` is touched.
    let (mut end, mut found) = (verb, command);
    while let Some(inner) = words.get(end).and_then(|word| found.find_subcommand(word)) {
        (end, found) = (end + 1, inner);
    }
    words[1..end].rotate_left(verb - 1);
    words
}

/// Global flags of every verb by their names, and whether they take a value.
fn collect(command: &Command, flags: &mut BTreeMap<String, bool>) {
    for arg in command.get_arguments().filter(|arg| arg.is_global_set()) {
        let names = arg.get_long().map(str::to_owned).into_iter().chain(arg.get_short().map(String::from));
        flags.extend(names.map(|name| (name, takes_value(arg))));
    }
    for inner in command.get_subcommands() {
        collect(inner, flags);
    }
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}
