//! Conditional jumps: which edges are alive, and what is known on each.

use std::rc::Rc;

use rtbpf_abi::helper::SockKind;
use rtbpf_isa::{CmpOp, InsnIdx, Operand, Reg, Width};

use crate::domain::{Scalar, decide, refine};
use crate::explore::{Next, Walk};
use crate::facts::Branch;
use crate::needed::{Place, Touch};
use crate::reject::{Checked, refuse};
use crate::state::State;
use crate::value::{AT_END, BEYOND_END, Kind, Trust, Value};
use crate::verified::Profile;

impl Walk<'_> {
    pub(super) fn branch(&mut self, op: CmpOp, width: Width, lhs: Reg, rhs: Operand, to: InsnIdx) -> Checked<Next> {
        let next = self.at.next();
        let b = match rhs {
            Operand::Reg(rhs) => self.read(rhs)?,
            Operand::Imm(imm) => Value::constant(imm as i64 as u64),
        };
        let a = self.read(lhs)?;
        if let Operand::Reg(rhs) = rhs
            && b.is_pointer()
            && !self.opts.privilege.perfmon
            && !is_packet_check(&a, &b)
        {
            return refuse!(PointerComparison, EACCES, "R{} pointer comparison prohibited", rhs as u8);
        }
        // A comparison of a register with itself: its two sides are one value. Linux 6.18 walks both edges.
        let itself = matches!(rhs, Operand::Reg(rhs) if rhs == lhs);
        if itself
            && a.is_scalar()
            && self.opts.profile == Profile::Strict
            && let Some(taken) = of_equals(op)
        {
            self.note_branch(if taken { Branch::Taken } else { Branch::Never });
            return Ok(Next::Go(if taken { to } else { next }));
        }
        if let Some(taken) = outcome(op, width, &a, &b) {
            self.demand(lhs);
            if let Operand::Reg(rhs) = rhs {
                self.demand(rhs);
            }
            self.note_branch(if taken { Branch::Taken } else { Branch::Never });
            return Ok(Next::Go(if taken { to } else { next }));
        }
        if a.is_pointer()
            && !self.opts.privilege.perfmon
            && !is_packet_check(&a, &b)
            && !is_null_check(op, width, &a, &rhs)
        {
            return refuse!(PointerComparison, EACCES, "R{} pointer comparison prohibited", lhs as u8);
        }
        let edges = [true, false].map(|taken| {
            if !a.is_scalar() || !b.is_scalar() || itself {
                return Some((a.num, b.num));
            }
            refine(op, width, taken, &a.num, &b.num)
        });
        let (taken, not_taken) = match edges {
            [Some(taken), Some(not_taken)] => (taken, not_taken),
            // What one edge requires contradicts what is known: it is dead, and that rests on these bounds.
            [Some(_), None] | [None, Some(_)] | [None, None] => {
                self.demand(lhs);
                if let Operand::Reg(rhs) = rhs {
                    self.demand(rhs);
                }
                let goes = edges[0].is_some();
                self.note_branch(if goes { Branch::Taken } else { Branch::Never });
                let Some(kept) = edges[0].or(edges[1]) else { return Ok(Next::End) };
                self.touch_links(lhs, rhs, &a, &b);
                let mut state = self.state.take();
                self.apply(&mut state, op, width, goes, (lhs, &a), (rhs, &b), kept);
                self.state = state;
                return Ok(Next::Go(if goes { to } else { next }));
            }
        };
        self.touch_links(lhs, rhs, &a, &b);
        self.note_branch(Branch::Both);
        let mut other = self.state.clone();
        self.apply(&mut other, op, width, true, (lhs, &a), (rhs, &b), taken);
        self.push(other, to)?;
        let mut state = self.state.take();
        self.apply(&mut state, op, width, false, (lhs, &a), (rhs, &b), not_taken);
        self.state = state;
        Ok(Next::Go(next))
    }

    /// What holds on one edge.
    #[allow(clippy::too_many_arguments)]
    fn apply(
        &mut self,
        state: &mut State,
        op: CmpOp,
        width: Width,
        taken: bool,
        (lhs, a): (Reg, &Value),
        (rhs, b): (Operand, &Value),
        refined: (Scalar, Scalar),
    ) {
        if a.is_scalar() && b.is_scalar() {
            learn(state, lhs, a, refined.0);
            if let Operand::Reg(rhs) = rhs
                && rhs != lhs
            {
                learn(state, rhs, b, refined.1);
            }
            return;
        }
        if width == Width::W32 {
            return;
        }
        let equal = match op {
            CmpOp::Eq => Some(taken),
            CmpOp::Ne => Some(!taken),
            _ => None,
        };
        match rhs {
            Operand::Imm(0) if a.nullable => {
                if let Some(null) = equal {
                    self.settle_null(state, a, null);
                }
            }
            Operand::Reg(_) if a.is_pointer() && b.is_pointer() && a.nullable != b.nullable && equal == Some(true) => {
                let (unknown, known) = if a.nullable { (a, b) } else { (b, a) };
                if !matches!(known.kind, Kind::Btf { .. }) && !matches!(unknown.kind, Kind::Btf { .. }) {
                    self.settle_null(state, unknown, false);
                }
            }
            Operand::Reg(rhs) => learn_packet(state, op, taken, (lhs, a), (rhs, b)),
            Operand::Imm(_) => {}
        }
    }

    /// Every copy of an unchecked pointer becomes 0, or a pointer that is not.
    fn settle_null(&mut self, state: &mut State, pointer: &Value, null: bool) {
        let id = pointer.id;
        if null {
            if pointer.ref_id == id && id != 0 {
                state.held.release(id);
            }
            state.rewrite(|value| (value.nullable && value.id == id).then_some(Value::constant(0)));
        } else {
            state
                .rewrite(|value| (value.nullable && value.id == id).then(|| crate::call::checked_pointer(self, value)));
        }
    }

    /// Notes which other places hold numbers linked to the compared ones: what one is refined by, all are.
    fn touch_links(&mut self, lhs: Reg, rhs: Operand, a: &Value, b: &Value) {
        let mut linked = Vec::new();
        let ids: [u32; 2] = [
            if a.is_scalar() { a.id } else { 0 },
            if b.is_scalar() && matches!(rhs, Operand::Reg(_)) { b.id } else { 0 },
        ];
        if ids == [0, 0] {
            return;
        }
        let is_linked = |value: &Value| value.is_scalar() && value.id != 0 && ids.contains(&value.id);
        for (frame, content) in self.state.frames().iter().enumerate() {
            for (reg, value) in content.regs.iter().enumerate() {
                if is_linked(value) {
                    linked.push(Place::Reg(frame as u8, reg as u8));
                }
            }
            for (at, slot) in content.stack.slots() {
                if slot.spilled().is_some_and(is_linked) {
                    linked.push(Place::Slot(frame as u8, at as u8));
                }
            }
        }
        let current = self.state.current() as u8;
        linked.retain(|place| *place != Place::Reg(current, lhs as u8));
        if !linked.is_empty() {
            self.touch(Touch::Linked(Rc::new(linked)));
        }
    }

    fn note_branch(&mut self, branch: Branch) {
        let first = self.first_visit;
        if let Some(facts) = self.facts.insns.get_mut(self.at.index()) {
            facts.branch = if first || facts.branch == branch { branch } else { Branch::Both };
        }
    }

    pub(super) fn may_goto(&mut self, to: InsnIdx) -> Checked<Next> {
        let left = self.state.clone();
        self.state.may_goto_depth += 1;
        self.widen(self.at, true);
        let inside = std::mem::replace(&mut self.state, left);
        self.push(inside, self.at.next())?;
        Ok(Next::Go(to))
    }
}

