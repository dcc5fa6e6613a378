//! DNS packets: a pure function from question to answer. What the answer is, the caller's closure says.

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, ResponseCode},
    rr::{DNSClass, RData, Record, RecordType},
};

/// Seconds an answer may be kept. The mapping never changes, so this is only how soon another row is written.
const TTL_SECONDS: u32 = 60;
/// The longest packet that is looked at, in bytes.
pub(crate) const PACKET_BYTES_MAX: usize = 4 * 1024;
/// The size of a DNS header, in bytes.
const HEADER_BYTES: usize = 12;

/// A question for a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// The name as asked, without final dot.
    pub(crate) name: String,
    /// The type's mnemonic.
    pub(crate) kind: String,
}

/// What to say to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The name has these addresses.
    Addresses(Ipv4Addr, Ipv6Addr),
    /// The name cannot exist.
    NoSuchName,
    /// Not now.
    Failure,
}

/// A packet that is a question, ready to be answered.
#[derive(Debug)]
pub(crate) struct Query(Message);

/// What a packet is.
pub(crate) enum Parsed {
    /// A question.
    Question(Query, Question),
    /// Something that gets this answer without a decision.
    Reply(Vec<u8>),
    /// Nothing that deserves an answer.
    Ignore,
}

/// Reads a packet. Answers to questions are never answered, so that two servers cannot talk to each other for ever.
pub(crate) fn parse(packet: &[u8]) -> Parsed {
    if packet.len() < HEADER_BYTES || packet.len() > PACKET_BYTES_MAX || packet[2] & 0x80 != 0 {
        return Parsed::Ignore;
    }
    let id = u16::from_be_bytes([packet[0], packet[1]]);
    let refuse =
        |op_code, code| Message::error_msg(id, op_code, code).to_vec().map_or(Parsed::Ignore, Parsed::Reply);
    let Ok(message) = Message::from_vec(packet) else { return refuse(OpCode::Query, ResponseCode::FormErr) };
    if message.metadata.message_type != MessageType::Query {
        return Parsed::Ignore;
    }
    if message.metadata.op_code != OpCode::Query {
        return refuse(message.metadata.op_code, ResponseCode::NotImp);
    }
    let [question] = message.queries.as_slice() else { return refuse(OpCode::Query, ResponseCode::FormErr) };
    if question.query_class() != DNSClass::IN {
        return refuse(OpCode::Query, ResponseCode::Refused);
    }
    let name = question.name().to_ascii();
    let name = name.strip_suffix('.').unwrap_or(&name).to_owned();
    let question = Question { name, kind: question.query_type().to_string() };
    Parsed::Question(Query(message), question)
}

impl Query {
    /// The answer's packet. HTTPS, SVCB and every other type get an empty answer: the name exists and has addresses
    /// alone, so that neither ECH nor QUIC is offered.
    pub(crate) fn reply(&self, answer: Answer) -> Option<Vec<u8>> {
        let mut reply = Message::response(self.0.metadata.id, OpCode::Query);
        reply.metadata.recursion_desired = self.0.metadata.recursion_desired;
        reply.metadata.recursion_available = true;
        let question = self.0.queries.first()?;
        reply.add_query(question.clone());
        if self.0.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(1_232);
            reply.set_edns(edns);
        }
        let data = match (answer, question.query_type()) {
            (Answer::Addresses(v4, _), RecordType::A) => Some(RData::A(v4.into())),
            (Answer::Addresses(_, v6), RecordType::AAAA) => Some(RData::AAAA(v6.into())),
            (Answer::Addresses(..), _) => None,
            (Answer::NoSuchName, _) => {
                reply.metadata.response_code = ResponseCode::NXDomain;
                None
            }
            (Answer::Failure, _) => {
                reply.metadata.response_code = ResponseCode::ServFail;
                None
            }
        };
        if let Some(data) = data {
            reply.add_answer(Record::from_rdata(question.name().clone(), TTL_SECONDS, data));
        }
        reply.to_vec().ok()
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::{op, rr::Name};
    use proptest::prelude::*;

    use super::*;

