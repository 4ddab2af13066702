//! WORLD. Who is there: the discovery is asked, makes do with fewer files, or gives its place to a sweep.
//!
//! What cannot be seen is never taken for nobody.

use super::{Entry, State, Tracker};
use crate::discovery::{Look, sweep::Sweep};
use crate::read_task::Kind;

/// File descriptors given back when the process has run out of them.
const GIVE_BACK: usize = 16;

/// Scans in a row for which the discovery may find no file descriptor. After that, more are wanted
/// than there will ever be, and a sweep, which wants one, is better than nothing.
const STARVED_MAX: u32 = 20;

impl Tracker {
    /// What the discovery says now; `None` if it cannot see.
    pub(super) fn look(&mut self) -> Option<Look> {
        let mut looked = self.discovery.look(&mut self.procfs, &mut self.found);
        // A kept title is worth less than to know who is there.
        while looked == Ok(Look::Starved) && self.give_back() {
            looked = self.discovery.look(&mut self.procfs, &mut self.found);
        }
        self.starved = if looked == Ok(Look::Starved) { self.starved + 1 } else { 0 };
        if self.starved > STARVED_MAX {
            looked = Err("no file descriptors for so many files".into());
        }
        if let (Err(why), false) = (&looked, self.discovery.name() == "sweep") {
            self.fallback = Some(format!("{} gave up: {why}", self.discovery.name()));
            self.discovery = Box::new(Sweep::new(&self.procfs));
            // Those that it has not named before need not be new.
            self.first = true;
            looked = self.discovery.look(&mut self.procfs, &mut self.found);
        }
        looked.ok().filter(|looked| *looked != Look::Starved)
    }

    /// Closes some kept files, so that others can be opened. They are opened and closed again
    /// for every read from then on.
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
        // A queued task holds its file too, and must let go of it.
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
