//! Where output goes and how it looks: tables, fields, the API's own JSON; colours where they are wanted.

use std::io::{self, Read, Write};

use anstream::adapter::strip_str;
use anstyle::{AnsiColor, Style};
use comfy_table::{ContentArrangement, Table, presets};
use freehold_client::Answer;
use serde_json::Value;

use crate::{context::FromVariables, environment::Streams, failure::Failure, resolve::Names, text};

/// The most characters shown of what a server says went wrong.
const MESSAGE_CHARS_MAX: usize = 2000;

/// The most lines shown beside it: a policy's problems, which the server bounds likewise, and a few.
const DETAILS_MAX: usize = 110;

pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default();
pub(crate) const NOTE: Style = AnsiColor::Cyan.on_default();

/// The form of data on stdout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// Exactly what the API answered.
    Json,
}

/// The standard streams of a verb. Styles are always written and taken out where colours are not wanted.
pub(crate) struct Console {
    pub stdin: Box<dyn Read + Send>,
    pub stdin_is_terminal: bool,
    /// Where nobody looks at columns, nothing needs to be cut to them.
    pub stdout_is_terminal: bool,
    pub out: Box<dyn Write + Send>,
    pub err: Box<dyn Write + Send>,
    out_colour: bool,
    err_colour: bool,
    pub format: Format,
    pub from_variables: FromVariables,
}

impl Console {
    pub fn new(streams: Streams, stdin_is_terminal: bool, stdout_colour: bool, stderr_colour: bool) -> Self {
        Self {
            stdin: streams.stdin,
            stdin_is_terminal,
            stdout_is_terminal: false,
            out: streams.stdout,
            err: streams.stderr,
            out_colour: stdout_colour,
            err_colour: stderr_colour,
            format: Format::Table,
            from_variables: FromVariables::default(),
        }
    }

    /// Leaves colours out everywhere.
    pub fn plain(&mut self) {
        self.out_colour = false;
        self.err_colour = false;
    }

    /// Writes data.
    pub fn data(&mut self, text: &str) -> Result<(), Failure> {
        let colour = self.out_colour;
        write(&mut self.out, text, colour).map_err(|error| Failure::stdout(&error))
    }

    /// Says something beside the data. That nobody reads it changes nothing.
    pub fn note(&mut self, text: &str) {
        let colour = self.err_colour;
        _ = write(&mut self.err, text, colour);
    }

    /// Shows an answer: as it came, or as `table` makes of it.
    pub fn answer<T>(&mut self, answer: &Answer<T>, table: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.json(answer.text()),
            Format::Table => self.data(&table(answer)),
        }
    }

    /// Shows an answer's fields, a line each.
    pub fn fields<T>(&mut self, answer: &Answer<T>) -> Result<(), Failure> {
        self.named_fields(answer, &Names::default())
    }

    /// Shows an answer's fields, ids with their names.
    pub fn named_fields<T>(&mut self, answer: &Answer<T>, names: &Names) -> Result<(), Failure> {
        let text = answer.text();
        self.answer(answer, |_| fields(text, names))
    }

    /// Writes the API's JSON to the letter, ended by a line feed.
    pub fn json(&mut self, text: &str) -> Result<(), Failure> {
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        let written = self.out.write_all(text.as_bytes()).and_then(|()| self.out.write_all(end.as_bytes()));
        written.and_then(|()| self.out.flush()).map_err(|error| Failure::stdout(&error))
    }

    pub fn failure(&mut self, failure: &Failure) {
        if failure.message.is_empty() {
            return;
        }
        let message = text::cut(&text::harmless(&failure.message), MESSAGE_CHARS_MAX);
        let mut said = format!("{BAD}error:{BAD:#} {message}\n");
        // A refused field may have many problems, a line each.
        let lines =
            failure.details.iter().flat_map(|detail| detail.lines()).filter(|line| !line.trim().is_empty());
        let mut left_out = 0;
        for (n, line) in lines.enumerate() {
            if n < DETAILS_MAX {
                said.push_str(&format!("  {}\n", text::line(line, MESSAGE_CHARS_MAX)));
            } else {
                left_out += 1;
            }
        }
        if left_out > 0 {
            said.push_str(&format!("  … {left_out} more lines\n"));
        }
        if let Some(hint) = &failure.hint {
            said.push_str(&format!("{NOTE}hint:{NOTE:#} {}\n", text::harmless(hint)));
        }
        self.note(&said);
    }
}

fn write(out: &mut dyn Write, text: &str, colour: bool) -> io::Result<()> {
    if colour {
        out.write_all(text.as_bytes())?;
    } else {
        out.write_all(strip_str(text).to_string().as_bytes())?;
    }
    out.flush()
}