    const ADDRESSES: Answer =
        Answer::Addresses(Ipv4Addr::new(198, 18, 0, 1), Ipv6Addr::new(0xfd66, 0, 0, 0, 0, 0, 0, 1));

    fn ask(name: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(op::Query::query(Name::from_ascii(name).unwrap(), kind));
        message.to_vec().unwrap()
    }

    fn answered(packet: &[u8], answer: Answer) -> (Question, Message) {
        let Parsed::Question(query, question) = parse(packet) else { panic!("no question") };
        (question, Message::from_vec(&query.reply(answer).unwrap()).unwrap())
    }

    #[test]
    fn addresses_are_answered_and_every_other_type_is_empty() {
        for (kind, expected) in [
            (RecordType::A, Some("198.18.0.1")),
            (RecordType::AAAA, Some("fd66::1")),
            (RecordType::HTTPS, None),
            (RecordType::SVCB, None),
            (RecordType::TXT, None),
        ] {
            let (question, reply) = answered(&ask("Api.Test.", kind), ADDRESSES);
            assert_eq!(question, Question { name: "Api.Test".to_owned(), kind: kind.to_string() });
            assert_eq!((reply.metadata.id, reply.metadata.response_code), (7, ResponseCode::NoError));
            let found = reply.answers.first().map(|record| record.data.to_string());
            assert_eq!(found.as_deref(), expected, "{kind}");
        }
    }

    #[test]
    fn a_failure_and_a_name_that_cannot_exist_say_so() {
        let packet = ask("a.test.", RecordType::A);
        assert_eq!(answered(&packet, Answer::NoSuchName).1.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(answered(&packet, Answer::Failure).1.metadata.response_code, ResponseCode::ServFail);
    }

    #[test]
    fn what_is_no_question_gets_an_error_or_nothing() {
        let reply_code = |packet: &[u8]| match parse(packet) {
            Parsed::Reply(reply) => Some(Message::from_vec(&reply).unwrap().metadata.response_code),
            Parsed::Ignore => None,
            Parsed::Question(..) => panic!("a question"),
        };
        let mut answer = ask("a.test.", RecordType::A);
        answer[2] |= 0x80;
        assert_eq!(reply_code(&answer), None);
        assert_eq!(reply_code(b"short"), None);
        assert_eq!(reply_code(&[0; PACKET_BYTES_MAX + 1]), None);
        let mut torn = ask("a.test.", RecordType::A);
        torn.truncate(torn.len() - 3);
        assert_eq!(reply_code(&torn), Some(ResponseCode::FormErr));
        assert_eq!(reply_code(&[0; HEADER_BYTES]), Some(ResponseCode::FormErr));
        let mut update = ask("a.test.", RecordType::A);
        update[2] |= 5 << 3;
        assert_eq!(reply_code(&update), Some(ResponseCode::NotImp));
    }

    proptest! {
        #[test]
        fn no_packet_makes_it_panic(packet in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Parsed::Question(query, _) = parse(&packet) {
                let _ = query.reply(ADDRESSES);
            }
        }

        #[test]
        fn no_damage_to_a_question_makes_it_panic_and_no_answer_is_answered(
            damage in proptest::collection::vec((0_usize..60, any::<u8>()), 0..6),
            cut in 0_usize..60,
            tail in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut packet = ask("a.long-name.Api.Test.", RecordType::AAAA);
            packet.truncate(packet.len().saturating_sub(cut / 2));
            packet.extend(tail);
            for (at, byte) in damage {
                if let Some(place) = packet.get_mut(at) {
                    *place = byte;
                }
            }
            let reply = match parse(&packet) {
                Parsed::Question(query, question) => {
                    prop_assert!(question.name.is_ascii());
                    query.reply(ADDRESSES)
                }
                Parsed::Reply(reply) => Some(reply),
                Parsed::Ignore => None,
            };
            if let Some(reply) = reply {
                prop_assert_eq!(&reply[..2], &packet[..2]);
                prop_assert!(matches!(parse(&reply), Parsed::Ignore));
            }
        }
    }
}
