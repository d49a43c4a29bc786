//! The instruction table. One row is one operation; its form yields the concrete opcodes (32 or 64 bits, register or
//! immediate), so that some 90 rows describe every encoding.
//!
//! Sources: RFC 9669; the Linux documentation for what came after it (load-acquire, store-release, `may_goto`,
//! `addr_space_cast`). `since` is LLVM's `-mcpu` version that may emit the row.

use crate::insn::{AluOp, AtomicOp, CmpOp, Size, Swap};

/// Conformance groups of RFC 9669 §2.4, and one for what Linux added later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Group {
    Base32,
    Base64,
    DivMul32,
    DivMul64,
    Atomic32,
    Atomic64,
    Packet,
    Linux,
}

/// The version of the instruction set (LLVM's `-mcpu=`) that introduced a row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs)]
pub enum Since {
    V1,
    V2,
    V3,
    V4,
}

/// The field, beyond the opcode, that selects a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// The opcode says it all.
    None,
    /// The offset has this value.
    Off(i16),
    /// The immediate has this value.
    Imm(i32),
    /// The source field has this value.
    Src(u8),
}

/// What a wide load's pseudo source means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Wide {
    Const,
    MapFd,
    MapFdValue,
    Var,
    Func,
    MapIndex,
    MapIndexValue,
}

/// What a call's pseudo source means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Target {
    Helper,
    Local,
    Kfunc,
}

/// The shape of an instruction, with what tells siblings apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Form {
    /// 32 and 64 bits × register and immediate.
    Alu(AluOp),
    /// 32 and 64 bits; register only.
    MovSx(Size),
    Neg,
    Swap(Swap, Size),
    /// Both directions; the immediate tells which.
    AddrCast,
    Imm(Wide),
    Load(Size, bool),
    /// Register and immediate.
    Store(Size),
    /// 32 and 64 bits.
    Atomic(AtomicOp, bool),
    LoadAcquire,
    StoreRelease,
    PacketAbs(Size),
    PacketInd(Size),
    Jump,
    JumpLong,
    /// 32 and 64 bits × register and immediate.
    Branch(CmpOp),
    MayGoto,
    Call(Target),
    CallReg,
    Exit,
}

/// One operation.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Name of the operation; the assembler's mnemonic stem.
    pub name: &'static str,
    /// Shape and meaning.
    pub form: Form,
    /// Operation bits of the opcode, in place.
    pub code: u8,
    /// Selecting field.
    pub rule: Rule,
    /// Conformance group; the 64-bit one where a form has both widths.
    pub group: Group,
    /// Version that introduced it.
    pub since: Since,
}

use Group::*;
use Since::*;

const fn alu(name: &'static str, op: AluOp, code: u8, off: i16, group: Group, since: Since) -> Row {
    let rule = match op {
        AluOp::Add | AluOp::Sub | AluOp::Mul | AluOp::Or | AluOp::And | AluOp::Xor => Rule::None,
        AluOp::Lsh | AluOp::Rsh | AluOp::Arsh => Rule::None,
        AluOp::Div | AluOp::Mod | AluOp::Sdiv | AluOp::Smod | AluOp::Mov => Rule::Off(off),
    };
    Row { name, form: Form::Alu(op), code, rule, group, since }
}

const fn movsx(name: &'static str, from: Size) -> Row {
    Row { name, form: Form::MovSx(from), code: 0xb0, rule: Rule::Off(from.bits() as i16), group: Base64, since: V4 }
}

const fn swap(name: &'static str, kind: Swap, size: Size, code: u8, since: Since) -> Row {
    Row { name, form: Form::Swap(kind, size), code, rule: Rule::Imm(size.bits() as i32), group: Base64, since }
}

const fn cmp(name: &'static str, op: CmpOp, code: u8, since: Since) -> Row {
    Row { name, form: Form::Branch(op), code, rule: Rule::None, group: Base64, since }
}

const fn wide(name: &'static str, kind: Wide, src: u8) -> Row {
    Row { name, form: Form::Imm(kind), code: 0x18, rule: Rule::Src(src), group: Base64, since: V1 }
}

const fn load(name: &'static str, size: Size, signed: bool, code: u8, since: Since) -> Row {
    Row { name, form: Form::Load(size, signed), code, rule: Rule::None, group: Base64, since }
}

const fn store(name: &'static str, size: Size, code: u8) -> Row {
    Row { name, form: Form::Store(size), code, rule: Rule::None, group: Base64, since: V1 }
}

