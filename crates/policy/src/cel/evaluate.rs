//! The value of a checked expression for one request.

use std::{cell::Cell, cmp::Ordering, rc::Rc};

use base64::{Engine, engine::general_purpose::STANDARD};
use freehold_model::Timestamp;
use jiff::{SignedDuration, civil::DateTime, tz::Offset};

use super::{
    LIST_ITEMS_MAX, MADE_BYTES_MAX, TEXT_BYTES_MAX, WORK_MAX,
    check::{Function, Node, Walk},
    parse::Operator,
    presence::is_present,
    schema::Attribute,
    value::{List, Map, Text, Value},
};
use crate::names::{is_alike, is_simple};

/// What is known of a request.
pub trait Scope {
    /// The value of an attribute; `None` when the request has none.
    fn get(&self, attribute: Attribute) -> Option<Value<'_>>;

    /// Whether the request has a body that is neither JSON nor a form, or that could not be read: some servers read what they
    /// look for in it all the same.
    fn has_unknown_body(&self) -> bool {
        false
    }
}

/// Why an expression has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// An attribute, a key or an item is not there.
    #[error("something that it asks for is not there")]
    Absent,
    /// A key is not there, but one is that some servers take for it.
    #[error("a name is there that some servers take for the one that it asks for")]
    Alike,
    /// Something is not understood, and some servers may understand it.
    #[error("servers may read what it asks for in different ways")]
    Unclear,
    /// A value is of another type than is wanted.
    #[error("a value is of another type than it wants")]
    Type,
    /// A number does not fit, or is divided by zero.
    #[error("a number is out of range")]
    Range,
    /// A text is no number, moment or length of time, or not in Base64.
    #[error("a text does not read as what it should be")]
    Text,
    /// A list or a text is longer than expressions may make or walk over.
    #[error("a list or a text is too long")]
    TooLong,
}

/// A request of which nothing is known.
struct Nothing;

impl Scope for Nothing {
    fn get(&self, _: Attribute) -> Option<Value<'_>> {
        None
    }
}

/// Whether a part that asks for nothing has a value.
pub(super) fn constant(node: &Node) -> Result<(), Fault> {
    evaluate(node, &Nothing, &Work::default()).map(drop)
}

/// Bytes of text that are gone through in the time of a step.
const BYTES_PER_STEP: usize = 64;
/// What a name is counted as, in bytes, beside its own, where it is compared; and one whose spellings have to be made.
const NAME_BYTES: usize = 32;
const ODD_NAME_BYTES: usize = 512;
/// Bytes of names that are gone through before they are counted.
const NAMES_BYTES: usize = 4 * 1024;
/// Keys that are gone through in the time of a step.
const KEYS_PER_STEP: usize = 16;
/// Steps for each byte that a regular expression is held against: it may follow hundreds of ways at once.
const REGEX_STEPS_PER_BYTE: usize = 16;

/// What the expressions of one decision may still do.
#[derive(Debug)]
pub struct Work {
    steps: Cell<u64>,
    bytes: Cell<u64>,
}

impl Default for Work {
    fn default() -> Self {
        Self { steps: Cell::new(WORK_MAX), bytes: Cell::new(MADE_BYTES_MAX) }
    }
}

impl Work {
    pub(super) fn steps(&self, count: usize) -> Result<(), Fault> {
        take(&self.steps, count)
    }

    /// Holds two values against one another; what is in lists and maps counts by itself.
    pub(super) fn compares(&self, one: &Value<'_>, other: &Value<'_>) -> Result<(), Fault> {
        self.steps(1)?;
        match (one, other) {
            (Value::Text(one), Value::Text(other)) => {
                self.reads(one.as_str().len().min(other.as_str().len()))
            }
            _ => Ok(()),
        }
    }

    /// Takes a value that was looked up: one that was made for it has cost what it is long.
    fn takes<'a>(&self, value: Value<'a>) -> Evaluated<'a> {
        match &value {
            Value::Text(Text::Made(text)) => self.reads(text.len())?,
            Value::List(List::Made(items)) => self.steps(items.len())?,
            _ => {}
        }
        Ok(value)
    }

    /// Goes through so many bytes.
    pub(super) fn reads(&self, bytes: usize) -> Result<(), Fault> {
        self.steps(bytes / BYTES_PER_STEP)
    }

    pub(super) fn makes(&self, bytes: usize) -> Result<(), Fault> {
        self.reads(bytes)?;
        take(&self.bytes, bytes)
    }
}

