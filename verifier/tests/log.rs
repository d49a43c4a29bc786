//! The log as Linux 6.18 prints it: lines that existing viewers parse.

use rtbpf_abi::ProgType;
use rtbpf_isa::{asm, decode};
use rtbpf_verifier::{Assumptions, Options, verify};

fn log(text: &str, log_level: u32) -> String {
    let program = decode(&asm::assemble(text).expect("the case assembles").slots).expect("the case decodes");
    let options = Options { log_level, ..Options::default() };
    match verify(program, Assumptions::new(ProgType::SchedCls), &options) {
        Ok(verified) => verified.log().to_owned(),
        Err(rejection) => rejection.log,
    }
}

#[track_caller]
fn check(text: &str, log_level: u32, lines: &str) {
    let expected: Vec<&str> = lines.lines().skip(1).map(|line| line.strip_prefix("        ").unwrap_or(line)).collect();
    assert_eq!(log(text, log_level).lines().collect::<Vec<_>>(), expected);
}

/// A subprogram, a packet, spills, numbers of all kinds.
const KINDS: &str = "
    r2 = *(u32 *)(r1 + 0)
    r3 = *(u32 *)(r1 + 76)
    r4 = *(u32 *)(r1 + 80)
    r5 = r3
    r5 += 14
    if r5 > r4 goto out
    r6 = *(u8 *)(r3 + 3)
    w7 = w6
    w7 += 3
    *(u64 *)(r10 - 8) = r1
    *(u32 *)(r10 - 16) = 0
    r8 = r10
    r8 += -16
    r8 += r6
    r9 = -70000
    call sub
out:
    r0 = 0
    exit
sub:
    r0 = *(u64 *)(r10 - 8)
    exit";

#[test]
fn level_2_shows_every_instruction_and_what_it_touched() {
    check(
        KINDS,
        2,
        "
        func#0 @0
        func#1 @18
        0: R1=ctx() R10=fp0
        0: (61) r2 = *(u32 *)(r1 +0)          ; R1=ctx() R2=scalar(smin=0,smax=umax=0xffffffff,var_off=(0x0; 0xffffffff))
        1: (61) r3 = *(u32 *)(r1 +76)         ; R1=ctx() R3=pkt(r=0)
        2: (61) r4 = *(u32 *)(r1 +80)         ; R1=ctx() R4=pkt_end()
        3: (bf) r5 = r3                       ; R3=pkt(r=0) R5=pkt(r=0)
        4: (07) r5 += 14                      ; R5=pkt(off=14,r=0)
        5: (2d) if r5 > r4 goto pc+10         ; R4=pkt_end() R5=pkt(off=14,r=14)
        6: (71) r6 = *(u8 *)(r3 +3)           ; R3=pkt(r=14) R6=scalar(smin=smin32=0,smax=umax=smax32=umax32=255,var_off=(0x0; 0xff))
        7: (bc) w7 = w6                       ; R6=scalar(id=1,smin=smin32=0,smax=umax=smax32=umax32=255,var_off=(0x0; 0xff)) R7=scalar(id=1,smin=smin32=0,smax=umax=smax32=umax32=255,var_off=(0x0; 0xff))
        8: (04) w7 += 3                       ; R7=scalar(id=1+3,smin=umin=smin32=umin32=3,smax=umax=smax32=umax32=258,var_off=(0x0; 0x1ff))
        9: (7b) *(u64 *)(r10 -8) = r1         ; R1=ctx() R10=fp0 fp-8=ctx()
        10: (62) *(u32 *)(r10 -16) = 0        ; R10=fp0 fp-16=????0
        11: (bf) r8 = r10                     ; R8=fp0 R10=fp0
        12: (07) r8 += -16                    ; R8=fp-16
        13: (0f) r8 += r6                     ; R6=scalar(id=1,smin=smin32=0,smax=umax=smax32=umax32=255,var_off=(0x0; 0xff)) R8=fp(off=-16,smin=smin32=0,smax=umax=smax32=umax32=255,var_off=(0x0; 0xff))
        14: (b7) r9 = -70000                  ; R9=0xfffffffffffeee90
        15: (85) call pc+2
        caller:
         R6=scalar(id=1,smin=smin32=0,smax=umax=smax32=umax32=255,var_off=(0x0; 0xff)) R7=scalar(id=1+3,smin=umin=smin32=umin32=3,smax=umax=smax32=umax32=258,var_off=(0x0; 0x1ff)) R8=fp(off=-16,smin=smin32=0,smax=umax=smax32=umax32=255,var_off=(0x0; 0xff)) R9=0xfffffffffffeee90 R10=fp0 fp-8=ctx() fp-16=????0
        callee:
         frame1: R1=ctx() R2=scalar(smin=0,smax=umax=0xffffffff,var_off=(0x0; 0xffffffff)) R3=pkt(r=14) R4=pkt_end() R5=pkt(off=14,r=14) R10=fp0
        18: frame1: R1=ctx() R2=scalar(smin=0,smax=umax=0xffffffff,var_off=(0x0; 0xffffffff)) R3=pkt(r=14) R4=pkt_end() R5=pkt(off=14,r=14) R10=fp0
        18: (79) r0 = *(u64 *)(r10 -8)        ; frame1: R0=scalar() R10=fp0
        19: (95) exit
        returning from callee:
         frame1: R0=scalar() R1=ctx() R2=scalar(smin=0,smax=umax=0xffffffff,var_off=(0x0; 0xffffffff)) R3=pkt(r=14) R4=pkt_end() R5=pkt(off=14,r=14) R10=fp0
        to caller at 16:
         R0=scalar() R6=scalar(id=1,smin=smin32=0,smax=umax=smax32=umax32=255,var_off=(0x0; 0xff)) R7=scalar(id=1+3,smin=umin=smin32=umin32=3,smax=umax=smax32=umax32=258,var_off=(0x0; 0x1ff)) R8=fp(off=-16,smin=smin32=0,smax=umax=smax32=umax32=255,var_off=(0x0; 0xff)) R9=0xfffffffffffeee90 R10=fp0 fp-8=ctx() fp-16=????0

        from 19 to 16: R0=scalar() R6=scalar(id=1,smin=smin32=0,smax=umax=smax32=umax32=255,var_off=(0x0; 0xff)) R7=scalar(id=1+3,smin=umin=smin32=umin32=3,smax=umax=smax32=umax32=258,var_off=(0x0; 0x1ff)) R8=fp(off=-16,smin=smin32=0,smax=umax=smax32=umax32=255,var_off=(0x0; 0xff)) R9=0xfffffffffffeee90 R10=fp0 fp-8=ctx() fp-16=????0
        16: (b7) r0 = 0                       ; R0=0
        17: (95) exit

        from 5 to 16: R1=ctx() R2=scalar(smin=0,smax=umax=0xffffffff,var_off=(0x0; 0xffffffff)) R3=pkt(r=0) R4=pkt_end() R5=pkt(off=14,r=0xfffffffffffffffe) R10=fp0
        16: R1=ctx() R2=scalar(smin=0,smax=umax=0xffffffff,var_off=(0x0; 0xffffffff)) R3=pkt(r=0) R4=pkt_end() R5=pkt(off=14,r=0xfffffffffffffffe) R10=fp0
        16: (b7) r0 = 0                       ; R0=0
        17: (95) exit
        processed 22 insns (limit 1000000) max_states_per_insn 0 total_states 1 peak_states 1 mark_read 0",
    );
}

