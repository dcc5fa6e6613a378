//! From a syntax tree to what can be evaluated: names resolved, types and costs known.

use std::{iter::Sum, ops::Add};

use regex::bytes::{Regex, RegexBuilder};

use super::{
    CelProblem, LIST_ITEMS_MAX,
    evaluate::{self, Fault},
    hint,
    parse::{Ast, AstKind, Operator},
    schema::{Attribute, Named, Place, Type, known_names, like, members, named},
};

/// A node that is evaluated.
#[derive(Debug)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(Box<str>),
    List(Box<[Self]>),
    Attribute(Attribute),
    /// A walk's variable, counted from the outermost.
    Local(usize),
    /// Whether an attribute is there.
    Present(Attribute),
    /// Whether a map has a key.
    Has(Box<Self>, Box<str>),
    Select(Box<Self>, Box<str>),
    Index(Box<[Self; 2]>),
    Not(Box<Self>),
    Negate(Box<Self>),
    And(Box<[Self]>),
    Or(Box<[Self]>),
    Binary(Operator, Box<[Self; 2]>),
    Conditional(Box<[Self; 3]>),
    Call(Function, Box<[Self]>),
    Matches(Box<Self>, Box<Regex>),
    Walk {
        kind: Walk,
        over: Box<Self>,
        parts: Box<[Self]>,
    },
}

/// A function of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    LowerAscii,
    UpperAscii,
    Trim,
    Split,
    Join,
    Replace,
    ToInt,
    ToDouble,
    ToText,
    ToTimestamp,
    ToDuration,
    Base64Encode,
    Base64Decode,
    FullYear,
    Month,
    Date,
    DayOfWeek,
    Hours,
    Minutes,
    Seconds,
}

/// A walk over a list, or over the keys of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Walk {
    All,
    Exists,
    ExistsOne,
    Filter,
    /// With a second part, the first says which items.
    Map,
}

const WALKS: &[(&str, Walk)] = &[
    ("all", Walk::All),
    ("exists", Walk::Exists),
    ("exists_one", Walk::ExistsOne),
    ("filter", Walk::Filter),
    ("map", Walk::Map),
];

/// The cost of going through a text.
const TEXT_COST: Cost = Cost(10);

/// The cost of one step.
const STEP: Cost = Cost(1);

/// A regular expression that compiles to more, in bytes, is refused.
const REGEX_BYTES_MAX: usize = 16 * 1024;

/// Bytes that a thread may keep to search faster for one regular expression.
const REGEX_CACHE_BYTES_MAX: usize = 32 * 1024;

/// Steps of an evaluation at most. Sums and products stay at the greatest number: a cost that came round would be small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cost(pub(super) u64);

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Cost {
    fn times(self, count: usize) -> Self {
        Self(self.0.saturating_mul(count as u64))
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self(0), Self::add)
    }
}

/// What is known of a checked part.
pub(super) struct Checked {
    pub(super) node: Node,
    pub(super) kind: Type,
    pub(super) cost: Cost,
    pub(super) attributes: Vec<Attribute>,
    /// The secrets it asks for.
    pub(super) secrets: Vec<Box<str>>,
    /// How many regular expressions it holds.
    pub(super) regexes: usize,
}

struct Typed {
    node: Node,
    kind: Type,
    cost: Cost,
    /// How many items a list has at most.
    items: usize,
}

impl Typed {
    fn new(node: Node, kind: Type, cost: Cost) -> Self {
        Self { node, kind, cost, items: LIST_ITEMS_MAX }
    }
}

type Part = Result<Typed, CelProblem>;

pub(super) fn check(tree: &Ast, place: Place) -> Result<Checked, CelProblem> {
    let mut checker =
        Checker { place, regexes: 0, locals: Vec::new(), attributes: Vec::new(), secrets: Vec::new() };
    let Typed { node, kind, cost, .. } = checker.part(tree)?;
    let Checker { attributes, secrets, regexes, .. } = checker;
    Ok(Checked { node, kind, cost, attributes, secrets, regexes })
}

