//! What must hold before any path is walked: maps that instructions name, and what the load itself asks for.

use rtbpf_abi::policy::{self, ProgFacts, Verdict};
use rtbpf_abi::{AttachType, Errno, MapKind, ProgType, limits};
use rtbpf_isa::{Callee, Imm64, Insn, InsnIdx, Program};

use crate::reject::{Checked, Reason, Rejection, refuse};
use crate::verified::{Assumptions, Options, Profile};

/// Checks everything that needs no walk.
pub fn check(program: &Program, given: &Assumptions, opts: &Options) -> Checked {
    load(program, given, opts)?;
    kernel_functions(program, given)?;
    crate::subprog::check(program)?;
    subprogs_without_types(program)?;
    maps(program, given)
}

fn load(program: &Program, given: &Assumptions, opts: &Options) -> Checked {
    let privilege = opts.privilege;
    if program.is_empty() || program.slot_count() > limits::MAX_INSNS {
        return refuse!(TooLarge, E2BIG, "{} instructions", program.slot_count());
    }
    let network = !matches!(
        given.prog_type,
        ProgType::SocketFilter | ProgType::CgroupSkb | ProgType::SkReuseport | ProgType::SkLookup | ProgType::Syscall
    );
    let tracing = given.prog_type.is_tracing() || matches!(given.prog_type, ProgType::Tracing | ProgType::Lsm);
    if tracing && !privilege.perfmon {
        return refuse!(Privilege, EPERM, "tracing programs need CAP_PERFMON");
    }
    if network && !tracing && !privilege.net_admin && given.prog_type != ProgType::Plain {
        return refuse!(Privilege, EPERM, "programs of this type need CAP_NET_ADMIN");
    }
    if !privilege.bpf && !privilege.sys_admin && opts.profile == Profile::Compat {
        return refuse!(Privilege, EPERM, "loading needs CAP_BPF");
    }
    match given.prog_type {
        ProgType::Unspec if opts.profile == Profile::Compat => {
            return refuse!(ProgType, EINVAL, "unknown program type");
        }
        ProgType::Syscall if !given.sleepable => {
            return refuse!(ProgType, EINVAL, "Syscall programs can only be sleepable");
        }
        _ => {}
    }
    if given.sleepable && !may_sleep(given) {
        return refuse!(
            ProgType,
            EINVAL,
            "Only fentry/fexit/fmod_ret, lsm, iter, uprobe, and struct_ops programs can be sleepable"
        );
    }
    attach_type(given)
}

fn may_sleep(given: &Assumptions) -> bool {
    match given.prog_type {
        ProgType::Syscall | ProgType::Kprobe | ProgType::StructOps | ProgType::Lsm | ProgType::Plain => true,
        ProgType::Tracing => given.attach_type != Some(AttachType::TraceRawTp),
        _ => false,
    }
}

/// Program types that look at the expected attach type take only their own. Measured on Linux 6.18.
fn attach_type(given: &Assumptions) -> Checked {
    use AttachType as A;
    let attach = given.attach_type.map_or(0, |a| a.number());
    let fine = match given.prog_type {
        ProgType::CgroupSkb => attach <= 1,
        ProgType::CgroupSock => matches!(attach, 0 | 2 | 12 | 13 | 34),
        ProgType::CgroupSockAddr => matches!(attach, 8..=11 | 14 | 15 | 19 | 20 | 29..=32 | 49..=53),
        ProgType::SkReuseport => matches!(attach, 0 | 39 | 40),
        ProgType::CgroupSockopt => matches!(attach, 21 | 22),
        ProgType::SkLookup => attach == A::SkLookup.number(),
        ProgType::Netfilter => attach == A::Netfilter.number(),
        ProgType::Syscall => attach == 0,
        _ => true,
    };
    if !fine {
        return refuse!(ProgType, EINVAL, "expected attach type {attach} is not one of this program type");
    }
    Ok(())
}

/// Kernel functions are looked up wherever they are named, reached or not.
fn kernel_functions(program: &Program, given: &Assumptions) -> Checked {
    for insn in program.insns() {
        if let Insn::Call(Callee::Kfunc { btf_id, module: 0 }) = insn
            && !given.kfuncs.iter().any(|(id, _)| id == btf_id)
        {
            return refuse!(Kfunc, EINVAL, "kernel btf_id {btf_id} is not a function");
        }
    }
    Ok(())
}

/// Whether BTF describes the program's functions.
fn has_types(program: &Program) -> bool {
    program.subprogs().iter().any(|s| s.btf_id != 0)
}

fn subprogs_without_types(program: &Program) -> Checked {
    if has_types(program) {
        return Ok(());
    }
    for subprog in program.subprogs().iter().skip(1) {
        for at in subprog.start.0..subprog.end.0 {
            match program.get(InsnIdx(at)) {
                Some(Insn::Packet { .. }) => {
                    return refuse!(ProgType, EINVAL, "LD_ABS is not allowed in subprogs without BTF");
                }
                Some(Insn::Call(Callee::Helper(12))) => {
                    return refuse!(ProgType, EINVAL, "tail_call is not allowed in subprogs without BTF");
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn maps(program: &Program, given: &Assumptions) -> Checked {
    let mut used = vec![false; given.maps.len()];
    for (at, insn) in program.iter() {
        let (map, off) = match insn {
            Insn::Imm { value: Imm64::Map { map, .. }, .. } => (map, None),
            Insn::Imm { value: Imm64::MapValue { map, off, .. }, .. } => (map, Some(*off)),
            _ => continue,
        };
        let Some(spec) = given.maps.get(map.index()) else {
            // The standard streams are open, and no maps.
            let fd = map.0 as i32;
            let errno = if (0..=2).contains(&fd) { Errno::EINVAL } else { Errno::EBADF };
            let message = format!("fd {fd} is not pointing to valid bpf_map");
            return Err(Rejection::new(Reason::Map, errno, message));
        };
        if let Some(used) = used.get_mut(map.index()) {
            *used = true;
        }
        let Some(off) = off else { continue };
        let _ = at;
        if spec.kind != MapKind::Array {
            return refuse!(Map, EINVAL, "no direct value access support for this map type");
        }
        if off >= 1 << 29 {
            return refuse!(Map, EINVAL, "direct value offset of {off} is not allowed");
        }
        if spec.max_entries != 1 || off >= spec.value_size {
            let size = spec.value_size;
            let errno = if spec.max_entries != 1 { Errno::ENOTSUPP } else { Errno::EINVAL };
            let message = format!("invalid access to map value pointer, value_size={size} off={off}");
            return Err(Rejection::new(Reason::Map, errno, message));
        }
    }
    let count = used.iter().filter(|&&u| u).count();
    if count > limits::MAX_MAPS {
        return refuse!(
            TooLarge,
            E2BIG,
            "The total number of maps per program has reached the limit of {}",
            limits::MAX_MAPS
        );
    }
    let mut storages = Vec::new();
    for (spec, _) in given.maps.iter().zip(&used).filter(|(_, used)| **used) {
        let prog = ProgFacts { prog: given.prog_type, attach: given.attach_type, sleepable: given.sleepable };
        if let Verdict::Err(errno, why) = policy::check(&given.policy, &prog, spec) {
            return Err(Rejection::new(Reason::Policy, errno, why));
        }
        if matches!(spec.kind, MapKind::CgroupStorage | MapKind::PercpuCgroupStorage) {
            if storages.contains(&spec.kind) {
                return refuse!(Map, EBUSY, "only one cgroup storage of each type is allowed");
            }
            storages.push(spec.kind);
        }
    }
    Ok(())
}
