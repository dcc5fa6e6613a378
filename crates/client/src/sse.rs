//! Server-sent events, read as they arrive.
//!
//! Invariant: the events that come out do not depend on how the bytes were cut into chunks.

/// The most bytes of one event; a stream that sends more is not one of ours.
pub const EVENT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// One event of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The stream's last `id`, to resume after; empty when it never sent one.
    pub id: String,
    /// The type; `message` when none was sent.
    pub event: String,
    /// The data lines, joined by line feeds.
    pub data: String,
}

/// An event is longer than [`EVENT_BYTES_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is longer than {EVENT_BYTES_MAX} bytes")]
pub struct TooLong;

/// Takes bytes and gives events, by the rules of the HTML standard.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    /// The last byte was a carriage return: a line feed right after belongs to the same line end.
    after_return: bool,
    begun: bool,
    /// The position after the last whole block.
    id: String,
    /// The position that the block being read will have when it is whole; one that is cut off must come again.
    next_id: String,
    event: String,
    data: String,
    has_data: bool,
}

impl Parser {
    /// A parser of a stream that resumes after the event with this id, or of a new one.
    pub fn new(last_id: Option<String>) -> Self {
        let id = last_id.unwrap_or_default();
        Self { next_id: id.clone(), id, ..Self::default() }
    }

    /// The last id the stream sent, with or without an event.
    pub fn last_id(&self) -> Option<&str> {
        Some(self.id.as_str()).filter(|id| !id.is_empty())
    }

    /// Takes the next bytes and gives the events they complete.
    ///
    /// # Errors
    /// [`TooLong`]; the parser is of no more use then.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Event>, TooLong> {
        let mut events = Vec::new();
        for &byte in bytes {
            let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => events.extend(self.end_line()),
                _ => self.line.push(byte),
            }
            if self.line.len() + self.data.len() > EVENT_BYTES_MAX {
                return Err(TooLong);
            }
        }
        Ok(events)
    }

    fn end_line(&mut self) -> Option<Event> {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        let line = if std::mem::replace(&mut self.begun, true) {
            &line
        } else {
            line.strip_prefix('\u{feff}').unwrap_or(&line)
        };
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            "event" => value.clone_into(&mut self.event),
            "id" if !value.contains('\0') => value.clone_into(&mut self.next_id),
            // Comments (an empty field name), `retry`, and whatever comes later.
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<Event> {
        self.next_id.clone_into(&mut self.id);
        let event = std::mem::take(&mut self.event);
        let data = std::mem::take(&mut self.data);
        std::mem::take(&mut self.has_data).then(|| Event {
            id: self.id.clone(),
            event: if event.is_empty() { "message".to_owned() } else { event },
            data,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(text: &str) -> Vec<Event> {
        Parser::default().push(text.as_bytes()).unwrap()
    }

    fn event(id: &str, event: &str, data: &str) -> Event {
        Event { id: id.to_owned(), event: event.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn fields_comments_and_line_ends_are_read_by_the_standard() {
        assert_eq!(
            all("\u{feff}: hello\r\nid: 7\revent: activity\ndata: {\"a\":\ndata:  1}\nretry: 5\n\n"),
            [event("7", "activity", "{\"a\":\n 1}")]
        );
        assert_eq!(all("data\n\ndata\ndata\n\n"), [event("", "message", ""), event("", "message", "\n")]);
        assert_eq!(all("data: never ended\n"), []);
    }

    #[test]
    fn an_id_without_data_moves_the_position_and_is_no_event() {
        let mut parser = Parser::default();
        assert_eq!(parser.push(b"id: 41\n\n").unwrap(), []);
        assert_eq!(parser.last_id(), Some("41"));
    }

    #[test]
    fn a_block_that_is_cut_off_does_not_move_the_position() {
        let mut parser = Parser::default();
        assert_eq!(parser.push(b"id: 1\ndata: x\n\nid: 2\ndata: y\n").unwrap(), [event("1", "message", "x")]);
        assert_eq!(parser.last_id(), Some("1"));
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut parser = Parser::default();
        let chunk = vec![b'x'; 1024 * 1024];
        assert!((0..10).any(|_| parser.push(&chunk) == Err(TooLong)));
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_cut_makes_no_difference(
            lines in prop::collection::vec("(data|id|event|)(:| |: )[a-zé\u{1F600}\0]{0,4}", 0..20),
            ends in prop::collection::vec(prop::sample::select(vec!["\n", "\r", "\r\n", "\n\n", "\r\n\r\n"]), 20),
            cuts in prop::collection::vec(1_usize..7, 1..40),
        ) {
            let text: String = lines.iter().zip(&ends).flat_map(|(line, end)| [line.as_str(), end]).collect();
            let whole = all(&text);
            let mut parser = Parser::default();
            let mut pieces = Vec::new();
            let mut rest = text.as_bytes();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (chunk, after) = rest.split_at((*cut).min(rest.len()));
                pieces.extend(parser.push(chunk).unwrap());
                rest = after;
            }
            prop_assert_eq!(pieces, whole);
        }

        #[test]
        fn what_a_server_writes_is_what_is_read(
            written in prop::collection::vec(("[0-9]{1,8}", "[a-z]{1,8}", "[a-z {}\":é]{0,30}"), 0..10),
        ) {
            let text: String =
                written.iter().map(|(id, kind, data)| format!("event: {kind}\nid: {id}\ndata: {data}\n\n")).collect();
            let expected: Vec<Event> = written.iter().map(|(id, kind, data)| event(id, kind, data)).collect();
            prop_assert_eq!(all(&text), expected);
        }
    }
}
