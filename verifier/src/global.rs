//! Global functions: walked once on their own against declared types, trusted by callers for those types only.

use rtbpf_abi::helper::MemUse;
use rtbpf_abi::{Errno, ProgType};
use rtbpf_btf::{Btf, Kind as BtfKind, TypeId};
use rtbpf_isa::Reg;

use crate::call::Call;
use crate::explore::Walk;
use crate::reject::{Checked, Reason, Rejection, refuse};
use crate::state::{Frame, State};
use crate::value::{Kind, Source, Value};

/// What a parameter was declared as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Param {
    /// A number.
    Scalar,
    /// The context.
    Ctx,
    /// Memory of this many bytes.
    Mem { bytes: u32, nullable: bool },
}

impl Walk<'_> {
    /// The declared parameters of a global function; `None` when no types describe it. Found once.
    fn params(&mut self, subprog: usize) -> Checked<Option<Vec<Param>>> {
        if let Some(known) = self.params.get(&subprog) {
            return Ok(known.clone());
        }
        let found = self.find_params(subprog)?;
        self.params.insert(subprog, found.clone());
        Ok(found)
    }

    fn find_params(&self, subprog: usize) -> Checked<Option<Vec<Param>>> {
        let (Some(btf), Some(function)) = (self.given.btf.as_deref(), self.program.subprogs().get(subprog)) else {
            return Ok(None);
        };
        let id = TypeId(function.btf_id);
        let Some(BtfKind::Func { proto, .. }) = btf.get(id).map(|ty| ty.kind) else { return Ok(None) };
        let Some(BtfKind::FuncProto { ret, params }) = btf.get(proto).map(|ty| ty.kind) else { return Ok(None) };
        let name = function.name.as_deref().unwrap_or("");
        if !matches!(btf.peel(ret).kind, BtfKind::Int(_) | BtfKind::Enum { .. }) {
            return refuse!(
                GlobalFunction,
                EINVAL,
                "Global function {name}() doesn't return scalar. Only those are supported."
            );
        }
        if params.len() > Reg::ARGS.len() {
            let n = params.len();
            return refuse!(GlobalFunction, EINVAL, "Global function {name}() with {n} > 5 args. Buggy compiler.");
        }
        let tags: Vec<(&str, Option<u32>)> = btf.decl_tags(id).collect();
        let declared = params.iter().enumerate().map(|(i, param)| {
            let tagged = |tag: &str| tags.iter().any(|(name, at)| *name == tag && *at == Some(i as u32));
            self.param(btf, param.ty, i, name, &tagged)
        });
        declared.collect::<Checked<Vec<Param>>>().map(Some)
    }

    fn param(&self, btf: &Btf, ty: TypeId, i: usize, function: &str, tagged: &dyn Fn(&str) -> bool) -> Checked<Param> {
        let peeled = btf.peel(ty);
        match peeled.kind {
            BtfKind::Int(_) | BtfKind::Enum { .. } => Ok(Param::Scalar),
            BtfKind::Ptr { to } => {
                if tagged("arg:ctx") || is_context(self.given.prog_type, btf, to) {
                    return Ok(Param::Ctx);
                }
                match btf.size_of(to).and_then(|bytes| u32::try_from(bytes).ok()) {
                    Some(bytes) => Ok(Param::Mem { bytes, nullable: !tagged("arg:nonnull") }),
                    None => {
                        let name = btf.peel(to).name;
                        refuse!(
                            GlobalFunction,
                            EINVAL,
                            "arg#{i} reference type('UNKNOWN {name}') size cannot be determined: -22"
                        )
                    }
                }
            }
            _ => refuse!(GlobalFunction, EINVAL, "Arg#{i} type {} in {function}() is not supported yet.", peeled.name),
        }
    }

    /// What a caller passes must fit the declared types. Without types, what the function reads must be numbers.
    pub(crate) fn check_global_arguments(&mut self, subprog: usize, name: &str) -> Checked {
        let checked = match self.params(subprog) {
            Ok(Some(params)) => {
                params.iter().enumerate().try_for_each(|(i, param)| self.check_param(i, Reg::ARGS[i], *param))
            }
            Ok(None) => {
                let read = Reg::ARGS.into_iter().filter(|reg| self.flows_into(subprog, *reg)).collect::<Vec<_>>();
                read.into_iter().try_for_each(|reg| self.check_param(reg as usize - 1, reg, Param::Scalar))
            }
            Err(rejection) => Err(rejection),
        };
        checked.map_err(|why| {
            let message = format!("Caller passes invalid args into func#{subprog} ('{name}'): {}", why.message);
            Rejection::new(Reason::GlobalFunction, Errno::EINVAL, message)
        })
    }

    fn check_param(&mut self, i: usize, reg: Reg, param: Param) -> Checked {
        let value = *self.state.reg(reg);
        let r = reg as u8;
        match param {
            Param::Scalar if !value.is_scalar() => refuse!(GlobalFunction, EINVAL, "R{r} is not a scalar"),
            Param::Scalar => Ok(()),
            Param::Ctx if value.kind != Kind::Ctx => refuse!(GlobalFunction, EINVAL, "arg#{i} expects pointer to ctx"),
            Param::Ctx => self.check_unmodified(reg, &value),
            // Linux 6.18 lets the number 0 pass here, and the callee, walked without it, reads there.
            Param::Mem { nullable: false, .. } if value.nullable || value.is_null() => {
                refuse!(GlobalFunction, EINVAL, "arg#{i} is expected to be non-NULL")
            }
            Param::Mem { .. } if value.is_null() => {
                self.demand(reg);
                Ok(())
            }
            Param::Mem { bytes, .. } => {
                let known = Value { nullable: false, ..value };
                let mut call = Call::default();
                self.memory_argument(reg, &known, bytes, MemUse::Read, false, &mut call)?;
                self.memory_argument(reg, &known, bytes, MemUse::ReadWrite, false, &mut call)
            }
        }
    }

    /// Whether the function reads argument `reg`.
    fn flows_into(&self, subprog: usize, reg: Reg) -> bool {
        let start = self.program.subprogs().get(subprog).map(|s| s.start.index());
        start.and_then(|start| self.flows.live.get(start)).is_none_or(|live| live.contains(reg))
    }

    /// The state at the entry of a global function.
    pub(crate) fn global_entry(&mut self, subprog: usize) -> Checked<State> {
        let start = self.program.subprogs().get(subprog).map(|s| s.start).unwrap_or_default();
        let mut frame = Frame::new(0, subprog, start);
        match self.params(subprog)? {
            Some(params) => {
                for (reg, param) in Reg::ARGS.into_iter().zip(params) {
                    frame.regs[reg.index()] = self.declared(param);
                }
            }
            None => {
                for reg in Reg::ARGS.into_iter().filter(|reg| self.flows_into(subprog, *reg)) {
                    frame.regs[reg.index()] = Value::UNKNOWN;
                }
            }
        }
        Ok(State::new(frame))
    }

    fn declared(&mut self, param: Param) -> Value {
        match param {
            Param::Scalar => Value::UNKNOWN,
            Param::Ctx => Value::pointer(Kind::Ctx),
            Param::Mem { bytes, nullable } => {
                let mem = Kind::Mem { size: bytes, from: Source::Plain, writable: true };
                if nullable { Value::pointer_or_null(mem, self.fresh_id()) } else { Value::pointer(mem) }
            }
        }
    }
}

