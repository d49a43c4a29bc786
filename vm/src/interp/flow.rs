//! Calls that change where the program runs: returns, tail calls and callbacks, as steps of the interpreter.

use std::sync::Arc;

use rtbpf_abi::Errno;
use rtbpf_abi::limits::{MAX_LOOPS, MAX_TAIL_CALLS, STACK_BYTES};
use rtbpf_isa::{InsnIdx, Reg};
use rtbpf_maps::MapRef;

use super::call::Native;
use super::checked::Checked;
use crate::error::FaultKind;
use crate::executable::Bound;
use crate::helpers::dynptr::Dynptr;
use crate::helpers::{Flow, ringbuf, timer};
use crate::mem::{Buffer, Span};
use crate::region::{Region, RegionId, RegionKind};

/// What happens when a frame ends.
pub(super) enum Then {
    /// Its caller goes on.
    Return,
    /// The next round of a `bpf_loop`.
    Loop { callback: InsnIdx, round: u64, rounds: u64, arg: u64 },
    /// The next element of a `bpf_for_each_map_elem`.
    ForEach(Box<ForEach>),
    /// The next record of a `bpf_user_ringbuf_drain`.
    Drain(Box<Drain>),
}

/// Records that a callback is shown, one by one.
pub(super) struct Drain {
    callback: InsnIdx,
    map: MapRef,
    arg: u64,
    flags: u64,
    done: u64,
    /// The record in the callback's hands, and what stands for it in the program.
    shown: Option<(Arc<Buffer>, Arc<Buffer>, RegionId)>,
}

/// A walk over a map's elements.
pub(super) struct ForEach {
    callback: InsnIdx,
    map: MapRef,
    map_pointer: u64,
    arg: u64,
    keys: std::vec::IntoIter<Vec<u8>>,
    key: Arc<Buffer>,
    key_region: RegionId,
    done: u64,
}

impl Checked {
    /// Ends the current frame with R0; the run's result when it was the last.
    pub(super) fn exit(&mut self) -> Result<Option<u64>, FaultKind> {
        let Some(frame) = self.frames.pop() else { return Ok(Some(self.get(Reg::R0))) };
        match frame.then {
            Then::Return => self.restore(frame),
            Then::Loop { callback, round, rounds, arg } => {
                let stops = self.get(Reg::R0) != 0;
                self.restore(super::checked::Frame { then: Then::Return, ..frame });
                self.next_round(callback, round + 1, if stops { round + 1 } else { rounds }, arg)?;
            }
            Then::ForEach(walk) => {
                let stops = self.get(Reg::R0) != 0;
                self.restore(super::checked::Frame { then: Then::Return, ..frame });
                self.next_element(walk, stops)?;
            }
            Then::Drain(drain) => {
                let stops = self.get(Reg::R0) != 0;
                self.restore(super::checked::Frame { then: Then::Return, ..frame });
                self.next_record(drain, stops)?;
            }
        }
        Ok(None)
    }

    pub(super) fn flow(&mut self, flow: Flow, args: &[u64; 5], native: Native) -> Result<(), FaultKind> {
        match flow {
            Flow::TailCall => self.tail_call(native.map, args[2] as u32),
            Flow::Loop => {
                let [rounds, callback, arg, flags, _] = *args;
                let callback = self.callback(callback)?;
                // The number of rounds is a u32: the upper half of the register is ignored.
                let rounds = rounds as u32 as u64;
                if flags != 0 {
                    self.set(Reg::R0, Errno::EINVAL.as_ret());
                    return Ok(());
                }
                if rounds > MAX_LOOPS {
                    self.set(Reg::R0, Errno::E2BIG.as_ret());
                    return Ok(());
                }
                self.next_round(callback, 0, rounds, arg)
            }
            Flow::ForEach => {
                let [map_pointer, callback, arg, flags, _] = *args;
                let callback = self.callback(callback)?;
                match native.map {
                    Some(map) if flags == 0 => self.for_each(callback, map, map_pointer, arg),
                    _ => {
                        self.set(Reg::R0, Errno::EINVAL.as_ret());
                        Ok(())
                    }
                }
            }
            Flow::Drain => {
                let [_, callback, arg, flags, _] = *args;
                let callback = self.callback(callback)?;
                let Some(map) = native.map else {
                    self.set(Reg::R0, Errno::EINVAL.as_ret());
                    return Ok(());
                };
                self.next_record(Box::new(Drain { callback, map, arg, flags, done: 0, shown: None }), false)
            }
            Flow::TimerSetCallback => {
                let at = self.callback(args[1])?;
                let done = timer::set_callback(&self.host, native.args[0], at);
                self.set(Reg::R0, done);
                Ok(())
            }
        }
    }

    /// The subprogram that a callback argument names.
    fn callback(&self, value: u64) -> Result<InsnIdx, FaultKind> {
        match self.regions.resolve(value)?.0.kind {
            RegionKind::Func(at) => Ok(at),
            _ => Err(FaultKind::Expected { expected: "a subprogram", found: value }),
        }
    }

