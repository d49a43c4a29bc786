//! Helper functions: one implementation each, over native addresses, for all engines.
//!
//! Numbers, arguments and results are rows in [`rtbpf_abi::helper`]; here stands only what they do. Helpers that run
//! the program itself (`tail_call`, `loop` …) have no function: they are steps of the engine.

pub mod checksum;
pub(crate) mod csum;
pub(crate) mod custom;
pub(crate) mod dynptr;
pub mod format;
pub(crate) mod kernel;
pub(crate) mod lock;
pub(crate) mod map;
#[allow(unsafe_code)]
pub(crate) mod native;
pub mod number;
#[cfg(test)]
mod packet_tests;
pub(crate) mod print;
#[cfg(test)]
#[path = "tests.rs"]
mod program_tests;
pub(crate) mod ringbuf;
pub(crate) mod skb;
pub(crate) mod sock;
pub(crate) mod task;
pub(crate) mod text;
pub(crate) mod time;
pub(crate) mod timer;
pub(crate) mod xdp;

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
    Native(&'static Function),
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
    Drain,
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
    if let Some(custom) = engine.custom.iter().find(|custom| custom.proto.id == number) {
        // What a program was verified by on another engine may be something else here.
        if given.helper(id).found().is_some_and(|proved| *proved != custom.proto) {
            return Err(FaultKind::UnknownHelper(id));
        }
        return Ok(BoundHelper {
            id: number,
            name: Cow::Owned(custom.name.clone()),
            args: custom.proto.args,
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
        "user_ringbuf_drain" => Some(Flow::Drain),
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
pub(crate) fn function(id: HelperId) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|function| function.id == id.0)
}

/// A row of [`FUNCTIONS`].
pub(crate) struct Function {
    id: u32,
    /// What engines call.
    pub entry: HelperFn,
    /// Never panics and sets no fault: engines need not ask after a call.
    pub sure: bool,
}

macro_rules! functions {
    (@enter) => { native::enter };
    (@enter sure) => { native::enter_sure };
    (@sure) => { false };
    (@sure sure) => { true };
    ($($id:literal $function:path $(, $sure:ident)?;)*) => {
        /// Every helper with a function.
        pub(crate) static FUNCTIONS: &[Function] = &[$(Function {
            id: $id,
            entry: {
                extern "C" fn entry(
                    r1: u64, r2: u64, r3: u64, r4: u64, r5: u64, frame: &mut rtbpf_abi::frame::RunFrame,
                ) -> u64 {
                    functions!(@enter $($sure)?)($function, [r1, r2, r3, r4, r5], frame)
                }
                entry
            },
            sure: functions!(@sure $($sure)?),
        },)*];
    };
}

functions! {
    1 map::lookup;
    2 map::update;
    3 map::delete;
    4 text::probe_read;
    5 time::ktime_get_ns;
    6 print::trace_printk;
    7 time::get_prandom_u32, sure;
    8 time::get_smp_processor_id, sure;
    9 skb::store_bytes;
    10 csum::l3_csum_replace;
    11 csum::l4_csum_replace;
    13 xdp::clone_redirect;
    14 task::get_current_pid_tgid, sure;
    15 task::get_current_uid_gid, sure;
    16 task::get_current_comm;
    17 skb::zero;
    18 skb::vlan_push;
    19 skb::vlan_pop;
    20 skb::get_tunnel_key;
    21 skb::set_tunnel_key;
    22 task::perf_event_read;
    23 xdp::redirect;
    24 skb::zero;
    25 task::perf_event_output;
    26 skb::load_bytes;
    27 task::get_stackid;
    28 csum::csum_diff;
    29 skb::get_tunnel_opt;
    30 skb::set_tunnel_opt;
    31 skb::change_proto;
    32 skb::change_type;
    33 kernel::skb_under_cgroup;
    34 skb::get_hash_recalc;
    35 task::get_current_task;
    36 kernel::not_permitted;
    37 kernel::current_task_under_cgroup;
    38 skb::change_tail;
    39 skb::pull_data;
    40 csum::csum_update;
    41 skb::set_hash_invalid;
    42 time::get_numa_node_id, sure;
    43 skb::change_head;
    44 xdp::adjust_head;
    45 text::probe_read_str;
    46 sock::get_socket_cookie;
    47 sock::get_socket_uid;
    48 skb::set_hash;
    49 sock::set_option;
    50 skb::adjust_room;
    51 xdp::redirect_map;
    52 sock::drop_data;
    53 kernel::not_supported;
    54 xdp::adjust_meta;
    55 task::perf_event_read_value;
    56 kernel::no_value;
    57 sock::no_option;
    59 kernel::sock_ops_cb_flags_set;
    60 sock::drop_data;
    61 sock::accept;
    62 sock::accept;
    63 sock::msg_pull_data;
    64 kernel::invalid;
    65 xdp::adjust_tail;
    66 kernel::no_state;
    67 task::get_stack;
    68 skb::load_bytes_relative;
    69 xdp::fib_lookup;
    70 kernel::not_supported;
    71 sock::drop_data;
    72 sock::drop_data;
    73 kernel::invalid;
    74 kernel::invalid;
    75 kernel::invalid;
    76 kernel::invalid;
    77 task::rc_repeat;
    78 task::rc_keydown;
    79 skb::cgroup_id;
    80 task::get_current_cgroup_id, sure;
    81 sock::get_local_storage;
    82 sock::no_entry;
    83 skb::zero;
    84 sock::lookup_tcp;
    85 sock::lookup_udp;
    86 sock::release;
    87 map::push;
    88 map::pop;
    89 map::peek;
    90 sock::msg_push_data;
    91 sock::msg_pop_data;
    92 task::rc_pointer_rel;
    93 lock::lock;
    94 lock::unlock;
    95 sock::fullsock;
    96 sock::tcp_sock;
    97 skb::ecn_set_ce;
    98 sock::get_listener_sock;
    99 sock::lookup_tcp;
    100 kernel::invalid;
    101 sock::sysctl_get_name;
    102 sock::sysctl_value;
    103 kernel::no_value;
    104 kernel::invalid;
    105 text::strtol;
    106 text::strtoul;
    107 sock::storage_get;
    108 sock::storage_delete;
    109 task::send_signal;
    110 kernel::invalid;
    112 text::probe_read;
    113 text::probe_read_kernel;
    114 text::probe_read_str;
    115 text::probe_read_kernel_str;
    116 kernel::accepted;
    117 task::send_signal;
    118 time::jiffies64;
    119 kernel::no_entry;
    120 task::get_ns_current_pid_tgid;
    122 sock::get_netns_cookie;
    123 task::get_current_ancestor_cgroup_id;
    124 sock::assign;
    125 time::ktime_get_boot_ns;
    128 skb::zero;
    129 skb::zero;
    130 ringbuf::output;
    131 ringbuf::reserve;
    132 ringbuf::submit;
    133 ringbuf::discard;
    134 ringbuf::query;
    135 csum::csum_level;
    136 sock::no_cast;
    137 sock::no_cast;
    138 sock::no_cast;
    139 sock::no_cast;
    140 sock::no_cast;
    141 kernel::no_stack;
    142 kernel::not_supported;
    143 kernel::not_supported;
    144 kernel::not_supported;
    145 sock::storage_get;
    146 sock::storage_delete;
    148 text::probe_read;
    149 kernel::no_types;
    151 skb::zero;
    152 xdp::redirect_neigh;
    155 xdp::redirect_peer;
    156 sock::storage_get;
    157 sock::storage_delete;
    158 task::get_current_task;
    160 time::ktime_get_coarse_ns;
    162 sock::no_cast;
    163 xdp::check_mtu;
    165 print::snprintf;
    166 kernel::not_supported;
    167 kernel::no_entry;
    168 kernel::no_descriptor;
    169 timer::init;
    171 timer::start;
    172 timer::cancel;
    173 task::get_func_ip;
    174 task::get_attach_cookie;
    175 kernel::task_pt_regs;
    176 kernel::no_entry;
    177 print::trace_vprintk;
    178 sock::no_cast;
    179 kernel::no_symbol;
    180 kernel::no_entry;
    182 text::strncmp;
    186 sock::get_retval;
    187 sock::set_retval;
    188 xdp::get_buff_len;
    189 xdp::load_bytes;
    190 xdp::store_bytes;
    191 text::probe_read;
    192 skb::set_tstamp;
    194 kernel::kptr_xchg;
    195 map::lookup_percpu;
    196 sock::no_cast;
    197 dynptr::from_mem;
    198 dynptr::ringbuf_reserve;
    199 dynptr::ringbuf_submit;
    200 dynptr::ringbuf_discard;
    201 dynptr::read;
    202 dynptr::write;
    203 dynptr::data;
    204 kernel::invalid;
    205 kernel::invalid;
    206 kernel::invalid;
    207 kernel::invalid;
    208 time::ktime_get_tai_ns;
    210 sock::storage_get;
    211 sock::storage_delete;
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
        for (at, Function { id, .. }) in FUNCTIONS.iter().enumerate() {
            assert!(helper::name(HelperId(*id)).is_some(), "helper {id} has no row");
            assert!(FUNCTIONS.iter().skip(at + 1).all(|other| other.id > *id), "helper {id} out of order");
        }
    }
}
