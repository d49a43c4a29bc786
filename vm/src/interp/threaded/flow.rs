//! Helpers that are control flow: tail calls and callbacks.

use rtbpf_abi::Errno;
use rtbpf_abi::frame::{FaultCode, RunFrame};
use rtbpf_abi::limits::MAX_TAIL_CALLS;

use super::op::{At, Machine};
use super::ops::after_call;
use crate::helpers::timer;
use crate::unchecked::{self, host};

type Body<'a> = dyn FnMut([u64; 4], &mut RunFrame) -> u64 + 'a;

fn callback(address: u64) -> At {
    // SAFETY: the verifier proved that the argument is a subprogram, and translation put the address of its first
    // operation into it; the run keeps the program.
    unsafe { At::new(std::ptr::with_exposed_provenance(address as usize)) }
}

/// Runs a loop of callbacks, each on a machine that starts from this one's registers.
fn with_body(m: &mut Machine<'_>, body: u64, run: impl FnOnce(&mut RunFrame, &mut Body<'_>) -> u64) -> u64 {
    let (regs, depth) = (m.regs, m.depth());
    run(m.frame, &mut |args, frame| Machine::nested(frame, regs, depth).call_back(callback(body), args))
}

pub(super) fn repeat(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    let [_, rounds, body, arg, flags, ..] = m.regs;
    m.regs[0] = with_body(m, body, |frame, call| unchecked::repeat(rounds, arg, flags, frame, call));
    after_call(at, m, jumps)
}

pub(super) fn for_each(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    let [_, map, body, arg, flags, ..] = m.regs;
    m.regs[0] = with_body(m, body, |frame, call| unchecked::for_each(map, arg, flags, frame, call));
    after_call(at, m, jumps)
}

pub(super) fn drain(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    let [_, map, body, arg, flags, ..] = m.regs;
    m.regs[0] = with_body(m, body, |frame, call| unchecked::drain(map, arg, flags, frame, call));
    after_call(at, m, jumps)
}

pub(super) fn timer_set_callback(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    let [_, word, body, ..] = m.regs;
    let host = host(m.frame);
    let known = host.current().and_then(|program| program.threaded.get()?.callback_at(body));
    m.regs[0] = match known {
        Some(start) => timer::set_callback(host, word, start),
        None => Errno::EINVAL.as_ret(),
    };
    after_call(at, m, jumps)
}

/// Goes on in another program, in the frame of this one; behind the call when there is none.
pub(super) fn tail_call(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    let [_, _, map, index, ..] = m.regs;
    let map = rtbpf_maps::map_at(map).filter(|_| m.frame.tail_calls < MAX_TAIL_CALLS);
    let target = map.and_then(|map| host(m.frame).program_at(&map, index as u32));
    let Some(target) = target else { return after_call(at, m, jumps) };
    let Some(entry) = target.threaded.get().map(super::Thread::entry) else {
        // Programs of one array run on one engine; a checked one cannot continue this run.
        return m.fault(FaultCode::Helper, at.by(1).op().imm as u32);
    };
    host(m.frame).called.push(target);
    m.frame.tail_calls += 1;
    (m.regs[1], m.regs[2]) = (m.frame.ctx as u64, m.frame.second);
    entry.jump(m, jumps)
}

pub(super) fn packet_load(at: At, m: &mut Machine<'_>, jumps: u32) -> At {
    let op = at.op();
    let index = if op.lhs == 0 { 0 } else { m.get(op.rhs) };
    let place = (op.off as i64).wrapping_add(index as u32 as i32 as i64);
    match rtbpf_isa::Size::from_bytes(op.imm as u32).map(|size| host(m.frame).ctx.load_packet(place, size)) {
        Some(Ok(Some(value))) => {
            m.regs[0] = value;
            at.next(m, jumps)
        }
        Some(Ok(None) | Err(_)) | None => {
            m.regs[0] = 0;
            super::ops::exit(at, m, jumps)
        }
    }
}
