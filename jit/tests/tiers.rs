//! Both tiers against the reference, on this machine, with and without its optional instructions.

mod harness;

use harness::*;
use rtbpf_abi::frame::FaultCode;
use rtbpf_isa::*;
use rtbpf_jit::{Options, Techniques};

fn options() -> Vec<Options> {
    let Some(host) = Options::host() else { return Vec::new() };
    let plain = Options { features: rtbpf_jit::Features::default(), ..host };
    [host, plain].into_iter().flat_map(|o| [o, Options { optimise: None, ..o }]).collect()
}

fn check(insns: &[Insn]) {
    let ctx = std::array::from_fn(|i| (i as u64 + 1).wrapping_mul(0x1234_5678_9abc_def1));
    let want = reference::reference(&program(insns), ctx, None);
    for options in options() {
        let got = run(&native(insns, &options), ctx, i64::MAX, &[]);
        assert_eq!(got, want, "{options:?} {insns:#?}");
    }
}

use rtbpf_isa::Operand::{Imm as I, Reg as R};
use rtbpf_isa::Reg::*;
use rtbpf_isa::Width::*;

fn mov(dst: Reg, src: Operand) -> Insn {
    Insn::Alu { op: AluOp::Mov, width: W64, dst, src }
}

fn imm64(dst: Reg, value: u64) -> Insn {
    Insn::Imm { dst, value: Imm64::Const([value as u32, (value >> 32) as u32]) }
}

const EDGES: [u64; 12] =
    [0, 1, 2, 7, 63, u64::MAX, i64::MAX as u64, 1 << 63, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0xdead_beef_0000_0003];

#[test]
fn arithmetic_agrees_on_edges_for_every_register_pair() {
    use AluOp::*;
    for op in [Add, Sub, Mul, Div, Mod, Sdiv, Smod, Or, And, Xor, Lsh, Rsh, Arsh, Mov] {
        for width in [W32, W64] {
            // One program a pair of registers, all pairs of edges in it, results folded into the context.
            for dst in &Reg::ALL[..10] {
                for src in &Reg::ALL[..10] {
                    let free: Vec<Reg> = Reg::ALL[..10].iter().copied().filter(|r| r != dst && r != src).collect();
                    let (ctx, sum) = (free[0], free[1]);
                    let mut insns = vec![mov(ctx, R(R1)), mov(sum, I(0))];
                    for (i, a) in EDGES.iter().enumerate() {
                        let b = EDGES[(i * 5 + *dst as usize + *src as usize) % EDGES.len()];
                        insns.extend([imm64(*src, b), imm64(*dst, *a)]);
                        insns.push(Insn::Alu { op, width, dst: *dst, src: R(*src) });
                        insns.push(Insn::Alu { op: Mul, width: W64, dst: sum, src: I(31) });
                        insns.push(Insn::Alu { op: Add, width: W64, dst: sum, src: R(*dst) });
                    }
                    insns.push(Insn::Store { size: Size::D, base: ctx, off: 0, src: R(sum) });
                    insns.push(Insn::Store { size: Size::D, base: ctx, off: 8, src: R(*src) });
                    insns.extend([mov(R0, R(sum)), Insn::Exit]);
                    check(&insns);
                }
            }
        }
    }
}

#[test]
fn immediates_agree_on_edges() {
    use AluOp::*;
    let imms = [0, 1, -1, 2, 3, 5, 7, 10, 31, 32, 63, 64, 127, 128, -128, -129, 255, 65535, i32::MAX, i32::MIN];
    for op in [Add, Sub, Mul, Div, Mod, Sdiv, Smod, Or, And, Xor, Lsh, Rsh, Arsh, Mov] {
        for width in [W32, W64] {
            for dst in [R0, R3, R4, R7, R9] {
                let ctx = if dst == R9 { R8 } else { R9 };
                let mut insns = vec![mov(ctx, R(R1)), mov(R5, I(0))];
                for imm in imms {
                    for a in EDGES {
                        insns.push(imm64(dst, a));
                        insns.push(Insn::Alu { op, width, dst, src: I(imm) });
                        insns.push(Insn::Alu { op: Mul, width: W64, dst: R5, src: I(31) });
                        insns.push(Insn::Alu { op: Add, width: W64, dst: R5, src: R(dst) });
                    }
                }
                insns.extend([mov(R0, R(R5)), Insn::Exit]);
                check(&insns);
            }
        }
    }
}

