//! BOUNDARY. Polls: replies in, what happened out. It must never hold logic.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, RawFd};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::answer::{self, End, Replies};
use crate::clock;
use crate::net::Net;

#[pyclass(frozen, get_all, module = "agent._scan")]
pub(super) struct Totals {
    answered: u64,
    refused: u64,
    disconnected: u64,
    timed_out: u64,
    evicted: u64,
    no_fds: u64,
}

#[pyclass(module = "agent._scan")]
pub(super) struct Answerer(answer::Answerer);

fn nets(allow: &[String]) -> PyResult<Vec<Net>> {
    let parse = |a: &String| Net::parse(a).ok_or_else(|| PyValueError::new_err(format!("{a:?} is not a network")));
    allow.iter().map(parse).collect()
}

#[pymethods]
impl Answerer {
    #[new]
    fn new(allow: Vec<String>) -> PyResult<Self> {
        Ok(Self(answer::Answerer::new(nets(&allow)?)))
    }

    fn configure(&mut self, allow: Vec<String>) -> PyResult<()> {
        self.0.configure(nets(&allow)?);
        Ok(())
    }

    fn set_replies(&mut self, default: Vec<u8>, pools: Vec<(String, Vec<u8>)>) {
        let pools = pools.into_iter().map(|(name, reply)| (name.into_bytes(), reply)).collect();
        self.0.set_replies(Replies { default, pools });
    }

    fn settle(&mut self, until_s: f64) {
        self.0.settle((until_s * 1e9) as u64);
    }

    fn settled(&self) -> bool {
        self.0.settled(clock::now_ns())
    }

    fn accept_allowed(&mut self, py: Python<'_>, listener: RawFd, most: usize) -> bool {
        py.detach(|| self.0.accept_allowed(borrowed(listener), most, clock::now_ns()))
    }

    fn serve_batch(&mut self, py: Python<'_>, listener: RawFd, most: usize) -> (i8, Vec<RawFd>) {
        let mut owing = Vec::new();
        let end = py.detach(|| self.0.serve_batch(borrowed(listener), most, clock::now_ns(), &mut owing));
        let end = match end {
            End::Drained => 0,
            End::More => 1,
            End::Stuck => -1,
        };
        (end, owing)
    }

    fn readable(&mut self, py: Python<'_>, fd: RawFd) -> bool {
        py.detach(|| self.0.readable(fd))
    }

    #[pyo3(signature = (fd, *, evicted=false))]
    fn expire(&mut self, py: Python<'_>, fd: RawFd, evicted: bool) {
        py.detach(|| self.0.expire(fd, evicted));
    }

    fn totals(&self) -> Totals {
        let t = self.0.totals();
        let (timed_out, evicted) = (t.timed_out, t.evicted);
        Totals {
            answered: t.answered,
            refused: t.refused,
            disconnected: t.disconnected,
            timed_out,
            evicted,
            no_fds: t.no_fds,
        }
    }

    fn answered_by_pool(&self) -> HashMap<String, u64> {
        self.0.answered_by_pool().map(|(pool, n)| (String::from_utf8_lossy(pool).into_owned(), n)).collect()
    }

    fn pollers(&self) -> Vec<(String, u64, u64, bool)> {
        self.0.pollers().map(|(a, p): (IpAddr, _)| (a.to_string(), p.polls, p.last_ns, p.allowed)).collect()
    }
}

fn borrowed<'a>(listener: RawFd) -> BorrowedFd<'a> {
    // SAFETY: `_scan.pyi` demands a descriptor that stays open during the call. The server keeps to that: only the
    // event loop closes listeners, and it is the event loop's thread that waits for this call.
    unsafe { BorrowedFd::borrow_raw(listener) }
}
