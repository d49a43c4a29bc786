//! Batches by bucket.

use rtbpf_rt::RunCx;

use crate::map::MapError;

/// Keys and values of one bucket, as the control plane sees them.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// A hash table as batches walk it: whole buckets, each under its lock.
pub trait Buckets {
    /// How many there are.
    fn bucket_count(&self) -> u32;

    /// Reads the elements of `bucket`, newest first; removes them when `take` is set. ENOSPC, and nothing is removed,
    /// when there are more than `room`.
    fn bucket(&self, cx: &RunCx, bucket: u32, room: u32, take: bool, out: &mut Pairs) -> Result<(), MapError>;
}
