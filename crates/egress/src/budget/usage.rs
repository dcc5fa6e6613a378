//! How many tokens a model provider's answer says were used, read as the answer passes.
//!
//! Anthropic Messages, OpenAI Chat Completions, Responses and Embeddings (Azure's too) and Gemini, as JSON or as events,
//! cut anywhere. No byte is held back, and at most a key or a model's name is kept. A coded (compressed) answer cannot be
//! read: requests that a counter of tokens or money counts ask for `identity`.

use http::{HeaderMap, header};

use super::json::{Count, Found, Scan};
use crate::masking;

/// Bytes of text that stand for a token where nobody says how many there are.
pub(crate) const BYTES_PER_TOKEN: u64 = 4;

/// Tokens by what they cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    /// Read, not from a cache.
    pub(crate) input: u64,
    /// Written, thinking included.
    pub(crate) output: u64,
    /// Read from the provider's cache.
    pub(crate) cache_read: u64,
    /// Written to the provider's cache.
    pub(crate) cache_write: u64,
}

impl Tokens {
    /// All of them.
    pub(crate) const fn sum(&self) -> u64 {
        let Self { input, output, cache_read, cache_write } = *self;
        input.saturating_add(output).saturating_add(cache_read).saturating_add(cache_write)
    }
}

/// What an answer has said so far. Streams say sums, which only grow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    input: Option<u64>,
    output: Option<u64>,
    cache_write: u64,
    cache_read: u64,
    /// A part of `input`.
    cached: u64,
    prompt: Option<u64>,
    candidates: u64,
    thoughts: u64,
    tool_use: u64,
    /// A part of `prompt`.
    cached_content: u64,
    /// The model that answered.
    pub(crate) model: Option<String>,
}

impl Usage {
    fn take(&mut self, found: Found<'_>) {
        let most = |field: &mut u64, number: u64| *field = number.max(*field);
        let some = |field: &mut Option<u64>, number: u64| *field = Some(number).max(*field);
        match found {
            Found::Model(model) => {
                self.model.get_or_insert_with(|| model.to_owned());
            }
            Found::Count(count, number) => match count {
                Count::Input => some(&mut self.input, number),
                Count::Output => some(&mut self.output, number),
                Count::CacheWrite => most(&mut self.cache_write, number),
                Count::CacheRead => most(&mut self.cache_read, number),
                Count::Cached => most(&mut self.cached, number),
                Count::Prompt => some(&mut self.prompt, number),
                Count::Candidates => most(&mut self.candidates, number),
                Count::Thoughts => most(&mut self.thoughts, number),
                Count::ToolUse => most(&mut self.tool_use, number),
                Count::CachedContent => most(&mut self.cached_content, number),
                Count::OutputMax => {}
            },
        }
    }

    /// The tokens; `None` where the answer said nothing of what was read, which every one says that says anything.
    pub(crate) fn tokens(&self) -> Option<Tokens> {
        if let Some(prompt) = self.prompt {
            let cached = self.cached_content.min(prompt);
            return Some(Tokens {
                input: (prompt - cached).saturating_add(self.tool_use),
                output: self.candidates.saturating_add(self.thoughts),
                cache_read: cached,
                cache_write: 0,
            });
        }
        let input = self.input?;
        let cached = self.cached.min(input);
        Some(Tokens {
            input: input - cached,
            output: self.output.unwrap_or(0),
            cache_read: self.cache_read.saturating_add(cached),
            cache_write: self.cache_write,
        })
    }
}

/// Looks at an answer's body as it passes.
#[derive(Debug)]
pub(crate) struct Tap {
    reader: Reader,
    pub(crate) usage: Usage,
}

#[derive(Debug)]
enum Reader {
    Json(Scan),
    Events(Events),
    /// It cannot be read.
    Blind,
}