struct Checker {
    place: Place,
    regexes: usize,
    locals: Vec<(String, Type)>,
    attributes: Vec<Attribute>,
    secrets: Vec<Box<str>>,
}

impl Checker {
    fn part(&mut self, tree: &Ast) -> Part {
        Ok(match &tree.kind {
            AstKind::Null => Typed::new(Node::Null, Type::Null, STEP),
            AstKind::Bool(value) => Typed::new(Node::Bool(*value), Type::Bool, STEP),
            AstKind::Int(value) => Typed::new(Node::Int(*value), Type::Int, STEP),
            AstKind::Double(value) => Typed::new(Node::Double(*value), Type::Double, STEP),
            AstKind::Text(value) => Typed::new(Node::Text(value.as_str().into()), Type::Text, STEP),
            AstKind::List(items) => self.list(items)?,
            AstKind::Name(_) | AstKind::Select(..) => self.name_or_select(tree)?,
            AstKind::Index(pair) => self.index(pair)?,
            AstKind::Call { target, name, arguments } => {
                self.call(tree, target.as_deref(), name, arguments)?
            }
            AstKind::Not(of) => {
                let of = self.wanted(of, &Type::Bool)?;
                Typed::new(Node::Not(Box::new(of.node)), Type::Bool, of.cost + STEP)
            }
            AstKind::Negate(of) => self.negate(tree, of)?,
            AstKind::And(parts) => self.booleans(parts, Node::And)?,
            AstKind::Or(parts) => self.booleans(parts, Node::Or)?,
            AstKind::Binary(operator, pair) => self.binary(tree.offset, *operator, pair)?,
            AstKind::Conditional(parts) => self.conditional(parts)?,
        })
    }

    fn wanted(&mut self, tree: &Ast, kind: &Type) -> Part {
        let part = self.part(tree)?;
        if part.kind.may_be(kind) {
            return Ok(part);
        }
        Err(CelProblem::new(tree.offset, format!("this is {}, and {kind} is wanted", part.kind)))
    }

    fn list(&mut self, items: &[Ast]) -> Part {
        let (mut nodes, mut kind, mut cost) = (Vec::new(), None::<Type>, STEP);
        for item in items {
            let item = self.part(item)?;
            kind = Some(kind.map_or_else(|| item.kind.clone(), |kind| kind.or(&item.kind)));
            cost = cost + item.cost;
            nodes.push(item.node);
        }
        let items = nodes.len();
        let node = Node::List(nodes.into());
        Ok(Typed { items, ..Typed::new(node, Type::list(kind.unwrap_or(Type::Dyn)), cost) })
    }

    fn booleans(&mut self, parts: &[Ast], make: fn(Box<[Node]>) -> Node) -> Part {
        let (mut nodes, mut cost) = (Vec::new(), STEP);
        for part in parts {
            let part = self.wanted(part, &Type::Bool)?;
            cost = cost + part.cost;
            nodes.push(part.node);
        }
        Ok(Typed::new(make(nodes.into()), Type::Bool, cost))
    }

    fn negate(&mut self, tree: &Ast, of: &Ast) -> Part {
        let of = self.part(of)?;
        if !is_number(&of.kind) {
            return Err(CelProblem::new(tree.offset, format!("`-` wants a number, and this is {}", of.kind)));
        }
        Ok(Typed::new(Node::Negate(Box::new(of.node)), of.kind, of.cost + STEP))
    }

    fn conditional(&mut self, parts: &[Ast; 3]) -> Part {
        let [condition, then, otherwise] = parts;
        let condition = self.wanted(condition, &Type::Bool)?;
        let (then, otherwise) = (self.part(then)?, self.part(otherwise)?);
        let cost = STEP + condition.cost + then.cost.max(otherwise.cost);
        let kind = then.kind.or(&otherwise.kind);
        let items = then.items.max(otherwise.items);
        let node = Node::Conditional(Box::new([condition.node, then.node, otherwise.node]));
        Ok(Typed { items, ..Typed::new(node, kind, cost) })
    }

