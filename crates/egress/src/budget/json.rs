//! Reads the numbers of a model provider's answer out of JSON as it passes, without keeping it.
//!
//! Known are the numbers at a few paths from the root (of each element, where the root is a list). Keys of the same names
//! elsewhere, such as in what the model says, are none of them. What is no JSON finds nothing; nothing it does fails.

/// Containers whose keys are remembered; below, nothing is looked for.
const LEVELS: usize = 4;
/// The longest text that is kept, in bytes: a key, or the name of a model.
const TEXT_BYTES_MAX: usize = 128;

/// A key that matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Other,
    /// `usage`
    Usage,
    /// `message` of Anthropic's streams, `response` of OpenAI's.
    Envelope,
    /// `usageMetadata`
    Metadata,
    Model,
    /// `prompt_tokens_details`, `input_tokens_details`
    Details,
    /// One of the numbers.
    Count(Count),
}

/// A number of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    /// `input_tokens`, `prompt_tokens`
    Input,
    /// `output_tokens`, `completion_tokens`
    Output,
    /// `cache_creation_input_tokens`, beside the input.
    CacheWrite,
    /// `cache_read_input_tokens`, beside the input.
    CacheRead,
    /// `cached_tokens`, a part of the input.
    Cached,
    /// `promptTokenCount`
    Prompt,
    /// `candidatesTokenCount`
    Candidates,
    /// `thoughtsTokenCount`
    Thoughts,
    /// `toolUsePromptTokenCount`
    ToolUse,
    /// `cachedContentTokenCount`, a part of the prompt.
    CachedContent,
    /// `max_tokens`, `max_output_tokens`, `max_completion_tokens` of a request.
    OutputMax,
}

impl Word {
    fn of(key: &[u8]) -> Self {
        match key {
            b"usage" => Self::Usage,
            b"message" | b"response" => Self::Envelope,
            b"usageMetadata" => Self::Metadata,
            b"model" | b"modelVersion" => Self::Model,
            b"prompt_tokens_details" | b"input_tokens_details" => Self::Details,
            b"input_tokens" | b"prompt_tokens" => Self::Count(Count::Input),
            b"output_tokens" | b"completion_tokens" => Self::Count(Count::Output),
            b"cache_creation_input_tokens" => Self::Count(Count::CacheWrite),
            b"cache_read_input_tokens" => Self::Count(Count::CacheRead),
            b"cached_tokens" => Self::Count(Count::Cached),
            b"promptTokenCount" => Self::Count(Count::Prompt),
            b"candidatesTokenCount" => Self::Count(Count::Candidates),
            b"thoughtsTokenCount" => Self::Count(Count::Thoughts),
            b"toolUsePromptTokenCount" => Self::Count(Count::ToolUse),
            b"cachedContentTokenCount" => Self::Count(Count::CachedContent),
            b"max_tokens" | b"max_output_tokens" | b"max_completion_tokens" => Self::Count(Count::OutputMax),
            _ => Self::Other,
        }
    }
}