const fn atomic(name: &'static str, op: AtomicOp, fetch: bool, imm: i32, since: Since) -> Row {
    Row { name, form: Form::Atomic(op, fetch), code: 0xc3, rule: Rule::Imm(imm), group: Atomic64, since }
}

const fn one(name: &'static str, form: Form, code: u8, rule: Rule, group: Group, since: Since) -> Row {
    Row { name, form, code, rule, group, since }
}

/// The table.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    //  name   meaning      code  off group     since
    alu("add",  AluOp::Add,  0x00, 0, Base64,   V1),
    alu("sub",  AluOp::Sub,  0x10, 0, Base64,   V1),
    alu("mul",  AluOp::Mul,  0x20, 0, DivMul64, V1),
    alu("div",  AluOp::Div,  0x30, 0, DivMul64, V1),
    alu("sdiv", AluOp::Sdiv, 0x30, 1, DivMul64, V4),
    alu("or",   AluOp::Or,   0x40, 0, Base64,   V1),
    alu("and",  AluOp::And,  0x50, 0, Base64,   V1),
    alu("lsh",  AluOp::Lsh,  0x60, 0, Base64,   V1),
    alu("rsh",  AluOp::Rsh,  0x70, 0, Base64,   V1),
    one("neg",  Form::Neg,   0x80, Rule::None, Base64, V1),
    alu("mod",  AluOp::Mod,  0x90, 0, DivMul64, V1),
    alu("smod", AluOp::Smod, 0x90, 1, DivMul64, V4),
    alu("xor",  AluOp::Xor,  0xa0, 0, Base64,   V1),
    alu("mov",  AluOp::Mov,  0xb0, 0, Base64,   V1),
    alu("arsh", AluOp::Arsh, 0xc0, 0, Base64,   V1),
    movsx("movsx8",  Size::B),
    movsx("movsx16", Size::H),
    movsx("movsx32", Size::W),
    swap("le16",    Swap::ToLe,  Size::H, 0xd4, V1),
    swap("le32",    Swap::ToLe,  Size::W, 0xd4, V1),
    swap("le64",    Swap::ToLe,  Size::D, 0xd4, V1),
    swap("be16",    Swap::ToBe,  Size::H, 0xdc, V1),
    swap("be32",    Swap::ToBe,  Size::W, 0xdc, V1),
    swap("be64",    Swap::ToBe,  Size::D, 0xdc, V1),
    swap("bswap16", Swap::Bswap, Size::H, 0xd7, V4),
    swap("bswap32", Swap::Bswap, Size::W, 0xd7, V4),
    swap("bswap64", Swap::Bswap, Size::D, 0xd7, V4),
    one("addr_space_cast", Form::AddrCast, 0xbf, Rule::Off(1), Linux, V4),

    one("ja",   Form::Jump,     0x05, Rule::None, Base64, V1),
    one("jal",  Form::JumpLong, 0x06, Rule::None, Base64, V4),
    cmp("jeq",  CmpOp::Eq,  0x10, V1),
    cmp("jgt",  CmpOp::Gt,  0x20, V1),
    cmp("jge",  CmpOp::Ge,  0x30, V1),
    cmp("jset", CmpOp::Set, 0x40, V1),
    cmp("jne",  CmpOp::Ne,  0x50, V1),
    cmp("jsgt", CmpOp::Sgt, 0x60, V1),
    cmp("jsge", CmpOp::Sge, 0x70, V1),
    cmp("jlt",  CmpOp::Lt,  0xa0, V2),
    cmp("jle",  CmpOp::Le,  0xb0, V2),
    cmp("jslt", CmpOp::Slt, 0xc0, V2),
    cmp("jsle", CmpOp::Sle, 0xd0, V2),
    one("may_goto",   Form::MayGoto,              0xe5, Rule::None,   Linux,  V4),
    one("call",       Form::Call(Target::Helper), 0x85, Rule::Src(0), Base64, V1),
    one("call_local", Form::Call(Target::Local),  0x85, Rule::Src(1), Base64, V1),
    one("call_kfunc", Form::Call(Target::Kfunc),  0x85, Rule::Src(2), Base64, V1),
    one("callx",      Form::CallReg,              0x8d, Rule::None,   Base64, V4),
    one("exit",       Form::Exit,                 0x95, Rule::None,   Base64, V1),

    wide("lddw",                 Wide::Const,         0),
    wide("lddw_map_fd",          Wide::MapFd,         1),
    wide("lddw_map_value",       Wide::MapFdValue,    2),
    wide("lddw_var",             Wide::Var,           3),
    wide("lddw_func",            Wide::Func,          4),
    wide("lddw_map_index",       Wide::MapIndex,      5),
    wide("lddw_map_index_value", Wide::MapIndexValue, 6),
    one("ldabsw", Form::PacketAbs(Size::W), 0x20, Rule::None, Packet, V1),
    one("ldabsh", Form::PacketAbs(Size::H), 0x28, Rule::None, Packet, V1),
    one("ldabsb", Form::PacketAbs(Size::B), 0x30, Rule::None, Packet, V1),
    one("ldindw", Form::PacketInd(Size::W), 0x40, Rule::None, Packet, V1),
    one("ldindh", Form::PacketInd(Size::H), 0x48, Rule::None, Packet, V1),
    one("ldindb", Form::PacketInd(Size::B), 0x50, Rule::None, Packet, V1),
    load("ldxw",   Size::W, false, 0x61, V1),
    load("ldxh",   Size::H, false, 0x69, V1),
    load("ldxb",   Size::B, false, 0x71, V1),
    load("ldxdw",  Size::D, false, 0x79, V1),
    load("ldxsw",  Size::W, true,  0x81, V4),
    load("ldxsh",  Size::H, true,  0x89, V4),
    load("ldxsb",  Size::B, true,  0x91, V4),
    store("stw",   Size::W, 0x62),
    store("sth",   Size::H, 0x6a),
    store("stb",   Size::B, 0x72),
    store("stdw",  Size::D, 0x7a),
    //     name             operation           fetch  imm    since
    atomic("atomic_add",    AtomicOp::Add,      false, 0x00,  V1),
    atomic("atomic_or",     AtomicOp::Or,       false, 0x40,  V3),
    atomic("atomic_and",    AtomicOp::And,      false, 0x50,  V3),
    atomic("atomic_xor",    AtomicOp::Xor,      false, 0xa0,  V3),
    atomic("fetch_add",     AtomicOp::Add,      true,  0x01,  V3),
    atomic("fetch_or",      AtomicOp::Or,       true,  0x41,  V3),
    atomic("fetch_and",     AtomicOp::And,      true,  0x51,  V3),
    atomic("fetch_xor",     AtomicOp::Xor,      true,  0xa1,  V3),
    atomic("xchg",          AtomicOp::Xchg,     true,  0xe1,  V3),
    atomic("cmpxchg",       AtomicOp::Cmpxchg,  true,  0xf1,  V3),
    one("load_acquire",  Form::LoadAcquire,  0xc3, Rule::Imm(0x100), Linux, V4),
    one("store_release", Form::StoreRelease, 0xc3, Rule::Imm(0x110), Linux, V4),
];