/// Whether `ty` is the type that programs of this type declare their context as.
fn is_context(prog: ProgType, btf: &Btf, ty: TypeId) -> bool {
    use ProgType as P;
    let names: &[&str] = match prog {
        P::SocketFilter | P::SchedCls | P::SchedAct | P::CgroupSkb | P::SkSkb | P::FlowDissector => &["__sk_buff"],
        P::LwtIn | P::LwtOut | P::LwtXmit | P::LwtSeg6local => &["__sk_buff"],
        P::Xdp => &["xdp_md"],
        P::CgroupSock => &["bpf_sock"],
        P::CgroupSockAddr => &["bpf_sock_addr"],
        P::SockOps => &["bpf_sock_ops"],
        P::SkMsg => &["sk_msg_md"],
        P::Kprobe => &["bpf_user_pt_regs_t", "pt_regs", "user_pt_regs"],
        P::PerfEvent => &["bpf_perf_event_data"],
        P::RawTracepoint | P::RawTracepointWritable => &["bpf_raw_tracepoint_args"],
        P::CgroupDevice => &["bpf_cgroup_dev_ctx"],
        P::CgroupSysctl => &["bpf_sysctl"],
        P::CgroupSockopt => &["bpf_sockopt"],
        P::SkReuseport => &["sk_reuseport_md"],
        P::SkLookup => &["bpf_sk_lookup"],
        P::Netfilter => &["bpf_nf_ctx"],
        P::Tracepoint | P::Tracing | P::StructOps | P::Ext | P::Lsm | P::Syscall | P::LircMode2 => &[],
        P::Unspec | P::Plain => &[],
    };
    // A typedef counts by its own name, before it is followed.
    let mut id = ty;
    while let Some(found) = btf.get(id) {
        if names.contains(&found.name) {
            return true;
        }
        id = match found.kind {
            BtfKind::Typedef { to } | BtfKind::Const { to } | BtfKind::Volatile { to } | BtfKind::Restrict { to } => to,
            BtfKind::TypeTag { to } => to,
            _ => return false,
        };
    }
    false
}