/// Takes from what is left. When that is not enough, nothing is left: what follows shall not go on with less.
fn take(left: &Cell<u64>, count: usize) -> Result<(), Fault> {
    let now = left.get().checked_sub(count as u64);
    left.set(now.unwrap_or(0));
    now.map(drop).ok_or(Fault::TooLong)
}

type Evaluated<'a> = Result<Value<'a>, Fault>;

pub(super) fn evaluate<'a>(root: &'a Node, scope: &'a dyn Scope, work: &'a Work) -> Evaluated<'a> {
    Evaluation { scope, work, locals: Vec::new() }.value(root)
}

struct Evaluation<'a> {
    scope: &'a dyn Scope,
    work: &'a Work,
    locals: Vec<Value<'a>>,
}

impl<'a> Evaluation<'a> {
    fn value(&mut self, node: &'a Node) -> Evaluated<'a> {
        self.work.steps(1)?;
        Ok(match node {
            Node::Null => Value::Null,
            Node::Bool(value) => Value::Bool(*value),
            Node::Int(value) => Value::Int(*value),
            Node::Double(value) => Value::Double(*value),
            Node::Text(value) => Value::text(value),
            Node::List(items) => {
                let items: Result<Rc<[_]>, _> = items.iter().map(|item| self.value(item)).collect();
                Value::List(List::Made(items?))
            }
            Node::Attribute(attribute) => {
                self.work.takes(self.scope.get(*attribute).ok_or(Fault::Absent)?)?
            }
            Node::Local(at) => self.locals.get(*at).cloned().ok_or(Fault::Absent)?,
            Node::Present(attribute) => Value::Bool(is_present(self.scope, self.work, *attribute)?),
            Node::Has(of, key) => {
                let map = self.map(of)?;
                Value::Bool(lookup(self.work, map, key)?.is_some())
            }
            Node::Select(of, key) => {
                let map = self.map(of)?;
                lookup(self.work, map, key)?.ok_or(Fault::Absent)?
            }
            Node::Index(pair) => self.index(&pair[0], &pair[1])?,
            Node::Not(of) => Value::Bool(!self.holds(of)?),
            Node::Negate(of) => match self.value(of)? {
                Value::Int(value) => Value::Int(value.checked_neg().ok_or(Fault::Range)?),
                Value::Double(value) => Value::Double(-value),
                _ => return Err(Fault::Type),
            },
            Node::And(parts) => Value::Bool(!self.any(parts, false)?),
            Node::Or(parts) => Value::Bool(self.any(parts, true)?),
            Node::Binary(operator, pair) => {
                let (left, right) = (self.value(&pair[0])?, self.value(&pair[1])?);
                binary(self.work, *operator, &left, &right)?
            }
            Node::Conditional(parts) => {
                let [condition, then, otherwise] = &**parts;
                if self.holds(condition)? { self.value(then)? } else { self.value(otherwise)? }
            }
            Node::Call(function, arguments) => self.call(*function, arguments)?,
            Node::Matches(of, regex) => match self.value(of)? {
                Value::Text(text) => {
                    let bytes = text.as_str().as_bytes();
                    self.work.steps(bytes.len().saturating_mul(REGEX_STEPS_PER_BYTE))?;
                    Value::Bool(regex.is_match(bytes))
                }
                _ => return Err(Fault::Type),
            },
            Node::Walk { kind, over, parts } => self.walk(*kind, over, parts)?,
        })
    }

    fn holds(&mut self, node: &'a Node) -> Result<bool, Fault> {
        match self.value(node)? {
            Value::Bool(holds) => Ok(holds),
            _ => Err(Fault::Type),
        }
    }

    fn map(&mut self, node: &'a Node) -> Result<Map<'a>, Fault> {
        match self.value(node)? {
            Value::Map(map) => Ok(map),
            _ => Err(Fault::Type),
        }
    }

    /// Whether any part is `wanted`. As in CEL, one that is makes up for others that have no value.
    fn any(&mut self, parts: &'a [Node], wanted: bool) -> Result<bool, Fault> {
        let mut fault = None;
        for part in parts {
            match self.holds(part) {
                Ok(holds) if holds == wanted => return Ok(true),
                Ok(_) => {}
                Err(other) => fault = fault.or(Some(other)),
            }
        }
        fault.map_or(Ok(false), Err)
    }

    fn index(&mut self, of: &'a Node, key: &'a Node) -> Evaluated<'a> {
        match (self.value(of)?, self.value(key)?) {
            (Value::List(list), Value::Int(at)) => {
                usize::try_from(at).ok().and_then(|at| list.get(at)).ok_or(Fault::Absent)
            }
            (Value::Map(map), Value::Text(key)) => lookup(self.work, map, key.as_str())?.ok_or(Fault::Absent),
            _ => Err(Fault::Type),
        }
    }

    fn walk(&mut self, kind: Walk, over: &'a Node, parts: &'a [Node]) -> Evaluated<'a> {
        let list = match self.value(over)? {
            Value::List(list) => list,
            Value::Map(map) => {
                self.work.steps(map.len())?;
                let keys = map.keys();
                List::Made(keys.into_iter().map(Value::text).collect())
            }
            _ => return Err(Fault::Type),
        };
        if list.len() > LIST_ITEMS_MAX {
            return Err(Fault::TooLong);
        }
        let (mut held, mut kept, mut fault) = (0_usize, Vec::new(), None);
        for item in list.iter() {
            self.locals.push(item.clone());
            let outcome = self.step(kind, item, parts);
            self.locals.pop();
            match (kind, outcome) {
                (Walk::Exists, Ok(Some(_))) => return Ok(Value::Bool(true)),
                (Walk::All, Ok(None)) => return Ok(Value::Bool(false)),
                (Walk::Filter | Walk::Map, Ok(found)) => kept.extend(found),
                (_, Ok(found)) => held += usize::from(found.is_some()),
                // As between `||` and `&&`, an item that decides makes up for one that has no value.
                (Walk::Exists | Walk::All, Err(other)) => fault = fault.or(Some(other)),
                (_, Err(other)) => return Err(other),
            }
        }
        if let Some(fault) = fault {
            return Err(fault);
        }
        Ok(match kind {
            Walk::All => Value::Bool(true),
            Walk::Exists => Value::Bool(false),
            Walk::ExistsOne => Value::Bool(held == 1),
            Walk::Filter | Walk::Map => Value::List(List::Made(kept.into())),
        })
    }