/// Columns of text under dim headings.
pub(crate) fn table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    /// The most characters of a cell; what is copied from tables (ids) is shorter.
    const CELL_CHARS_MAX: usize = 48;
    table_of(headings, rows, CELL_CHARS_MAX)
}

/// As [`table`], with cells of at most so many characters.
pub(crate) fn table_of(
    headings: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
    cell_chars_max: usize,
) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|heading| heading.to_uppercase()));
    let mut any = false;
    for row in rows {
        any = true;
        table.add_row(row.iter().map(|cell| text::line(cell, cell_chars_max)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    if !any {
        return format!("{DIM}none{DIM:#}\n");
    }
    let mut lines = table.lines();
    let head = lines.next().unwrap_or_default();
    let mut out = format!("{DIM}{}{DIM:#}\n", head.trim_end());
    for line in lines {
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A table without styles: columns under headings, each cell one harmless line.
pub fn plain_table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    strip_str(&table(headings, rows)).to_string()
}

/// The fields of a JSON object, a line each; longer texts as a block, and ids with their names.
pub(crate) fn fields(json: &str, names: &Names) -> String {
    let Ok(Value::Object(fields)) = serde_json::from_str(json) else {
        return format!("{}\n", text::harmless(json));
    };
    let rank = |name: &str| {
        ["id", "name", "label", "title", "status"].iter().position(|first| *first == name).unwrap_or(9)
    };
    let mut fields: Vec<(String, Value)> = fields.into_iter().filter(|(_, value)| !is_empty(value)).collect();
    fields.sort_by_key(|(name, _)| rank(name));
    /// The most characters of a field's name; the API's are shorter.
    const FIELD_CHARS_MAX: usize = 40;
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0).min(FIELD_CHARS_MAX);
    let mut out = String::new();
    for (name, value) in fields {
        let name = text::line(&name, FIELD_CHARS_MAX);
        let shown = match &value {
            Value::String(text) => match names.get(text) {
                Some(name) => format!("{text} ({name})"),
                None => text.clone(),
            },
            Value::Array(items) if items.iter().all(Value::is_string) => {
                items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
            }
            Value::Object(_) | Value::Array(_) => serde_json::to_string_pretty(&value).unwrap_or_default(),
            other => other.to_string(),
        };
        let shown = text::harmless(&shown);
        if shown.trim_end().contains('\n') {
            out.push_str(&format!("{DIM}{name}{DIM:#}\n"));
            out.extend(shown.trim_end().lines().map(|line| format!("  {line}\n")));
        } else {
            out.push_str(&format!("{DIM}{name:width$}{DIM:#}  {}\n", shown.trim_end()));
        }
    }
    out
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// A cell of what may be absent.
pub(crate) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A time to the second.
pub(crate) fn time(at: freehold_model::Timestamp) -> String {
    let text = at.to_string();
    text.split_once('.').map_or_else(|| text.clone(), |(seconds, _)| format!("{seconds}Z"))
}

/// Seconds as people say them.
pub(crate) fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{:.0} ms", s * 1000.0),
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{:.0} min {:.0} s", (s / 60.0).floor(), (s % 60.0).floor()),
        s => format!("{:.0} h {:.0} min", (s / 3600.0).floor(), (s % 3600.0 / 60.0).floor()),
    }
}

/// Reads at most `limit_bytes` of a stream as text.
pub(crate) fn read_text(reader: &mut dyn Read, limit_bytes: u64) -> io::Result<String> {
    let mut text = String::new();
    reader.take(limit_bytes + 1).read_to_string(&mut text)?;
    if text.len() as u64 > limit_bytes {
        return Err(io::Error::other(format!("longer than {limit_bytes} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> String {
        strip_str(text).to_string()
    }

    #[test]
    fn a_table_has_headings_and_no_trailing_spaces() {
        let rows = [["a", "long one"], ["bbb", "c\nd"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(plain(&table(&["id", "name"], rows)), "ID   NAME\na    long one\nbbb  c d\n");
        assert_eq!(plain(&table(&["id"], [])), "none\n");
    }

    #[test]
    fn fields_begin_with_what_identifies_and_leave_out_what_is_absent() {
        let json =
            r#"{"created_at": "x", "capabilities": "a: 1\nb: 2\n", "id": "ws_1", "model": null, "tags": []}"#;
        assert_eq!(
            plain(&fields(json, &Names::default())),
            "id            ws_1\ncapabilities\n  a: 1\n  b: 2\ncreated_at    x\n"
        );
    }

    #[test]
    fn times_and_durations_are_short() {
        assert_eq!(time("2026-01-02T03:04:05.678Z".parse().unwrap()), "2026-01-02T03:04:05Z");
        assert_eq!([0.0123, 1.26, 61.9, 7300.0].map(seconds), ["12 ms", "1.3 s", "1 min 1 s", "2 h 1 min"]);
    }
}