    fn index(&mut self, pair: &[Ast; 2]) -> Part {
        let [of, key] = pair;
        if self.is_secrets(of) {
            let AstKind::Text(name) = &key.kind else { return Err(secret_problem(key.offset)) };
            return self.secret(of.offset, name);
        }
        self.spelled(of, key.offset, text(key))?;
        let of_kind = self.part(of)?;
        let (key_kind, kind) = match &of_kind.kind {
            Type::List(item) => (Type::Int, (**item).clone()),
            Type::Map(value) => (Type::Text, (**value).clone()),
            Type::Dyn => (Type::Dyn, Type::Dyn),
            other => return Err(CelProblem::new(of.offset, format!("{other} has no items"))),
        };
        let key = self.wanted(key, &key_kind)?;
        let cost = of_kind.cost + key.cost + STEP;
        Ok(Typed::new(Node::Index(Box::new([of_kind.node, key.node])), kind, cost))
    }

    fn binary(&mut self, offset: usize, operator: Operator, pair: &[Ast; 2]) -> Part {
        let [left, right] = pair;
        self.compared(operator, left, right)?;
        let (left, right) = (self.part(left)?, self.part(right)?);
        let Some(kind) = result(operator, &left.kind, &right.kind) else {
            let message = format!("`{operator}` does not go between {} and {}", left.kind, right.kind);
            return Err(CelProblem::new(offset, message));
        };
        let through = STEP.times(match (operator, &left.kind, &right.kind) {
            (Operator::In, _, Type::List(_) | Type::Dyn) => right.items,
            (_, Type::List(_) | Type::Dyn, Type::List(_) | Type::Dyn) => left.items,
            _ => 1,
        });
        let items = left.items.saturating_add(right.items).min(LIST_ITEMS_MAX);
        let cost = left.cost + right.cost + through;
        let node = Node::Binary(operator, Box::new([left.node, right.node]));
        Ok(Typed { items, ..Typed::new(node, kind, cost) })
    }

    /// A variable of a walk, an attribute, or what is selected from a value.
    fn name_or_select(&mut self, tree: &Ast) -> Part {
        if let Some(path) = self.attribute_path(tree) {
            return match named(&path) {
                Named::Attribute(attribute) => self.attribute(tree.offset, attribute),
                Named::Object => {
                    let names = known_names(Some(&path), self.place);
                    Err(CelProblem::new(tree.offset, format!("name a field of `{path}`: `{names}`")))
                }
                Named::Unknown => self.select_or_unknown(tree),
            };
        }
        match &tree.kind {
            AstKind::Name(name) => {
                let at = self.locals.iter().rposition(|(local, _)| local == name).unwrap_or_default();
                Ok(Typed::new(Node::Local(at), self.locals[at].1.clone(), STEP))
            }
            _ => self.select_or_unknown(tree),
        }
    }

    fn select_or_unknown(&mut self, tree: &Ast) -> Part {
        let AstKind::Select(of, field) = &tree.kind else {
            let name = self.attribute_path(tree).unwrap_or_default();
            let there = format!("there are `{}`", known_names(None, self.place));
            // A text that is meant as it is, without the quotes of its own: the usual slip where values are wanted.
            let all = match self.place {
                Place::Transform => {
                    format!("a text stands in quotes of its own, as in `'\"{name}\"'`, and {there}")
                }
                _ => there,
            };
            let hint = hint::for_word(&name).unwrap_or_else(|| like(&name, &all));
            return Err(CelProblem::new(tree.offset, format!("nothing has this name; {hint}")));
        };
        if let Some(object) = self.attribute_path(of)
            && let Named::Object = named(&object)
        {
            let all = format!("the fields are `{}`", known_names(Some(&object), self.place));
            let hint = like(&format!("{object}.{field}"), &all);
            let message = format!("unknown field `{field}` of `{object}`; {hint}");
            return Err(CelProblem::new(tree.offset, message));
        }
        if self.is_secrets(of) {
            return self.secret(of.offset, field);
        }
        self.spelled(of, tree.offset, Some(field))?;
        let of = self.part(of)?;
        let kind = match &of.kind {
            Type::Map(value) => (**value).clone(),
            Type::Dyn => Type::Dyn,
            other => return Err(CelProblem::new(tree.offset, format!("{other} has no field `{field}`"))),
        };
        Ok(Typed::new(Node::Select(Box::new(of.node), field.as_str().into()), kind, of.cost + STEP))
    }