#[test]
fn what_helpers_write_to_the_stack_is_shown_with_the_call() {
    check(
        "
    r2 = 0
    r3 = r10
    r3 += -16
    r4 = 12
    call 26
    r0 = 0
    exit",
        2,
        "
        func#0 @0
        0: R1=ctx() R10=fp0
        0: (b7) r2 = 0                        ; R2=0
        1: (bf) r3 = r10                      ; R3=fp0 R10=fp0
        2: (07) r3 += -16                     ; R3=fp-16
        3: (b7) r4 = 12                       ; R4=12
        4: (85) call bpf_skb_load_bytes#26    ; R0=scalar() fp-8=????mmmm fp-16=mmmmmmmm
        5: (b7) r0 = 0                        ; R0=0
        6: (95) exit
        processed 7 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0",
    );
}

#[test]
fn level_1_keeps_the_path_to_the_rejection() {
    check(
        "
    r6 = *(u32 *)(r1 + 0)
    r0 = 0
    if r6 > 3 goto big
    exit
big:
    r0 = *(u32 *)(r6 + 0)
    exit",
        1,
        "
        0: R1=ctx() R10=fp0
        0: (61) r6 = *(u32 *)(r1 +0)          ; R1=ctx() R6=scalar(smin=0,smax=umax=0xffffffff,var_off=(0x0; 0xffffffff))
        1: (b7) r0 = 0                        ; R0=0
        2: (25) if r6 > 0x3 goto pc+1 4: R0=0 R1=ctx() R6=scalar(smin=umin=umin32=4,smax=umax=0xffffffff,var_off=(0x0; 0xffffffff)) R10=fp0
        4: (61) r0 = *(u32 *)(r6 +0)
        R6 invalid mem access 'scalar'
        processed 5 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0",
    );
}

#[test]
fn level_1_of_a_program_that_is_accepted_is_its_statistics() {
    let log = log(KINDS, 1);
    assert!(log.starts_with("processed 22 insns"), "{log}");
}
