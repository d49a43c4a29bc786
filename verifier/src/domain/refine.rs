//! What a comparison tells: whether it can go either way, and what each operand is where it holds.

use rtbpf_isa::{CmpOp, Width, eval};

use super::{Circle, Ends, Scalar, Tnum};

/// The outcome of `a op b`, where all members agree on it.
pub fn decide(op: CmpOp, width: Width, a: &Scalar, b: &Scalar) -> Option<bool> {
    if let (Some(a), Some(b)) = (a.as_constant(), b.as_constant()) {
        return Some(eval::compare(op, width, a, b));
    }
    let ends = (a.ends(width), b.ends(width));
    match width {
        Width::W64 => decide_in(op, (a.tnum(), a.wide()), (b.tnum(), b.wide()), ends),
        Width::W32 => decide_in(op, (a.tnum().truncate(32), a.low()), (b.tnum().truncate(32), b.low()), ends),
    }
}

fn decide_in<const B: u32>(
    op: CmpOp,
    (t, x): (Tnum, Circle<B>),
    (u, y): (Tnum, Circle<B>),
    (a, b): (Ends, Ends),
) -> Option<bool> {
    let equal = || {
        let same = t.as_constant().is_some_and(|x| u.as_constant() == Some(x));
        either(same, x.intersect(y).is_none() || t.intersect(u).is_none())
    };
    match op {
        CmpOp::Eq => equal(),
        CmpOp::Ne => equal().map(|equal| !equal),
        CmpOp::Set => either(t.value() & u.value() != 0, t.max() & u.max() == 0),
        CmpOp::Gt => either(a.umin > b.umax, a.umax <= b.umin),
        CmpOp::Ge => either(a.umin >= b.umax, a.umax < b.umin),
        CmpOp::Lt => either(a.umax < b.umin, a.umin >= b.umax),
        CmpOp::Le => either(a.umax <= b.umin, a.umin > b.umax),
        CmpOp::Sgt => either(a.smin > b.smax, a.smax <= b.smin),
        CmpOp::Sge => either(a.smin >= b.smax, a.smax < b.smin),
        CmpOp::Slt => either(a.smax < b.smin, a.smin >= b.smax),
        CmpOp::Sle => either(a.smax <= b.smin, a.smin > b.smax),
    }
}

fn either(yes: bool, no: bool) -> Option<bool> {
    if yes {
        Some(true)
    } else if no {
        Some(false)
    } else {
        None
    }
}

/// The operands where `a op b` is `outcome`; `None` when it never is.
pub fn refine(op: CmpOp, width: Width, outcome: bool, a: &Scalar, b: &Scalar) -> Option<(Scalar, Scalar)> {
    let op = match (outcome, op.inverse()) {
        (true, _) => op,
        (false, Some(negated)) => negated,
        (false, None) => return no_common_bits(width, a, b),
    };
    match (op, width) {
        (CmpOp::Eq, Width::W64) => {
            let both = a.intersect(b)?;
            Some((both, both))
        }
        (CmpOp::Eq, Width::W32) => {
            let low = a.low().intersect(b.low())?;
            let bits = a.tnum().truncate(32).intersect(b.tnum().truncate(32))?;
            let with = |x: &Scalar| Scalar::from_parts(x.tnum().with_low(32, bits), x.wide(), low);
            Some((with(a)?, with(b)?))
        }
        (CmpOp::Set, _) => Some((common_bits(width, a, b)?, common_bits(width, b, a)?)),
        (_, Width::W64) => {
            let (x, y) = bounds(op, (a.wide(), a.ends(width)), (b.wide(), b.ends(width)))?;
            Some((Scalar::from_parts(a.tnum(), x, a.low())?, Scalar::from_parts(b.tnum(), y, b.low())?))
        }
        (_, Width::W32) => {
            let (x, y) = bounds(op, (a.low(), a.ends(width)), (b.low(), b.ends(width)))?;
            Some((Scalar::from_parts(a.tnum(), a.wide(), x)?, Scalar::from_parts(b.tnum(), b.wide(), y)?))
        }
    }
}