    /// Refuses a text in a spelling that what it is compared with never has.
    fn spelled(&self, of: &Ast, offset: usize, text: Option<&str>) -> Result<(), CelProblem> {
        let (Some(text), Some(path)) = (text, self.attribute_path(of)) else { return Ok(()) };
        let Named::Attribute(attribute) = named(&path) else { return Ok(()) };
        match hint::spelling(attribute, text) {
            Some((rule, spelled)) => {
                Err(CelProblem::new(offset, format!("`{text}` never comes: {rule}, `{spelled}`")))
            }
            None => Ok(()),
        }
    }

    /// The same of both sides of an operator that compares.
    fn compared(&self, operator: Operator, left: &Ast, right: &Ast) -> Result<(), CelProblem> {
        match (operator, &right.kind) {
            (Operator::Equal | Operator::NotEqual, _) => {
                self.spelled(left, right.offset, text(right))?;
                self.spelled(right, left.offset, text(left))
            }
            (Operator::In, AstKind::List(items)) => {
                items.iter().try_for_each(|item| self.spelled(left, item.offset, text(item)))
            }
            (Operator::In, _) => self.spelled(right, left.offset, text(left)),
            _ => Ok(()),
        }
    }

    fn is_secrets(&self, tree: &Ast) -> bool {
        self.attribute_path(tree).as_deref() == Some(Attribute::Secrets.name())
    }

    /// One secret, whose name is written there: so that what an expression may ask for is known beforehand.
    fn secret(&mut self, offset: usize, name: &str) -> Part {
        if let Some(refusal) = Attribute::Secrets.refusal(self.place) {
            return Err(CelProblem::new(offset, refusal));
        }
        self.attributes.push(Attribute::Secrets);
        self.secrets.push(name.into());
        let node = Node::Select(Box::new(Node::Attribute(Attribute::Secrets)), name.into());
        Ok(Typed::new(node, Type::Text, STEP + STEP))
    }

    fn attribute(&mut self, offset: usize, attribute: Attribute) -> Part {
        if let Some(refusal) = attribute.refusal(self.place) {
            return Err(CelProblem::new(offset, refusal));
        }
        if attribute == Attribute::Secrets {
            return Err(secret_problem(offset));
        }
        self.attributes.push(attribute);
        Ok(Typed::new(Node::Attribute(attribute), attribute.kind(), STEP))
    }

    /// The name with dots that a tree spells, unless it begins with a variable.
    fn attribute_path(&self, tree: &Ast) -> Option<String> {
        match &tree.kind {
            AstKind::Name(name) if self.locals.iter().any(|(local, _)| local == name) => None,
            AstKind::Name(name) => Some(name.clone()),
            AstKind::Select(of, field) => Some(format!("{}.{field}", self.attribute_path(of)?)),
            _ => None,
        }
    }

