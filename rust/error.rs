//! PURE. What can be wrong before the first scan.
//!
//! It must never hold an error of a running scan: a scan has no errors, only counts.

use std::fmt;

/// An error in the scanner's arguments. Its text names the place and the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// A preset that this crate does not know.
    UnknownPreset(String),
    /// A custom pattern that does not compile, or lacks the groups that give it meaning.
    Pattern(String),
    /// A glob for process names that cannot match anything.
    Glob(String),
    /// More selectors than one scan can tell apart.
    TooManySelectors(usize),
    /// The procfs root cannot be opened.
    Root(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownPreset(name) => write!(f, "unknown preset {name:?}"),
            Self::Pattern(why) | Self::Glob(why) | Self::Root(why) => f.write_str(why),
            Self::TooManySelectors(n) => write!(f, "{n} pools; at most 32 are supported"),
        }
    }
}

impl std::error::Error for Error {}