/// The outcome of comparing a number with itself, where it is the same for every number.
fn of_equals(op: CmpOp) -> Option<bool> {
    match op {
        CmpOp::Eq | CmpOp::Ge | CmpOp::Le | CmpOp::Sge | CmpOp::Sle => Some(true),
        CmpOp::Ne | CmpOp::Gt | CmpOp::Lt | CmpOp::Sgt | CmpOp::Slt => Some(false),
        CmpOp::Set => None,
    }
}

/// The outcome of a comparison, where it is known.
fn outcome(op: CmpOp, width: Width, a: &Value, b: &Value) -> Option<bool> {
    if a.is_scalar() && b.is_scalar() {
        return decide(op, width, &a.num, &b.num);
    }
    if width == Width::W32 {
        return None;
    }
    if let Some(known) = packet_outcome(op, a, b) {
        return Some(known);
    }
    let (pointer, number) = if a.is_pointer() { (a, b) } else { (b, a) };
    if number.as_constant() == Some(0) && is_not_null(pointer) {
        return match op {
            CmpOp::Eq => Some(false),
            CmpOp::Ne => Some(true),
            _ => None,
        };
    }
    None
}

fn is_not_null(pointer: &Value) -> bool {
    let never_null = matches!(
        pointer.kind,
        Kind::MapValue(_)
            | Kind::MapKey(_)
            | Kind::MapPtr(_)
            | Kind::Mem { .. }
            | Kind::Sock(SockKind::SockCommon | SockKind::Sock | SockKind::TcpSock)
            | Kind::Btf { trust: Trust::Trusted, .. }
    );
    never_null && !pointer.nullable
}

fn is_null_check(op: CmpOp, width: Width, a: &Value, rhs: &Operand) -> bool {
    width == Width::W64 && a.nullable && *rhs == Operand::Imm(0) && matches!(op, CmpOp::Eq | CmpOp::Ne)
}

/// The packet with its end, or metadata with the packet.
fn is_packet_check(a: &Value, b: &Value) -> bool {
    let pair = |x: &Value, y: &Value| {
        matches!(x.kind, Kind::Packet(_)) && y.kind == Kind::PacketEnd
            || matches!(x.kind, Kind::PacketMeta(_)) && is_packet_start(y)
    };
    pair(a, b) || pair(b, a)
}