    fn call(&mut self, tree: &Ast, target: Option<&Ast>, name: &str, arguments: &[Ast]) -> Part {
        if target.is_none() && name == "has" {
            return self.has(tree.offset, arguments);
        }
        if let (Some(over), Some((_, walk))) = (target, WALKS.iter().find(|(walk, _)| *walk == name)) {
            return self.walk(tree.offset, *walk, over, arguments);
        }
        if let (Some(of), "matches") = (target, name) {
            return self.matches(tree.offset, of, arguments);
        }
        if let (Some(of), "contains" | "startsWith" | "endsWith", [part]) = (target, name, arguments) {
            self.spelled(of, part.offset, text(part))?;
        }
        // `base64` is no value but the first half of a name.
        let (target, full) = match target.map(|target| &target.kind) {
            Some(AstKind::Name(space)) if space == "base64" => (None, format!("base64.{name}")),
            _ => (target, name.to_owned()),
        };
        let known: Vec<&Signature> =
            SIGNATURES.iter().filter(|one| one.name == full && one.is_method == target.is_some()).collect();
        if known.is_empty() {
            return Err(CelProblem::new(tree.offset, no_call(&full, target.is_some())));
        }
        let mut given = Vec::new();
        for argument in target.into_iter().chain(arguments) {
            given.push(self.part(argument)?);
        }
        let fits = |one: &&&Signature| {
            one.takes.len() == given.len()
                && one.takes.iter().zip(&given).all(|(kind, part)| part.kind.may_be(&kind.of()))
        };
        let Some(signature) = known.iter().find(fits) else {
            let kinds: Vec<String> = given.iter().map(|part| part.kind.to_string()).collect();
            return Err(CelProblem::new(tree.offset, format!("`{full}` does not take {}", kinds.join(", "))));
        };
        let cost = TEXT_COST + given.iter().map(|part| part.cost).sum::<Cost>();
        let node = Node::Call(signature.function, given.into_iter().map(|part| part.node).collect());
        if let Some(problem) = literal_problem(&node) {
            let offset = arguments.last().map_or(tree.offset, |argument| argument.offset);
            return Err(CelProblem::new(offset, problem));
        }
        Ok(Typed::new(node, signature.gives.of(), cost))
    }

    /// `has(a.b)`: whether there is such an attribute, or such a key.
    fn has(&mut self, offset: usize, arguments: &[Ast]) -> Part {
        let [argument] = arguments else { return Err(CelProblem::new(offset, "`has` takes one field")) };
        let AstKind::Select(of, field) = &argument.kind else {
            return Err(CelProblem::new(
                argument.offset,
                "`has` takes a field, as in `has(request.body.name)`",
            ));
        };
        if let Some(path) = self.attribute_path(argument) {
            let attribute = match named(&path) {
                Named::Attribute(attribute) => Some(attribute),
                // An object is there when its first attribute is.
                Named::Object => members(&path).next().map(|(_, attribute)| attribute),
                Named::Unknown => None,
            };
            if let Some(attribute) = attribute {
                self.attribute(argument.offset, attribute)?;
                return Ok(Typed::new(Node::Present(attribute), Type::Bool, STEP));
            }
        }
        // Checked as if it were asked for, so that what cannot be there is found.
        self.part(argument)?;
        let of = self.part(of)?;
        Ok(Typed::new(Node::Has(Box::new(of.node), field.as_str().into()), Type::Bool, of.cost + STEP))
    }

