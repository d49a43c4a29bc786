//! What every map has: identity, attributes, whether it is frozen, who maps it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, RwLock, Weak};

use rtbpf_abi::{MapKind, MapSpec, ProgType, map_struct};

use crate::map::{Map, MapRef};

/// The part all kinds share. Its address is the map's pointer in programs, and what a lookup in a map of maps answers.
#[repr(C)]
pub struct Head {
    /// What programs see that read behind the pointer: the kernel's structure. Nobody writes it.
    image: [u64; map_struct::BYTES / 8],
    spec: MapSpec,
    id: u32,
    slots: u32,
    frozen: AtomicBool,
    /// Writable host mappings alive: they forbid freezing.
    writers: AtomicU32,
    me: OnceLock<Me>,
    owner: OnceLock<(ProgType, u64)>,
}

/// The map that a head belongs to.
struct Me {
    weak: Weak<dyn Map>,
    /// Where `weak` leads, while it does.
    map: *const dyn Map,
}

// SAFETY: maps are `Send` and `Sync`; the pointer is only followed while the map lives.
unsafe impl Send for Me {}
// SAFETY: as above.
unsafe impl Sync for Me {}

static NEXT_ID: AtomicU32 = AtomicU32::new(1);

/// Live maps by the address of their head. Written when a map is created or dropped, read by [`map_at`]; level Task
/// only, first and last lock taken.
static HEADS: RwLock<BTreeMap<u64, Weak<dyn Map>>> = RwLock::new(BTreeMap::new());

impl Head {
    #[inline]
    pub(crate) fn new(spec: MapSpec, slots: u32) -> Head {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Head {
            image: map_struct::image(&spec, id),
            spec,
            id,
            slots,
            frozen: AtomicBool::new(false),
            writers: AtomicU32::new(0),
            me: OnceLock::new(),
            owner: OnceLock::new(),
        }
    }

    /// The attributes the map was created with.
    #[inline]
    pub fn spec(&self) -> &MapSpec {
        &self.spec
    }

    /// The kernel's structure of the map, as loads behind its pointer see it.
    #[inline]
    pub fn image(&self) -> &[u64; map_struct::BYTES / 8] {
        &self.image
    }

    /// A number unique in the process.
    #[inline]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Slots (possible CPUs) the map was created for.
    #[inline]
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// The map itself; `None` while it is being dropped.
    #[inline]
    pub fn map(&self) -> Option<MapRef> {
        self.me.get()?.weak.upgrade()
    }

    /// The map itself, without counting who holds it.
    ///
    /// # Safety
    ///
    /// Somebody else must keep the map alive for `'a`.
    #[inline]
    pub unsafe fn borrowed<'a>(&self) -> Option<&'a dyn Map> {
        let map = self.me.get()?.map;
        // SAFETY: the caller says that the map lives, so what made this weak reference is still there.
        Some(unsafe { &*map })
    }

    /// Whether the control plane may no longer write.
    #[inline]
    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn set_frozen(&self) {
        self.frozen.store(true, Ordering::Release);
    }

    #[inline]
    pub(crate) fn writers(&self) -> &AtomicU32 {
        &self.writers
    }

    /// Binds a map that can hold programs to a kind of program: the first one that refers to it, or is put in it,
    /// decides. `false` when it is bound to another; `true` for maps that hold no programs.
    #[inline]
    pub fn bind(&self, prog_type: ProgType, compatibility: u64) -> bool {
        let holds_programs = matches!(self.spec.kind, MapKind::ProgArray | MapKind::Devmap | MapKind::Cpumap);
        !holds_programs || *self.owner.get_or_init(|| (prog_type, compatibility)) == (prog_type, compatibility)
    }

    /// Whether the value has a `bpf_spin_lock` or `bpf_res_spin_lock`, and where.
    #[inline]
    pub(crate) fn lock_offset(&self) -> Option<u32> {
        use rtbpf_abi::map_spec::SpecialKind;
        self.spec.field(|kind| matches!(kind, SpecialKind::SpinLock)).map(|field| field.off)
    }
}

impl Drop for Head {
    fn drop(&mut self) {
        let address = std::ptr::from_ref(self) as u64;
        if let Ok(mut heads) = HEADS.write() {
            heads.remove(&address);
        }
    }
}

/// Makes the map findable by the address of its head.
pub(crate) fn publish(map: Box<dyn Map>) -> MapRef {
    let map: MapRef = Arc::from(map);
    let head = map.head();
    let me = Arc::downgrade(&map);
    if let Ok(mut heads) = HEADS.write() {
        heads.insert(std::ptr::from_ref(head) as u64, me.clone());
    }
    let _ = head.me.set(Me { weak: me, map: Arc::as_ptr(&map) });
    map
}

/// The live map whose [`Head`] is at `address`: how an engine turns what a lookup in a map of maps answered into a map.
pub fn map_at(address: u64) -> Option<MapRef> {
    HEADS.read().ok()?.get(&address)?.upgrade()
}