impl Tap {
    /// A tap for an answer with this head.
    pub(crate) fn new(headers: &HeaderMap) -> Self {
        let is_coded = masking::is_coded(headers);
        let media =
            headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let reader = match media.as_str() {
            _ if is_coded => Reader::Blind,
            "text/event-stream" => Reader::Events(Events::default()),
            // Who does not say what it is may be one.
            "application/json" | "" => Reader::Json(Scan::default()),
            other if other.ends_with("+json") => Reader::Json(Scan::default()),
            _ => Reader::Blind,
        };
        Self { reader, usage: Usage::default() }
    }

    /// Whether nothing can be known of what it says.
    pub(crate) const fn is_blind(&self) -> bool {
        matches!(self.reader, Reader::Blind)
    }

    /// Looks at the next bytes.
    pub(crate) fn look(&mut self, bytes: &[u8]) {
        let usage = &mut self.usage;
        let mut found = |found: Found<'_>| usage.take(found);
        match &mut self.reader {
            Reader::Json(scan) => scan.push(bytes, &mut found),
            Reader::Events(events) => events.push(bytes, &mut found),
            Reader::Blind => {}
        }
    }
}

/// The JSON in the `data` of events, one after the other.
#[derive(Debug, Default)]
struct Events {
    scan: Scan,
    line: Line,
    /// Whether the last byte was a `\r`, which ended a line.
    is_after_cr: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Line {
    /// Nothing of it yet.
    #[default]
    Start,
    /// As many characters of `data:` as this.
    Name(usize),
    Data,
    Other,
}

impl Events {
    const NAME: &'static [u8] = b"data:";

    fn push(&mut self, mut bytes: &[u8], found: &mut dyn FnMut(Found<'_>)) {
        while let Some(byte) = bytes.first().copied() {
            let is_end = matches!(byte, b'\n' | b'\r');
            // The end of a line is one, be it one character or two, which may come apart.
            let is_second_half = std::mem::replace(&mut self.is_after_cr, byte == b'\r') && byte == b'\n';
            match self.line {
                _ if is_second_half => {}
                Line::Data | Line::Other if !is_end => {
                    let end = memchr::memchr2(b'\n', b'\r', bytes).unwrap_or(bytes.len());
                    if self.line == Line::Data {
                        self.scan.push(&bytes[..end], found);
                    }
                    bytes = &bytes[end..];
                    continue;
                }
                // An empty line ends the event.
                Line::Start if is_end => self.scan.restart(),
                _ if is_end => self.line = Line::Start,
                Line::Start => self.line = if byte == b'd' { Line::Name(1) } else { Line::Other },
                Line::Name(seen) if byte == Self::NAME[seen] => {
                    let is_whole = seen + 1 == Self::NAME.len();
                    self.line = if is_whole { Line::Data } else { Line::Name(seen + 1) };
                }
                Line::Name(_) | Line::Data | Line::Other => self.line = Line::Other,
            }
            bytes = &bytes[1..];
        }
    }
}

/// What a request's body says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    /// The model that it asks for.
    pub(crate) model: Option<String>,
    /// The most tokens that it wants written.
    pub(crate) output_max: Option<u64>,
}

impl Wish {
    /// Reads a request: the model stands in its body, or in its path as Gemini (`/models/M:generate…`) and Azure
    /// (`/deployments/M/…`) have it.
    pub(crate) fn read(path: &str, body: &[u8]) -> Self {
        let (mut wish, mut scan) = (Self::default(), Scan::default());
        let mut take = |found: Found<'_>| match found {
            // The first would be read by one server, and the last by another.
            Found::Model(model) if wish.model.as_deref().is_some_and(|known| known != model) => {
                wish.model = Some(String::new());
            }
            Found::Model(model) => wish.model = Some(model.to_owned()),
            Found::Count(Count::OutputMax, most) => wish.output_max = Some(most).max(wish.output_max),
            Found::Count(..) => {}
        };
        scan.push(body, &mut take);
        let mut segments = path.split('/');
        if segments.any(|segment| matches!(segment, "models" | "deployments"))
            && let Some(name) = segments.next()
        {
            // Who takes it from there does not look into the body.
            wish.model = Some(name.split(':').next().unwrap_or(name).to_owned());
        }
        wish
    }
}

#[cfg(test)]
#[path = "usage/tests.rs"]
mod tests;
