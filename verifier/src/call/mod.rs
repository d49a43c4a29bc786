//! Calls of helpers: prototype, arguments, effects, result.

mod args;
mod callback;
mod dynptr;
mod kfunc;
mod local;
mod locks;
mod ret;

use rtbpf_abi::helper::{self, Arg, HelperId, HelperProto, Lookup, SockKind};
use rtbpf_abi::{Errno, MapKind, ProgKind};
use rtbpf_isa::{Callee, Reg};

use crate::explore::{Next, Walk};
use crate::reject::{Checked, Rejection, refuse};
use crate::value::{Kind, MapRef, Value};

/// Helpers with rules of their own, by number.
pub(crate) mod id {
    pub const MAP_LOOKUP: u32 = 1;
    pub const TAIL_CALL: u32 = 12;
    pub const SPIN_LOCK: u32 = 93;
    pub const SPIN_UNLOCK: u32 = 94;
    /// What gives a socket under another type: sk_fullsock, tcp_sock, skc_to_tcp6_sock, skc_to_tcp_sock,
    /// skc_to_tcp_timewait_sock, skc_to_tcp_request_sock, skc_to_udp6_sock, skc_to_mptcp_sock.
    pub const CASTS: [u32; 8] = [95, 96, 136, 137, 138, 139, 140, 196];
    pub const FOR_EACH_MAP_ELEM: u32 = 164;
    pub const SNPRINTF: u32 = 165;
    pub const TIMER_SET_CALLBACK: u32 = 170;
    pub const FIND_VMA: u32 = 180;
    pub const LOOP: u32 = 181;
    pub const DYNPTR_WRITE: u32 = 202;
    pub const USER_RINGBUF_DRAIN: u32 = 209;
}

/// What the arguments of a call turned out to be.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Call {
    /// The map in an argument.
    pub map: Option<MapRef>,
    /// The reference that an argument owns.
    pub ref_id: u32,
    /// The constant of an allocation size.
    pub alloc_size: u64,
    /// The largest value of a size argument.
    pub size_max: u64,
    /// The constant key of a lookup in an array.
    pub const_key: Option<u32>,
    /// Memory that the call overwrites: frame, offset, bytes.
    pub overwrites: Option<(u32, i32, i32)>,
    /// The dynptr that an argument is.
    pub dynptr: Option<(crate::value::DynptrKind, u32, u32)>,
    /// The dynptr that the call makes, at this slot.
    pub new_dynptr: Option<(crate::value::DynptrKind, u32, usize)>,
    /// The subprogram that the call runs.
    pub callback: Option<usize>,
}

/// Whether loops through this call converge by inclusion.
pub(crate) fn converges(callee: Callee, walk: &Walk) -> bool {
    match callee {
        Callee::Helper(n) => {
            matches!(n as u32, id::FOR_EACH_MAP_ELEM | id::FIND_VMA | id::LOOP | id::USER_RINGBUF_DRAIN)
        }
        Callee::Kfunc { btf_id, .. } => walk.kfunc_name(btf_id) == Some("bpf_iter_num_next"),
        Callee::Local { .. } | Callee::Reg(_) => false,
    }
}

/// A pointer that 0 was ruled out for. A value of a map of maps is a map, of a socket map a socket.
pub(crate) fn checked_pointer(walk: &Walk, value: &Value) -> Value {
    let mut new = Value { nullable: false, id: 0, ..*value };
    let Kind::MapValue(map) = value.kind else { return new };
    let Some(spec) = walk.map(map) else { return new };
    match spec.kind {
        MapKind::ArrayOfMaps | MapKind::HashOfMaps => {
            let uid = if spec.inner.as_ref().is_some_and(|inner| !inner.fields.is_empty()) { value.id } else { 0 };
            new.kind = Kind::MapPtr(MapRef { map: map.map, inner: true, uid });
        }
        MapKind::Xskmap => new.kind = Kind::Sock(SockKind::XdpSock),
        MapKind::Sockmap | MapKind::Sockhash => new.kind = Kind::Sock(SockKind::Sock),
        _ => {
            if spec.field(|kind| kind == rtbpf_abi::map_spec::SpecialKind::SpinLock).is_some() {
                new.id = value.id;
            }
        }
    }
    new
}