#[test]
fn branches_agree_on_edges() {
    use CmpOp::*;
    for op in [Eq, Ne, Set, Gt, Ge, Lt, Le, Sgt, Sge, Slt, Sle] {
        for width in [W32, W64] {
            let mut insns = vec![mov(R0, I(0))];
            for a in EDGES {
                for b in EDGES {
                    insns.extend([imm64(R3, a), imm64(R8, b)]);
                    for rhs in [R(R8), I(b as i32)] {
                        insns.push(Insn::Alu { op: AluOp::Lsh, width: W64, dst: R0, src: I(1) });
                        insns.push(Insn::Branch { op, width, lhs: R3, rhs, to: 1 });
                        insns.push(Insn::Alu { op: AluOp::Xor, width: W64, dst: R0, src: I(0x55) });
                    }
                }
            }
            insns.push(Insn::Exit);
            check(&insns);
        }
    }
}

/// Of each operation, behind each comparison, on operands that are still pending and on operands that stand still.
#[test]
fn operations_under_a_branch_agree() {
    use AluOp::*;
    for (at, op) in [Mov, Add, Sub, Or, And, Xor, Lsh, Rsh, Arsh, Mul].into_iter().enumerate() {
        for width in [W32, W64] {
            let mut insns = vec![mov(R0, I(0))];
            for (number, (cmp, a)) in CmpOp::ALL.into_iter().flat_map(|cmp| EDGES.map(|a| (cmp, a))).enumerate() {
                let src = [R(R4), I(5), R(R3), I(-5), R(R5)][(number + at) % 5];
                let rhs = [R(R4), I(7), R(R5), R(R3)][number % 4];
                insns.extend([imm64(R3, a), imm64(R4, EDGES[number % 7]), mov(R5, R(R3))]);
                if number % 3 == 0 {
                    insns.push(Insn::Alu { op: Add, width: W64, dst: R5, src: I(number as i32) });
                    insns.push(Insn::Alu { op: Mov, width: W32, dst: R4, src: R(R5) });
                }
                let (compared, lhs) = ([W32, W64][number / 5 % 2], [R3, R5][number % 2]);
                let jumps = number % 7 < 3;
                insns.push(Insn::Branch { op: cmp, width: compared, lhs, rhs, to: if jumps { 3 } else { 1 } });
                insns.push(Insn::Alu { op, width, dst: [R3, R5, R4][number % 3], src });
                if jumps {
                    insns.extend([Insn::Jump { to: 1, long: false }, mov(R0, I(0))]);
                }
                insns.push(Insn::Alu { op: Mul, width: W64, dst: R0, src: I(31) });
                insns.extend([R3, R4, R5].map(|r| Insn::Alu { op: Add, width: W64, dst: R0, src: R(r) }));
            }
            insns.push(Insn::Exit);
            check(&insns);
        }
    }
}

/// Twice the same comparison, with what one or neither of its ways changes in between.
#[test]
fn branches_on_a_decided_condition_agree() {
    for between in 0..5 {
        let mut insns = vec![mov(R0, I(0)), mov(R7, I(1)), mov(R8, I(2))];
        for (number, (op, a)) in CmpOp::ALL.into_iter().flat_map(|op| EDGES.map(|a| (op, a))).enumerate() {
            let (width, rhs) = ([W32, W64][number % 2], [R(R4), I(7)][number / 2 % 2]);
            insns.extend([imm64(R3, a), imm64(R4, EDGES[(number * 5 + 1) % EDGES.len()]), mov(R5, R(R4))]);
            let branch = |to| Insn::Branch { op, width, lhs: R3, rhs, to };
            insns.extend([branch(2), mov(R7, R(R8)), Insn::Alu { op: AluOp::Mul, width: W64, dst: R8, src: I(3) }]);
            let changed = if between == 4 { R3 } else { R7 };
            for step in 0..between {
                insns.push(Insn::Alu { op: AluOp::Add, width: W64, dst: changed, src: I(step + 1) });
            }
            insns.extend([branch(3), Insn::Alu { op: AluOp::Xor, width: W64, dst: R7, src: R(R5) }]);
            let jump = Insn::Jump { to: 1, long: false };
            insns.extend([
                if number % 3 == 0 { jump } else { mov(R8, R(R7)) },
                Insn::Alu { op: AluOp::Add, width: W64, dst: R0, src: I(1) },
            ]);
            insns.push(Insn::Alu { op: AluOp::Mul, width: W64, dst: R0, src: I(31) });
            insns.extend([R3, R4, R5, R7, R8].map(|r| Insn::Alu { op: AluOp::Add, width: W64, dst: R0, src: R(r) }));
        }
        insns.push(Insn::Exit);
        check(&insns);
    }
}

