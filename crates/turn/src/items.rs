//! The pieces of a request, without a copy of the conversation for each.

use std::{iter, sync::Arc};

use crate::Item;

/// The pieces of a request, in order: few of its own, and between them those that the conversation has for good.
#[derive(Debug, Clone, Default)]
pub struct Items {
    /// A summary of what came before.
    first: Option<Item>,
    /// Pieces that stay as they are until the conversation is shortened. Shared with the conversation, which adds to them
    /// once the request is gone.
    settled: Arc<Vec<Item>>,
    rest: Vec<Item>,
}

impl Items {
    pub(crate) const fn new(first: Option<Item>, settled: Arc<Vec<Item>>, rest: Vec<Item>) -> Self {
        Self { first, settled, rest }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.settled.len() + self.rest.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them.
    pub fn iter(&self) -> Iter<'_> {
        self.first.iter().chain(self.settled.iter()).chain(self.rest.iter())
    }
}

/// Pieces of a request, in order.
pub type Iter<'a> = iter::Chain<
    iter::Chain<std::option::Iter<'a, Item>, std::slice::Iter<'a, Item>>,
    std::slice::Iter<'a, Item>,
>;

impl<'a> IntoIterator for &'a Items {
    type Item = &'a Item;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl From<Item> for Items {
    fn from(item: Item) -> Self {
        Self { first: Some(item), ..Self::default() }
    }
}

impl PartialEq for Items {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}
