//! Whether what a run holds lies in what the verifier kept: every register, every slot of stack, in every frame.
//!
//! ```text
//!  abstract                          concrete
//!  scalar            num             the register is a member
//!  pointer           base + off + num    same kind of region; (pointer − base − off) is a member
//!  equal ids         one base        pointers and numbers that share one are as far apart as their offsets say
//!  packet range r    r bytes checked     base + num + r is not past the packet's end
//! ```

use rtbpf::interp::FrameView;
use rtbpf::isa::{Linkage, Program, Reg, Width};
use rtbpf::region::{RegionId, RegionKind, split};
use rtbpf::verifier::Assumptions;
use rtbpf::verifier::walked::{AT_END, BEYOND_END, BlockState, BlockStates, Byte, Kind, SlotState, Trust, Value};
use rtbpf::{Checked, Executable};

/// Bytes of a frame's stack.
const STACK: i64 = rtbpf::abi::limits::STACK_BYTES as i64;

/// The states of a proof, and what they speak of.
pub struct Containment<'a> {
    /// The kept states.
    pub states: &'a BlockStates,
    /// The program they were kept for.
    pub program: &'a Executable,
    /// What it was verified under.
    pub given: &'a Assumptions,
}

/// Which of the states at an instruction held the run last: those of one path have the same place in every list.
#[derive(Default)]
pub struct Hint(usize);

/// What is outside of a state: in which frame, where, and how.
struct Outside {
    frame: usize,
    place: Place,
    why: &'static str,
}

/// A part of a frame.
enum Place {
    All,
    Reg(Reg),
    Slot(u8),
}

impl Containment<'_> {
    /// Whether the run lies in a kept state; `None` where none has to hold it: no state is kept there, or another program
    /// runs by now.
    pub fn check(&self, run: &Checked, hint: &mut Hint) -> Option<Result<(), String>> {
        if !self.states.keeps(run.at()) || !run.runs(self.program) {
            return None;
        }
        let states = self.states.at(run.at());
        let frames: Vec<FrameView> = (0..run.depth()).filter_map(|index| run.frame(index)).collect();
        for place in 0..states.len() {
            let place = (place + hint.0) % states.len();
            if states.get(place).is_some_and(|state| self.outside(run, &frames, state).is_none()) {
                hint.0 = place;
                return Some(Ok(()));
            }
        }
        Some(Err(self.escape(run, &frames, states)))
    }

    fn escape(&self, run: &Checked, frames: &[FrameView], states: &[BlockState]) -> String {
        let why = match states.first().and_then(|state| self.outside(run, frames, state)) {
            Some(Outside { place: Place::All, why, .. }) => why.into(),
            Some(Outside { frame, place: Place::Reg(reg), why }) => format!("{why}, R{} of frame {frame}", reg as u8),
            Some(Outside { frame, place: Place::Slot(at), why }) => format!("{why}, slot {at} of frame {frame}"),
            None => "no state is kept".into(),
        };
        let shown: String = states.iter().map(|state| format!("\n  {state}")).collect();
        format!("escape: {why} at {}, registers {:x?}; kept:{shown}", run.at(), run.regs())
    }

    /// The first thing of the run that is outside of `state`.
    fn outside(&self, run: &Checked, frames: &[FrameView], state: &BlockState) -> Option<Outside> {
        let all = |why| Some(Outside { frame: 0, place: Place::All, why });
        // A global function is verified on its own, whoever calls it.
        let entry = state.frames.first().map_or(0, |frame| frame.subprog);
        let is_global = self.program.program().subprogs().get(entry).is_some_and(|s| s.linkage == Linkage::Global);
        let below = frames.len().checked_sub(state.frames.len()).filter(|&below| below == 0 || is_global && entry != 0);
        let Some(frames) = below.and_then(|below| frames.get(below..)) else { return all("another depth") };
        if run.locks_held() != usize::from(state.held.lock.is_some()) {
            return all("other locks");
        }
        let mut meaning =
            Meaning { run, frames, given: self.given, program: self.program.program(), bases: Vec::new() };
        for (index, (frame, kept)) in frames.iter().zip(&state.frames).enumerate() {
            let caller = index.checked_sub(1).and_then(|caller| frames.get(caller));
            if caller.is_some_and(|caller| caller.resumes_at != kept.call_site.next()) {
                return all("another call site");
            }
            let is_current = index + 1 == frames.len();
            for reg in Reg::ALL.into_iter().filter(|&reg| is_current || reg.is_callee_saved() || reg == Reg::FP) {
                let (value, x) = (&kept.regs[reg.index()], frame.regs[reg.index()]);
                if let Err(why) = meaning.value(value, x) {
                    return Some(Outside { frame: index, place: Place::Reg(reg), why });
                }
            }
            for slot in kept.slots.iter().filter(|slot| slot.is_read) {
                if let Err(why) = meaning.slot(slot, frame.stack) {
                    return Some(Outside { frame: index, place: Place::Slot(slot.at), why });
                }
            }
        }
        None
    }
}

/// What ids stand for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Base {
    Link,
    Packet,
    Null,
}

/// What abstract values mean in one run.
struct Meaning<'a> {
    run: &'a Checked,
    frames: &'a [FrameView],
    given: &'a Assumptions,
    program: &'a Program,
    /// What ids were found to stand for.
    bases: Vec<(Base, u32, u64)>,
}