const ALU: u8 = 0x04;
const ALU64: u8 = 0x07;
const JMP: u8 = 0x05;
const JMP32: u8 = 0x06;
const REG: u8 = 0x08;

/// The opcodes of a row, and how many.
pub const fn opcodes(row: &Row) -> ([u8; 4], usize) {
    let c = row.code;
    match row.form {
        Form::Alu(_) => ([c | ALU, c | ALU | REG, c | ALU64, c | ALU64 | REG], 4),
        Form::MovSx(Size::W) => ([c | ALU64 | REG, 0, 0, 0], 1),
        Form::MovSx(_) => ([c | ALU | REG, c | ALU64 | REG, 0, 0], 2),
        Form::Neg => ([c | ALU, c | ALU64, 0, 0], 2),
        Form::Branch(_) => ([c | JMP, c | JMP | REG, c | JMP32, c | JMP32 | REG], 4),
        Form::Store(_) => ([c, c + 1, 0, 0], 2),
        Form::Atomic(_, _) => ([0xc3, 0xdb, 0, 0], 2),
        Form::LoadAcquire | Form::StoreRelease => ([0xc3, 0xcb, 0xd3, 0xdb], 4),
        Form::Swap(_, _) | Form::AddrCast | Form::Imm(_) | Form::Load(_, _) => ([c, 0, 0, 0], 1),
        Form::PacketAbs(_) | Form::PacketInd(_) => ([c, 0, 0, 0], 1),
        Form::Jump | Form::JumpLong | Form::MayGoto => ([c, 0, 0, 0], 1),
        Form::Call(_) | Form::CallReg | Form::Exit => ([c, 0, 0, 0], 1),
    }
}