    fn walk(&mut self, offset: usize, kind: Walk, over: &Ast, arguments: &[Ast]) -> Part {
        let fits = arguments.len() == 2 || (kind == Walk::Map && arguments.len() == 3);
        let Some((AstKind::Name(variable), parts)) =
            arguments.split_first().filter(|_| fits).map(|(first, rest)| (&first.kind, rest))
        else {
            let message =
                "a walk takes a name for the item and what to ask of it, as in `list.all(item, item > 0)`";
            return Err(CelProblem::new(offset, message));
        };
        let over_part = self.part(over)?;
        let item = match &over_part.kind {
            Type::List(item) => (**item).clone(),
            Type::Map(_) => Type::Text,
            Type::Dyn => Type::Dyn,
            other => return Err(CelProblem::new(over.offset, format!("{other} has no items"))),
        };
        self.locals.push((variable.clone(), item.clone()));
        let mut checked = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let is_value = kind == Walk::Map && index + 1 == parts.len();
            let part = if is_value { self.part(part) } else { self.wanted(part, &Type::Bool) };
            checked.push(part?);
        }
        self.locals.pop();
        let result = match kind {
            Walk::All | Walk::Exists | Walk::ExistsOne => Type::Bool,
            Walk::Filter => Type::list(item),
            Walk::Map => Type::list(checked.last().map_or(Type::Dyn, |part| part.kind.clone())),
        };
        let each = STEP + checked.iter().map(|part| part.cost).sum::<Cost>();
        let cost = over_part.cost + each.times(over_part.items) + STEP;
        let parts = checked.into_iter().map(|part| part.node).collect();
        let node = Node::Walk { kind, over: Box::new(over_part.node), parts };
        Ok(Typed { items: over_part.items, ..Typed::new(node, result, cost) })
    }

    fn matches(&mut self, offset: usize, of: &Ast, arguments: &[Ast]) -> Part {
        let [Ast { kind: AstKind::Text(pattern), offset: at, .. }] = arguments else {
            let message =
                "`matches` takes a regular expression that is written there, so that it is compiled once";
            return Err(CelProblem::new(offset, message));
        };
        // Classes such as `\w` are of ASCII, as CEL has them, and small.
        let mut builder = RegexBuilder::new(pattern);
        builder.unicode(false).size_limit(REGEX_BYTES_MAX).dfa_size_limit(REGEX_CACHE_BYTES_MAX);
        let compiled = builder.build().map_err(|error| {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or("it is none").trim_start_matches("error: ").to_owned();
            CelProblem::new(*at, format!("not a regular expression: {last}"))
        })?;
        self.regexes += 1;
        let of = self.wanted(of, &Type::Text)?;
        let cost = of.cost + TEXT_COST.times(2);
        Ok(Typed::new(Node::Matches(Box::new(of.node), Box::new(compiled)), Type::Bool, cost))
    }
}

/// What is wrong with a call whose last argument is written there: it is tried once, rather than fail for every request.
fn literal_problem(call: &Node) -> Option<String> {
    let Node::Call(function, arguments) = call else { return None };
    let wanted = hint::for_literal(*function)?;
    let tried = match &**arguments {
        [Node::Text(_) | Node::Int(_) | Node::Double(_)] => evaluate::constant(call),
        // A part of a moment in a time zone, tried on any moment.
        [_, Node::Text(zone)] => {
            let moment = Node::Call(Function::ToTimestamp, [Node::Int(0)].into());
            evaluate::constant(&Node::Call(*function, [moment, Node::Text(zone.clone())].into()))
        }
        _ => return None,
    };
    let Err(Fault::Text | Fault::Range) = tried else { return None };
    let given = match arguments.last() {
        Some(Node::Text(text)) => format!("`{text}`"),
        _ => "this number".to_owned(),
    };
    Some(format!("{given} is {wanted}"))
}

/// The text that is written there, if it is one.
const fn text(tree: &Ast) -> Option<&str> {
    match &tree.kind {
        AstKind::Text(text) => Some(text.as_str()),
        _ => None,
    }
}

fn no_call(name: &str, is_method: bool) -> String {
    let of = |is_method: bool| {
        let walks = WALKS.iter().map(|(walk, _)| *walk).chain(["matches"]).filter(move |_| is_method);
        let functions = ["has"].into_iter().filter(move |_| !is_method);
        let signatures = SIGNATURES.iter().filter(move |one| one.is_method == is_method).map(|one| one.name);
        signatures.chain(walks).chain(functions)
    };
    let (what, form) = if is_method {
        ("method", format!("function: `{name}(...)`"))
    } else {
        ("function", format!("method: `value.{name}(...)`"))
    };
    format!("there is no {what} `{name}`{}", hint::for_call(name, of(is_method), of(!is_method), &form))
}