/// Loops whose test stands before a way out that stands before the body, with one jump to the test and with two.
#[test]
fn loops_with_their_test_in_front_agree() {
    let add = |dst, src| Insn::Alu { op: AluOp::Add, width: W64, dst, src };
    for (count, skips) in (0..6).flat_map(|count| [false, true].map(|skips| (count, skips))) {
        let mut insns = vec![mov(R2, I(0)), mov(R0, I(0)), mov(R6, I(5)), Insn::Jump { to: 5, long: false }];
        // The test, on what the body left pending; then the way out.
        insns.extend([mov(R6, R(R2)), add(R6, I(1))]);
        insns.push(Insn::Branch { op: CmpOp::Le, width: W64, lhs: R2, rhs: I(count), to: 2 });
        insns.extend([add(R0, R(R6)), Insn::Exit]);
        for step in 0..12 {
            insns.extend([Insn::Alu { op: AluOp::Mul, width: W64, dst: R0, src: I(3) }, add(R0, I(step))]);
        }
        insns.extend([add(R0, R(R6)), add(R2, I(1))]);
        if skips {
            let to = 4 - insns.len() as i32 - 1;
            insns.push(Insn::Branch { op: CmpOp::Set, width: W64, lhs: R0, rhs: I(1), to });
            insns.push(add(R0, I(7)));
        }
        let to = 4 - insns.len() as i32 - 1;
        insns.push(Insn::Jump { to, long: false });
        check(&insns);
    }
}

#[test]
fn tail_calls_replace_the_program_up_to_the_limit() {
    for options in options() {
        // Counts in the context how often it ran, then calls itself.
        let call = |insns: &mut Vec<Insn>| {
            insns.extend([mov(R2, I(0)), mov(R3, I(0)), Insn::Call(Callee::Helper(12))]);
            insns.extend([mov(R0, I(77)), Insn::Exit]);
        };
        let bump = Insn::Atomic { op: AtomicOp::Add, fetch: false, width: W64, base: R1, off: 0, src: R6 };
        let mut main = vec![mov(R6, I(1)), bump];
        call(&mut main);
        let native_main = native(&main, &options);
        let got = run(&native_main, [0; 32], i64::MAX, &[native_main.entry_address()]);
        assert_eq!((got.r0, got.ctx[0]), (Some(77), 34));

        // The same from a subprogram: its result comes back to its caller.
        let mut sub = vec![mov(R6, I(1)), bump, Insn::Call(Callee::Local { to: 2 })];
        sub.extend([Insn::Alu { op: AluOp::Add, width: W64, dst: R0, src: I(1) }, Insn::Exit]);
        sub.extend([Insn::Store { size: Size::D, base: R10, off: -8, src: I(5) }]);
        call(&mut sub);
        let native_sub = native(&sub, &options);
        // Each level needs a frame of the test's eight.
        let got = run(&native_sub, [0; 32], i64::MAX, &[native_main.entry_address()]);
        assert_eq!((got.r0, got.ctx[0]), (Some(78), 34));
        let got = run(&native_main, [0; 32], i64::MAX, &[]);
        assert_eq!((got.r0, got.ctx[0]), (Some(77), 1));
    }
}

#[test]
fn packet_loads_end_the_frame_out_of_range() {
    for (index, off, want) in [(0, 3, 0x1314), (12, 2, 0x1e1f), (12, 3, 0), (-1, 4, 0x1314)] {
        let insns =
            [mov(R6, R(R1)), mov(R7, I(index)), Insn::Packet { size: Size::H, index: Some(R7), off }, Insn::Exit];
        check(&insns);
        for options in options() {
            assert_eq!(run(&native(&insns, &options), [0; 32], 0, &[]).r0, Some(want));
        }
    }
}

#[test]
fn may_goto_stops_an_endless_loop() {
    let count = Insn::Alu { op: AluOp::Add, width: W64, dst: R0, src: I(1) };
    let insns = [mov(R0, I(0)), Insn::MayGoto { to: 2 }, count, Insn::Jump { to: -3, long: false }, Insn::Exit];
    for options in options() {
        assert_eq!(run(&native(&insns, &options), [0; 32], 0, &[]).r0, Some(8 << 20));
    }
}

