//! Expressions of the policy language: the Common Expression Language over what is known of a request.
//!
//! ```text
//! text --parse--> syntax tree --check--> Expression --evaluate(scope)--> value | fault
//! ```
//!
//! An [`Expression`] is checked against the attributes of its [`Place`] when a document is loaded: an unknown name, a type
//! that does not fit, a regular expression that is none, or a cost that could be high is a [`CelProblem`] with its place.
//! What is left to go wrong when it is evaluated is a [`Fault`], which decides nothing in anybody's favour.
//!
//! The language is CEL without unsigned integers, bytes, map and message literals. Attributes are asked for one by one and
//! only when an expression comes to them, so that a decision costs what it looks at.

mod check;
mod evaluate;
mod hint;
mod parse;
mod presence;
mod schema;
mod token;
mod value;

pub use evaluate::{Fault, Scope, Work};
pub use schema::{Attribute, Place, Type};
pub use value::{List, Map, MapSource, Text, Value};

/// The longest expression, in bytes.
pub const SOURCE_BYTES_MAX: usize = 4096;
/// How deep an expression may be nested; chains of `&&` and of `||` count once.
pub const DEPTH_MAX: usize = 48;
/// The most an expression may cost: about one for each step of its evaluation, where lists of unknown length count as
/// [`LIST_ITEMS_MAX`] long. Two nested walks over such lists are above it.
pub const COST_MAX: u64 = 200_000;
/// The most items of a list or a map that a walk (`all`, `exists`, `filter`, `map`) takes; a longer one is a [`Fault`].
pub const LIST_ITEMS_MAX: usize = 1_000;
/// The most work that the expressions of one decision may take together: a step is 1, and what goes through a text costs by
/// its length. It bounds a decision where the cost of each expression is bounded, and there are many. Beyond it every
/// expression is a [`Fault`].
pub const WORK_MAX: u64 = 1_000_000;
/// The most bytes of text that the expressions of one decision may make together.
pub const MADE_BYTES_MAX: u64 = 1024 * 1024;
/// The longest text that an expression may make, in bytes; a longer one is a [`Fault`].
pub const TEXT_BYTES_MAX: usize = 64 * 1024;

/// What is wrong with an expression, and where in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CelProblem {
    /// Bytes from the expression's beginning.
    pub offset: usize,
    /// What is wrong, for the author.
    pub message: String,
}

impl CelProblem {
    fn new(offset: usize, message: impl Into<String>) -> Self {
        Self { offset, message: message.into() }
    }
}

/// A checked expression. Immutable; share it.
#[derive(Debug)]
pub struct Expression {
    root: check::Node,
    result: Type,
    cost: u64,
    regexes: usize,
    attributes: Vec<Attribute>,
    secrets: Vec<Box<str>>,
}

impl Expression {
    /// Parses and checks an expression whose value must be of a type.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn compile(source: &str, place: Place, wanted: &Type) -> Result<Self, CelProblem> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(CelProblem::new(0, format!("longer than {SOURCE_BYTES_MAX} bytes")));
        }
        let tree = parse::parse(source)?;
        let checked = check::check(&tree, place)?;
        if !checked.kind.may_be(wanted) {
            let message = format!("this is {}, and {wanted} is wanted", checked.kind);
            return Err(CelProblem::new(tree.offset, message));
        }
        if checked.cost.0 > COST_MAX {
            let message = format!(
                "this may take {} steps, which is above the limit of {COST_MAX}: walk over fewer lists inside of each other",
                checked.cost.0
            );
            return Err(CelProblem::new(tree.offset, message));
        }
        let mut attributes = checked.attributes;
        attributes.sort_unstable();
        attributes.dedup();
        let mut secrets = checked.secrets;
        secrets.sort_unstable();
        secrets.dedup();
        Ok(Self {
            secrets,
            root: checked.node,
            result: checked.kind,
            cost: checked.cost.0,
            regexes: checked.regexes,
            attributes,
        })
    }

    /// The type of its value; [`Type::Dyn`] when it depends on what is found.
    pub const fn result(&self) -> &Type {
        &self.result
    }

    /// The most steps that its evaluation takes.
    pub const fn cost(&self) -> u64 {
        self.cost
    }

    /// How many regular expressions it holds.
    pub const fn regexes(&self) -> usize {
        self.regexes
    }

    /// The attributes it may ask for, each once.
    pub fn attributes(&self) -> &[Attribute] {
        &self.attributes
    }

    /// The names of the secrets it may ask for, each once.
    pub fn secrets(&self) -> &[Box<str>] {
        &self.secrets
    }

    /// Its value for what the scope knows.
    ///
    /// # Errors
    /// When it has none: something it asks for is absent or of another type, or it goes beyond a limit.
    pub fn evaluate<'a>(&'a self, scope: &'a dyn Scope, work: &'a Work) -> Result<Value<'a>, Fault> {
        evaluate::evaluate(&self.root, scope, work)
    }

    /// Whether it holds.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate), and when its value is no boolean.
    pub fn holds(&self, scope: &dyn Scope, work: &Work) -> Result<bool, Fault> {
        match self.evaluate(scope, work)? {
            Value::Bool(holds) => Ok(holds),
            _ => Err(Fault::Type),
        }
    }
}
