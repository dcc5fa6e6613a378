//! From tokens to a syntax tree.

use super::{
    CelProblem, DEPTH_MAX, hint,
    token::{Kind, Token, tokens},
};

/// A node of the tree and where it stands: for an operator its own place, for a call its name's.
#[derive(Debug)]
pub(super) struct Ast {
    pub(super) offset: usize,
    pub(super) kind: AstKind,
    depth: usize,
}

#[derive(Debug)]
pub(super) enum AstKind {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(String),
    List(Vec<Ast>),
    Name(String),
    Select(Box<Ast>, String),
    Index(Box<[Ast; 2]>),
    Call {
        target: Option<Box<Ast>>,
        name: String,
        arguments: Vec<Ast>,
    },
    Not(Box<Ast>),
    Negate(Box<Ast>),
    /// At least two.
    And(Vec<Ast>),
    /// At least two.
    Or(Vec<Ast>),
    Binary(Operator, Box<[Ast; 2]>),
    Conditional(Box<[Ast; 3]>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

/// Words that CEL keeps for itself.
const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "namespace",
    "package",
    "return",
    "var",
    "void",
    "while",
];

const RELATIONS: &[(&str, Operator)] = &[
    ("==", Operator::Equal),
    ("!=", Operator::NotEqual),
    ("<", Operator::Less),
    ("<=", Operator::LessOrEqual),
    (">", Operator::Greater),
    (">=", Operator::GreaterOrEqual),
];
const SUMS: &[(&str, Operator)] = &[("+", Operator::Add), ("-", Operator::Subtract)];
const PRODUCTS: &[(&str, Operator)] =
    &[("*", Operator::Multiply), ("/", Operator::Divide), ("%", Operator::Remainder)];

pub(super) fn parse(source: &str) -> Result<Ast, CelProblem> {
    let mut parser = Parser { tokens: tokens(source)?, at: 0, depth: 0 };
    let tree = parser.expression()?;
    match parser.peek() {
        Kind::End => Ok(tree),
        _ => Err(parser.beyond()),
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    /// Expressions inside of each other that are being parsed.
    depth: usize,
}

type Parsed = Result<Ast, CelProblem>;

impl Parser {
    fn token(&self) -> &Token {
        // The last one is the end, and nothing goes beyond it.
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn peek(&self) -> &Kind {
        &self.token().kind
    }

    fn offset(&self) -> usize {
        self.token().offset
    }

    /// Takes a symbol, if it is the next token.
    fn takes(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Kind::Symbol(next) if *next == symbol);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, symbol: &'static str) -> Result<(), CelProblem> {
        if self.takes(symbol) { Ok(()) } else { Err(self.unexpected(&format!("`{symbol}`"))) }
    }

    /// What stands behind a whole expression; a word of another language, it or the one before, is told.
    fn beyond(&self) -> CelProblem {
        let before = self.tokens[self.at.saturating_sub(1)..=self.at].iter();
        let mut said = before.filter_map(|token| match &token.kind {
            Kind::Name(word) => hint::for_word(word).map(|hint| CelProblem::new(token.offset, hint)),
            _ => None,
        });
        said.next_back().unwrap_or_else(|| self.unexpected("the end of the expression"))
    }

    fn unexpected(&self, wanted: &str) -> CelProblem {
        let found = match self.peek() {
            Kind::Name(name) => format!("`{name}`"),
            Kind::Int(_) | Kind::Double(_) => "a number".to_owned(),
            Kind::Text(_) => "a text".to_owned(),
            Kind::Symbol(symbol) => format!("`{symbol}`"),
            Kind::End => "the end".to_owned(),
        };
        CelProblem::new(self.offset(), format!("expected {wanted}, found {found}"))
    }

    fn leaf(&mut self, kind: AstKind) -> Parsed {
        let offset = self.offset();
        self.at += 1;
        built(offset, 0, kind)
    }

    /// Parses what stands inside of something else.
    fn inside(&mut self, part: fn(&mut Self) -> Parsed) -> Parsed {
        if self.depth >= DEPTH_MAX {
            return Err(too_deep(self.offset()));
        }
        self.depth += 1;
        let parsed = part(self);
        self.depth -= 1;
        parsed
    }

    fn expression(&mut self) -> Parsed {
        self.inside(Self::conditional)
    }

    fn conditional(&mut self) -> Parsed {
        let condition = self.any()?;
        let offset = self.offset();
        if !self.takes("?") {
            return Ok(condition);
        }
        let then = self.any()?;
        self.expect(":")?;
        let parts = [condition, then, self.expression()?];
        built(offset, deepest(&parts), AstKind::Conditional(Box::new(parts)))
    }

    fn any(&mut self) -> Parsed {
        self.chain("||", Self::all, AstKind::Or)
    }

    fn all(&mut self) -> Parsed {
        self.chain("&&", Self::relation, AstKind::And)
    }

    fn chain(
        &mut self,
        symbol: &'static str,
        part: fn(&mut Self) -> Parsed,
        make: fn(Vec<Ast>) -> AstKind,
    ) -> Parsed {
        let first = part(self)?;
        let offset = self.offset();
        if !self.takes(symbol) {
            return Ok(first);
        }
        let mut parts = vec![first, part(self)?];
        while self.takes(symbol) {
            parts.push(part(self)?);
        }
        built(offset, deepest(&parts), make(parts))
    }

    fn relation(&mut self) -> Parsed {
        let mut left = self.sum()?;
        loop {
            let offset = self.offset();
            let operator = match self.peek() {
                Kind::Name(name) if name == "in" => Some(Operator::In),
                Kind::Symbol(symbol) => find(RELATIONS, symbol),
                _ => None,
            };
            let Some(operator) = operator else { return Ok(left) };
            self.at += 1;
            let pair = [left, self.sum()?];
            left = built(offset, deepest(&pair), AstKind::Binary(operator, Box::new(pair)))?;
        }
    }

    fn sum(&mut self) -> Parsed {
        self.binary(SUMS, |parser| parser.binary(PRODUCTS, Self::unary))
    }

    fn binary(&mut self, operators: &[(&str, Operator)], part: fn(&mut Self) -> Parsed) -> Parsed {
        let mut left = part(self)?;
        loop {
            let offset = self.offset();
            let Kind::Symbol(symbol) = self.peek() else { return Ok(left) };
            let Some(operator) = find(operators, symbol) else { return Ok(left) };
            self.at += 1;
            let pair = [left, part(self)?];
            left = built(offset, deepest(&pair), AstKind::Binary(operator, Box::new(pair)))?;
        }
    }

    fn unary(&mut self) -> Parsed {
        let offset = self.offset();
        if self.takes("!") {
            let part = self.inside(Self::unary)?;
            return built(offset, part.depth, AstKind::Not(Box::new(part)));
        }
        if !self.takes("-") {
            let primary = self.primary()?;
            return self.selectors(primary);
        }
        // The least integer has no positive twin.
        if let Kind::Int(digits) = *self.peek() {
            let number = 0_i64.checked_sub_unsigned(digits).ok_or_else(|| too_large(offset))?;
            let literal = self.leaf(AstKind::Int(number))?;
            return self.selectors(literal);
        }
        let part = self.inside(Self::unary)?;
        built(offset, part.depth, AstKind::Negate(Box::new(part)))
    }

    /// `.name`, `.name(...)` and `[...]` behind a value.
    fn selectors(&mut self, mut of: Ast) -> Parsed {
        loop {
            let bracket = self.offset();
            if self.takes(".") {
                let (offset, name) = (self.offset(), self.name()?);
                let inner = of.depth;
                of = if self.takes("(") {
                    let arguments = self.list(")")?;
                    let inner = inner.max(deepest(&arguments));
                    built(offset, inner, AstKind::Call { target: Some(Box::new(of)), name, arguments })?
                } else {
                    built(offset, inner, AstKind::Select(Box::new(of), name))?
                };
            } else if self.takes("[") {
                let pair = [of, self.expression()?];
                self.expect("]")?;
                of = built(bracket, deepest(&pair), AstKind::Index(Box::new(pair)))?;
            } else {
                return Ok(of);
            }
        }
    }

    fn name(&mut self) -> Result<String, CelProblem> {
        let Kind::Name(name) = self.peek() else { return Err(self.unexpected("a name")) };
        let name = name.clone();
        self.at += 1;
        Ok(name)
    }

    /// Expressions with commas between them, up to and with `end`.
    fn list(&mut self, end: &'static str) -> Result<Vec<Ast>, CelProblem> {
        let mut items = Vec::new();
        while !self.takes(end) {
            items.push(self.expression()?);
            if !self.takes(",") {
                self.expect(end)?;
                break;
            }
        }
        Ok(items)
    }

    fn primary(&mut self) -> Parsed {
        let offset = self.offset();
        match self.peek().clone() {
            Kind::Int(digits) => {
                let number = i64::try_from(digits).map_err(|_| too_large(offset))?;
                self.leaf(AstKind::Int(number))
            }
            Kind::Double(number) => self.leaf(AstKind::Double(number)),
            Kind::Text(text) => self.leaf(AstKind::Text(text)),
            Kind::Name(name) => self.named(name),
            Kind::Symbol("(") => {
                self.at += 1;
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(inner)
            }
            Kind::Symbol("[") => {
                self.at += 1;
                let items = self.list("]")?;
                built(offset, deepest(&items), AstKind::List(items))
            }
            Kind::Symbol("{") => Err(CelProblem::new(offset, "there are no map literals here")),
            Kind::Symbol(_) | Kind::End => Err(self.unexpected("a value")),
        }
    }

    fn named(&mut self, name: String) -> Parsed {
        match name.as_str() {
            "true" => return self.leaf(AstKind::Bool(true)),
            "false" => return self.leaf(AstKind::Bool(false)),
            "null" => return self.leaf(AstKind::Null),
            word if word == "in" || RESERVED.contains(&word) => return Err(self.unexpected("a value")),
            _ => {}
        }
        let offset = self.offset();
        self.at += 1;
        if !self.takes("(") {
            return built(offset, 0, AstKind::Name(name));
        }
        let arguments = self.list(")")?;
        built(offset, deepest(&arguments), AstKind::Call { target: None, name, arguments })
    }
}

/// A node over parts that are at most so deep.
fn built(offset: usize, inner: usize, kind: AstKind) -> Parsed {
    if inner >= DEPTH_MAX { Err(too_deep(offset)) } else { Ok(Ast { offset, kind, depth: inner + 1 }) }
}

fn deepest(parts: &[Ast]) -> usize {
    parts.iter().map(|part| part.depth).max().unwrap_or(0)
}

fn find(operators: &[(&str, Operator)], symbol: &str) -> Option<Operator> {
    operators.iter().find(|(spelling, _)| *spelling == symbol).map(|(_, operator)| *operator)
}

fn too_deep(offset: usize) -> CelProblem {
    CelProblem::new(offset, format!("nested more than {DEPTH_MAX} deep"))
}

fn too_large(offset: usize) -> CelProblem {
    CelProblem::new(offset, "an integer is from -9223372036854775808 to 9223372036854775807")
}