/// What a scan finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    Count(Count, u64),
    Model(&'a str),
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum In {
    #[default]
    Between,
    Text,
    Escape,
    Number,
}

/// A scan that goes on with the next bytes where the last ended.
#[derive(Debug)]
pub(super) struct Scan {
    at: In,
    /// Containers that are open, the list at the root excepted.
    depth: usize,
    keys: [Word; LEVELS + 1],
    /// The last text, until it is known to be a key or a value.
    text: Vec<u8>,
    /// Whether `text` is one, whole and without escapes.
    has_text: bool,
    /// Whether the text under way is too long, or has an escape.
    is_spoilt: bool,
    number: u64,
    /// Whether the number has nothing but digits.
    is_whole: bool,
}

impl Default for Scan {
    fn default() -> Self {
        Self {
            at: In::Between,
            depth: 0,
            keys: [Word::Other; LEVELS + 1],
            text: Vec::with_capacity(TEXT_BYTES_MAX),
            has_text: false,
            is_spoilt: false,
            number: 0,
            is_whole: false,
        }
    }
}

impl Scan {
    /// Begins anew, with the next value at the root.
    pub(super) fn restart(&mut self) {
        (self.at, self.depth, self.has_text) = (In::Between, 0, false);
        self.keys = [Word::Other; LEVELS + 1];
    }

    /// Takes the next bytes.
    pub(super) fn push(&mut self, bytes: &[u8], found: &mut dyn FnMut(Found<'_>)) {
        let mut at = 0;
        while let Some(byte) = bytes.get(at).copied() {
            match self.at {
                In::Text => at += self.in_text(&bytes[at..]),
                In::Escape => {
                    self.at = In::Text;
                    at += 1;
                }
                In::Number => match byte {
                    b'0'..=b'9' => {
                        self.number = self.number.saturating_mul(10).saturating_add(u64::from(byte - b'0'));
                        at += 1;
                    }
                    b'.' | b'e' | b'E' | b'+' | b'-' => {
                        self.is_whole = false;
                        at += 1;
                    }
                    _ => {
                        self.at = In::Between;
                        if let (true, Some(count)) = (self.is_whole, self.count()) {
                            found(Found::Count(count, self.number));
                        }
                    }
                },
                In::Between => {
                    self.between(byte, found);
                    at += 1;
                }
            }
        }
    }

    /// Goes on in a text; how many bytes were taken.
    fn in_text(&mut self, bytes: &[u8]) -> usize {
        let end = memchr::memchr2(b'"', b'\\', bytes);
        let part = &bytes[..end.unwrap_or(bytes.len())];
        if self.depth <= LEVELS && !self.is_spoilt {
            self.is_spoilt = self.text.len() + part.len() > TEXT_BYTES_MAX;
            if !self.is_spoilt {
                self.text.extend_from_slice(part);
            }
        }
        match end.map(|end| bytes[end]) {
            Some(b'\\') => (self.at, self.is_spoilt) = (In::Escape, true),
            Some(_) => (self.at, self.has_text) = (In::Between, !self.is_spoilt),
            None => {}
        }
        part.len() + usize::from(end.is_some())
    }

    fn between(&mut self, byte: u8, found: &mut dyn FnMut(Found<'_>)) {
        match byte {
            b'"' => {
                self.text.clear();
                (self.at, self.has_text, self.is_spoilt) = (In::Text, false, self.depth > LEVELS);
            }
            b'0'..=b'9' => {
                (self.at, self.is_whole, self.number) = (In::Number, true, u64::from(byte - b'0'));
            }
            b'-' => (self.at, self.is_whole, self.number) = (In::Number, false, 0),
            b':' => {
                let word = if self.has_text { Word::of(&self.text) } else { Word::Other };
                self.set_key(word);
                self.has_text = false;
            }
            b',' => {
                self.end_value(found);
                self.set_key(Word::Other);
            }
            b'{' | b'[' => {
                self.has_text = false;
                // The list at the root is as if it were not there.
                if byte == b'{' || self.depth > 0 {
                    self.depth = self.depth.saturating_add(1);
                    self.set_key(Word::Other);
                }
            }
            b'}' | b']' => {
                self.end_value(found);
                self.depth = self.depth.saturating_sub(1);
            }
            _ => {}
        }
    }

    fn set_key(&mut self, word: Word) {
        if let Some(key) = self.keys.get_mut(self.depth) {
            *key = word;
        }
    }

    fn end_value(&mut self, found: &mut dyn FnMut(Found<'_>)) {
        let keys = self.keys.get(1..=self.depth).unwrap_or_default();
        if std::mem::take(&mut self.has_text)
            && matches!(keys, [Word::Model] | [Word::Envelope, Word::Model])
            && let Ok(model) = std::str::from_utf8(&self.text)
        {
            found(Found::Model(model));
        }
    }

    /// What a number at this place is.
    fn count(&self) -> Option<Count> {
        let keys = self.keys.get(1..=self.depth)?;
        let keys = keys.strip_prefix(&[Word::Envelope]).unwrap_or(keys);
        match keys {
            [Word::Count(Count::OutputMax)] => Some(Count::OutputMax),
            [Word::Usage, Word::Count(count)]
                if matches!(count, Count::Input | Count::Output | Count::CacheWrite | Count::CacheRead) =>
            {
                Some(*count)
            }
            [Word::Usage, Word::Details, Word::Count(Count::Cached)] => Some(Count::Cached),
            [Word::Metadata, Word::Count(count)]
                if matches!(
                    count,
                    Count::Prompt
                        | Count::Candidates
                        | Count::Thoughts
                        | Count::ToolUse
                        | Count::CachedContent
                ) =>
            {
                Some(*count)
            }
            _ => None,
        }
    }
}
