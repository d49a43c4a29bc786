//! Helper prototypes: one row a helper and argument shape, with or without a function behind it.
//!
//! The verifier checks calls with these rows and the machine binds functions to them, so that the two cannot disagree.
//! Rows are what Linux 6.18 answers; where no measured kernel loads programs of a kind (lirc_mode2, fentry, LSM), they
//! follow bpf-helpers(7).

mod proto;
mod rows_map;
mod rows_skb;
mod rows_sock;
mod rows_trace;
mod sets;

pub use proto::*;

use crate::errno::Errno;
use crate::map_kind::MapKind;
use crate::prog_kind::{ProgKind, ProgKinds};
use crate::prog_type::{AttachType, ProgType};

/// The highest helper number of Linux 6.18.
pub const LAST: u32 = 211;

const FILES: [&[HelperProto]; 4] = [rows_map::ROWS, rows_skb::ROWS, rows_sock::ROWS, rows_trace::ROWS];
const ROW_COUNT: usize = rows_map::ROWS.len() + rows_skb::ROWS.len() + rows_sock::ROWS.len() + rows_trace::ROWS.len();

/// Every row by number, and where each number's rows begin.
static TABLE: ([HelperProto; ROW_COUNT], [u16; LAST as usize + 2]) = by_id();

const fn by_id() -> ([HelperProto; ROW_COUNT], [u16; LAST as usize + 2]) {
    let mut rows = [FILES[0][0]; ROW_COUNT];
    let mut first = [0; LAST as usize + 2];
    let mut count = 0;
    let mut id = 1;
    while id <= LAST {
        first[id as usize] = count as u16;
        let mut file = 0;
        while file < FILES.len() {
            let mut i = 0;
            while i < FILES[file].len() {
                if FILES[file][i].id.0 == id {
                    rows[count] = FILES[file][i];
                    count += 1;
                }
                i += 1;
            }
            file += 1;
        }
        assert!(first[id as usize] < count as u16, "a helper has no row");
        id += 1;
    }
    assert!(count == ROW_COUNT, "a row has a number beyond the last");
    first[LAST as usize + 1] = count as u16;
    (rows, first)
}

/// What asking for a helper gives.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Lookup<'a> {
    /// Programs of this kind may call it, by this prototype.
    Found(&'a HelperProto),
    /// Programs of this kind know it, and every call is refused with this error and reason.
    Refused(Errno, &'static str),
    /// It exists, for other kinds of program.
    NotForKind,
    /// No helper has this number.
    Unknown,
}

impl<'a> Lookup<'a> {
    /// The prototype, where there is one.
    pub fn found(self) -> Option<&'a HelperProto> {
        match self {
            Lookup::Found(proto) => Some(proto),
            Lookup::Refused(..) | Lookup::NotForKind | Lookup::Unknown => None,
        }
    }
}

/// Helpers that a kind knows and may still not call.
const REFUSED: &[(u32, ProgKinds, Errno, &str)] = &[
    (107, sets::SYSCALL, Errno::EINVAL, "helper call is not allowed in probe"),
    (108, sets::SYSCALL, Errno::EINVAL, "helper call is not allowed in probe"),
    (147, sets::BTF_SYSCALL, Errno::EINVAL, "helper call is not allowed in probe"),
    (173, sets::BTF_TRACING, Errno::ENOTSUPP, "supported only for fentry/fexit/fmod_ret programs"),
    (173, sets::TRACING, Errno::ENOTSUPP, "not supported for this program type"),
];

/// Every row, by number.
pub fn rows() -> &'static [HelperProto] {
    &TABLE.0
}

/// The rows of helper `id`: one for each argument shape. Empty when no helper has this number.
pub fn rows_of(id: HelperId) -> &'static [HelperProto] {
    match id.0 {
        1..=LAST => &TABLE.0[TABLE.1[id.0 as usize] as usize..TABLE.1[id.0 as usize + 1] as usize],
        _ => &[],
    }
}

