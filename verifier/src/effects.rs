//! What calling a subprogram may do, whatever the path: callee to caller, to a fix point.

use rtbpf_isa::{Callee, Insn, InsnIdx, Program};

use crate::verified::Assumptions;

/// Effects of one subprogram and of all that it calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Effects {
    /// Packet pointers taken before are dead after.
    pub moves_packet: bool,
    /// May sleep.
    pub sleeps: bool,
}

/// The effects of each subprogram. A tail call moves the packet, for all that anyone knows.
pub fn of(program: &Program, given: &Assumptions) -> Vec<Effects> {
    let mut effects = vec![Effects::default(); program.subprogs().len()];
    let mut calls = vec![Vec::new(); program.subprogs().len()];
    // What a dynptr is of, only the walk knows; of a packet there may be one where this is called.
    let packet_dynptrs = given.kfuncs.iter().any(|(_, name)| name == "bpf_dynptr_from_skb");
    for (index, subprog) in program.subprogs().iter().enumerate() {
        for at in subprog.start.0..subprog.end.0 {
            match program.get(InsnIdx(at)) {
                Some(Insn::Call(Callee::Helper(id))) => {
                    let proto = given.helper(*id).found();
                    let tail_call = *id as u32 == crate::call::id::TAIL_CALL;
                    let writes_packet = packet_dynptrs && *id as u32 == crate::call::id::DYNPTR_WRITE;
                    effects[index].moves_packet |=
                        tail_call || writes_packet || proto.is_some_and(|p| p.invalidates_packet);
                    effects[index].sleeps |= proto.is_some_and(|p| p.might_sleep);
                }
                Some(Insn::Call(Callee::Local { to })) => {
                    calls[index].push(program.subprog_at(InsnIdx(at).target(*to)));
                }
                _ => {}
            }
        }
    }
    // Callers hear of callees; each round carries an effect one call further.
    loop {
        let before = effects.clone();
        for (caller, callees) in calls.iter().enumerate() {
            for &callee in callees {
                let from = before.get(callee).copied().unwrap_or_default();
                effects[caller].moves_packet |= from.moves_packet;
                effects[caller].sleeps |= from.sleeps;
            }
        }
        if effects == before {
            return effects;
        }
    }
}
