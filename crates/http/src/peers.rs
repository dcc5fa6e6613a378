//! How many connections each peer has, so that one address leaves room for others.
//!
//! Invariant: a peer that has none takes no memory.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// Bits of an IPv6 address that are one peer: the smallest network that is given to anybody.
const IPV6_PEER_BITS: u32 = 64;

/// The least time between two lines in the log about connections that were refused.
const LINE_PAUSE: Duration = Duration::from_secs(60);

/// The connections of all peers.
pub(crate) struct Peers {
    /// Connections of one peer.
    open_max: usize,
    /// Of these, those on which no request came yet.
    silent_max: usize,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    peers: HashMap<IpAddr, Count>,
    refused: u64,
    told: Option<Instant>,
}

#[derive(Default)]
struct Count {
    open: usize,
    silent: usize,
}

/// A peer's place for one connection, given back when this is dropped.
pub(crate) struct Place {
    peers: Arc<Peers>,
    peer: IpAddr,
    is_silent: AtomicBool,
}

impl Peers {
    pub fn new(open_max: usize, silent_max: usize) -> Arc<Self> {
        Arc::new(Self { open_max, silent_max, table: Mutex::default() })
    }

    /// A place for a connection from this address; `None` when its peer has all of its places.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let peer = peer_of(address);
        let mut table = self.table();
        let count = table.peers.entry(peer).or_default();
        if count.open >= self.open_max || count.silent >= self.silent_max {
            let (open, silent) = (count.open, count.silent);
            table.refused += 1;
            if table.told.is_none_or(|told| told.elapsed() >= LINE_PAUSE) {
                let refused = std::mem::take(&mut table.refused);
                table.told = Some(Instant::now());
                tracing::warn!(peer.address = %peer, peer.open = open, peer.silent = silent, refused, "connections of a peer were refused: it has too many");
            }
            return None;
        }
        count.open += 1;
        count.silent += 1;
        Some(Place { peers: Arc::clone(self), peer, is_silent: AtomicBool::new(true) })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic elsewhere leaves counts that are right.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// A request came on this connection.
    pub fn speaks(&self) {
        if self.is_silent.load(Ordering::Relaxed)
            && self.is_silent.swap(false, Ordering::Relaxed)
            && let Some(count) = self.peers.table().peers.get_mut(&self.peer)
        {
            count.silent -= 1;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.peers.table();
        let Some(count) = table.peers.get_mut(&self.peer) else { return };
        count.open -= 1;
        count.silent -= usize::from(*self.is_silent.get_mut());
        if count.open == 0 {
            table.peers.remove(&self.peer);
        }
    }
}

/// What counts as one peer.
fn peer_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << IPV6_PEER_BITS)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_of_ipv6_is_one_peer_and_an_address_of_ipv4_is_one_however_it_is_written() {
        let same = |a, b| peer_of(address(a)) == peer_of(address(b));
        assert!(
            same("2001:db8:1:2::1", "2001:db8:1:2:ffff::9") && !same("2001:db8:1:2::1", "2001:db8:1:3::1")
        );
        assert!(same("192.0.2.1", "::ffff:192.0.2.1") && !same("192.0.2.1", "192.0.2.2"));
    }

    #[test]
    fn a_peer_has_so_many_places_and_fewer_for_who_said_nothing_and_gets_them_back() {
        let peers = Peers::new(3, 2);
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        let first = peers.admit(one).unwrap();
        let second = peers.admit(one).unwrap();
        assert!(peers.admit(one).is_none() && peers.admit(other).is_some());
        first.speaks();
        first.speaks();
        let third = peers.admit(one).unwrap();
        assert!(peers.admit(one).is_none());
        second.speaks();
        third.speaks();
        assert!(peers.admit(one).is_none(), "all three are open");
        drop(first);
        assert!(peers.admit(one).is_some());
        drop((second, third));
        assert!(peers.table().peers.is_empty());
    }
}