fn bounds<const B: u32>(
    op: CmpOp,
    (a, a_ends): (Circle<B>, Ends),
    (b, b_ends): (Circle<B>, Ends),
) -> Option<(Circle<B>, Circle<B>)> {
    let swapped = |(y, x)| (x, y);
    let (min, max) = (Circle::<B>::SIGN, Circle::<B>::SIGN - 1);
    match op {
        CmpOp::Ne => {
            let x = b.as_constant().map_or(Some(a), |k| a.without(k))?;
            let y = a.as_constant().map_or(Some(b), |k| b.without(k))?;
            Some((x, y))
        }
        CmpOp::Le => {
            Some((a.intersect(Circle::arc(0, b_ends.umax))?, b.intersect(Circle::arc(a_ends.umin, Circle::<B>::MAX))?))
        }
        CmpOp::Lt => {
            let top = b_ends.umax.checked_sub(1)?;
            let bottom = a_ends.umin.checked_add(1).filter(|&x| x <= Circle::<B>::MAX)?;
            Some((a.intersect(Circle::arc(0, top))?, b.intersect(Circle::arc(bottom, Circle::<B>::MAX))?))
        }
        CmpOp::Sle => {
            let x = a.intersect(Circle::arc(min, b_ends.smax as u64))?;
            Some((x, b.intersect(Circle::arc(a_ends.smin as u64, max))?))
        }
        CmpOp::Slt => {
            if b_ends.smax == Circle::<B>::signed(min) || a_ends.smin == Circle::<B>::signed(max) {
                return None;
            }
            let x = a.intersect(Circle::arc(min, (b_ends.smax - 1) as u64))?;
            Some((x, b.intersect(Circle::arc((a_ends.smin + 1) as u64, max))?))
        }
        CmpOp::Gt => bounds(CmpOp::Lt, (b, b_ends), (a, a_ends)).map(swapped),
        CmpOp::Ge => bounds(CmpOp::Le, (b, b_ends), (a, a_ends)).map(swapped),
        CmpOp::Sgt => bounds(CmpOp::Slt, (b, b_ends), (a, a_ends)).map(swapped),
        CmpOp::Sge => bounds(CmpOp::Sle, (b, b_ends), (a, a_ends)).map(swapped),
        CmpOp::Eq => a.intersect(b).map(|both| (both, both)),
        CmpOp::Set => Some((a, b)),
    }
}

/// `a` where it has a bit in common with the single-bit constant `b`.
fn common_bits(width: Width, a: &Scalar, b: &Scalar) -> Option<Scalar> {
    let bit = match width {
        Width::W64 => b.as_constant(),
        Width::W32 => b.low_as_constant().map(u64::from),
    };
    match bit {
        Some(bit) if bit.is_power_of_two() => {
            let tnum = a.tnum().intersect(Tnum::new(bit, !bit))?;
            Scalar::from_parts(tnum, a.wide(), a.low())
        }
        _ => Some(*a),
    }
}