fn is_packet_start(value: &Value) -> bool {
    matches!(value.kind, Kind::Packet(_)) && value.off == 0 && value.num.as_constant() == Some(0)
}

fn packet_outcome(op: CmpOp, a: &Value, b: &Value) -> Option<bool> {
    let (range, op) = match (a.kind, b.kind) {
        (Kind::Packet(range), Kind::PacketEnd) => (range, op),
        (Kind::PacketEnd, Kind::Packet(range)) => (range, mirror(op)),
        _ => return None,
    };
    match (op, range) {
        (CmpOp::Gt | CmpOp::Le, BEYOND_END) => Some(op == CmpOp::Gt),
        (CmpOp::Ge | CmpOp::Lt, BEYOND_END | AT_END) => Some(op == CmpOp::Ge),
        _ => None,
    }
}

fn mirror(op: CmpOp) -> CmpOp {
    match op {
        CmpOp::Gt => CmpOp::Lt,
        CmpOp::Lt => CmpOp::Gt,
        CmpOp::Ge => CmpOp::Le,
        CmpOp::Le => CmpOp::Ge,
        CmpOp::Sgt => CmpOp::Slt,
        CmpOp::Slt => CmpOp::Sgt,
        CmpOp::Sge => CmpOp::Sle,
        CmpOp::Sle => CmpOp::Sge,
        CmpOp::Eq | CmpOp::Ne | CmpOp::Set => op,
    }
}

/// What comparing a packet pointer with the packet's end shows:
///
/// ```text
///  p <= end   p.off bytes are there          p > end   p is past the end
///  p <  end   one more                       p >= end  p is at or past it
/// ```
fn learn_packet(state: &mut State, op: CmpOp, taken: bool, (lhs, a): (Reg, &Value), (rhs, b): (Reg, &Value)) {
    if !is_packet_check(a, b) {
        return;
    }
    let lhs_is_packet = b.kind == Kind::PacketEnd || matches!(a.kind, Kind::PacketMeta(_));
    let (reg, pointer, op) = if lhs_is_packet { (lhs, a, op) } else { (rhs, b, mirror(op)) };
    let op = if taken { Some(op) } else { op.inverse() };
    match op {
        Some(CmpOp::Le) => check_bytes(state, pointer, 0),
        Some(CmpOp::Lt) => check_bytes(state, pointer, 1),
        Some(CmpOp::Gt) => past_end(state, reg, BEYOND_END),
        Some(CmpOp::Ge) => past_end(state, reg, AT_END),
        _ => {}
    }
}

fn check_bytes(state: &mut State, pointer: &Value, more: i32) {
    let limit = rtbpf_abi::limits::MAX_PACKET_OFF as u64;
    let off = pointer.off;
    if off < 0 || off == 0 && more == 1 {
        return;
    }
    if pointer.num.umax() > limit || pointer.num.umax() + off as u64 > limit {
        return;
    }
    let bytes = off + more;
    let (id, is_meta) = (pointer.id, matches!(pointer.kind, Kind::PacketMeta(_)));
    state.rewrite(|value| {
        let kind = match value.kind {
            Kind::Packet(range) if !is_meta && value.id == id => Kind::Packet(range.max(bytes)),
            Kind::PacketMeta(range) if is_meta && value.id == id => Kind::PacketMeta(range.max(bytes)),
            _ => return None,
        };
        (kind != value.kind).then_some(Value { kind, ..*value })
    });
}

fn past_end(state: &mut State, reg: Reg, range: i32) {
    let value = *state.reg(reg);
    if matches!(value.kind, Kind::Packet(_)) {
        state.set(reg, Value { kind: Kind::Packet(range), ..value });
    }
}

/// `reg` is refined to `num`; so is every number linked to it.
fn learn(state: &mut State, reg: Reg, old: &Value, num: Scalar) {
    let new = Value { num, ..*old };
    state.set(reg, new);
    if old.id == 0 || num == old.num {
        return;
    }
    state.rewrite(|value| {
        if !value.is_scalar() || value.id != old.id {
            return None;
        }
        let (width, apart) = apart(old, value)?;
        let num = match apart {
            0 => num,
            apart => {
                let by = Scalar::constant(apart as u64);
                num.alu(rtbpf_isa::AluOp::Add, width, &by, crate::domain::Precision::Full)
            }
        };
        (num != value.num).then_some(Value { num, ..*value })
    });
}

/// What makes a linked number of another: a constant to add, and in which width. `None` for sums in two widths.
fn apart(from: &Value, to: &Value) -> Option<(Width, i64)> {
    let width = match (from.plus, to.plus) {
        (Some(from), Some(to)) if from != to => return None,
        (Some(width), Some(_) | None) | (None, Some(width)) => width,
        (None, None) => Width::W64,
    };
    let delta = |value: &Value| if value.plus.is_some() { i64::from(value.off) } else { 0 };
    Some((width, delta(to).wrapping_sub(delta(from))))
}
