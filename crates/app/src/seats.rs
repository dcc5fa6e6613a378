//! How much of one kind each caller has open, so that one that opens without end leaves room for others.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use freehold_access::{Actor, Kind};

use crate::Error;

/// The places of one kind that are taken, by caller.
pub(crate) struct Seats {
    max: usize,
    what: &'static str,
    taken: Mutex<HashMap<String, usize>>,
}

/// A place that is given back when this is dropped.
pub(crate) struct Seat {
    seats: Arc<Seats>,
    caller: String,
}

impl Seats {
    /// `max` places for each caller; `what` names them in the refusal, in the plural.
    pub fn new(max: usize, what: &'static str) -> Arc<Self> {
        Arc::new(Self { max, what, taken: Mutex::default() })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place.
    ///
    /// # Errors
    /// When this caller has all of its places.
    pub fn take(self: &Arc<Self>, actor: &Actor) -> Result<Seat, Error> {
        let caller = match actor.kind() {
            Kind::Member { id, .. } => id.to_string(),
            Kind::ApiKey { id, .. } => id.to_string(),
        };
        let mut taken = self.taken();
        let count = taken.entry(caller.clone()).or_default();
        if *count >= self.max {
            return Err(Error::TooMany(format!("this caller has {} {} open already", self.max, self.what)));
        }
        *count += 1;
        Ok(Seat { seats: Arc::clone(self), caller })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Entry::Occupied(mut entry) = self.seats.taken().entry(std::mem::take(&mut self.caller)) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}
