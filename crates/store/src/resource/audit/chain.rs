//! What is hashed of a row, and the check of a chain.

use std::{borrow::Cow, collections::BTreeMap};

use freehold_model::{
    EventId, OrganizationId, TaskId, Timestamp, WorkspaceId,
    audit::{Actor, AuditEvent, Category, Decision, EXACT_MAX, EventType},
};
use serde::Serialize;
use serde_json::{Value, value::RawValue};
use sha2::{Digest, Sha256};

use super::{AuditRow, CHAIN_START};
use crate::{Error, record::Record, sql::Row};

/// Room for the canonical JSON of nearly every row, in bytes.
const USUAL_BYTES: usize = 1_024;

impl AuditRow {
    /// The canonical JSON (RFC 8785) of the event with `seq` beside its fields: what is hashed.
    ///
    /// # Errors
    /// When the row is none that could have been hashed.
    pub fn canonical(&self) -> Result<Vec<u8>, Error> {
        canonical(self.seq, &self.event).map_err(|_| corrupt())
    }
}

const fn corrupt() -> Error {
    Error::Corrupt { table: AuditEvent::TABLE, column: 0, expected: "canonical JSON" }
}

/// The event as it will be read back: times are cut to what a column holds, and so on. The hash is over that.
pub(super) fn as_stored(
    organization: OrganizationId,
    event: &AuditEvent,
) -> Result<Cow<'_, AuditEvent>, Error> {
    let texts = [
        Some(&event.user_id),
        event.agent_role.as_ref(),
        event.agent_provider.as_ref(),
        event.destination.as_ref(),
        event.method.as_ref(),
        event.path.as_ref(),
        event.reason.as_ref(),
        event.capability_name.as_ref(),
        event.phase.as_ref(),
        event.policy_type.as_ref(),
    ];
    // The time, which hardly ever is, is cut where it is written and where it is hashed.
    let is_exact = event.latency_ms.is_none_or(|latency| latency <= EXACT_MAX)
        && texts.into_iter().flatten().all(|text| !text.contains('\0'));
    if is_exact {
        return Ok(Cow::Borrowed(event));
    }
    let values = event.values();
    let mut stored = AuditEvent::read(organization, &mut Row::new(&values))?;
    stored.org_id = event.org_id;
    Ok(Cow::Owned(stored))
}

/// The hash of a row.
pub(super) fn chain(previous: &[u8; 32], seq: u64, event: &AuditEvent) -> Result<[u8; 32], Error> {
    let json = canonical(seq, event).map_err(|_| corrupt())?;
    Ok(Sha256::new().chain_update(previous).chain_update(json).finalize().into())
}

/// The canonical JSON of a row. The library that makes it of anything sorts the fields of each row anew, which costs more
/// than all else about a row; so where nothing but their order is to be done, they are written in it.
fn canonical(seq: u64, event: &AuditEvent) -> serde_json::Result<Vec<u8>> {
    if seq.max(event.latency_ms.unwrap_or(0)) > EXACT_MAX {
        return canonical_of_anything(seq, event);
    }
    let sorted = Sorted {
        actor: event.actor,
        agent_provider: event.agent_provider.as_deref(),
        agent_role: event.agent_role.as_deref(),
        auth_applied: &event.auth_applied,
        auth_failures: Part::of_map(&event.auth_failures, |_| true)?,
        budget_ceilings: Part::of_map(&event.budget_ceilings, |_| true)?,
        budget_snapshot: Part::of_map(&event.budget_snapshot, is_canonical)?,
        capability_name: event.capability_name.as_deref(),
        category: event.category,
        decision: event.decision,
        destination: event.destination.as_deref(),
        detail: event.detail.as_ref().map(|detail| Part::of(detail, is_canonical(detail))).transpose()?,
        event_type: event.event_type,
        id: event.id,
        latency_ms: event.latency_ms,
        method: event.method.as_deref(),
        org_id: event.org_id,
        path: event.path.as_deref(),
        phase: event.phase.as_deref(),
        policy_type: event.policy_type.as_deref(),
        reason: event.reason.as_deref(),
        seq,
        task_id: event.task_id,
        timestamp: Timestamp::from_microsecond(event.timestamp.as_microsecond()).unwrap_or(event.timestamp),
        transforms_applied: event.transforms_applied,
        transforms_failed: Part::of_map(&event.transforms_failed, |_| true)?,
        user_id: &event.user_id,
        validations_applied: event.validations_applied,
        workspace_id: event.workspace_id,
    };
    let mut json = Vec::with_capacity(USUAL_BYTES);
    serde_json::to_writer(&mut json, &sorted)?;
    Ok(json)
}

/// What stands in a row as JSON of any form.
#[derive(Serialize)]
#[serde(untagged)]
enum Part<'a, T> {
    /// Is written in the canonical form without more ado.
    AsItIs(&'a T),
    Made(Box<RawValue>),
}