fn no_common_bits(width: Width, a: &Scalar, b: &Scalar) -> Option<(Scalar, Scalar)> {
    let clear = |x: &Scalar, ones: u64| {
        let ones = match width {
            Width::W64 => ones,
            Width::W32 => ones as u32 as u64,
        };
        Scalar::from_parts(x.tnum().intersect(Tnum::new(0, !ones))?, x.wide(), x.low())
    };
    Some((clear(a, b.tnum().value())?, clear(b, a.tnum().value())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::scalar::tests::Draw;

    #[test]
    fn refined_operands_keep_every_sampled_pair() {
        let mut draw = Draw(4);
        for _ in 0..6_000 {
            let ((a, x1, x2), (b, y1, y2)) = (draw.scalar(), draw.scalar());
            for op in CmpOp::ALL {
                for width in [Width::W64, Width::W32] {
                    for (x, y) in [(x1, y1), (x1, y2), (x2, y1), (x2, y2)] {
                        let outcome = eval::compare(op, width, x, y);
                        assert!(decide(op, width, &a, &b).is_none_or(|all| all == outcome), "{x:#x} {op:?} {y:#x}");
                        let (p, q) = refine(op, width, outcome, &a, &b).expect("a pair with this outcome exists");
                        assert!(p.contains(x) && q.contains(y), "{x:#x} {op:?}{width:?} {y:#x}: {p:?} {q:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn ends_hold_every_sampled_number() {
        let mut draw = Draw(9);
        for _ in 0..20_000 {
            let (a, x, y) = draw.scalar();
            for x in [x, y] {
                let wide = a.ends(Width::W64);
                assert!(wide.umin <= x && x <= wide.umax, "{x:#x} {wide:x?} {a:?}");
                assert!(wide.smin <= x as i64 && x as i64 <= wide.smax, "{x:#x} {wide:x?} {a:?}");
                let (low, u, s) = (a.ends(Width::W32), u64::from(x as u32), i64::from(x as i32));
                assert!(low.umin <= u && u <= low.umax && low.smin <= s && s <= low.smax, "{x:#x} {low:x?} {a:?}");
            }
        }
    }

    fn circles() -> impl Iterator<Item = Circle<4>> {
        (0..16).flat_map(|first| (0..16).map(move |last| Circle::arc(first, last)))
    }

    fn ends(c: Circle<4>) -> Ends {
        Ends { umin: c.umin(), umax: c.umax(), smin: c.smin(), smax: c.smax() }
    }

    /// Whether an order comes to the same for all numbers between bounds: they are furthest apart at the corners.
    fn decided_by(op: CmpOp, a: Ends, b: Ends) -> bool {
        let of = |x: u64, y: u64| eval::compare(op, Width::W64, x << 60, y << 60);
        let same = |x: [u64; 2], y: [u64; 2]| {
            let first = of(x[0], y[0]);
            first == of(x[0], y[1]) && first == of(x[1], y[0]) && first == of(x[1], y[1])
        };
        match op {
            CmpOp::Eq | CmpOp::Ne | CmpOp::Set => false,
            CmpOp::Gt | CmpOp::Ge | CmpOp::Lt | CmpOp::Le => same([a.umin, a.umax], [b.umin, b.umax]),
            CmpOp::Sgt | CmpOp::Sge | CmpOp::Slt | CmpOp::Sle => {
                same([a.smin as u64, a.smax as u64], [b.smin as u64, b.smax as u64])
            }
        }
    }

    #[test]
    fn bounds_keep_every_pair_at_4_bits() {
        for op in CmpOp::ALL {
            for a in circles() {
                for b in circles() {
                    let refined = bounds(op, (a, ends(a)), (b, ends(b)));
                    let any = Tnum::new(0, 15);
                    let decided = decide_in(op, (any, a), (any, b), (ends(a), ends(b)));
                    assert!(decided.is_some() || !decided_by(op, ends(a), ends(b)), "{op:?} {a:?} {b:?}");
                    for x in (0..16).filter(|&x| a.contains(x)) {
                        for y in (0..16).filter(|&y| b.contains(y)) {
                            let high = |x: u64| x << 60;
                            let holds = eval::compare(op, Width::W64, high(x), high(y));
                            assert!(decided.is_none_or(|all| all == holds), "{op:?} {a:?} {b:?}");
                            let kept = refined.is_some_and(|(p, q)| p.contains(x) && q.contains(y));
                            assert!(!holds || kept, "{x} {op:?} {y}: {a:?} {b:?} {refined:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_contradiction_is_dead() {
        let small = Scalar::range(0, 5);
        assert_eq!(refine(CmpOp::Gt, Width::W64, true, &small, &Scalar::constant(5)), None);
        assert_eq!(decide(CmpOp::Gt, Width::W64, &small, &Scalar::constant(5)), Some(false));
    }
}
