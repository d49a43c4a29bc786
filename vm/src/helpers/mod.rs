//! Helper functions: one implementation each, over native addresses, for all engines.
//!
//! Numbers, arguments and results are rows in [`rtbpf_abi::helper`]; here stands only what they do. Helpers that run
//! the program itself (`tail_call`, `loop` …) have no function: they are steps of the engine.

pub mod checksum;
pub(crate) mod csum;
pub(crate) mod custom;
pub(crate) mod dynptr;
pub mod format;
pub(crate) mod map;
#[allow(unsafe_code)]
pub(crate) mod native;
pub mod number;
pub(crate) mod print;
#[cfg(test)]
#[path = "tests.rs"]
mod program_tests;
pub(crate) mod ringbuf;
pub(crate) mod text;
pub(crate) mod time;

use std::borrow::Cow;
use std::sync::Arc;

use rtbpf_abi::frame::HelperFn;
use rtbpf_abi::{Arg, Errno, HelperId, ProgType, Ret, helper};
use rtbpf_maps::MapError;
use rtbpf_verifier::Assumptions;

use crate::engine::Inner;
use crate::error::FaultKind;
use custom::Custom;

/// What calling a helper does.
#[derive(Clone)]
pub(crate) enum Action {
    /// Calls a function.
    Native(HelperFn),
    /// Changes where the program runs.
    Flow(Flow),
    /// Calls an embedder's closure.
    Custom(Arc<Custom>),
}

/// Helpers that are steps of the engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flow {
    TailCall,
    Loop,
    ForEach,
    TimerSetCallback,
}

/// A helper as one program calls it.
#[derive(Clone)]
pub(crate) struct BoundHelper {
    pub id: HelperId,
    pub name: Cow<'static, str>,
    pub args: [Arg; 5],
    pub ret: Ret,
    pub moves_packet: bool,
    /// The argument (1 to 5) whose object is gone after the call; 0: none.
    pub releases: u8,
    pub action: Action,
}

/// The helper `id` for a program verified (or not) under `given`.
pub(crate) fn bind(engine: &Inner, id: i32, given: &Assumptions) -> Result<BoundHelper, FaultKind> {
    let number = HelperId(u32::try_from(id).map_err(|_| FaultKind::UnknownHelper(id))?);
    if let Some(custom) = engine.custom.iter().find(|custom| custom.id == number) {
        return Ok(BoundHelper {
            id: number,
            name: Cow::Owned(custom.name.clone()),
            args: custom.args,
            ret: Ret::Int,
            moves_packet: false,
            releases: 0,
            action: Action::Custom(custom.clone()),
        });
    }
    // The plain context is the embedder's: it takes every helper whose arguments it can make.
    let proto = match given.prog_type {
        ProgType::Plain => helper::rows_of(number).first(),
        prog => helper::proto(number, prog, given.attach_type, given.sleepable).found(),
    };
    let proto = proto.ok_or(FaultKind::UnknownHelper(id))?;
    let flow = match proto.name {
        "tail_call" => Some(Flow::TailCall),
        "loop" => Some(Flow::Loop),
        "for_each_map_elem" => Some(Flow::ForEach),
        "timer_set_callback" => Some(Flow::TimerSetCallback),
        _ => None,
    };
    let action = match flow {
        Some(flow) => Action::Flow(flow),
        None => Action::Native(function(number).ok_or(FaultKind::NoHelper(proto.name))?),
    };
    Ok(BoundHelper {
        id: number,
        name: Cow::Borrowed(proto.name),
        args: proto.args,
        ret: proto.ret,
        moves_packet: proto.invalidates_packet,
        releases: proto.releases,
        action,
    })
}

/// The function behind helper `id`, as native code calls it.
///
/// It trusts its arguments: call it only as the helper's prototype row allows, with a frame of a live run.
pub(crate) fn function(id: HelperId) -> Option<HelperFn> {
    FUNCTIONS.iter().find(|(known, _)| *known == id.0).map(|(_, function)| *function)
}

macro_rules! functions {
    ($($id:literal $function:path;)*) => {
        /// Every helper with a function.
        pub(crate) static FUNCTIONS: &[(u32, HelperFn)] = &[$(($id, {
            extern "C" fn entry(
                r1: u64, r2: u64, r3: u64, r4: u64, r5: u64, frame: &mut rtbpf_abi::frame::RunFrame,
            ) -> u64 {
                native::enter($function, [r1, r2, r3, r4, r5], frame)
            }
            entry
        }),)*];
    };
}

functions! {
    1 map::lookup;
    2 map::update;
    3 map::delete;
    4 text::probe_read;
    5 time::ktime_get_ns;
    6 print::trace_printk;
    7 time::get_prandom_u32;
    8 time::get_smp_processor_id;
    10 csum::l3_csum_replace;
    11 csum::l4_csum_replace;
    28 csum::csum_diff;
    40 csum::csum_update;
    42 time::get_numa_node_id;
    45 text::probe_read_str;
    87 map::push;
    88 map::pop;
    89 map::peek;
    105 text::strtol;
    106 text::strtoul;
    112 text::probe_read;
    113 text::probe_read;
    114 text::probe_read_str;
    115 text::probe_read_str;
    118 time::jiffies64;
    125 time::ktime_get_boot_ns;
    130 ringbuf::output;
    131 ringbuf::reserve;
    132 ringbuf::submit;
    133 ringbuf::discard;
    134 ringbuf::query;
    135 csum::csum_level;
    160 time::ktime_get_coarse_ns;
    165 print::snprintf;
    177 print::trace_vprintk;
    182 text::strncmp;
    195 map::lookup_percpu;
    197 dynptr::from_mem;
    198 dynptr::ringbuf_reserve;
    199 dynptr::ringbuf_submit;
    200 dynptr::ringbuf_discard;
    201 dynptr::read;
    202 dynptr::write;
    203 dynptr::data;
    208 time::ktime_get_tai_ns;
}

/// 0, or a negated error number: what most helpers return.
pub(crate) fn status(result: Result<(), Errno>) -> u64 {
    value(result.map(|()| 0))
}

/// A number, or a negated error number.
pub(crate) fn value(result: Result<u64, Errno>) -> u64 {
    result.unwrap_or_else(Errno::as_ret)
}

/// What a map operation's outcome is in R0.
pub(crate) fn map_status(result: Result<(), MapError>) -> u64 {
    status(result.map_err(MapError::errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_has_its_row_and_stands_once() {
        for (at, (id, _)) in FUNCTIONS.iter().enumerate() {
            assert!(helper::name(HelperId(*id)).is_some(), "helper {id} has no row");
            assert!(FUNCTIONS.iter().skip(at + 1).all(|(other, _)| other > id), "helper {id} out of order");
        }
    }
}