impl<'a, T: Serialize> Part<'a, T> {
    fn of(value: &'a T, is_canonical: bool) -> serde_json::Result<Self> {
        if is_canonical {
            return Ok(Self::AsItIs(value));
        }
        RawValue::from_string(serde_jcs::to_string(value)?).map(Self::Made)
    }
}

impl<'a, V: Serialize> Part<'a, BTreeMap<String, V>> {
    /// A map of a row, which is left out when it is empty.
    fn of_map(
        map: &'a BTreeMap<String, V>,
        is_canonical: impl Fn(&V) -> bool,
    ) -> serde_json::Result<Option<Self>> {
        if map.is_empty() {
            return Ok(None);
        }
        let is_canonical = map.iter().all(|(name, value)| name.is_ascii() && is_canonical(value));
        Self::of(map, is_canonical).map(Some)
    }
}

/// Whether a value is written in the canonical form by whatever writes its parts in their order: names sort alike as bytes
/// and as UTF-16 where they are ASCII, and whole numbers look alike everywhere up to a size.
fn is_canonical(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => true,
        Value::Number(number) => number.as_i64().is_some_and(|number| number.unsigned_abs() <= EXACT_MAX),
        Value::Array(values) => values.iter().all(is_canonical),
        Value::Object(fields) => {
            fields.keys().is_sorted()
                && fields.iter().all(|(name, value)| name.is_ascii() && is_canonical(value))
        }
    }
}

/// The canonical JSON by its definition.
fn canonical_of_anything(seq: u64, event: &AuditEvent) -> serde_json::Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Sealed<'a> {
        seq: u64,
        #[serde(flatten)]
        event: &'a AuditEvent,
    }
    serde_jcs::to_vec(&Sealed { seq, event })
}

type Texts = BTreeMap<String, String>;

/// The fields of a row in the order of the canonical form.
#[derive(Serialize)]
struct Sorted<'a> {
    actor: Actor,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_provider: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_role: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    auth_applied: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_failures: Option<Part<'a, Texts>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget_ceilings: Option<Part<'a, Texts>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget_snapshot: Option<Part<'a, BTreeMap<String, Value>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capability_name: Option<&'a str>,
    category: Category,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<Decision>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<Part<'a, Value>>,
    event_type: EventType,
    id: EventId,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    org_id: OrganizationId,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_id: Option<TaskId>,
    timestamp: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    transforms_applied: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transforms_failed: Option<Part<'a, Texts>>,
    user_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    validations_applied: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workspace_id: Option<WorkspaceId>,
}

/// The check of a chain, row by row.
pub(crate) struct Chain {
    seq: u64,
    hash: [u8; 32],
}

impl Default for Chain {
    fn default() -> Self {
        Self { seq: 0, hash: CHAIN_START }
    }
}

impl Chain {
    /// The position of the last row that was found good.
    pub(crate) const fn seq(&self) -> u64 {
        self.seq
    }

    /// Takes the next row; answers `Broken` when it does not follow.
    pub(crate) fn follow(&mut self, row: &AuditRow) -> Result<Option<ChainCheck>, Error> {
        let seq = self.seq + 1;
        if row.seq != seq || row.hash != chain(&self.hash, seq, &row.event)? {
            return Ok(Some(ChainCheck::Broken { seq }));
        }
        (self.seq, self.hash) = (seq, row.hash);
        Ok(None)
    }

    pub(crate) const fn intact(&self) -> ChainCheck {
        ChainCheck::Intact { seq: self.seq, hash: self.hash }
    }
}

