//! What a benchmark says: tables for people as Markdown, the same as JSON for programs, and on what machine.

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use anyhow::Context;
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{machine::Machine, stats::Summary};

/// All that one benchmark says.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The subcommand.
    pub name: &'static str,
    /// Where it ran.
    pub machine: Machine,
    /// What the figures include, and what else must be known to read them.
    pub notes: Vec<String>,
    /// The figures.
    pub tables: Vec<Table>,
}

/// Figures of one kind.
#[derive(Debug)]
pub struct Table {
    title: String,
    columns: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

/// One figure or word.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Cell {
    /// A word.
    Text(String),
    /// A count.
    Count(u64),
    /// A figure.
    Number(f64),
    /// Nothing to say.
    Empty,
}

impl Table {
    /// A table without rows.
    pub fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        Self {
            title: title.into(),
            columns: columns.iter().map(|&name| name.to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    /// A table of times, each beside the same run's peer or floor.
    pub fn of_times(title: impl Into<String>, peer: &str) -> Self {
        let ratios = [format!("p50 / {peer}"), format!("p99 / {peer}")];
        let [p50, p99] = &ratios;
        Self::new(title, &["what", "n", "p50 ms", "p90 ms", "p99 ms", "max ms", p50, p99])
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// Adds a row of times to a table made by [`Table::of_times`].
    pub fn times(&mut self, what: impl Into<String>, times: &Summary, peer: Option<&Summary>) {
        let ratio = |ours: Duration, theirs: fn(&Summary) -> Duration| match peer.map(theirs) {
            Some(theirs) if !theirs.is_zero() => Cell::Number(ours.as_secs_f64() / theirs.as_secs_f64()),
            _ => Cell::Empty,
        };
        self.row(vec![
            Cell::Text(what.into()),
            Cell::count(times.n),
            Cell::millis(times.p50),
            Cell::millis(times.p90),
            Cell::millis(times.p99),
            Cell::millis(times.max),
            ratio(times.p50, |peer| peer.p50),
            ratio(times.p99, |peer| peer.p99),
        ]);
    }

    fn markdown(&self) -> String {
        let shown: Vec<Vec<String>> =
            self.rows.iter().map(|row| row.iter().map(Cell::shown).collect()).collect();
        let width = |column: usize| {
            let cells = shown.iter().filter_map(|row| row.get(column));
            let name = self.columns.get(column).map_or(0, String::len);
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(name)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let line = |cells: &[String]| {
            let padded = cells.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
                0 => format!(" {cell:width$} "),
                _ => format!(" {cell:>width$} "),
            });
            format!("|{}|\n", padded.collect::<Vec<_>>().join("|"))
        };
        let rules = widths.iter().enumerate().map(|(column, &width)| match column {
            0 => "-".repeat(width + 2),
            _ => format!("{}:", "-".repeat(width + 1)),
        });
        let rules = format!("|{}|\n", rules.collect::<Vec<_>>().join("|"));
        let rows: String = shown.iter().map(|row| line(row)).collect();
        format!("**{}**\n\n{}{rules}{rows}", self.title, line(&self.columns))
    }
}

/// A table as programs read it: rows as objects.
impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Row<'a>(&'a [String], &'a [Cell]);
        impl Serialize for Row<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(self.0.iter().zip(self.1))
            }
        }
        let rows: Vec<Row<'_>> = self.rows.iter().map(|row| Row(&self.columns, row)).collect();
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("title", &self.title)?;
        map.serialize_entry("rows", &rows)?;
        map.end()
    }
}

impl Cell {
    /// A count.
    pub fn count(count: usize) -> Self {
        Self::Count(count as u64)
    }

    /// A time in milliseconds.
    pub fn millis(time: Duration) -> Self {
        Self::Number(time.as_secs_f64() * 1e3)
    }

    /// A word.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// Three significant digits, which is more than a shared machine repeats.
    fn shown(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Count(count) => count.to_string(),
            Self::Number(value) => {
                let decimals = match value.abs() {
                    size if size >= 100.0 => 0,
                    size if size >= 10.0 => 1,
                    size if size >= 1.0 => 2,
                    _ => 3,
                };
                format!("{value:.decimals$}")
            }
            Self::Empty => String::new(),
        }
    }
}

impl Report {
    /// A report with nothing in it yet.
    pub fn new(name: &'static str) -> anyhow::Result<Self> {
        Ok(Self { name, machine: Machine::read()?, notes: Vec::new(), tables: Vec::new() })
    }

    /// Adds what must be known to read the figures.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// The whole as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("## {}\n\n{}\n\n", self.name, self.machine.markdown());
        for note in &self.notes {
            let _infallible = writeln!(text, "- {note}");
        }
        for table in &self.tables {
            let _infallible = write!(text, "\n{}", table.markdown());
        }
        text
    }

    /// Prints the tables and writes the JSON into `folder`.
    ///
    /// # Errors
    /// When the file cannot be written.
    #[expect(clippy::print_stdout, reason = "a command for people: its figures go to the terminal")]
    pub fn publish(mut self, folder: &Path) -> anyhow::Result<()> {
        self.machine.end();
        println!("{}", self.markdown());
        let path = folder.join(format!("{}.json", self.name));
        let write = || -> anyhow::Result<()> {
            fs::create_dir_all(folder)?;
            Ok(fs::write(&path, serde_json::to_vec_pretty(&self)?)?)
        };
        write().with_context(|| format!("failed to write `{}`", path.display()))
    }
}

/// Says on the terminal what is being done, apart from the figures.
#[expect(clippy::print_stderr, reason = "a command for people: progress goes to the terminal")]
pub fn say(line: &str) {
    eprintln!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_reads_the_same_for_people_and_programs() {
        let ours = Summary {
            n: 2,
            p50: Duration::from_micros(1500),
            p90: Duration::from_micros(2000),
            p99: Duration::from_micros(2000),
            max: Duration::from_millis(123),
        };
        let peer = Summary { p50: Duration::from_millis(3), ..ours };
        let mut table = Table::of_times("Start", "peer");
        table.times("ours", &ours, Some(&peer));
        table.times("peer", &peer, None);
        let lines: Vec<String> = table.markdown().lines().map(str::to_owned).collect();
        assert_eq!(lines[4], "| ours | 2 |   1.50 |   2.00 |   2.00 |    123 |      0.500 |       1.00 |");
        let json = serde_json::to_value(&table).unwrap();
        assert_eq!(json["rows"][0]["p50 / peer"], 0.5);
        assert_eq!(json["rows"][1]["p50 / peer"], serde_json::Value::Null);
    }
}
