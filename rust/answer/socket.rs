//! WORLD. The system calls that answer one poll.
//!
//! None may ever wait, and none may be added lightly: they are what a poll costs.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketFlags};

use super::replies::{LINE_LEN_MAX, extend_line};

pub(super) type Accepted = (OwnedFd, Option<IpAddr>);

pub(super) fn spare() -> Option<OwnedFd> {
    eventfd(0, EventfdFlags::CLOEXEC).ok()
}

pub(super) fn accept(listener: BorrowedFd<'_>) -> Result<Accepted, Errno> {
    let (socket, address) = rustix::net::acceptfrom_with(listener, SocketFlags::CLOEXEC)?;
    let address = address.and_then(|a| SocketAddr::try_from(a).ok()).map(|a| match a.ip() {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
        v4 @ IpAddr::V4(_) => v4,
    });
    Ok((socket, address))
}

/// Whether another poll waits. Checking first is cheap; a failing accept is not, because the kernel creates the new
/// socket's file before it looks for a connection.
pub(super) fn somebody_waits(listener: BorrowedFd<'_>) -> bool {
    let mut look = [PollFd::from_borrowed_fd(listener, PollFlags::IN)];
    rustix::event::poll(&mut look, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|n| n > 0)
}

/// A reply is much smaller than any send buffer, so it is sent as a whole or not at all.
///
/// It is corked until the end of the stream goes with it in one segment: half the packets for both sides, and a sixth
/// less cost. (If it is lost, only its retransmission helps, some 200 ms later; no later packet reveals the loss.)
/// The shutdown comes before the close because a close with unread bytes would discard the corked data.
pub(super) fn send(socket: &OwnedFd, reply: &[u8]) -> bool {
    rustix::net::send(socket, reply, SendFlags::DONTWAIT | SendFlags::NOSIGNAL | SendFlags::MORE).is_ok()
        && rustix::net::shutdown(socket, Shutdown::Write).is_ok()
}

/// Reads more of a line. Returns whether it is as complete as it will ever be.
pub(super) fn read_line(socket: &OwnedFd, line: &mut Vec<u8>) -> bool {
    let mut buf = [0; LINE_LEN_MAX];
    match rustix::net::recv(socket, &mut buf, RecvFlags::DONTWAIT) {
        Ok((0, _)) => true,
        Ok((n, _)) => extend_line(line, &buf[..n]),
        Err(Errno::AGAIN | Errno::INTR) => false,
        Err(_) => true,
    }
}
