//! WORLD. Which processes exist: asks the discovery, frees file descriptors for it, or replaces it with a sweep.
//!
//! It must never take what cannot be seen for nothing.

use super::{Entry, State, Tracker};
use crate::discovery::{Look, sweep::Sweep};
use crate::read_task::Kind;

/// How many file descriptors are freed when the process has run out of them.
const GIVE_BACK: usize = 16;

/// How many scans in a row the discovery may find no free file descriptor. After that, it probably needs more than
/// there will ever be, and a sweep, which needs one, is better than nothing.
const STARVED_MAX: u32 = 20;

impl Tracker {
    /// What the discovery finds now; `None` if nothing is known.
    pub(super) fn look(&mut self) -> Option<Look> {
        let mut looked = self.discovery.look(&mut self.procfs, &mut self.found);
        // Knowing which processes exist matters more than a kept title.
        while looked == Ok(Look::Starved) && self.give_back() {
            looked = self.discovery.look(&mut self.procfs, &mut self.found);
        }
        self.starved = if looked == Ok(Look::Starved) { self.starved + 1 } else { 0 };
        if self.starved > STARVED_MAX {
            looked = Err("out of file descriptors".into());
        }
        if let (Err(why), false) = (&looked, self.discovery.name() == "sweep") {
            self.fallback = Some(format!("{} failed: {why}", self.discovery.name()));
            self.discovery = Box::new(Sweep::new(&self.procfs));
            // Processes that the former discovery did not name need not be new.
            self.first = true;
            looked = self.discovery.look(&mut self.procfs, &mut self.found);
        }
        looked.ok().filter(|looked| *looked != Look::Starved)
    }

    /// Closes some kept files, so that others can be opened. From then on, every read opens and closes them.
    pub(super) fn give_back(&mut self) -> bool {
        let mut given = 0;
        for pid in &self.workers {
            if let Some(Entry { state: State::Worker(worker), .. }) = self.entries.get_mut(pid) {
                given += usize::from(worker.files.take().is_some());
                if given == GIVE_BACK {
                    break;
                }
            }
        }
        // A queued task holds its file too, and must release it.
        for task in &mut self.queue {
            if let Kind::Title { files, .. } = &mut task.kind {
                *files = None;
            }
        }
        self.kept -= given;
        self.kept_max = self.kept;
        given > 0
    }
}
