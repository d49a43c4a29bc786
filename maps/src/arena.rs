//! `arena`: pages that programs share with the host by plain pointers.

use std::any::Any;
use std::ops::Range;
use std::sync::Mutex;

use rtbpf_abi::Errno;
use rtbpf_rt::RunCx;

use crate::access::{KeyRef, ProgBytes, ValuePtr};
use crate::head::Head;
use crate::map::{Map, MapError, UpdateFlags};
use crate::slab::{Pages, Region};

const PAGE: u64 = 4096;
/// 4 GiB: programs address an arena by 32 bits.
const MAX_PAGES: u64 = 1 << 20;

/// Which pages are handed out, and how many the host maps.
struct State {
    used: Vec<bool>,
    /// Pages of the host's mapping, once there was one.
    mapped_pages: Option<u64>,
}

/// An arena.
pub struct Arena {
    head: Head,
    memory: Region,
    /// Protects page states. Level Task only: pages come by a sleeping path.
    state: Mutex<State>,
}

impl Arena {
    pub(crate) fn new(head: Head) -> Result<Arena, MapError> {
        let pages = head.spec().max_entries as usize;
        let memory = Region::new(pages.checked_mul(PAGE as usize).ok_or(Errno::E2BIG)?, Pages::OnTouch)?;
        let state = Mutex::new(State { used: vec![false; pages], mapped_pages: None });
        Ok(Arena { head, memory, state })
    }

    /// Where the arena lies in this process.
    pub fn base(&self) -> u64 {
        self.memory.address()
    }

    /// Hands out `count` pages in a row, at page `at` when given; zeroed. `None` when there is no such run.
    pub fn alloc_pages(&self, at: Option<u32>, count: u32) -> Option<u64> {
        let mut state = self.state.lock().ok()?;
        let count = Some(count as usize).filter(|count| *count > 0)?;
        let is_free = |from: usize| {
            from.checked_add(count).and_then(|end| state.used.get(from..end)).is_some_and(|run| run.iter().all(|u| !u))
        };
        let from = match at {
            Some(at) => Some(at as usize).filter(|from| is_free(*from)),
            None => (0..state.used.len()).find(|from| is_free(*from)),
        }?;
        state.used[from..from + count].fill(true);
        self.memory.cell(from * PAGE as usize, count * PAGE as usize).zero();
        Some(self.base() + from as u64 * PAGE)
    }

    /// Takes back `count` pages from `address`; what lies outside is ignored, as Linux does.
    pub fn free_pages(&self, address: u64, count: u32) {
        let Some(from) = self.memory.offset_of(address) else { return };
        if let Ok(mut state) = self.state.lock() {
            let from = from / PAGE as usize;
            let end = from.saturating_add(count as usize).min(state.used.len());
            state.used[from..end].fill(false);
        }
    }

    /// Whether the host may map `length` bytes from `page_offset`, as `mmap` of its descriptor without an address: the
    /// first mapping decides the extent, unless the map was created with an address; no later one may be elsewhere.
    pub(crate) fn admit_host(&self, length: u64, page_offset: u64) -> Result<(), Errno> {
        let pages = length.div_ceil(PAGE);
        let whole = (self.head.spec().map_extra != 0).then(|| u64::from(self.head.spec().max_entries));
        let extent = self.state.lock().map_err(|_| Errno::EBUSY)?.mapped_pages.or(whole);
        match extent {
            _ if page_offset != 0 => Err(Errno::EINVAL),
            _ if pages > MAX_PAGES => Err(Errno::E2BIG),
            Some(extent) if pages > extent => Err(Errno::E2BIG),
            Some(_) => Err(Errno::EINVAL),
            None => Ok(()),
        }
    }

    /// Notes a mapping that was admitted; answers its address.
    pub(crate) fn map_host(&self, length: u64) -> Result<u64, Errno> {
        self.state.lock().map_err(|_| Errno::EBUSY)?.mapped_pages = Some(length.div_ceil(PAGE));
        Ok(self.base())
    }

    /// Whether the host has said where the arena lies: programs that use it load only then.
    pub fn has_address(&self) -> bool {
        self.head.spec().map_extra != 0 || self.state.lock().is_ok_and(|state| state.mapped_pages.is_some())
    }
}

impl Map for Arena {
    fn head(&self) -> &Head {
        &self.head
    }

    fn lookup(&self, _: &RunCx, _: KeyRef<'_>) -> Option<ValuePtr> {
        None
    }

    fn update(&self, _: &RunCx, _: KeyRef<'_>, _: ProgBytes<'_>, _: UpdateFlags) -> Result<(), MapError> {
        Err(Errno::EOPNOTSUPP.into())
    }

    fn delete(&self, _: &RunCx, _: KeyRef<'_>) -> Result<(), MapError> {
        Err(Errno::EOPNOTSUPP.into())
    }

    fn next_key(&self, _: &RunCx, _: Option<KeyRef<'_>>, _: &mut Vec<u8>) -> Result<(), MapError> {
        Err(Errno::EOPNOTSUPP.into())
    }

    fn read(&self, _: &RunCx, _: KeyRef<'_>, _: u64, _: &mut Vec<u8>) -> Result<(), MapError> {
        Err(Errno::EINVAL.into())
    }

    fn memory(&self) -> Vec<Range<u64>> {
        self.memory.ranges()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