    /// What one item gives: itself when it is asked for, or what is made of it.
    fn step(&mut self, kind: Walk, item: Value<'a>, parts: &'a [Node]) -> Result<Option<Value<'a>>, Fault> {
        match (kind, parts) {
            (Walk::Map, [value]) => self.value(value).map(Some),
            (Walk::Map, [condition, value]) => {
                if self.holds(condition)? {
                    self.value(value).map(Some)
                } else {
                    Ok(None)
                }
            }
            (_, [condition]) => Ok(self.holds(condition)?.then_some(item)),
            _ => Err(Fault::Type),
        }
    }

    fn call(&mut self, function: Function, arguments: &'a [Node]) -> Evaluated<'a> {
        let mut values = Vec::with_capacity(arguments.len());
        for argument in arguments {
            values.push(self.value(argument)?);
        }
        let work = self.work;
        for value in &values {
            match value {
                Value::Text(text) => work.reads(text.as_str().len())?,
                Value::List(list) => work.steps(list.len())?,
                _ => {}
            }
        }
        match values.as_slice() {
            [of] => unary(work, function, of),
            [Value::Text(of), Value::Text(with)] => text_pair(work, function, of.as_str(), with.as_str()),
            [Value::List(list), Value::Text(between)] => join(work, list, between.as_str()),
            [Value::Timestamp(moment), Value::Text(zone)] => part_of_time(function, *moment, zone.as_str()),
            [Value::Text(of), Value::Text(from), Value::Text(to)] => {
                replace(work, of.as_str(), from.as_str(), to.as_str())
            }
            _ => Err(Fault::Type),
        }
    }
}

/// The value of a key. Where it is not there, and something is that some servers take for it, nobody knows what it is: a
/// rule that denies does so, and one that allows does not.
pub(super) fn lookup<'a>(work: &Work, map: Map<'a>, key: &str) -> Result<Option<Value<'a>>, Fault> {
    work.reads(key.len())?;
    if let Map::Source(source) = map {
        work.steps(source.len() / KEYS_PER_STEP)?;
    }
    if let Some(value) = map.get(key) {
        return work.takes(value).map(Some);
    }
    let has_alike = match map {
        Map::Source(source) => has_alike(work, source.keys(), key)?,
        Map::Json(members) => has_alike(work, members.keys().map(String::as_str), key)?,
    };
    if has_alike { Err(Fault::Alike) } else { Ok(None) }
}

