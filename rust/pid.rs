//! PURE. What a process is called by everybody here.

/// A process id, as the procfs root shows it.
pub type Pid = u32;