    /// Makes `buffer`, which the run keeps, memory of the program.
    pub(super) fn show(&mut self, buffer: &Arc<Buffer>, writable: bool) -> Result<RegionId, FaultKind> {
        self.regions.add(Region::memory(RegionKind::Mem, Span::of(buffer, 0, buffer.len()), writable))
    }

    fn next_round(&mut self, callback: InsnIdx, round: u64, rounds: u64, arg: u64) -> Result<(), FaultKind> {
        if round >= rounds {
            self.set(Reg::R0, round);
            return Ok(());
        }
        self.push_frame(callback, Then::Loop { callback, round, rounds, arg })?;
        self.set(Reg::R1, round);
        self.set(Reg::R2, arg);
        Ok(())
    }

    fn for_each(&mut self, callback: InsnIdx, map: MapRef, map_pointer: u64, arg: u64) -> Result<(), FaultKind> {
        let mut keys = Vec::new();
        let shown = map.for_each(&self.host.cx, &mut |key, _| {
            keys.push(key.to_vec());
            true
        });
        if let Err(error) = shown {
            self.set(Reg::R0, error.errno().as_ret());
            return Ok(());
        }
        let key = Buffer::zeroed(map.spec().key_size as usize);
        let key_region = self.show(&key, false)?;
        let keys = keys.into_iter();
        let walk = Box::new(ForEach { callback, map, map_pointer, arg, keys, key, key_region, done: 0 });
        self.next_element(walk, false)
    }

    /// Shows the next element that still exists to the callback. The walk is over the keys of its beginning: elements
    /// that the callback adds may or may not be shown, as on Linux.
    fn next_element(&mut self, mut walk: Box<ForEach>, stops: bool) -> Result<(), FaultKind> {
        while !stops && let Some(key) = walk.keys.next() {
            let Some(value) = walk.map.lookup(&self.host.cx, &key) else { continue };
            let value = self.value_pointer(&walk.map.clone(), value.addr())?;
            walk.key.write(0, &key);
            walk.done += 1;
            let (map, key, arg, callback) = (walk.map_pointer, walk.key_region.pointer(0), walk.arg, walk.callback);
            self.push_frame(callback, Then::ForEach(walk))?;
            self.set(Reg::R1, map);
            self.set(Reg::R2, key);
            self.set(Reg::R3, value);
            self.set(Reg::R4, arg);
            return Ok(());
        }
        self.regions.end(walk.key_region);
        self.set(Reg::R0, walk.done);
        Ok(())
    }

    /// Shows the next record to the callback; after the last one, or when the callback has enough, R0 is their number.
    fn next_record(&mut self, mut drain: Box<Drain>, stops: bool) -> Result<(), FaultKind> {
        if let Some((_, handle, region)) = drain.shown.take() {
            self.host.dynptrs.take(&handle.to_vec(0, handle.len()));
            self.regions.end(region);
        }
        let record = match stops || drain.done == ringbuf::MOST_RECORDS {
            true => Ok(None),
            false => ringbuf::next_record(&*drain.map, &self.host.cx, drain.flags),
        };
        let record = match record {
            Ok(Some(record)) => Buffer::from_bytes(&record),
            Ok(None) => {
                self.set(Reg::R0, drain.done);
                return Ok(());
            }
            Err(errno) => {
                self.set(Reg::R0, errno.as_ret());
                return Ok(());
            }
        };
        let handle = Buffer::from_bytes(&self.host.dynptrs.add(Dynptr::shown(&record)));
        let region = self.show(&handle, true)?;
        drain.done += 1;
        drain.shown = Some((record, handle, region));
        let (callback, arg) = (drain.callback, drain.arg);
        self.push_frame(callback, Then::Drain(drain))?;
        self.set(Reg::R1, region.pointer(0));
        self.set(Reg::R2, arg);
        Ok(())
    }

    /// Replaces the program of the current frame; a failed tail call goes on behind the call.
    fn tail_call(&mut self, map: Option<MapRef>, index: u32) -> Result<(), FaultKind> {
        let target = map.and_then(|map| self.host.program_at(&map, index));
        let Some(target) = target.filter(|_| self.frame.tail_calls < MAX_TAIL_CALLS) else { return Ok(()) };
        self.frame.tail_calls += 1;
        self.enter_program(target)
    }

    fn enter_program(&mut self, target: Arc<Bound>) -> Result<(), FaultKind> {
        self.host.called.push(target.clone());
        self.exe = target;
        self.pc = InsnIdx(0);
        self.set(Reg::R1, self.ctx.pointer(0));
        let at = self.frames.len() * STACK_BYTES as usize;
        self.host.stack.zero(at, STACK_BYTES as usize);
        self.packet_moved();
        Ok(())
    }
}