fn has_alike<'n>(work: &Work, names: impl IntoIterator<Item = &'n str>, key: &str) -> Result<bool, Fault> {
    let (is_simple_key, mut bytes) = (is_simple(key), 0);
    for name in names {
        let is_quick = is_simple_key && is_simple(name);
        bytes +=
            if is_quick { name.len() + NAME_BYTES } else { (name.len() + key.len()) * 8 + ODD_NAME_BYTES };
        if bytes > NAMES_BYTES {
            work.reads(std::mem::take(&mut bytes))?;
        }
        if if is_quick { name.eq_ignore_ascii_case(key) } else { is_alike(name, key) } {
            return Ok(true);
        }
    }
    work.reads(bytes)?;
    Ok(false)
}

fn made<'a>(work: &Work, text: &str) -> Evaluated<'a> {
    work.makes(text.len())?;
    if text.len() > TEXT_BYTES_MAX { Err(Fault::TooLong) } else { Ok(Value::made(text)) }
}

fn integer<'a>(count: usize) -> Evaluated<'a> {
    i64::try_from(count).map(Value::Int).map_err(|_| Fault::Range)
}

fn binary<'a>(work: &Work, operator: Operator, left: &Value<'a>, right: &Value<'a>) -> Evaluated<'a> {
    let ordered = |holds: fn(Ordering) -> bool| {
        work.compares(left, right)?;
        match left.compare(right) {
            Some(order) => Ok(Value::Bool(holds(order))),
            // What is no number is in no order with numbers: neither below a limit nor above it.
            None => Err(match (left, right) {
                (Value::Int(_) | Value::Double(_), Value::Int(_) | Value::Double(_)) => Fault::Range,
                _ => Fault::Type,
            }),
        }
    };
    match operator {
        Operator::Equal => left.equals(right, work).map(Value::Bool),
        Operator::NotEqual => left.equals(right, work).map(|equal| Value::Bool(!equal)),
        Operator::Less => ordered(Ordering::is_lt),
        Operator::LessOrEqual => ordered(Ordering::is_le),
        Operator::Greater => ordered(Ordering::is_gt),
        Operator::GreaterOrEqual => ordered(Ordering::is_ge),
        Operator::In => match (left, right) {
            (_, Value::List(list)) => {
                for item in list.iter() {
                    if item.equals(left, work)? {
                        return Ok(Value::Bool(true));
                    }
                }
                Ok(Value::Bool(false))
            }
            (Value::Text(key), Value::Map(map)) => {
                Ok(Value::Bool(lookup(work, *map, key.as_str())?.is_some()))
            }
            _ => Err(Fault::Type),
        },
        _ => arithmetic(work, operator, left, right),
    }
}

fn arithmetic<'a>(work: &Work, operator: Operator, left: &Value<'a>, right: &Value<'a>) -> Evaluated<'a> {
    use Value::{Double, Duration, Int, Text, Timestamp};
    let moment = |moment: Result<freehold_model::Timestamp, _>| {
        moment.map(Timestamp).map_err(|_: jiff::Error| Fault::Range)
    };
    match (operator, left, right) {
        (_, Int(left), Int(right)) => integers(operator, *left, *right),
        (Operator::Add, Double(left), Double(right)) => Ok(Double(left + right)),
        (Operator::Subtract, Double(left), Double(right)) => Ok(Double(left - right)),
        (Operator::Multiply, Double(left), Double(right)) => Ok(Double(left * right)),
        (Operator::Divide, Double(left), Double(right)) => Ok(Double(left / right)),
        (Operator::Add, Text(left), Text(right)) => concat(work, left.as_str(), right.as_str()),
        (Operator::Add, Value::List(left), Value::List(right)) => {
            if left.len() + right.len() > LIST_ITEMS_MAX {
                return Err(Fault::TooLong);
            }
            work.steps(left.len() + right.len())?;
            Ok(Value::List(List::Made(left.iter().chain(right.iter()).collect())))
        }
        (Operator::Add, Timestamp(at), Duration(by)) | (Operator::Add, Duration(by), Timestamp(at)) => {
            moment(at.checked_add(*by))
        }
        (Operator::Subtract, Timestamp(at), Duration(by)) => moment(at.checked_sub(*by)),
        (Operator::Subtract, Timestamp(to), Timestamp(from)) => Ok(Duration(from.duration_until(*to))),
        (Operator::Add, Duration(left), Duration(right)) => {
            left.checked_add(*right).map(Duration).ok_or(Fault::Range)
        }
        (Operator::Subtract, Duration(left), Duration(right)) => {
            left.checked_sub(*right).map(Duration).ok_or(Fault::Range)
        }
        _ => Err(Fault::Type),
    }
}