/// The prototype of helper `id` for a program of this type, expected attach type (`None` is 0) and sleepable flag.
pub fn proto(id: HelperId, prog: ProgType, attach: Option<AttachType>, sleepable: bool) -> Lookup<'static> {
    if matches!(prog, ProgType::SockOps | ProgType::CgroupDevice | ProgType::CgroupSysctl) && RETVAL.contains(&id.0) {
        return match rows_of(id).first() {
            Some(proto) if answers_errno(attach) => Lookup::Found(proto),
            _ => Lookup::NotForKind,
        };
    }
    match ProgKind::of(prog, attach, sleepable) {
        Some(kind) => proto_for(id, kind),
        None if rows_of(id).is_empty() => Lookup::Unknown,
        None => Lookup::NotForKind,
    }
}

/// `get_retval` and `set_retval`.
const RETVAL: [u32; 2] = [186, 187];

/// Whether the hook answers a system call with an errno. Linux asks this of the expected attach type even where the
/// program type does not look at it, and then takes 0 for `cgroup_inet_ingress`.
fn answers_errno(attach: Option<AttachType>) -> bool {
    use AttachType as A;
    !matches!(
        attach.unwrap_or(A::CgroupInetIngress),
        A::CgroupInetIngress
            | A::CgroupInetEgress
            | A::CgroupSockOps
            | A::CgroupUdp4Recvmsg
            | A::CgroupUdp6Recvmsg
            | A::CgroupUnixRecvmsg
            | A::CgroupInet4Getpeername
            | A::CgroupInet6Getpeername
            | A::CgroupUnixGetpeername
            | A::CgroupInet4Getsockname
            | A::CgroupInet6Getsockname
            | A::CgroupUnixGetsockname
    )
}

/// The prototype of helper `id` for a program of this kind, at an attach type of the kind.
pub fn proto_for(id: HelperId, kind: ProgKind) -> Lookup<'static> {
    let rows = rows_of(id);
    if rows.is_empty() {
        // Linux has a name for number 0, `unspec`, and nobody who may call it.
        return if id.0 == 0 { Lookup::NotForKind } else { Lookup::Unknown };
    }
    if let Some(proto) = rows.iter().find(|row| row.kinds.has(kind)) {
        return Lookup::Found(proto);
    }
    match REFUSED.iter().find(|(refused, kinds, ..)| *refused == id.0 && kinds.has(kind)) {
        Some(&(.., errno, why)) => Lookup::Refused(errno, why),
        None => Lookup::NotForKind,
    }
}

/// Programs that put sockets into a socket map by `bpf_map_update_elem`.
const SOCKMAP_UPDATERS: ProgKinds = ProgKinds::types(&[
    ProgType::SocketFilter,
    ProgType::SchedCls,
    ProgType::SchedAct,
    ProgType::Xdp,
    ProgType::SkReuseport,
    ProgType::FlowDissector,
    ProgType::SkLookup,
])
.and(sets::ITER);
/// Programs that take sockets out by `bpf_map_delete_elem`.
const SOCKMAP_DELETERS: ProgKinds = SOCKMAP_UPDATERS.and(sets::SOCK_OPS);

/// Whether a program of this kind may call `proto` with a map of this kind, for a helper that takes a map.
///
/// One table serves both directions: what a helper takes, and what a map is good for.
pub fn takes_map(proto: &HelperProto, map: MapKind, kind: ProgKind) -> bool {
    let socket_map = matches!(map, MapKind::Sockmap | MapKind::Sockhash);
    let writer = match proto.id {
        HelperId(2) if socket_map => SOCKMAP_UPDATERS.has(kind),
        HelperId(3) if socket_map => SOCKMAP_DELETERS.has(kind),
        _ => true,
    };
    writer && proto.map_kinds().is_some_and(|kinds| kinds.contains(&map))
}

/// What a helper does with the memory of a map value that its row gives to `usage`. A Bloom filter's `map_peek_elem` asks
/// for the value that other maps give.
pub fn value_use(usage: MemUse, map: MapKind) -> MemUse {
    if map == MapKind::BloomFilter { MemUse::Read } else { usage }
}