/// What a check of an organization's chain found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainCheck {
    /// Every row is as it was committed.
    Intact {
        /// The position of the last row; 0 when there is none.
        seq: u64,
        /// Its hash, which an auditor may keep to compare later.
        hash: [u8; 32],
    },
    /// The first row that does not follow from those before it.
    Broken {
        /// The position where the row was expected.
        seq: u64,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn some_text() -> impl Strategy<Value = Option<String>> {
        proptest::option::of(any::<String>())
    }

    prop_compose! {
        fn some_event()(
            texts in proptest::collection::vec(some_text(), 9),
            user_id in any::<String>(),
            id in any::<u128>(),
            micros in 0..4_000_000_000_000_000_i64,
            numbers in any::<(Option<u64>, Option<u32>, bool)>(),
            applied in proptest::collection::vec(any::<String>(), 0..3),
            failures in proptest::collection::btree_map(any::<String>(), any::<String>(), 0..3),
            detail in proptest::option::of(any::<(String, f64, i64)>()),
        ) -> AuditEvent {
            let uuid = Uuid::from_u128(id);
            let time = Timestamp::from_microsecond(micros).unwrap();
            let (organization, actor) = (OrganizationId::from_uuid(uuid), Actor::PolicyEngine);
            let (kind, category) = (EventType::PolicyDecision, Category::Audit);
            let mut event =
                AuditEvent::new(EventId::from_uuid(uuid), organization, user_id, time, kind, category, actor);
            let mut texts = texts.into_iter();
            for field in [
                &mut event.agent_role, &mut event.agent_provider, &mut event.destination, &mut event.method,
                &mut event.path, &mut event.reason, &mut event.capability_name, &mut event.phase,
                &mut event.policy_type,
            ] {
                *field = texts.next().flatten();
            }
            (event.latency_ms, event.transforms_applied) = (numbers.0, numbers.1);
            event.validations_applied = numbers.1;
            event.decision = numbers.2.then_some(Decision::Deny);
            event.workspace_id = numbers.2.then(|| WorkspaceId::from_uuid(uuid));
            event.task_id = numbers.2.then(|| TaskId::from_uuid(uuid));
            event.auth_applied = applied;
            (event.transforms_failed, event.budget_ceilings) = (failures.clone(), failures.clone());
            event.budget_snapshot =
                failures.iter().map(|(name, text)| (name.clone(), json!({ "b": text, "a": 1.5 }))).collect();
            event.auth_failures = failures;
            event.detail = detail.map(|(text, float, number)| json!({ text.clone(): number, "z": [float], "a": text }));
            event
        }
    }

    /// Rows of earlier versions must verify for ever: a change here breaks every log there is.
    #[test]
    fn the_hash_of_a_row_is_what_it_always_was() {
        let uuid = Uuid::from_u128(0x0193_3b5a_0000_7000_8000_0000_0000_0001);
        let time = "2026-11-22T08:00:00.12Z".parse().unwrap();
        let (id, organization) = (EventId::from_uuid(uuid), OrganizationId::from_uuid(uuid));
        let (kind, category) = (EventType::PolicyDecision, Category::Audit);
        let user = "system".to_owned();
        let mut event = AuditEvent::new(id, organization, user, time, kind, category, Actor::PolicyEngine);
        event.destination = Some("api.example.test".to_owned());
        event.detail = Some(json!({ "z": 1e21, "a": "\u{20ac}\n", "m": [0.1, -0.0] }));
        event.transforms_failed.insert("t".to_owned(), "auth_unavailable".to_owned());
        let text = String::from_utf8(canonical(7, &event).unwrap()).unwrap();
        let id = "01933b5a000070008000000000000001";
        let expected = format!(
            r#"{{"actor":"policy-engine","category":"audit","destination":"api.example.test","detail":{{"a":"€\n","m":[0.1,0],"z":1e+21}},"event_type":"policy_decision","id":"event_{id}","org_id":"org_{id}","seq":7,"timestamp":"2026-11-22T08:00:00.12Z","transforms_failed":{{"t":"auth_unavailable"}},"user_id":"system"}}"#
        );
        assert_eq!(text, expected);
        let hash = hex::encode(chain(&[0; 32], 7, &event).unwrap());
        assert_eq!(hash, hex::encode(Sha256::new().chain_update([0; 32]).chain_update(&expected).finalize()));
    }

    /// Appendix B and section 3.2.3 of RFC 8785.
    #[test]
    fn numbers_texts_and_the_order_of_fields_are_those_of_the_standard() {
        let numbers: [(u64, &str); 14] = [
            (0, "0"),
            (0x8000_0000_0000_0000, "0"),
            (1, "5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0x4340_0000_0000_0000, "9007199254740992"),
            (0x4430_0000_0000_0000, "295147905179352830000"),
            (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
            (0x44b5_2d02_c7e1_4af6, "1e+23"),
            (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
            (0x444b_1ae4_d6e2_ef50, "1e+21"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0x41b3_de43_5555_5553, "333333333.3333332"),
            (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
            (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
        ];
        for (bits, text) in numbers {
            assert_eq!(serde_jcs::to_string(&f64::from_bits(bits)).unwrap(), text);
        }
        let fields = json!({
            "\u{20ac}": "Euro Sign", "\r": "Carriage Return", "\u{fb33}": "Hebrew Letter Dalet With Dagesh", "1": "One",
            "\u{1f600}": "Emoji: Grinning Face", "\u{80}": "Control", "\u{f6}": "Latin Small Letter O With Diaeresis",
        });
        let text = serde_jcs::to_string(&fields).unwrap();
        let words = ["Carriage", "One", "Control", "Latin", "Euro", "Emoji", "Hebrew"];
        let places: Vec<usize> = words.iter().map(|word| text.find(word).unwrap()).collect();
        assert!(places.is_sorted(), "{text}");
        let escaped = serde_jcs::to_string("\u{20ac}$\u{f}\nA'B\"\\\\\"/").unwrap();
        assert_eq!(escaped, "\"\u{20ac}$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"");
    }

    proptest! {
        #[test]
        fn sorted_fields_are_the_canonical_form(event in some_event(), seq in any::<u32>()) {
            let (seq, sorted) = (u64::from(seq), canonical(u64::from(seq), &event).unwrap());
            let defined = canonical_of_anything(seq, &event).unwrap();
            prop_assert_eq!(String::from_utf8(sorted).unwrap(), String::from_utf8(defined).unwrap());
        }
    }
}