fn integers<'a>(operator: Operator, left: i64, right: i64) -> Evaluated<'a> {
    let result = match operator {
        Operator::Add => left.checked_add(right),
        Operator::Subtract => left.checked_sub(right),
        Operator::Multiply => left.checked_mul(right),
        Operator::Divide => left.checked_div(right),
        Operator::Remainder => left.checked_rem(right),
        _ => return Err(Fault::Type),
    };
    result.map(Value::Int).ok_or(Fault::Range)
}

fn concat<'a>(work: &Work, left: &str, right: &str) -> Evaluated<'a> {
    if left.len() + right.len() > TEXT_BYTES_MAX {
        Err(Fault::TooLong)
    } else {
        made(work, &[left, right].concat())
    }
}

fn text_pair<'a>(work: &Work, function: Function, of: &str, with: &str) -> Evaluated<'a> {
    match function {
        Function::Contains => Ok(Value::Bool(of.contains(with))),
        Function::StartsWith => Ok(Value::Bool(of.starts_with(with))),
        Function::EndsWith => Ok(Value::Bool(of.ends_with(with))),
        Function::Split => {
            work.makes(of.len())?;
            work.steps(of.len().min(LIST_ITEMS_MAX))?;
            let parts: Vec<_> = if with.is_empty() {
                of.char_indices()
                    .map(|(at, c)| Value::made(&of[at..at + c.len_utf8()]))
                    .take(LIST_ITEMS_MAX + 1)
                    .collect()
            } else {
                of.split(with).map(Value::made).take(LIST_ITEMS_MAX + 1).collect()
            };
            if parts.len() > LIST_ITEMS_MAX {
                Err(Fault::TooLong)
            } else {
                Ok(Value::List(List::Made(parts.into())))
            }
        }
        _ => Err(Fault::Type),
    }
}

fn join<'a>(work: &Work, list: &List<'_>, between: &str) -> Evaluated<'a> {
    let mut joined = String::new();
    for (index, item) in list.iter().enumerate() {
        let Value::Text(text) = item else { return Err(Fault::Type) };
        if index > 0 {
            joined.push_str(between);
        }
        joined.push_str(text.as_str());
        if joined.len() > TEXT_BYTES_MAX {
            return Err(Fault::TooLong);
        }
    }
    made(work, &joined)
}

fn replace<'a>(work: &Work, of: &str, from: &str, to: &str) -> Evaluated<'a> {
    let times = of.matches(from).count();
    let length = of.len().saturating_add(times.saturating_mul(to.len()));
    if length > TEXT_BYTES_MAX.saturating_add(times.saturating_mul(from.len())) {
        return Err(Fault::TooLong);
    }
    made(work, &of.replace(from, to))
}

