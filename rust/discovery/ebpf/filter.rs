//! The comm filter, in the form that the kernel programs compare: bytes under a mask.
//!
//! It must never reject a comm that a selector accepts; one that it lets through by mistake is rejected later, by its
//! name.

use super::unavailable::Unavailable;

/// How many patterns one filter holds (`MAX_PATTERNS` of `candidates.h`).
pub const MAX_PATTERNS: usize = 64;

/// The longest comm, without its NUL (the kernel's `TASK_COMM_LEN` less one).
const LONGEST_COMM: usize = 15;

/// The literal beginning of a comm: the part of a glob before its first metacharacter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommPrefix {
    /// The bytes, padded with NULs.
    pub bytes: [u8; 16],
    /// How many of them count, at most 15.
    pub len: u8,
    /// The comm ends there: the glob had no metacharacter.
    pub exact: bool,
}

impl CommPrefix {
    /// A prefix, or with `exact` the whole comm. A literal that is longer than any comm is cut, and then compared as a
    /// prefix.
    #[must_use]
    pub fn new(literal: &[u8], exact: bool) -> Self {
        let len = literal.len().min(LONGEST_COMM);
        let mut bytes = [0; 16];
        bytes[..len].copy_from_slice(&literal[..len]);
        Self { bytes, len: len as u8, exact: exact && len == literal.len() }
    }

    fn pattern(&self) -> Pattern {
        let len = usize::from(self.len).min(LONGEST_COMM);
        let mut bytes = [0; 16];
        let mut mask = [0; 16];
        bytes[..len].copy_from_slice(&self.bytes[..len]);
        // An exact name is compared with the NUL that ends it.
        mask[..len + usize::from(self.exact)].fill(0xff);
        Pattern { bytes, mask }
    }
}

/// `struct pattern` of `candidates.h`, whose words have these bytes in memory.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default)]
struct Pattern {
    bytes: [u8; 16],
    mask: [u8; 16],
}

/// `struct filter` of `candidates.h`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Filter {
    token: [u8; 16],
    count: u64,
    patterns: [Pattern; MAX_PATTERNS],
}

const _: () = assert!(size_of::<Filter>() == 24 + 32 * MAX_PATTERNS);

// SAFETY: nothing but integers, and no padding, as the assertion above shows: any bytes are a value, and all bytes are
// set.
unsafe impl aya::Pod for Filter {}

impl Filter {
    /// Lets no comm through, and has the pid noted of the task that takes this name.
    pub(super) fn asking(token: [u8; 16]) -> Self {
        Self { token, count: 0, patterns: [Pattern::default(); MAX_PATTERNS] }
    }

    /// Lets every comm through that starts with one of the prefixes. An empty list is refused like an empty prefix:
    /// neither names anything to look for.
    pub(super) fn of(prefixes: &[CommPrefix]) -> Result<Self, Unavailable> {
        if prefixes.is_empty() || prefixes.iter().any(|prefix| prefix.len == 0 && !prefix.exact) {
            return Err(Unavailable::TooBroad);
        }
        if prefixes.len() > MAX_PATTERNS {
            return Err(Unavailable::Refused(format!("{} comm patterns, {MAX_PATTERNS} at most", prefixes.len())));
        }
        let mut filter = Self::asking([0; 16]);
        filter.count = prefixes.len() as u64;
        for (pattern, prefix) in filter.patterns.iter_mut().zip(prefixes) {
            *pattern = prefix.pattern();
        }
        Ok(filter)
    }
}
