//! What the three wires have in common: an answer's pieces become frames, faults included.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use serde_json::Value;

use crate::play::Piece;
use crate::scenario::{Answer, Step, Stop, StreamError};
use crate::{anthropic, chat, responses};

/// One step of sending a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    Bytes(String),
    Pause(Duration),
    /// The connection breaks.
    Cut,
    /// Nothing more comes.
    Stall,
}

/// A wire that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    AnthropicMessages,
    OpenAiResponses,
    OpenAiChat,
}

/// What an answer says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Meta {
    pub model: String,
    pub input: u64,
    pub output: u64,
    pub cache_read: u64,
    pub cache_creation: u64,
    pub stop: Stop,
    pub include_usage: bool,
    pub chunk_chars: Option<usize>,
}

/// Writes one streamed answer.
pub(crate) trait Write {
    /// The events before the first piece.
    fn start(&mut self) -> Vec<String>;
    /// The events of piece number `index`.
    fn piece(&mut self, index: usize, piece: &Piece) -> Vec<String>;
    /// The event of an error.
    fn error(&mut self, error: &StreamError) -> String;
    /// The events after the last piece.
    fn finish(&mut self) -> Vec<String>;
}

impl Wire {
    /// An error object as the vendor sends it.
    pub(crate) fn error(self, kind: &str, message: &str) -> Value {
        match self {
            Self::AnthropicMessages => anthropic::error(kind, message),
            Self::OpenAiResponses | Self::OpenAiChat => chat::error(kind, message),
        }
    }

    /// The frames of a streamed answer.
    pub(crate) fn stream(self, pieces: &[Piece], meta: Meta) -> Vec<Frame> {
        let mut writer: Box<dyn Write> = match self {
            Self::AnthropicMessages => Box::new(anthropic::Stream::new(meta)),
            Self::OpenAiResponses => Box::new(responses::Stream::new(meta)),
            Self::OpenAiChat => Box::new(chat::Stream::new(meta)),
        };
        let mut frames: Vec<Frame> = writer.start().into_iter().map(Frame::Bytes).collect();
        let mut index = 0;
        for piece in pieces {
            match piece {
                Piece::Other(Step::PauseMs(ms)) => frames.push(Frame::Pause(Duration::from_millis(*ms))),
                Piece::Other(Step::Garbage(bytes)) => frames.push(Frame::Bytes(bytes.clone())),
                Piece::Other(Step::Error(error)) => {
                    frames.push(Frame::Bytes(writer.error(error)));
                    return frames;
                }
                Piece::Other(step) => {
                    frames.extend(fault(step));
                    return frames;
                }
                said => {
                    frames.extend(writer.piece(index, said).into_iter().map(Frame::Bytes));
                    index += 1;
                }
            }
        }
        frames.extend(writer.finish().into_iter().map(Frame::Bytes));
        frames
    }

    /// The frames of an answer in one piece.
    pub(crate) fn whole(self, pieces: &[Piece], meta: &Meta) -> Vec<Frame> {
        let body = match self {
            Self::AnthropicMessages => anthropic::whole(pieces, meta),
            Self::OpenAiResponses => responses::whole(pieces, meta),
            Self::OpenAiChat => chat::whole(pieces, meta),
        };
        let mut body = body.to_string();
        let mut frames = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Other(Step::PauseMs(ms)) => frames.push(Frame::Pause(Duration::from_millis(*ms))),
                Piece::Other(Step::Garbage(bytes)) => body.push_str(bytes),
                Piece::Other(Step::Error(error)) => {
                    body = self.error(&error.kind, &error.message).to_string()
                }
                Piece::Other(step) => {
                    // Half of it: what came is no document.
                    let half = body.len() / 2;
                    frames.push(Frame::Bytes(body.chars().take(half).collect()));
                    frames.extend(fault(step));
                    return frames;
                }
                _ => {}
            }
        }
        frames.push(Frame::Bytes(body));
        frames
    }
}

/// What ends a body early.
fn fault(step: &Step) -> Option<Frame> {
    match step {
        Step::Cut => Some(Frame::Cut),
        Step::Stall => Some(Frame::Stall),
        _ => None,
    }
}

/// Puts the answer's waits and its break into the frames; without waits all bytes become one frame.
pub(crate) fn pace(frames: Vec<Frame>, answer: &Answer) -> Vec<Frame> {
    let mut paced = vec![Frame::Pause(answer.delay)];
    let mut room = answer.cut_after_bytes.unwrap_or(usize::MAX);
    for frame in frames {
        match (paced.last_mut(), frame) {
            (_, Frame::Bytes(bytes)) if bytes.len() > room => {
                let fits = (0..=room).rev().find_map(|at| bytes.get(..at)).unwrap_or_default();
                paced.extend([Frame::Bytes(fits.to_owned()), Frame::Cut]);
                return paced;
            }
            (Some(Frame::Bytes(so_far)), Frame::Bytes(bytes)) if answer.chunk_delay.is_zero() => {
                room -= bytes.len();
                so_far.push_str(&bytes);
            }
            (last, Frame::Bytes(bytes)) => {
                room -= bytes.len();
                if matches!(last, Some(Frame::Bytes(_))) {
                    paced.push(Frame::Pause(answer.chunk_delay));
                }
                paced.push(Frame::Bytes(bytes));
            }
            (_, other) => paced.push(other),
        }
    }
    paced
}

/// One event of a stream, with its name.
pub(crate) fn event(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or("message"))
}

/// `text` in chunks of so many characters; all of it when that is not given.
pub(crate) fn chunks(text: &str, chars: Option<usize>) -> Vec<String> {
    match chars {
        None => vec![text.to_owned()],
        Some(size) => {
            text.chars().collect::<Vec<_>>().chunks(size.max(1)).map(|chunk| chunk.iter().collect()).collect()
        }
    }
}

/// A fresh id.
pub(crate) fn id(prefix: &str) -> String {
    format!("{prefix}_{}", uuid::Uuid::now_v7().simple())
}

/// What stands for a vendor's signature of reasoning: it must come back with the same text.
pub(crate) fn signature(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("sim-signature-{:016x}", hasher.finish())
}