fn unary<'a>(work: &Work, function: Function, of: &Value<'a>) -> Evaluated<'a> {
    match (function, of) {
        (Function::Size, Value::Text(text)) => integer(text.as_str().chars().count()),
        (Function::Size, Value::List(list)) => integer(list.len()),
        (Function::Size, Value::Map(map)) => integer(map.len()),
        (Function::LowerAscii, Value::Text(text)) => made(work, &text.as_str().to_ascii_lowercase()),
        (Function::UpperAscii, Value::Text(text)) => made(work, &text.as_str().to_ascii_uppercase()),
        (Function::Trim, Value::Text(Text::Borrowed(text))) => Ok(Value::text(text.trim())),
        (Function::Trim, Value::Text(Text::Made(text))) => made(work, text.trim()),
        (Function::Base64Encode, Value::Text(text)) => made(work, &STANDARD.encode(text.as_str())),
        (Function::Base64Decode, Value::Text(text)) => {
            let bytes = STANDARD.decode(text.as_str()).map_err(|_| Fault::Text)?;
            made(work, &String::from_utf8(bytes).map_err(|_| Fault::Text)?)
        }
        (Function::ToTimestamp, Value::Text(text)) => {
            text.as_str().parse().map(Value::Timestamp).map_err(|_| Fault::Text)
        }
        (Function::ToTimestamp, Value::Int(seconds)) => {
            Timestamp::from_second(*seconds).map(Value::Timestamp).map_err(|_| Fault::Range)
        }
        (Function::ToDuration, Value::Text(text)) => {
            text.as_str().parse::<SignedDuration>().map(Value::Duration).map_err(|_| Fault::Text)
        }
        (Function::ToInt | Function::ToDouble | Function::ToText, _) => converted(work, function, of),
        (_, Value::Timestamp(moment)) => part_of_time(function, *moment, "UTC"),
        _ => Err(Fault::Type),
    }
}

fn converted<'a>(work: &Work, to: Function, of: &Value<'a>) -> Evaluated<'a> {
    match (to, of) {
        (Function::ToInt, Value::Int(_))
        | (Function::ToDouble, Value::Double(_))
        | (Function::ToText, Value::Text(_)) => Ok(of.clone()),
        (Function::ToInt, Value::Text(text)) => {
            text.as_str().parse().map(Value::Int).map_err(|_| Fault::Text)
        }
        (Function::ToInt, Value::Timestamp(moment)) => Ok(Value::Int(moment.as_second())),
        (Function::ToInt, Value::Double(number)) => whole(*number),
        (Function::ToDouble, Value::Int(number)) => {
            #[expect(clippy::cast_precision_loss, reason = "that is what is asked for")]
            let nearest = *number as f64;
            Ok(Value::Double(nearest))
        }
        (Function::ToDouble, Value::Text(text)) => {
            let number = text.as_str().parse::<f64>().ok().filter(|number| number.is_finite());
            number.map(Value::Double).ok_or(Fault::Text)
        }
        (Function::ToText, Value::Int(number)) => made(work, &number.to_string()),
        (Function::ToText, Value::Double(number)) => made(work, &number.to_string()),
        (Function::ToText, Value::Bool(value)) => made(work, if *value { "true" } else { "false" }),
        (Function::ToText, Value::Timestamp(moment)) => made(work, &moment.to_string()),
        _ => Err(Fault::Type),
    }
}

/// The integer nearer to zero.
fn whole<'a>(number: f64) -> Evaluated<'a> {
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    if !(number > -BEYOND && number < BEYOND) {
        return Err(Fault::Range);
    }
    #[expect(clippy::cast_possible_truncation, reason = "it is in range, and its fraction is meant to go")]
    let whole = number as i64;
    Ok(Value::Int(whole))
}

/// A part of a moment in a time zone: `UTC`, or hours and minutes from it, as `+02:00`.
fn part_of_time<'a>(function: Function, moment: Timestamp, zone: &str) -> Evaluated<'a> {
    let local: DateTime = offset(zone).ok_or(Fault::Text)?.to_datetime(moment);
    let number = match function {
        Function::FullYear => i64::from(local.year()),
        Function::Month => i64::from(local.month()) - 1,
        Function::Date => i64::from(local.day()),
        Function::DayOfWeek => i64::from(local.weekday().to_sunday_zero_offset()),
        Function::Hours => i64::from(local.hour()),
        Function::Minutes => i64::from(local.minute()),
        Function::Seconds => i64::from(local.second()),
        _ => return Err(Fault::Type),
    };
    Ok(Value::Int(number))
}

fn offset(zone: &str) -> Option<Offset> {
    if matches!(zone, "UTC" | "Z") {
        return Some(Offset::UTC);
    }
    let (sign, digits) = match zone.as_bytes().first()? {
        b'+' => (1, &zone[1..]),
        b'-' => (-1, &zone[1..]),
        _ => (1, zone),
    };
    let (hours, minutes) = digits.split_once(':')?;
    let number = |digits: &str, below: i32| {
        let is_plain = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<i32>().ok().filter(|number| is_plain && *number < below)
    };
    Offset::from_seconds(sign * (number(hours, 24)? * 3600 + number(minutes, 60)? * 60)).ok()
}
