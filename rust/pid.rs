//! PURE. The type of a process id, which discovery, tracker and snapshot share. Nothing else belongs here.

/// A process id, as the procfs root shows it.
pub type Pid = u32;
