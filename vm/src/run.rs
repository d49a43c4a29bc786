//! The machine's own state during one run: what helpers reach through [`RunFrame::host`].

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Instant;

use rtbpf_abi::frame::{FaultCode, RunFrame};
use rtbpf_maps::{Layout, MapRef, ProgArray};
use rtbpf_rt::RunCx;

use crate::ctx::Ctx;
use crate::engine::{CancelHandle, Inner};
use crate::error::FaultKind;
use crate::executable::Bound;
use crate::helpers::dynptr::Dynptrs;
use crate::helpers::native;
use crate::helpers::ringbuf::Records;
use crate::mem::{Buffer, Keep};
use crate::region::Regions;
use crate::unchecked::Entry;
use crate::world::World;

/// State of one run.
pub(crate) struct Host {
    /// The program that the run began with.
    pub entry: Entry,
    /// Those that were tail-called since; the last one runs now.
    pub called: Vec<Arc<Bound>>,
    pub ctx: Ctx,
    pub cx: RunCx,
    pub stack: Arc<Buffer>,
    pub cancel: Arc<AtomicU32>,
    deadline: Option<Instant>,
    random: u64,
    /// Bytes that the current helper may read besides its arguments: address and length.
    pub granted: Option<(u64, u64)>,
    /// The checked interpreter's regions, while it calls a helper that may follow pointers of the program.
    pub lent: Option<Regions>,
    /// Spin locks that the program holds, by address.
    pub locks: Vec<u64>,
    /// The timer whose callback this is: the address of its first word.
    pub timer: Option<u64>,
    /// What a cgroup program answers beside R0.
    pub retval: i32,
    /// The call stack of the code that this run interrupted, innermost first; `None` when it interrupted none.
    pub frames: Option<Vec<u64>>,
    /// Objects that helpers made for this run.
    objects: Vec<Arc<Buffer>>,
    /// Ring buffer records in the program's hands.
    pub records: Records,
    /// Its dynptrs.
    pub dynptrs: Dynptrs,
}

impl Host {
    pub fn new(
        entry: Entry,
        ctx: Ctx,
        cx: RunCx,
        stack: Arc<Buffer>,
        cancel: CancelHandle,
        deadline: Option<Instant>,
        random: u64,
    ) -> Host {
        Host {
            entry,
            called: Vec::new(),
            ctx,
            cx,
            stack,
            cancel: cancel.0,
            deadline,
            random,
            granted: None,
            lent: None,
            locks: Vec::new(),
            timer: None,
            retval: 0,
            frames: None,
            objects: Vec::new(),
            records: Records::default(),
            dynptrs: Dynptrs::default(),
        }
    }

    /// Gives back what the program still holds.
    #[inline]
    pub fn release(&mut self) {
        if !self.locks.is_empty() {
            native::release_locks(&std::mem::take(&mut self.locks));
        }
        self.records.clear();
    }

    /// Gives back what the program still holds; the context, and where the random numbers stand.
    pub fn end(mut self) -> (Ctx, u64) {
        self.release();
        (self.ctx, self.random)
    }

    /// Makes it ready for a run, as new.
    #[inline]
    pub fn wake(&mut self, entry: Entry, cx: RunCx, random: u64) {
        (self.entry, self.cx, self.random) = (entry, cx, random);
    }

    /// Gives back what the program still holds, and keeps only room for the next run; where the random numbers stand.
    #[inline]
    pub fn rest(&mut self) -> u64 {
        self.release();
        self.entry = Entry::NONE;
        self.called.clear();
        self.objects.clear();
        (self.granted, self.lent, self.timer, self.retval, self.frames) = (None, None, None, 0, None);
        self.dynptrs.clear();
        self.random
    }

    /// The machine.
    #[inline]
    pub fn engine(&self) -> &Arc<Inner> {
        &self.entry.get().expect("a run has a program until it rests").engine
    }

    /// The program that runs now.
    pub fn current(&self) -> Option<&Bound> {
        self.called.last().map(|program| &**program).or(self.entry.get())
    }

    /// The outside.
    #[inline]
    pub fn world(&self) -> &World {
        &self.engine().config.world
    }

    /// A frame for this run. `host` is set before each call of a helper.
    #[inline]
    pub fn frame(&self) -> RunFrame {
        let mut frame = RunFrame {
            ctx: ptr::with_exposed_provenance_mut(self.ctx.addr() as usize),
            stack_top: ptr::null_mut(),
            fuel: 0,
            fault: FaultCode::None,
            fault_at: RunFrame::NOWHERE,
            tail_calls: 0,
            cpu: self.cx.slot,
            entry_sp: 0,
            data: ptr::null_mut(),
            data_end: ptr::null_mut(),
            data_meta: ptr::null_mut(),
            cancel: self.cancel.as_ptr().cast_const(),
            host: ptr::null_mut::<c_void>(),
            stack: ptr::null_mut(),
            second: self.ctx.second_arg(),
            helper: 0,
        };
        self.describe_packet(&mut frame);
        frame
    }

    /// Puts the packet's addresses into the frame.
    #[inline]
    pub fn describe_packet(&self, frame: &mut RunFrame) {
        if let Some(packet) = self.ctx.packet() {
            let (meta, data, end) = packet.addrs();
            let pointer = |addr: u64| ptr::with_exposed_provenance_mut(addr as usize);
            (frame.data_meta, frame.data, frame.data_end) = (pointer(meta), pointer(data), pointer(end));
        }
    }

    pub fn deadline_passed(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// The next random number (splitmix64: one addition and three multiplications, every seed good).
    pub fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// The program at `index` of a program array.
    pub fn program_at(&self, map: &MapRef, index: u32) -> Option<Arc<Bound>> {
        let program = map.as_any().downcast_ref::<ProgArray>()?.get(index)?;
        let target = program.as_any().downcast_ref::<Bound>()?.me.upgrade()?;
        // Arrays hold programs of one kind; which kind, the first to come decided, and that may not have been ours.
        self.entry.get()?.may_become(&target).then_some(target)
    }

    /// What keeps the object at this address alive.
    pub fn keep_of(&self, addr: u64) -> Keep {
        let programs = self.entry.get().into_iter().chain(self.called.iter().map(|program| &**program));
        let maps = programs.flat_map(|program| &program.maps);
        let holds = |map: &&MapRef| map.memory().iter().any(|range| range.contains(&addr));
        self.records.map_of(addr).or_else(|| maps.clone().find(holds).cloned()).map_or(Keep::Nothing, Keep::Map)
    }

    /// Keeps `object` alive until the run ends, and answers its address.
    pub fn keep(&mut self, object: Arc<Buffer>) -> u64 {
        let addr = object.addr();
        self.objects.push(object);
        addr
    }

    /// The current task, as a kernel structure of which nothing is known: zeros.
    pub fn task(&mut self) -> Arc<Buffer> {
        const TASK_BYTES: usize = 16_384;
        match self.objects.iter().find(|object| object.len() == TASK_BYTES) {
            Some(task) => task.clone(),
            None => {
                let task = Buffer::zeroed(TASK_BYTES);
                self.objects.push(task.clone());
                task
            }
        }
    }

    /// Address and size of a map's direct value.
    pub fn direct_value(&self, map: &MapRef) -> Result<(u64, u32), FaultKind> {
        match map.layout() {
            Layout::Array { base, .. } => Ok((base, map.spec().value_size)),
            Layout::Opaque | Layout::PercpuArray { .. } => Err(FaultKind::Expected {
                expected: "a map with one direct value",
                found: map.spec().kind.number() as u64,
            }),
        }
    }
}