#[test]
fn cancelled_and_exhausted_runs_leave_from_any_depth() {
    let spin = Insn::Jump { to: -1, long: false };
    let insns = [mov(R6, R(R1)), Insn::Call(Callee::Local { to: 1 }), Insn::Exit, mov(R7, I(1)), spin, Insn::Exit];
    for mut options in options() {
        options.fuel = true;
        let got = run(&native(&insns, &options), [0; 32], 1_000, &[]);
        assert_eq!((got.r0, got.fault, got.fault_at, got.fuel), (None, FaultCode::OutOfFuel, 4, 0));
    }
}

/// Loops are left with constants pending that are read behind them; behind the second, nobody reads the one in R1.
#[test]
fn what_is_pending_behind_a_loop_is_not_the_next_functions() {
    let add = |dst, src| Insn::Alu { op: AluOp::Add, width: W64, dst, src };
    let counted = |first: i32| {
        let leave = Insn::Branch { op: CmpOp::Eq, width: W64, lhs: R6, rhs: I(0), to: 1 };
        let body = [R1, R4, R5].map(|reg| mov(reg, I(first + reg as i32))).into_iter();
        let insns = body.chain([add(R6, I(-1)), leave, Insn::Jump { to: -6, long: false }, mov(R6, I(3))]);
        insns.collect::<Vec<Insn>>()
    };
    let mut insns: Vec<Insn> = [R0, R1, R2, R3, R4, R5].map(|reg| mov(reg, I(reg as i32 + 7))).into();
    insns.extend([mov(R6, I(3)), Insn::Call(Callee::Local { to: 20 })]);
    insns.extend(counted(20));
    insns.extend([R1, R4, R5].map(|reg| add(R0, R(reg))));
    insns.extend(counted(90));
    insns.extend([add(R0, R(R4)), add(R0, R(R5)), Insn::Exit]);
    assert_eq!(insns.len(), 28);
    insns.extend([Insn::Call(Callee::Helper(MIX)), Insn::Exit]);
    let want = reference::reference(&program(&insns), [0; 32], None);
    assert_eq!(want.trace, [[8, 9, 10, 11, 12]]);
    for options in options() {
        assert_eq!(run(&native(&insns, &options), [0; 32], i64::MAX, &[]), want, "{options:?}");
    }
}

#[test]
fn random_programs_agree_seeded() {
    let mut rng = generate::Rng::new(0x5eed);
    // Emulators run the same test.
    let rounds = if cfg!(target_arch = "aarch64") { 600 } else { 4_000 };
    for round in 0..rounds {
        let mut seed = generate::Rng::new(rng.next());
        let size = 1 + seed.below(60);
        let insns = generate::program(&mut seed, size);
        let ctx = std::array::from_fn(|_| seed.word());
        let model = program(&insns);
        let fuel = seed.chance(2).then(|| seed.below(400) as i64);
        let want = reference::reference(&model, ctx, fuel);
        for mut options in options() {
            options.fuel = fuel.is_some();
            let got = run(&native(&insns, &options), ctx, fuel.unwrap_or(i64::MAX), &[]);
            assert_eq!(got, want, "round {round}, {options:?}: {insns:#?}");
        }
    }
}

#[test]
fn no_page_is_writable_and_executable() {
    let Some(options) = Options::host() else { return };
    let native = native(&[mov(R0, I(0)), Insn::Exit], &options);
    let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux has maps");
    let mut holds = 0;
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').expect("a range and its rights");
        let (start, end) = range.split_once('-').expect("a range");
        let parse = |text| usize::from_str_radix(text, 16).expect("hexadecimal");
        assert!(!(rest.starts_with("rw") && rest.as_bytes()[2] == b'x'), "{line}");
        if (parse(start)..parse(end)).contains(&native.base()) {
            holds += 1;
            assert!(rest.starts_with("r-xp"), "{line}");
        }
    }
    assert_eq!(holds, 1, "the code is mapped once");
}

