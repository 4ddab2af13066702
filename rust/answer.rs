//! WORLD. Accepts a batch of polls and answers them with bytes made beforehand.
//!
//! It must never know of scans, weights or the format of replies: it is given the replies and sends them. It must
//! never pass on the error of one connection, and never wait: a poller whose line (`agent-send`) is still missing is
//! set aside until the event loop reports that it can be read, or that its time is over.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::net::Net;

mod pollers;
mod replies;
mod socket;

pub use pollers::Poller;
use pollers::Pollers;
use replies::LINE_LEN_MAX;
pub use replies::Replies;
use socket::{Accepted, accept, read_line, send, somebody_waits, spare};

/// At most this many reads drain what a poller sent after its line: closing with unread bytes resets the connection and
/// can lose the reply.
const DRAIN_READS_MAX: usize = 16;

/// How a batch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// No more polls are waiting.
    Drained,
    /// The batch is full; there may be more.
    More,
    /// The listener cannot accept now. Retrying at once would spin.
    Stuck,
}

/// What has happened since the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    /// Replies sent.
    pub answered: u64,
    /// Connections from outside the allowed networks.
    pub refused: u64,
    /// Connections that were closed before they got their reply.
    pub disconnected: u64,
    /// Pollers that sent no line in time, and got the default reply.
    pub timed_out: u64,
    /// Pollers that sent no line, and got the default reply early because too many others waited, too.
    pub evicted: u64,
    /// How often no file descriptor was free.
    pub no_fds: u64,
}

#[derive(Debug)]
struct Owing {
    socket: OwnedFd,
    line: Vec<u8>,
}

/// See the module.
#[derive(Debug)]
pub struct Answerer {
    allow: Vec<Net>,
    replies: Replies,
    settled_until_ns: u64,
    owing: HashMap<RawFd, Owing>,
    first: Option<Accepted>,
    spare: Option<OwnedFd>,
    totals: Totals,
    answered_by_pool: HashMap<Vec<u8>, u64>,
    pollers: Pollers,
}

impl Answerer {
    /// Answers the pollers in these networks, or all pollers if there are none.
    #[must_use]
    pub fn new(allow: Vec<Net>) -> Self {
        Self {
            allow,
            replies: Replies::default(),
            settled_until_ns: 0,
            owing: HashMap::new(),
            first: None,
            spare: spare(),
            totals: Totals::default(),
            answered_by_pool: HashMap::new(),
            pollers: Pollers::default(),
        }
    }

    /// Replaces the networks.
    pub fn configure(&mut self, allow: Vec<Net>) {
        self.allow = allow;
    }

    /// Replaces the replies.
    pub fn set_replies(&mut self, replies: Replies) {
        self.replies = replies;
    }

    /// Until this time, in nanoseconds of `CLOCK_BOOTTIME`, the replies need not be checked again.
    pub fn settle(&mut self, until_ns: u64) {
        self.settled_until_ns = until_ns;
    }

    /// Whether the replies are settled now.
    #[must_use]
    pub fn settled(&self, now_ns: u64) -> bool {
        now_ns < self.settled_until_ns
    }

    /// What has happened since the start.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The replies sent for each named pool that had any; all others were the default reply.
    pub fn answered_by_pool(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.answered_by_pool.iter().map(|(pool, &answered)| (pool.as_slice(), answered))
    }

    /// The recent pollers.
    pub fn pollers(&self) -> impl Iterator<Item = (IpAddr, Poller)> {
        self.pollers.all()
    }

    /// Refuses pollers that are not allowed, at most `most`, until it finds one that is, and keeps that one for the
    /// next batch. Returns whether there may be one.
    pub fn accept_allowed(&mut self, listener: BorrowedFd<'_>, most: usize, now_ns: u64) -> bool {
        if self.allow.is_empty() || self.first.is_some() {
            return true;
        }
        for n in 0..most {
            if n > 0 && !somebody_waits(listener) {
                return false;
            }
            match self.accept(listener) {
                Ok(Some((socket, peer))) if !self.allows(peer) => {
                    drop(socket);
                    self.keep_spare();
                    self.turn_away(peer, now_ns);
                }
                Ok(Some(first)) => {
                    self.first = Some(first);
                    return true;
                }
                Ok(None) => {}
                // The batch meets the error again, and reports it.
                Err(end) => return end == End::Stuck,
            }
        }
        false
    }

    /// Accepts and answers at most `most` polls. With pools, it adds the connections whose line is still missing to
    /// `owing`, for the caller to watch.
    pub fn serve_batch(&mut self, listener: BorrowedFd<'_>, most: usize, now_ns: u64, owing: &mut Vec<RawFd>) -> End {
        let mut came = false;
        if let Some((socket, peer)) = self.first.take() {
            came = true;
            self.welcome(socket, peer, now_ns, owing);
            self.keep_spare();
        }
        for _ in 0..most {
            if came && !somebody_waits(listener) {
                return End::Drained;
            }
            came = true;
            match self.accept(listener) {
                Ok(Some((socket, peer))) => self.welcome(socket, peer, now_ns, owing),
                Ok(None) => {}
                Err(end) => return end,
            }
            self.keep_spare();
        }
        End::More
    }

