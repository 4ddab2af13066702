//! PURE. Who has polled lately, and how often, to be shown to people.
//!
//! It must never grow with the number of addresses that poll, and nothing may be decided by it.

use std::collections::HashMap;
use std::net::IpAddr;

/// How many pollers are remembered. The one not seen for longest makes room for a new one.
pub(super) const POLLERS_MAX: usize = 64;

/// An address that polls.
#[derive(Debug, Clone, Copy)]
pub struct Poller {
    /// How often it polled.
    pub polls: u64,
    /// Its last poll, in nanoseconds of `CLOCK_BOOTTIME`.
    pub last_ns: u64,
    /// Whether the networks allow it.
    pub allowed: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pollers(HashMap<IpAddr, Poller>);

impl Pollers {
    /// Notes one more poll.
    pub(super) fn remember(&mut self, peer: IpAddr, allowed: bool, now_ns: u64) {
        if self.0.len() >= POLLERS_MAX && !self.0.contains_key(&peer) {
            let oldest = self.0.iter().min_by_key(|(_, p)| p.last_ns).map(|(&a, _)| a);
            oldest.and_then(|a| self.0.remove(&a));
        }
        let poller = self.0.entry(peer).or_insert(Poller { polls: 0, last_ns: 0, allowed });
        *poller = Poller { polls: poller.polls + 1, last_ns: now_ns, allowed };
    }

    /// All of them, in no particular order.
    pub(super) fn all(&self) -> impl Iterator<Item = (IpAddr, Poller)> {
        self.0.iter().map(|(&address, &poller)| (address, poller))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pollers_are_remembered_and_the_oldest_makes_room() {
        let mut pollers = Pollers::default();
        for n in 0..100u8 {
            pollers.remember(IpAddr::from([10, 0, 0, n]), true, u64::from(n));
        }
        assert_eq!(pollers.all().count(), POLLERS_MAX);
        assert!(pollers.all().all(|(_, p)| p.last_ns >= 36));
    }
}