#[test]
fn programs_agree_with_each_technique_off() {
    let Some(host) = Options::host() else { return };
    let all = Techniques::ALL;
    let settings = [
        Techniques { values: false, ..all },
        Techniques { combine: false, ..all },
        Techniques { magic: false, ..all },
        Techniques { exits: false, ..all },
        Techniques { slots: false, ..all },
        Techniques { layout: false, ..all },
        Techniques { thread: false, ..all },
        Techniques { narrow: false, ..all },
        Techniques { halves: false, ..all },
        Techniques { merge: false, ..all },
        Techniques { fuse: false, ..all },
        Techniques { select: false, ..all },
        Techniques { align: false, ..all },
        Techniques { invert: false, ..all },
        Techniques { unroll: false, ..all },
    ];
    for round in 0..300u64 {
        let mut rng = generate::Rng::new(0x0ff ^ round << 8);
        let size = 1 + rng.below(60);
        let insns = generate::program(&mut rng, size);
        let ctx = std::array::from_fn(|_| rng.word());
        let want = reference::reference(&program(&insns), ctx, None);
        for on in settings {
            let options = Options { optimise: Some(on), ..host };
            assert_eq!(run(&native(&insns, &options), ctx, i64::MAX, &[]), want, "round {round}, {on:?}: {insns:#?}");
        }
    }
}

/// Stores every register but R1, which keeps the context, and returns one of them.
fn finish(insns: &mut Vec<Insn>) {
    for (at, reg) in [R0, R2, R3, R4, R5, R6, R7, R8, R9].into_iter().enumerate() {
        insns.push(Insn::Store { size: Size::D, base: R10, off: -8 * (at as i16 + 1), src: R(reg) });
    }
    insns.push(mov(R0, I(0)));
    for at in 0..9 {
        insns.push(Insn::Load { size: Size::D, signed: false, dst: R2, base: R10, off: -8 * (at + 1) });
        insns.push(Insn::Alu { op: AluOp::Mul, width: W64, dst: R0, src: I(31) });
        insns.push(Insn::Alu { op: AluOp::Add, width: W64, dst: R0, src: R(R2) });
    }
    insns.push(Insn::Exit);
}

/// A program must have the same result in both tiers and with each technique off.
#[track_caller]
fn agrees(insns: &[Insn], what: &str) {
    let ctx = std::array::from_fn(|i| (i as u64 + 1).wrapping_mul(0x8182_8384_8586_8789));
    let want = reference::reference(&program(insns), ctx, None);
    for options in options() {
        for on in [options.optimise, options.optimise.map(|on| Techniques { combine: false, unroll: false, ..on })] {
            let options = Options { optimise: on, ..options };
            let got = run(&native(insns, &options), ctx, i64::MAX, &[]);
            assert_eq!(got, want, "{what}, {options:?}: {insns:#?}");
        }
    }
}

#[test]
fn bytes_put_together_agree() {
    let mut wide = 0;
    for round in 0..rounds(3_000) {
        let mut rng = generate::Rng::new(0xb17e ^ round << 8);
        let rng = &mut rng;
        let bytes = rng.one_of(&[2, 2, 4, 4, 8, 3]);
        let width = if bytes == 8 { W64 } else { rng.one_of(&[W32, W64]) };
        let (network, off) = (rng.chance(2), rng.below(16) as i16);
        let base = rng.one_of(&[R1, R6]);
        let mut insns = vec![mov(R6, R(R1))];
        insns.extend([R0, R2, R3, R4, R5, R7, R8, R9].map(|reg| imm64(reg, rng.word())));
        let mut open = Vec::new();
        for lane in 0..bytes {
            let at = off + if network { bytes - 1 - lane } else { lane };
            // Now and then another byte than the one that belongs there.
            let at = if rng.chance(20) { rng.below(32) as i16 } else { at };
            let mut dst = [R0, R2, R3, R4, R5, R7, R8, R9][lane as usize];
            // The last load may take the base's place.
            if lane == bytes - 1 && base == R6 && rng.chance(2) {
                dst = R6;
            }
            open.push(dst);
            insns.push(Insn::Load { size: Size::B, signed: rng.chance(40), dst, base, off: at });
            if lane != 0 {
                let by = if rng.chance(30) { 12 } else { 8 * i32::from(lane) };
                insns.push(Insn::Alu { op: AluOp::Lsh, width, dst, src: I(by) });
            }
            disturb(rng, &mut insns, off);
        }
        while open.len() > 1 {
            let a = open.remove(rng.below(open.len() as u64) as usize);
            let b = open[0];
            let op = rng.one_of(&[AluOp::Or, AluOp::Or, AluOp::Add, AluOp::Xor]);
            insns.push(Insn::Alu { op, width, dst: b, src: R(a) });
            disturb(rng, &mut insns, off);
        }
        let result = open[0];
        insns.push(Insn::Store { size: Size::D, base: R10, off: -128, src: R(result) });
        // Whether the parts are read again.
        if rng.chance(3) {
            insns.push(mov(R6, I(0)));
            finish(&mut insns);
        } else {
            insns.push(Insn::Load { size: Size::D, signed: false, dst: R0, base: R10, off: -128 });
            insns.push(Insn::Exit);
        }
        agrees(&insns, &format!("round {round}"));
        let Some(host) = Options::host() else { return };
        let apart = Options { optimise: Some(Techniques { combine: false, ..Techniques::ALL }), ..host };
        wide += u64::from(code(&insns, &host).bytes.len() < code(&insns, &apart).bytes.len());
    }
    println!("{wide} of {} sequences became one load", rounds(3_000));
    assert!(wide > rounds(500), "{wide} of {} sequences became one load", rounds(3_000));
}