fn secret_problem(offset: usize) -> CelProblem {
    CelProblem::new(offset, "a secret is named where it is used, as in `secrets[\"name\"]`")
}

const fn is_number(kind: &Type) -> bool {
    matches!(kind, Type::Int | Type::Double | Type::Dyn)
}

/// The type of an operator's value, when it goes between these.
fn result(operator: Operator, left: &Type, right: &Type) -> Option<Type> {
    use Operator as Op;
    use Type::{Bool, Double, Duration, Dyn, Int, List, Map, Null, Text, Timestamp};
    match operator {
        // Anything in a body may be null.
        Op::Equal | Op::NotEqual => {
            (left.may_be(right) || (is_number(left) && is_number(right))).then_some(Bool)
        }
        Op::Less | Op::LessOrEqual | Op::Greater | Op::GreaterOrEqual => {
            let ordered = |kind: &Type| !matches!(kind, List(_) | Map(_) | Null);
            let fits = left.may_be(right) || (is_number(left) && is_number(right));
            (fits && ordered(left) && ordered(right)).then_some(Bool)
        }
        Op::In => match right {
            List(item) => left.may_be(item).then_some(Bool),
            Map(_) => left.may_be(&Text).then_some(Bool),
            Dyn => Some(Bool),
            _ => None,
        },
        Op::Add => match (left, right) {
            (Timestamp, Duration) | (Duration, Timestamp) => Some(Timestamp),
            (Int | Double | Text | Duration | List(_), _) if left.may_be(right) => Some(left.or(right)),
            (Dyn, Int | Double | Text | Duration | Timestamp | List(_) | Dyn) | (Timestamp, Dyn) => Some(Dyn),
            _ => None,
        },
        Op::Subtract => match (left, right) {
            (Timestamp, Timestamp) => Some(Duration),
            (Timestamp, Duration) => Some(Timestamp),
            (Int | Double | Duration, _) if left.may_be(right) => Some(left.or(right)),
            (Dyn, Int | Double | Duration | Timestamp | Dyn) | (Timestamp, Dyn) => Some(Dyn),
            _ => None,
        },
        Op::Multiply | Op::Divide | Op::Remainder => {
            let fits = is_number(left) && is_number(right) && left.may_be(right);
            let is_whole = operator != Op::Remainder || (*left != Double && *right != Double);
            (fits && is_whole).then(|| left.or(right))
        }
    }
}

impl std::fmt::Display for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::In => "in",
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Remainder => "%",
        })
    }
}

/// A type in a signature.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    Int,
    Double,
    Bool,
    Timestamp,
    Duration,
    Texts,
    List,
    Map,
}

impl Kind {
    fn of(self) -> Type {
        match self {
            Self::Text => Type::Text,
            Self::Int => Type::Int,
            Self::Double => Type::Double,
            Self::Bool => Type::Bool,
            Self::Timestamp => Type::Timestamp,
            Self::Duration => Type::Duration,
            Self::Texts => Type::list(Type::Text),
            Self::List => Type::list(Type::Dyn),
            Self::Map => Type::Map(Box::new(Type::Dyn)),
        }
    }
}

struct Signature {
    name: &'static str,
    /// Whether the first of `takes` stands before the dot.
    is_method: bool,
    takes: &'static [Kind],
    gives: Kind,
    function: Function,
}

const fn function(name: &'static str, takes: &'static [Kind], gives: Kind, function: Function) -> Signature {
    Signature { name, is_method: false, takes, gives, function }
}

const fn method(name: &'static str, takes: &'static [Kind], gives: Kind, function: Function) -> Signature {
    Signature { name, is_method: true, takes, gives, function }
}