/// Whether helper `id` changes the map it is given: map_update_elem, map_delete_elem, map_push_elem, map_pop_elem.
pub fn changes_map(id: HelperId) -> bool {
    matches!(id.0, 2 | 3 | 87 | 88)
}

/// The name of helper `id`, without `bpf_`.
pub fn name(id: HelperId) -> Option<&'static str> {
    if id.0 == 0 { Some("unspec") } else { rows_of(id).first().map(|row| row.name) }
}

/// The helper with this name, with or without `bpf_`.
pub fn by_name(name: &str) -> Option<HelperId> {
    let bare = name.strip_prefix("bpf_").unwrap_or(name);
    rows().iter().find(|row| row.name == bare).map(|row| row.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(id: u32, prog: ProgType, attach: Option<AttachType>, expected: &str) {
        let said = match proto(HelperId(id), prog, attach, false) {
            Lookup::Found(proto) => proto.name,
            Lookup::Refused(_, why) => why,
            Lookup::NotForKind => "not for kind",
            Lookup::Unknown => "unknown",
        };
        assert_eq!(said, expected, "helper {id} for {}", prog.name());
    }

    #[test]
    fn helpers_are_found_by_kind_of_program() {
        check(1, ProgType::Xdp, None, "map_lookup_elem");
        check(44, ProgType::Xdp, None, "xdp_adjust_head");
        check(44, ProgType::SchedCls, None, "not for kind");
        check(64, ProgType::CgroupSockAddr, Some(AttachType::CgroupInet4Connect), "bind");
        check(64, ProgType::CgroupSockAddr, Some(AttachType::CgroupInet4Bind), "not for kind");
        check(77, ProgType::LircMode2, None, "rc_repeat");
        check(5, ProgType::LircMode2, None, "ktime_get_ns");
        check(14, ProgType::LircMode2, None, "not for kind");
        check(173, ProgType::Tracepoint, None, "not supported for this program type");
        check(186, ProgType::CgroupDevice, None, "not for kind");
        check(186, ProgType::CgroupDevice, Some(AttachType::CgroupDevice), "get_retval");
        check(187, ProgType::CgroupSysctl, Some(AttachType::CgroupUdp4Recvmsg), "not for kind");
        check(187, ProgType::SockOps, Some(AttachType::CgroupSockOps), "not for kind");
        check(187, ProgType::SockOps, Some(AttachType::Xdp), "set_retval");
        check(187, ProgType::CgroupSock, None, "set_retval");
        check(0, ProgType::Xdp, None, "not for kind");
        check(LAST + 1, ProgType::Xdp, None, "unknown");
        check(u32::MAX, ProgType::Xdp, None, "unknown");
    }

    #[test]
    fn names_work_with_and_without_prefix() {
        assert_eq!(by_name("bpf_loop"), by_name("loop"));
        assert_eq!(by_name("loop").and_then(name), Some("loop"));
        assert_eq!(name(HelperId(0)), Some("unspec"));
        assert_eq!(by_name("bpf_nonsense"), None);
    }

    #[test]
    fn rows_of_one_helper_share_no_kind() {
        for row in rows() {
            let mut kinds = ProgKinds::NONE;
            for shape in rows_of(row.id) {
                assert!(!kinds.meets(shape.kinds), "{} twice for one kind", row.name);
                kinds = kinds.and(shape.kinds);
            }
        }
    }

    #[test]
    fn sizes_name_their_memory_and_back() {
        for row in rows() {
            for (i, arg) in row.args.iter().enumerate() {
                let own = i as u8 + 1;
                match *arg {
                    Arg::Mem { size: MemSize::Arg(n), .. } => {
                        assert!(matches!(row.args[n as usize - 1], Arg::Size { of, .. } if of == own), "{}", row.name)
                    }
                    Arg::Size { of, .. } => assert!(
                        matches!(row.args[of as usize - 1], Arg::Mem { size: MemSize::Arg(n), .. } if n == own),
                        "{}",
                        row.name
                    ),
                    _ => {}
                }
            }
        }
    }
}
