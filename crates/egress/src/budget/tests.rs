//! The engine over a ledger in memory: one, several at once, and some that die.

use std::{
    collections::HashMap,
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use freehold_model::{
    OrganizationId, RoleId, SessionId, Timestamp, WorkspaceId,
    budget::{Ask, CounterKey, Leased, Subject, Whose},
};
use freehold_policy::Unit;
use http::{HeaderMap, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Budgets, Charges, Cut, Ledger, LedgerError, Meter, Options, Refused, Reservation, Warning, WarningSink,
    account::Claim,
    charge::Charge,
    price::{Prices, Usd},
};

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Memory {
    counts: Mutex<HashMap<CounterKey, (u64, bool)>>,
    /// The highest sum there ever was.
    highest: AtomicU64,
    calls: AtomicU64,
    is_down: AtomicBool,
}

impl Memory {
    fn taken(&self, key: &CounterKey) -> u64 {
        self.counts.lock().unwrap().get(key).map_or(0, |(taken, _)| *taken)
    }

    async fn change<T>(
        &self,
        key: &CounterKey,
        change: impl FnOnce(&mut (u64, bool)) -> T,
    ) -> Result<T, LedgerError> {
        tokio::task::yield_now().await;
        self.calls.fetch_add(1, Ordering::Relaxed);
        if self.is_down.load(Ordering::Relaxed) {
            return Err("down".into());
        }
        let mut counts = self.counts.lock().unwrap();
        let count = counts.entry(key.clone()).or_default();
        let changed = change(count);
        self.highest.fetch_max(count.0, Ordering::Relaxed);
        Ok(changed)
    }
}

#[async_trait]
impl Ledger for Memory {
    async fn lease(&self, key: &CounterKey, ask: Ask) -> Result<Leased, LedgerError> {
        self.change(key, |count| {
            let granted = ask.grant(count.0);
            count.0 += granted;
            Leased { granted, taken: count.0, warned: count.1 }
        })
        .await
    }

    async fn give_back(&self, parts: Vec<(CounterKey, u64)>) -> Result<(), LedgerError> {
        for (key, amount) in parts {
            self.change(&key, |count| count.0 = count.0.checked_sub(amount).expect("more than was leased"))
                .await?;
        }
        Ok(())
    }

    async fn overdraw(&self, key: &CounterKey, amount: u64) -> Result<u64, LedgerError> {
        self.change(key, |count| {
            count.0 += amount;
            count.0
        })
        .await
    }

    async fn warned(&self, key: &CounterKey) -> Result<(), LedgerError> {
        self.change(key, |count| count.1 = true).await
    }
}

#[derive(Default)]
struct Heard(Mutex<Vec<Warning>>);

#[async_trait]
impl WarningSink for Heard {
    async fn warned(&self, warning: &Warning) -> bool {
        self.0.lock().unwrap().push(warning.clone());
        true
    }
}

fn whose() -> Whose {
    Whose {
        organization_id: OrganizationId::from_uuid(Uuid::from_u128(1)),
        workspace_id: WorkspaceId::from_uuid(Uuid::from_u128(2)),
        role_id: RoleId::from_uuid(Uuid::from_u128(3)),
        session_id: SessionId::from_uuid(Uuid::from_u128(4)),
        task_id: None,
    }
}

fn key(name: &str, unit: Unit) -> CounterKey {
    CounterKey {
        organization_id: whose().organization_id,
        origin: "role",
        capability: "api".into(),
        counter: name.into(),
        unit: unit.as_str(),
        subject: Subject::Organization(whose().organization_id),
        workspace_id: None,
        window_seconds: 0,
        window_start: 0,
    }
}

fn charge(name: &str, unit: Unit, least: u64, most: u64, limit: u64) -> Charge {
    let claim = Claim { least, most, limit, warn_at: None };
    Charge { key: key(name, unit), unit, claim, asks: false, lifted: false }
}

fn charges(all: Vec<Charge>) -> Charges {
    Charges { all, whose: whose(), length: None, price: None }
}

fn one(limit: u64) -> Charges {
    charges(vec![charge("calls", Unit::Requests, 1, 1, limit)])
}

fn calls() -> CounterKey {
    key("calls", Unit::Requests)
}

fn engine(ledger: &Arc<Memory>) -> Budgets {
    Budgets::new(Options { idle_ms: 0, ..Options::default() }, Arc::clone(ledger) as _)
}

/// Has everything told to the ledger, and every block given back.
async fn stopped(budgets: &Budgets) -> Vec<Warning> {
    let heard = Heard::default();
    let stop = CancellationToken::new();
    stop.cancel();
    budgets.run(&heard, &stop).await;
    heard.0.into_inner().unwrap()
}

async fn spend(budgets: &Budgets, charges: &Charges) -> Result<(), Refused> {
    budgets.reserve(charges).await.map(|reservation| reservation.reached())
}

#[tokio::test]
async fn exactly_as_many_requests_pass_as_the_limit_says() {
    for limit in [0, 1, 5, 16, 17, 100, 1_000] {
        let ledger = Arc::new(Memory::default());
        let budgets = engine(&ledger);
        for _ in 0..limit {
            spend(&budgets, &one(limit)).await.unwrap();
        }
        let Err(Refused::Limit(full)) = spend(&budgets, &one(limit)).await else { panic!("{limit}") };
        assert_eq!((full[0].used, full[0].limit), (limit, limit));
        assert_eq!(ledger.taken(&calls()), limit);
    }
}

#[tokio::test]
async fn a_leased_block_is_used_without_the_ledger() {
    let ledger = Arc::new(Memory::default());
    let budgets = engine(&ledger);
    for _ in 0..10_000 {
        spend(&budgets, &one(1_000_000)).await.unwrap();
    }
    assert!(ledger.calls.load(Ordering::Relaxed) < 30, "{:?}", ledger.calls);
}

#[tokio::test]
async fn a_request_that_never_reached_its_upstream_counts_nothing() {
    let ledger = Arc::new(Memory::default());
    let budgets = engine(&ledger);
    for _ in 0..10 {
        drop(budgets.reserve(&one(1)).await.unwrap());
    }
    stopped(&budgets).await;
    assert_eq!(ledger.taken(&calls()), 0);
}

#[tokio::test]
async fn all_counters_have_room_or_none_is_touched_and_all_that_are_full_are_named() {
    let ledger = Arc::new(Memory::default());
    let budgets = engine(&ledger);
    let all = charges(vec![
        charge("a", Unit::Requests, 1, 1, 10),
        charge("b", Unit::Expression, 5, 5, 4),
        charge("c", Unit::Requests, 1, 1, 10),
        charge("d", Unit::Expression, 7, 7, 6),
    ]);
    let Err(Refused::Limit(full)) = spend(&budgets, &all).await else { panic!() };
    let names: Vec<_> = full.iter().map(|counter| &*counter.key.counter).collect();
    assert_eq!(names, ["b", "d"]);
    stopped(&budgets).await;
    for name in ["a", "b", "c", "d"] {
        assert_eq!(ledger.taken(&key(name, Unit::Requests)) + ledger.taken(&key(name, Unit::Expression)), 0);
    }
}

#[tokio::test]
async fn a_lower_limit_is_in_force_for_the_next_request_and_a_higher_one_too() {
    let ledger = Arc::new(Memory::default());
    let budgets = engine(&ledger);
    for _ in 0..50 {
        spend(&budgets, &one(10_000)).await.unwrap();
    }
    let under_way = budgets.reserve(&one(10_000)).await.unwrap();
    assert!(budgets.unused(&calls()) > 0, "a block is left");
    assert!(spend(&budgets, &one(50)).await.is_err());
    assert!(spend(&budgets, &one(51)).await.is_err());
    spend(&budgets, &one(52)).await.unwrap();
    // What was let in before and not used is given back, not used under the lower limit.
    drop(under_way);
    assert!(spend(&budgets, &one(51)).await.is_err());
    stopped(&budgets).await;
    assert_eq!(ledger.taken(&calls()), 51);
    spend(&budgets, &one(53)).await.unwrap();
}

#[tokio::test]
async fn what_was_used_beyond_the_estimate_is_written_down_and_the_next_request_is_denied() {
    let ledger = Arc::new(Memory::default());
    let budgets = engine(&ledger);
    let want = |limit| charges(vec![charge("tokens", Unit::Tokens, 10, 1_000, limit)]);
    let reservation = budgets.reserve(&want(500)).await.unwrap();
    reservation.reached();
    answer(&reservation, r#"{"usage":{"input_tokens":400,"output_tokens":900}}"#).await;
    drop(reservation);
    let Err(Refused::Limit(full)) = spend(&budgets, &want(500)).await else { panic!() };
    assert_eq!((full[0].used, full[0].limit), (1_300, 500));
    assert_eq!(ledger.taken(&key("tokens", Unit::Tokens)), 1_300);
}

#[tokio::test]
async fn a_request_that_is_broken_off_before_its_answer_counts_as_estimated() {
    let ledger = Arc::new(Memory::default());
    let budgets = engine(&ledger);
    let want = charges(vec![charge("tokens", Unit::Tokens, 10, 1_000, 5_000)]);
    for _ in 0..5 {
        spend(&budgets, &want).await.unwrap();
    }
    assert!(spend(&budgets, &want).await.is_err());
    stopped(&budgets).await;
    assert_eq!(ledger.taken(&key("tokens", Unit::Tokens)), 5_000);
}

#[tokio::test]
async fn an_estimate_takes_what_there_is_and_gives_back_what_was_not_used() {
    let ledger = Arc::new(Memory::default());
    let budgets = engine(&ledger);
    let want = charges(vec![charge("tokens", Unit::Tokens, 10, 1_000, 500)]);
    for _ in 0..5 {
        let reservation = budgets.reserve(&want).await.unwrap();
        // All of it is held: nobody else may bet on the same.
        assert!(matches!(budgets.reserve(&want).await, Err(Refused::Limit(_))));
        reservation.reached();
        answer(&reservation, r#"{"usage":{"input_tokens":60,"output_tokens":40}}"#).await;
    }
    assert!(matches!(budgets.reserve(&want).await, Err(Refused::Limit(_))));
    stopped(&budgets).await;
    assert_eq!(ledger.taken(&key("tokens", Unit::Tokens)), 500);
}

/// Lets an answer pass, and ends it.
async fn answer(reservation: &Reservation, text: &str) {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
    let meter = reservation.response_meter(&headers, None).await.unwrap().unwrap();
    assert!(read(meter, &[text.as_bytes()]).await.1.is_none());
}

#[tokio::test]
async fn tokens_and_money_are_what_the_answer_says_or_what_its_bytes_make_likely() {
    let table = HashMap::from([("m", 2.0), ("dear", 10.0)]);
    let usd = |price: f64| Usd { input: price, output: price, cache_read: None, cache_write: None };
    let prices =
        Prices::new(&table.into_iter().map(|(name, price)| (name.to_owned(), usd(price))).collect()).unwrap();
    let price = prices.find("m");
    for (text, is_cut, tokens, money) in [
        (r#"{"model":"m","usage":{"input_tokens":60,"output_tokens":40}}"#, false, 100, 200),
        (r#"{"model":"dear","usage":{"input_tokens":60,"output_tokens":40}}"#, false, 100, 1_000),
        (r#"{"model":"who?","usage":{"input_tokens":60,"output_tokens":40}}"#, false, 100, 200),
        // 100 bytes of request and 20 of answer.
        (r#"{"data":["01234567"]"#, false, 30, 60),
        // What was read is known, and what was written is not yet.
        (
            r#"{"usage":{"input_tokens":60,"output_tokens":1},"text":"0123456789012345678901234567890123456789"#,
            true,
            60 + 24,
            168,
        ),
    ] {
        let ledger = Arc::new(Memory::default());
        let budgets =
            Budgets::new(Options { prices: prices.clone(), ..Options::default() }, Arc::clone(&ledger) as _);
        let both = Charges {
            all: vec![
                charge("tokens", Unit::Tokens, 10, 1_000, 100_000),
                charge("usd", Unit::Usd, 10, 1_000, 100_000),
            ],
            whose: whose(),
            length: Some(100),
            price,
        };
        let reservation = budgets.reserve(&both).await.unwrap();
        reservation.reached();
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
        let mut meter = reservation.response_meter(&headers, None).await.unwrap().unwrap();
        if is_cut {
            let mut body = Box::pin(StreamBody::new(futures_of(&[text.as_bytes()])));
            let frame = std::future::poll_fn(|cx| meter.poll_frame(cx, |cx| body.as_mut().poll_frame(cx)))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(frame.into_data().unwrap(), text);
            drop(meter);
        } else {
            assert!(read(meter, &[text.as_bytes()]).await.1.is_none());
        }
        drop(reservation);
        stopped(&budgets).await;
        assert_eq!(ledger.taken(&key("tokens", Unit::Tokens)), tokens, "{text}");
        assert_eq!(ledger.taken(&key("usd", Unit::Usd)), money, "{text}");
    }
}

fn futures_of(parts: &[&[u8]]) -> impl tokio_stream::Stream<Item = Result<Frame<Bytes>, Infallible>> + use<> {
    let frames: Vec<_> = parts.iter().map(|part| Ok(Frame::data(Bytes::copy_from_slice(part)))).collect();
    tokio_stream::iter(frames)
}

/// A body behind a meter.
struct Metered<B>(Pin<Box<B>>, Meter);

impl<B: Body<Data = Bytes, Error = Infallible>> Body for Metered<B> {
    type Data = Bytes;
    type Error = Cut<Infallible>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Self(body, meter) = &mut *self;
        meter.poll_frame(cx, |cx| body.as_mut().poll_frame(cx))
    }
}

/// Reads a body through a meter; how much came, and why it broke off.
async fn read(meter: Meter, parts: &[&[u8]]) -> (usize, Option<Refused>) {
    let mut body = Metered(Box::pin(StreamBody::new(futures_of(parts))), meter);
    let mut came = 0;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => came += frame.into_data().unwrap().len(),
            Err(Cut::Limit(refused)) => return (came, Some(*refused)),
            Err(Cut::Source(never)) => match never {},
        }
    }
    (came, None)
}

#[tokio::test]
async fn a_body_of_unknown_length_is_cut_at_the_limit_to_the_byte() {
    for (limit, step) in [(10, 4), (10, 64), (7, 1), (10_000, 16), (1, 1)] {
        let ledger = Arc::new(Memory::default());
        let budgets =
            Budgets::new(Options { step_bytes: step, ..Options::default() }, Arc::clone(&ledger) as _);
        let all = charges(vec![
            charge("up", Unit::RequestBytes, 1, 1, 1_000_000),
            charge("down", Unit::ResponseBytes, 1, 1, limit),
        ]);
        let reservation = budgets.reserve(&all).await.unwrap();
        reservation.reached();
        assert_eq!(read(reservation.request_meter().unwrap(), &[b"abc", b"", b"defg"]).await, (7, None));
        let meter = reservation.response_meter(&HeaderMap::new(), None).await.unwrap().unwrap();
        let part = [0; 1_500];
        let (came, cut) = read(meter, &[&part[..3], &part, &part, &part]).await;
        assert_eq!(came as u64, limit.min(4_503), "{limit} {step}");
        assert_eq!(cut.is_some(), limit < 4_503);
        drop(reservation);
        stopped(&budgets).await;
        assert_eq!(ledger.taken(&key("down", Unit::ResponseBytes)), limit.min(4_503));
        assert_eq!(ledger.taken(&key("up", Unit::RequestBytes)), 7);
    }
}

#[tokio::test]
async fn an_answer_whose_length_is_known_is_reserved_at_its_head() {
    let ledger = Arc::new(Memory::default());
    let budgets = engine(&ledger);
    let all = charges(vec![charge("down", Unit::ResponseBytes, 1, 1, 100)]);
    let long = budgets.reserve(&all).await.unwrap();
    assert!(matches!(long.response_meter(&HeaderMap::new(), Some(101)).await, Err(Refused::Limit(_))));
    let fits = budgets.reserve(&all).await.unwrap();
    fits.reached();
    let meter = fits.response_meter(&HeaderMap::new(), Some(100)).await.unwrap().unwrap();
    assert_eq!(read(meter, &[&[0; 60], &[0; 30]]).await, (90, None));
    drop((long, fits));
    stopped(&budgets).await;
    assert_eq!(ledger.taken(&key("down", Unit::ResponseBytes)), 90);
}

#[tokio::test]
async fn a_request_that_ends_while_it_waits_for_a_block_leaves_it_to_others() {
    let ledger = Arc::new(Memory::default());
    let budgets = engine(&ledger);
    for _ in 0..20 {
        let waits = budgets.clone();
        let request = tokio::spawn(async move { drop(waits.reserve(&one(100)).await) });
        tokio::task::yield_now().await;
        request.abort();
        drop(request.await);
    }
    for _ in 0..100 {
        spend(&budgets, &one(100)).await.unwrap();
    }
    assert!(spend(&budgets, &one(100)).await.is_err());
}

#[tokio::test]
async fn a_ledger_that_fails_or_does_not_answer_is_a_denial() {
    let ledger = Arc::new(Memory::default());
    ledger.is_down.store(true, Ordering::Relaxed);
    let budgets = engine(&ledger);
    assert_eq!(spend(&budgets, &one(10)).await, Err(Refused::Unavailable));
    ledger.is_down.store(false, Ordering::Relaxed);
    spend(&budgets, &one(10)).await.unwrap();
    let full = Budgets::new(Options { counts_max: 0, ..Options::default() }, Arc::clone(&ledger) as _);
    assert_eq!(spend(&full, &one(10)).await, Err(Refused::Unavailable));
}

#[tokio::test]
async fn somebody_who_was_asked_may_let_a_request_go_beyond_and_no_other() {
    let ledger = Arc::new(Memory::default());
    let budgets = engine(&ledger);
    spend(&budgets, &one(1)).await.unwrap();
    let mut asks = one(1);
    asks.all[0].asks = true;
    let refused = spend(&budgets, &asks).await.unwrap_err();
    assert!(refused.asks());
    let mut deny = one(1);
    deny.lift();
    assert!(!spend(&budgets, &deny).await.unwrap_err().asks());
    let mut lifted = asks.clone();
    lifted.lift();
    // What such a request does not use is nobody else's.
    drop(budgets.reserve(&lifted).await.unwrap());
    assert!(spend(&budgets, &one(1)).await.is_err());
    spend(&budgets, &lifted).await.unwrap();
    stopped(&budgets).await;
    assert_eq!(ledger.taken(&calls()), 2);
}

#[tokio::test]
async fn it_is_said_once_that_a_limit_is_near() {
    let ledger = Arc::new(Memory::default());
    let mut near = one(100);
    near.all[0].claim.warn_at = Some(80);
    let first = engine(&ledger);
    for _ in 0..79 {
        spend(&first, &near).await.unwrap();
    }
    let mut said = stopped(&first).await;
    assert_eq!(said, []);
    for _ in 0..3 {
        spend(&first, &near).await.unwrap();
    }
    said.extend(stopped(&first).await);
    let second = engine(&ledger);
    for _ in 0..3 {
        spend(&second, &near).await.unwrap();
    }
    said.extend(stopped(&second).await);
    let said: Vec<_> = said.iter().map(|one| (one.used, one.warn_at, one.limit, &one.key)).collect();
    assert_eq!(said, [(80, 80, 100, &calls())]);
}

#[tokio::test]
async fn a_count_of_a_past_window_is_given_back_and_forgotten() {
    let ledger = Arc::new(Memory::default());
    let budgets = Budgets::new(Options::default(), Arc::clone(&ledger) as _);
    let mut windowed = one(100);
    let past = CounterKey { window_seconds: 60, ..calls() }.at(Timestamp::from_second(1_000).unwrap());
    assert_eq!(past.window_start, 960);
    windowed.all[0].key = past.clone();
    spend(&budgets, &windowed).await.unwrap();
    let stop = CancellationToken::new();
    let running = {
        let (budgets, stop) = (budgets.clone(), stop.clone());
        tokio::spawn(async move { budgets.run(&Heard::default(), &stop).await })
    };
    let given_back = async {
        while ledger.taken(&past) != 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, given_back).await.unwrap();
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_requests_in_many_processes_never_go_beyond() {
    const LIMIT: u64 = 3_000;
    let ledger = Arc::new(Memory::default());
    let passed = Arc::new(AtomicU64::new(0));
    let mut requests = tokio::task::JoinSet::new();
    let engines: Vec<_> = (0..4).map(|_| engine(&ledger)).collect();
    for at in 0..64 {
        let (budgets, passed) = (engines[at % engines.len()].clone(), Arc::clone(&passed));
        requests.spawn(async move {
            for _ in 0..200 {
                if spend(&budgets, &one(LIMIT)).await.is_ok() {
                    passed.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    requests.join_all().await;
    for budgets in &engines {
        stopped(budgets).await;
    }
    let passed = passed.load(Ordering::Relaxed);
    assert!(passed <= LIMIT, "{passed}");
    assert!(ledger.highest.load(Ordering::Relaxed) <= LIMIT);
    assert_eq!(ledger.taken(&calls()), passed, "what was not used is back");
    // What is left is there for whoever comes.
    for _ in passed..LIMIT {
        spend(&engines[0], &one(LIMIT)).await.unwrap();
    }
    assert!(spend(&engines[0], &one(LIMIT)).await.is_err());
}

#[derive(Debug, Clone)]
enum Act {
    /// A process reserves this much.
    Reserve(usize, u64),
    /// A request under way uses this share of what it holds, in hundredths.
    End(usize, u64),
    /// A process dies.
    Kill(usize),
    /// A process gives back what it does not use.
    Idle(usize),
    /// The limit changes.
    Limit(u64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => (0..3usize, 1..12u64).prop_map(|(who, amount)| Act::Reserve(who, amount)),
        4 => (0..8usize, 0..101u64).prop_map(|(which, share)| Act::End(which, share)),
        1 => (0..3usize).prop_map(Act::Kill),
        2 => (0..3usize).prop_map(Act::Idle),
        1 => (1..150u64).prop_map(Act::Limit),
    ];
    proptest::collection::vec(act, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order: a request passes only when all that was used and is held, with it, is within
    /// the limit of that moment.
    #[test]
    fn no_order_of_things_goes_beyond(acts in acts()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let ledger = Arc::new(Memory::default());
            let mut engines = [engine(&ledger), engine(&ledger), engine(&ledger)];
            let (mut limit, mut used) = (100, 0);
            let mut under_way: Vec<(usize, u64, Reservation)> = Vec::new();
            for act in acts {
                match act {
                    Act::Reserve(who, amount) => {
                        let wanted = charges(vec![charge("bytes", Unit::RequestBytes, amount, amount, limit)]);
                        if let Ok(reservation) = engines[who].reserve(&wanted).await {
                            under_way.push((who, amount, reservation));
                            let held: u64 = under_way.iter().map(|(_, amount, _)| amount).sum();
                            prop_assert!(used + held <= limit, "{} used, {} held, of {}", used, held, limit);
                        }
                    }
                    Act::End(which, share) if which < under_way.len() => {
                        let (_, amount, reservation) = under_way.swap_remove(which);
                        let part = amount * share / 100;
                        reservation.reached();
                        let meter = reservation.request_meter().unwrap();
                        let bytes = vec![0; usize::try_from(part).unwrap()];
                        prop_assert_eq!(read(meter, &[&bytes]).await, (bytes.len(), None));
                        used += part;
                    }
                    Act::Kill(who) => {
                        // What it held went upstream, for all that anybody knows.
                        let dead = std::mem::replace(&mut engines[who], engine(&ledger));
                        for (owner, amount, reservation) in std::mem::take(&mut under_way) {
                            if owner == who {
                                used += amount;
                                std::mem::forget(reservation);
                            } else {
                                under_way.push((owner, amount, reservation));
                            }
                        }
                        std::mem::forget(dead);
                    }
                    Act::Idle(who) => {
                        // Its requests under way go on.
                        engines[who].0.run_errands(&Heard::default()).await;
                        engines[who].0.give_back(Duration::ZERO).await;
                    }
                    Act::Limit(new) => {
                        // Each process has some request while a limit is higher, be it one that uses nothing.
                        for budgets in engines.iter().filter(|_| new > limit) {
                            let none = charge("bytes", Unit::RequestBytes, 0, 0, new);
                            prop_assert!(budgets.reserve(&charges(vec![none])).await.is_ok());
                        }
                        limit = new;
                    }
                    Act::End(..) => {}
                }
            }
            Ok(())
        })?;
    }
}