const SIGNATURES: &[Signature] = &[
    function("size", &[Kind::Text], Kind::Int, Function::Size),
    function("size", &[Kind::List], Kind::Int, Function::Size),
    function("size", &[Kind::Map], Kind::Int, Function::Size),
    method("size", &[Kind::Text], Kind::Int, Function::Size),
    method("size", &[Kind::List], Kind::Int, Function::Size),
    method("size", &[Kind::Map], Kind::Int, Function::Size),
    method("contains", &[Kind::Text, Kind::Text], Kind::Bool, Function::Contains),
    method("startsWith", &[Kind::Text, Kind::Text], Kind::Bool, Function::StartsWith),
    method("endsWith", &[Kind::Text, Kind::Text], Kind::Bool, Function::EndsWith),
    method("lowerAscii", &[Kind::Text], Kind::Text, Function::LowerAscii),
    method("upperAscii", &[Kind::Text], Kind::Text, Function::UpperAscii),
    method("trim", &[Kind::Text], Kind::Text, Function::Trim),
    method("split", &[Kind::Text, Kind::Text], Kind::Texts, Function::Split),
    method("join", &[Kind::Texts, Kind::Text], Kind::Text, Function::Join),
    method("replace", &[Kind::Text, Kind::Text, Kind::Text], Kind::Text, Function::Replace),
    function("int", &[Kind::Int], Kind::Int, Function::ToInt),
    function("int", &[Kind::Double], Kind::Int, Function::ToInt),
    function("int", &[Kind::Text], Kind::Int, Function::ToInt),
    function("int", &[Kind::Timestamp], Kind::Int, Function::ToInt),
    function("double", &[Kind::Double], Kind::Double, Function::ToDouble),
    function("double", &[Kind::Int], Kind::Double, Function::ToDouble),
    function("double", &[Kind::Text], Kind::Double, Function::ToDouble),
    function("string", &[Kind::Text], Kind::Text, Function::ToText),
    function("string", &[Kind::Int], Kind::Text, Function::ToText),
    function("string", &[Kind::Double], Kind::Text, Function::ToText),
    function("string", &[Kind::Bool], Kind::Text, Function::ToText),
    function("string", &[Kind::Timestamp], Kind::Text, Function::ToText),
    function("timestamp", &[Kind::Text], Kind::Timestamp, Function::ToTimestamp),
    function("timestamp", &[Kind::Int], Kind::Timestamp, Function::ToTimestamp),
    function("duration", &[Kind::Text], Kind::Duration, Function::ToDuration),
    function("base64.encode", &[Kind::Text], Kind::Text, Function::Base64Encode),
    function("base64.decode", &[Kind::Text], Kind::Text, Function::Base64Decode),
    method("getFullYear", &[Kind::Timestamp], Kind::Int, Function::FullYear),
    method("getFullYear", &[Kind::Timestamp, Kind::Text], Kind::Int, Function::FullYear),
    method("getMonth", &[Kind::Timestamp], Kind::Int, Function::Month),
    method("getMonth", &[Kind::Timestamp, Kind::Text], Kind::Int, Function::Month),
    method("getDate", &[Kind::Timestamp], Kind::Int, Function::Date),
    method("getDate", &[Kind::Timestamp, Kind::Text], Kind::Int, Function::Date),
    method("getDayOfWeek", &[Kind::Timestamp], Kind::Int, Function::DayOfWeek),
    method("getDayOfWeek", &[Kind::Timestamp, Kind::Text], Kind::Int, Function::DayOfWeek),
    method("getHours", &[Kind::Timestamp], Kind::Int, Function::Hours),
    method("getHours", &[Kind::Timestamp, Kind::Text], Kind::Int, Function::Hours),
    method("getMinutes", &[Kind::Timestamp], Kind::Int, Function::Minutes),
    method("getMinutes", &[Kind::Timestamp, Kind::Text], Kind::Int, Function::Minutes),
    method("getSeconds", &[Kind::Timestamp], Kind::Int, Function::Seconds),
    method("getSeconds", &[Kind::Timestamp, Kind::Text], Kind::Int, Function::Seconds),
];