    /// A connection whose line was missing is readable. Returns whether it is finished.
    pub fn readable(&mut self, fd: RawFd) -> bool {
        let Some(mut owing) = self.owing.remove(&fd) else { return true };
        let line_is_there = read_line(&owing.socket, &mut owing.line);
        if line_is_there {
            self.reply_to_line(&owing);
        } else {
            self.owing.insert(fd, owing);
        }
        line_is_there
    }

    /// A connection's time is over, or its place is needed (`evicted`): it gets the default reply.
    pub fn expire(&mut self, fd: RawFd, evicted: bool) {
        if let Some(owing) = self.owing.remove(&fd) {
            *(if evicted { &mut self.totals.evicted } else { &mut self.totals.timed_out }) += 1;
            self.reply_to_line(&Owing { line: Vec::new(), ..owing });
        }
    }

    /// The next poller, if it is still there.
    fn accept(&mut self, listener: BorrowedFd<'_>) -> Result<Option<Accepted>, End> {
        let accepted = match accept(listener) {
            Err(Errno::MFILE | Errno::NFILE) => {
                // One descriptor is reserved for this: it serves one poll after the other, whatever has used up the
                // rest.
                self.totals.no_fds += 1;
                drop(self.spare.take());
                accept(listener)
            }
            other => other,
        };
        match accepted {
            Ok(accepted) => Ok(Some(accepted)),
            Err(Errno::AGAIN) => Err(End::Drained),
            // Caused by the peer, or a temporary network error, after which accept(2) recommends to retry.
            Err(
                Errno::INTR
                | Errno::CONNABORTED
                | Errno::PROTO
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::NOPROTOOPT
                | Errno::OPNOTSUPP
                | Errno::PERM,
            ) => {
                self.totals.disconnected += 1;
                Ok(None)
            }
            Err(_) => Err(End::Stuck),
        }
    }

    fn keep_spare(&mut self) {
        if self.spare.is_none() {
            self.spare = spare();
        }
    }

    fn allows(&self, peer: Option<IpAddr>) -> bool {
        self.allow.is_empty() || peer.is_some_and(|p| self.allow.iter().any(|net| net.holds(p)))
    }

    fn turn_away(&mut self, peer: Option<IpAddr>, now_ns: u64) {
        self.remember(peer, false, now_ns);
        self.totals.refused += 1;
    }

    fn welcome(&mut self, socket: OwnedFd, peer: Option<IpAddr>, now_ns: u64, owing: &mut Vec<RawFd>) {
        if !self.allows(peer) {
            self.turn_away(peer, now_ns);
            return;
        }
        self.remember(peer, true, now_ns);
        if self.replies.pools.is_empty() {
            let sent = send(&socket, &self.replies.default);
            // Once is enough where no line is expected; see DRAIN_READS_MAX.
            let _ = rustix::net::recv(&socket, &mut [0; LINE_LEN_MAX], RecvFlags::DONTWAIT);
            self.tally(sent);
        } else {
            let mut poller = Owing { socket, line: Vec::new() };
            if read_line(&poller.socket, &mut poller.line) {
                self.reply_to_line(&poller);
            } else {
                let fd = poller.socket.as_raw_fd();
                owing.push(fd);
                self.owing.insert(fd, poller);
            }
        }
    }

    fn reply_to_line(&mut self, poller: &Owing) {
        let (pool, reply) = self.replies.to(&poller.line);
        let sent = send(&poller.socket, reply);
        if let Some(pool) = pool.filter(|_| sent) {
            match self.answered_by_pool.get_mut(pool) {
                Some(answered) => *answered += 1,
                None => drop(self.answered_by_pool.insert(pool.to_vec(), 1)),
            }
        }
        let mut rest = [0; 4096];
        for _ in 0..DRAIN_READS_MAX {
            if !rustix::net::recv(&poller.socket, &mut rest, RecvFlags::DONTWAIT).is_ok_and(|(n, _)| n > 0) {
                break;
            }
        }
        self.tally(sent);
    }

    fn remember(&mut self, peer: Option<IpAddr>, allowed: bool, now_ns: u64) {
        if let Some(peer) = peer {
            self.pollers.remember(peer, allowed, now_ns);
        }
    }

    fn tally(&mut self, sent: bool) {
        if sent { self.totals.answered += 1 } else { self.totals.disconnected += 1 }
    }
}

#[cfg(test)]
mod tests;