impl Meaning<'_> {
    /// `base` is what every other value with this id has.
    fn agrees(&mut self, what: Base, id: u32, base: u64) -> Result<(), &'static str> {
        match self.bases.iter().find(|(kind, other, _)| (*kind, *other) == (what, id)) {
            Some((.., known)) if *known != base => Err(match what {
                Base::Link => "linked numbers are apart",
                Base::Packet => "packet pointers are apart",
                Base::Null => "one of two copies is null",
            }),
            Some(_) => Ok(()),
            None => {
                self.bases.push((what, id, base));
                Ok(())
            }
        }
    }

    fn slot(&mut self, slot: &SlotState, stack: RegionId) -> Result<(), &'static str> {
        let low = STACK - 8 * (i64::from(slot.at) + 1);
        let mut bytes = [0; 8];
        let region = self.run.regions().get(stack).ok_or("no stack")?;
        region.span.read(low, &mut bytes).ok_or("no stack")?;
        if slot.bytes.iter().zip(bytes).any(|(kept, byte)| *kept == Byte::Zero && byte != 0) {
            return Err("a byte is not zero");
        }
        let spilled = slot.bytes.iter().take_while(|byte| **byte == Byte::Spill).count();
        let Some(value) = slot.value.filter(|_| spilled > 0) else { return Ok(()) };
        bytes.iter_mut().skip(spilled).for_each(|byte| *byte = 0);
        self.value(&value, u64::from_le_bytes(bytes))
    }

    fn value(&mut self, value: &Value, x: u64) -> Result<(), &'static str> {
        match value.kind {
            Kind::Uninit | Kind::Dynptr { .. } | Kind::Iter { .. } => return Ok(()),
            Kind::Scalar => {
                if value.id != 0 {
                    let base = match value.plus {
                        None => x,
                        Some(Width::W64) => x.wrapping_sub(i64::from(value.off) as u64),
                        Some(Width::W32) => u64::from((x as u32).wrapping_sub(value.off as u32)),
                    };
                    self.agrees(Base::Link, value.id, base)?;
                }
                return if value.num.contains(x) { Ok(()) } else { Err("a number is outside") };
            }
            Kind::Btf { trust: Trust::Plain, .. } if x == 0 => return Ok(()),
            _ => {}
        }
        if value.nullable {
            self.agrees(Base::Null, value.id, u64::from(x == 0))?;
            if x == 0 {
                return Ok(());
            }
        }
        self.pointer(value, x)
    }

    fn pointer(&mut self, value: &Value, x: u64) -> Result<(), &'static str> {
        let regions = self.run.regions();
        let (region, off) = regions.resolve(x).map_err(|_| "a pointer points nowhere")?;
        let fixed = i64::from(value.off);
        let (kind, len) = (region.kind, i64::from(region.span.len()));
        let is_at = |origin: i64| value.num.contains((off - origin - fixed) as u64);
        let fits = match value.kind {
            Kind::Ctx => kind == RegionKind::Ctx && is_at(0),
            Kind::Stack(frame) => {
                let stack = self.frames.get(frame as usize).map(|frame| frame.stack);
                Some(split(x).0) == stack && is_at(STACK)
            }
            Kind::MapPtr(_) => kind == RegionKind::Map && is_at(0),
            Kind::MapValue(map) => {
                let spec = self.given.maps.get(map.map.index()).filter(|_| !map.inner);
                let has_room = spec.is_none_or(|spec| len >= i64::from(spec.value_size));
                kind == RegionKind::MapValue && has_room && is_at(0)
            }
            Kind::MapKey(map) => {
                let spec = self.given.maps.get(map.map.index()).filter(|_| !map.inner);
                kind == RegionKind::Mem && spec.is_none_or(|spec| len >= i64::from(spec.key_size)) && is_at(0)
            }
            Kind::Packet(range) => {
                let (data, end) = self.run.packet_bounds().ok_or("a packet pointer without a packet")?;
                self.agrees(Base::Packet, value.id, x.wrapping_sub(fixed as u64))?;
                let checked = match range {
                    AT_END => x >= end,
                    BEYOND_END => x > end,
                    bytes => x.wrapping_sub(fixed as u64).wrapping_add(bytes as i64 as u64) <= end || bytes == 0,
                };
                let moved = x.wrapping_sub(data).wrapping_sub(fixed as u64);
                if !checked {
                    return Err("fewer bytes of packet than were checked");
                }
                kind == RegionKind::Packet && value.num.contains(moved)
            }
            Kind::PacketMeta(range) => {
                let (data, _) = self.run.packet_bounds().ok_or("a packet pointer without a packet")?;
                let checked = x.wrapping_sub(fixed as u64).wrapping_add(range.max(0) as u64) <= data || range <= 0;
                kind == RegionKind::Packet && checked && is_at(0)
            }
            Kind::PacketEnd => self.run.packet_bounds().is_some_and(|(_, end)| x == end),
            Kind::FlowKeys => kind == RegionKind::FlowKeys && is_at(0),
            Kind::Sock(_) => kind == RegionKind::Socket && is_at(0),
            Kind::TpBuffer => true,
            Kind::Mem { size, .. } => {
                // It may begin anywhere in a region; where is told by a pointer that does not vary.
                let start = value.num.as_constant().map(|num| off - fixed - num as i64);
                start.is_none_or(|start| start >= 0 && start + i64::from(size) <= len)
            }
            Kind::Func(index) => {
                let start = self.program.subprogs().get(index as usize).map(|subprog| subprog.start);
                matches!(kind, RegionKind::Func(at) if Some(at) == start)
            }
            Kind::Btf { .. } | Kind::PercpuBtf => true,
            Kind::Uninit | Kind::Scalar | Kind::Dynptr { .. } | Kind::Iter { .. } => true,
        };
        if fits { Ok(()) } else { Err("a pointer is outside") }
    }
}