impl<'a> Walk<'a> {
    pub(crate) fn call_helper(&mut self, number: i32) -> Checked<Next> {
        if self.state.held.lock.is_some() && number as u32 != id::SPIN_UNLOCK {
            return refuse!(Lock, EINVAL, "function calls are not allowed while holding a lock");
        }
        let proto = self.prototype(number)?;
        let mut call = Call::default();
        for (i, arg) in proto.args.iter().enumerate() {
            self.check_argument(proto, i, *arg, &mut call)?;
        }
        self.check_map_kind(proto, &call)?;
        self.check_map_values(proto)?;
        if let Some(spec) = call.map.and_then(|map| (!map.inner).then_some(map.map)) {
            self.note_call(spec, &call);
        }
        if let Some((frame, off, size)) = call.overwrites {
            self.overwrite(frame, off, size)?;
        }
        self.special(proto, &call)?;
        if let Some(next) = self.call_back(proto, &call)? {
            return Ok(next);
        }
        self.finish(proto, &call)?;
        Ok(Next::Go(self.at.next()))
    }

    fn prototype(&mut self, number: i32) -> Checked<&'a HelperProto> {
        let id = HelperId(number as u32);
        let name = || helper::rows_of(id).first().map_or("unknown", |row| row.name);
        let given = self.given;
        let proto = match given.helper(number) {
            Lookup::Found(proto) => proto,
            Lookup::Unknown => return refuse!(Helper, EINVAL, "invalid func unknown#{number}"),
            Lookup::NotForKind => {
                return refuse!(Helper, EINVAL, "program of this type cannot use helper bpf_{}#{number}", name());
            }
            Lookup::Refused(errno, why) => {
                // What Linux lacks for the kind of program it notices behind the arguments.
                if let (Errno::ENOTSUPP, Some(proto)) = (errno, helper::rows_of(id).first()) {
                    for (i, arg) in proto.args.iter().enumerate() {
                        self.check_argument(proto, i, *arg, &mut Call::default())?;
                    }
                }
                return Err(Rejection::new(crate::Reason::Helper, errno, why.to_owned()));
            }
        };
        if proto.needs_perfmon && !self.opts.privilege.perfmon {
            return refuse!(Helper, EINVAL, "program of this type cannot use helper bpf_{}#{number}", name());
        }
        if proto.gpl_only && !self.given.gpl {
            return refuse!(License, EINVAL, "cannot call GPL-restricted function from non-GPL compatible program");
        }
        if proto.might_sleep {
            if !self.given.sleepable {
                return refuse!(Helper, EINVAL, "helper call might sleep in a non-sleepable prog");
            }
            if self.state.held.rcu > 0 {
                return refuse!(Lock, EINVAL, "sleepable helper bpf_{}#{number} in rcu_read_lock region", name());
            }
            if self.state.held.preempt > 0 {
                return refuse!(Lock, EINVAL, "sleepable helper bpf_{}#{number} in non-preemptible region", name());
            }
            self.facts.sleeps = true;
        }
        Ok(proto)
    }

    fn check_map_kind(&self, proto: &HelperProto, call: &Call) -> Checked {
        let Some(spec) = call.map.and_then(|map| self.map(map)) else { return Ok(()) };
        if helper::changes_map(proto.id) && !spec.prog_writes() {
            return refuse!(ReadOnly, EACCES, "write into map forbidden");
        }
        let kind = ProgKind::of(self.given.prog_type, self.given.attach_type, self.given.sleepable);
        if proto.map_kinds().is_none() || kind.is_some_and(|kind| helper::takes_map(proto, spec.kind, kind)) {
            return Ok(());
        }
        if proto.id.0 == id::FOR_EACH_MAP_ELEM {
            return refuse!(Map, ENOTSUPP, "callback function not allowed for map");
        }
        if proto.id.0 == id::TAIL_CALL {
            return refuse!(Map, EINVAL, "expected prog array map for tail call");
        }
        let (kind, name, id) = (spec.kind.number(), proto.name, proto.id.0);
        refuse!(Map, EINVAL, "cannot pass map_type {kind} into func bpf_{name}#{id}")
    }

    /// Memory that a helper keeps a pointer to must outlive the call: a map's value does.
    fn check_map_values(&self, proto: &HelperProto) -> Checked {
        for (arg, reg) in proto.args.iter().zip(Reg::ARGS) {
            let pointer = self.state.reg(reg);
            if let Arg::Mem { map_value_only: true, .. } = arg
                && !matches!(pointer.kind, Kind::MapValue(_))
            {
                let (kind, name) = (pointer.type_name(), proto.name);
                return refuse!(Argument, EACCES, "Unsupported reg type {kind} for bpf_{name} data");
            }
        }
        Ok(())
    }

    fn note_call(&mut self, map: rtbpf_isa::MapIdx, call: &Call) {
        let first = self.first_visit;
        self.first_visit = false;
        if let Some(facts) = self.facts.insns.get_mut(self.at.index()) {
            facts.map = if first || facts.map == Some(map) { Some(map) } else { None };
            facts.const_key = if first || facts.const_key == call.const_key { call.const_key } else { None };
        }
    }

    /// Rules of single helpers.
    fn special(&mut self, proto: &HelperProto, call: &Call) -> Checked {
        match proto.id.0 {
            id::TAIL_CALL => {
                self.check_nothing_held("tail_call", false)?;
                self.facts.tail_calls = true;
                // Which program runs decides what the machine may do; the index is part of the proof.
                self.demand(Reg::R3);
                // On success, the frame ends with whatever the other program returns.
                self.leave_early(Value::UNKNOWN, true)?;
            }
            id::SNPRINTF => self.check_format()?,
            id::SPIN_LOCK | id::SPIN_UNLOCK => self.spin_lock(proto.id.0 == id::SPIN_LOCK)?,
            _ => {}
        }
        let _ = call;
        Ok(())
    }

    /// What holds after a helper returned.
    pub(super) fn finish(&mut self, proto: &HelperProto, call: &Call) -> Checked {
        if proto.releases != 0 {
            self.release_argument(proto, call)?;
        }
        let result = self.result(proto, call)?;
        self.clobber();
        self.set(Reg::R0, result);
        if let Some((kind, frame, slot)) = call.new_dynptr {
            let ref_id = if proto.acquires { self.acquire() } else { 0 };
            self.place_dynptr(kind, frame, slot, ref_id);
        }
        if proto.invalidates_packet || moves_packet(proto, call) {
            self.drop_packet_pointers();
        }
        Ok(())
    }

    /// After the packet may have moved, pointers into it are mere numbers.
    pub(crate) fn drop_packet_pointers(&mut self) {
        let dead = self.dead_value();
        self.state.rewrite(|value| match value.kind {
            Kind::Packet(_) | Kind::PacketMeta(_) | Kind::PacketEnd => Some(dead),
            Kind::Mem { from: crate::value::Source::Dynptr(id), .. } if id & PACKET_DYNPTR != 0 => Some(dead),
            _ => None,
        });
    }

    /// What is left of a pointer whose object is gone.
    pub(crate) fn dead_value(&self) -> Value {
        if self.opts.privilege.perfmon { Value::UNKNOWN } else { Value::UNINIT }
    }

    /// Gives back reference `id`: everything that owns it or derives from it is dead.
    pub(crate) fn release(&mut self, id: u32) -> Checked {
        if !self.state.held.release(id) {
            return Err(Rejection::new(crate::Reason::Reference, Errno::EINVAL, format!("reference {id} is not held")));
        }
        let dead = self.dead_value();
        self.state.rewrite(|value| (value.ref_id == id && value.is_pointer()).then_some(dead));
        Ok(())
    }

    fn release_argument(&mut self, proto: &HelperProto, call: &Call) -> Checked {
        if let Some((_, ref_id, _)) = call.dynptr {
            return self.release_dynptr(ref_id);
        }
        let reg = Reg::ARGS[(proto.releases as usize - 1).min(4)];
        if self.state.reg(reg).is_null() || call.ref_id == 0 {
            return Ok(());
        }
        self.release(call.ref_id)
    }
}

/// Ids of dynptrs of packets carry this bit, so that their slices can be told when the packet moves.
pub(crate) const PACKET_DYNPTR: u32 = 1 << 31;

/// Writing through a packet's dynptr may move the packet.
fn moves_packet(proto: &HelperProto, call: &Call) -> bool {
    let skb = matches!(call.dynptr, Some((crate::value::DynptrKind::Skb, ..)));
    proto.id.0 == id::DYNPTR_WRITE && skb
}

/// Whether `arg` may be the number 0.
pub(super) fn takes_null(arg: Arg) -> bool {
    match arg {
        Arg::CtxOrNull
        | Arg::MapValueOrNull
        | Arg::StackOrNull
        | Arg::SockOrNull
        | Arg::SockCommonOrBtfOrNull
        | Arg::BtfOrNull(_)
        | Arg::KptrValue => true,
        Arg::Mem { null, .. } => null != helper::Null::No,
        _ => false,
    }
}