/// Something in between that may or may not be in the way.
fn disturb(rng: &mut generate::Rng, insns: &mut Vec<Insn>, off: i16) {
    if rng.chance(12) {
        insns.push(Insn::Store { size: Size::B, base: R1, off, src: I(0x5a) });
    }
    if rng.chance(12) {
        insns.push(Insn::Alu { op: AluOp::Add, width: W64, dst: R9, src: R(R3) });
    }
}

#[test]
fn loops_that_count_agree() {
    use CmpOp::*;
    for round in 0..rounds(600) {
        let mut rng = generate::Rng::new(0x100b ^ round << 8);
        let rng = &mut rng;
        let op = rng.one_of(&[Ne, Lt, Le, Slt, Sle, Gt, Ge, Sgt, Sge]);
        let width = rng.one_of(&[W32, W64]);
        let step: i32 = rng.one_of(&[1, 1, 2, 4, 7, -1, -1, -3, -8]);
        let start = rng.one_of(&[0, 1, 5, 100, 1000, -1, -50, i32::MAX - 20, i32::MIN + 9]);
        let rounds = rng.below(80) as i32;
        let limit = start.wrapping_add(step.wrapping_mul(rounds)).wrapping_add(rng.below(3) as i32 - 1);
        let in_register = rng.chance(2);
        // R7 bounds what does not end by itself.
        let mut insns = vec![mov(R7, I(0)), mov(R2, I(start)), mov(R0, I(0)), mov(R8, I(limit)), mov(R3, I(0))];
        insns.extend([imm64(R4, rng.word()), imm64(R5, rng.word()), mov(R6, I(0)), mov(R9, I(0))]);
        let head = insns.len();
        let before = rng.chance(2);
        let counter = if before { R3 } else { R2 };
        if before {
            insns.push(Insn::Alu { op: AluOp::Mov, width: rng.one_of(&[W32, W64]), dst: R3, src: R(R2) });
        }
        let work = [
            Insn::Alu { op: AluOp::Add, width: W64, dst: R0, src: R(R2) },
            Insn::Alu { op: AluOp::Xor, width: W64, dst: R6, src: R(R0) },
            Insn::Alu { op: AluOp::Mov, width: W64, dst: R9, src: R(R4) },
            Insn::Alu { op: AluOp::Mov, width: W32, dst: R4, src: R(R5) },
            Insn::Alu { op: AluOp::Lsh, width: W64, dst: R6, src: I(3) },
        ];
        let len = rng.below(5);
        insns.extend((0..len).map(|_| rng.one_of(&work)));
        let changed = rng.chance(10);
        if changed {
            insns.push(Insn::Alu { op: AluOp::Add, width, dst: R8, src: I(1) });
        }
        insns.push(Insn::Alu { op: AluOp::Add, width: rng.one_of(&[W32, W64]), dst: R2, src: I(step) });
        let rhs = if in_register { R(R8) } else { I(limit) };
        let back = -(insns.len() as i32 - head as i32) - 1;
        insns.push(Insn::Branch { op, width, lhs: counter, rhs, to: back });
        // What a round left narrow, another may have left wide.
        insns.push(Insn::Alu { op: AluOp::Mov, width: W32, dst: R9, src: R(R9) });
        finish(&mut insns);
        let ctx = [0; CTX / 8];
        let fuel = Some(1 << 12);
        let want = reference::reference(&program(&insns), ctx, fuel);
        if want.fault != FaultCode::None {
            continue; // It would run for ever without a meter.
        }
        agrees(&insns, &format!("round {round}"));
    }
}
