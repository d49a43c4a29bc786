//! The text of aarch64 instructions, carried out.

/// Registers, flags, and memory of which every byte follows from its address.
#[derive(Clone, PartialEq, Debug)]
pub struct Cpu {
    pub x: [u64; 32],
    /// What a comparison of `a` with `b` left: both, at their width, sign-extended and not.
    flags: Option<(i64, i64, u64, u64)>,
    /// What it, or an addition, carried.
    carry: bool,
    /// Address, bytes and value of what was written, in order.
    pub stores: Vec<(u64, u32, u64)>,
}

/// The byte at an address.
fn byte(address: u64) -> u64 {
    let mixed = (address ^ address >> 29).wrapping_mul(0x9fb2_1c65_1e98_df25);
    mixed >> 56
}

impl Cpu {
    pub fn new(x: [u64; 32]) -> Cpu {
        Cpu { x, flags: None, carry: false, stores: Vec::new() }
    }

    /// What stands at an address, zero-extended.
    pub fn read(&self, address: u64, bytes: u32) -> u64 {
        (0..u64::from(bytes)).rev().fold(0, |value, at| value << 8 | byte(address.wrapping_add(at)))
    }

    pub fn write(&mut self, address: u64, bytes: u32, value: u64) {
        self.stores.push((address, bytes, value & u64::MAX >> (64 - 8 * bytes)));
    }

    /// The value of a register; of a `w` one its low half.
    fn get(&self, name: &str) -> u64 {
        let (kind, number) = name.split_at(1);
        match (kind, number) {
            (_, "zr") => 0,
            ("x", number) => self.x[index(number)],
            ("w", number) => self.x[index(number)] & 0xffff_ffff,
            _ => panic!("no register {name}"),
        }
    }

    fn set(&mut self, name: &str, value: u64) {
        let (kind, number) = name.split_at(1);
        match (kind, number) {
            (_, "zr") => {}
            ("x", number) => self.x[index(number)] = value,
            ("w", number) => self.x[index(number)] = value & 0xffff_ffff,
            _ => panic!("no register {name}"),
        }
    }

    /// A register or an immediate, and what shifts it.
    fn value(&self, operands: &[&str]) -> u64 {
        let value = match operands[0].strip_prefix('#') {
            Some(text) => number(text),
            None => self.get(operands[0]),
        };
        let Some(shift) = operands.get(1) else { return value };
        let (kind, count) = shift.split_once(" #").expect("a shift and its count");
        let count = number(count);
        match kind {
            "lsl" => value << count,
            "lsr" => value >> count,
            other => panic!("no shift {other}"),
        }
    }

    /// `[base]`, `[base, #disp]`, `[base, index]` or `[base, index, lsl #n]`.
    fn address(&self, operand: &str) -> u64 {
        let inner = operand.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        let parts: Vec<&str> = inner.unwrap_or_else(|| panic!("no address: {operand}")).split(", ").collect();
        let rest = parts.get(1..).filter(|rest| !rest.is_empty()).map_or(0, |rest| self.value(rest));
        self.get(parts[0]).wrapping_add(rest)
    }

    fn holds(&self, condition: &str) -> bool {
        if let "hs" | "cs" | "lo" | "cc" = condition {
            return self.carry == matches!(condition, "hs" | "cs");
        }
        let (sa, sb, a, b) = self.flags.expect("something was compared");
        match condition {
            "eq" => a == b,
            "ne" => a != b,
            "hi" => a > b,
            "ls" => a <= b,
            "ge" => sa >= sb,
            "lt" => sa < sb,
            "gt" => sa > sb,
            "le" => sa <= sb,
            other => panic!("no condition {other}"),
        }
    }

    /// Carries out one instruction; answers how many bytes on the next one is.
    pub fn step(&mut self, text: &str) -> i64 {
        let (mnemonic, rest) = text.split_once(' ').unwrap_or((text, ""));
        let ops = operands(rest);
        let bits = if ops.first().is_some_and(|first| first.starts_with('w')) { 32 } else { 64 };
        let low = |value: u64| if bits == 32 { value & 0xffff_ffff } else { value };
        let signed = |value: u64| if bits == 32 { value as i32 as i64 } else { value as i64 };
        let arg = |at: usize| self.value(&ops[at..=at]);
        let result = match mnemonic {
            "mov" => arg(1),
            "movk" => {
                let place = ops.get(2).map_or(0, |shift| number(shift.strip_prefix("lsl #").expect("a place")));
                arg(0) & !(0xffff << place) | arg(1) << place
            }
            "mvn" => !arg(1),
            "neg" => arg(1).wrapping_neg(),
            "add" => arg(1).wrapping_add(self.value(&ops[2..])),
            "sub" => arg(1).wrapping_sub(self.value(&ops[2..])),
            "mul" => arg(1).wrapping_mul(arg(2)),
            "umulh" => ((u128::from(arg(1)) * u128::from(arg(2))) >> 64) as u64,
            "msub" => arg(3).wrapping_sub(arg(1).wrapping_mul(arg(2))),
            "udiv" => arg(1).checked_div(arg(2)).unwrap_or(0),
            "sdiv" if arg(2) == 0 => 0,
            "sdiv" => signed(arg(1)).wrapping_div(signed(arg(2))) as u64,
            "and" => arg(1) & arg(2),
            "orr" => arg(1) | arg(2),
            "eor" => arg(1) ^ arg(2),
            "csel" => arg(if self.holds(ops[3]) { 1 } else { 2 }),
            "cset" => self.holds(ops[1]).into(),
            "cinc" => arg(1).wrapping_add(self.holds(ops[2]).into()),
            "lsl" => arg(1) << (arg(2) % bits),
            "lsr" => arg(1) >> (arg(2) % bits),
            "asr" => (signed(arg(1)) >> (arg(2) % bits)) as u64,
            "ror" if bits == 32 => (arg(1) as u32).rotate_right(arg(2) as u32).into(),
            "ror" => arg(1).rotate_right(arg(2) as u32),
            "sxtb" => arg(1) as i8 as u64,
            "sxth" => arg(1) as i16 as u64,
            "sxtw" => arg(1) as i32 as u64,
            "uxtb" => arg(1) & 0xff,
            "uxth" => arg(1) & 0xffff,
            "rev" if bits == 32 => (arg(1) as u32).swap_bytes().into(),
            "rev" => arg(1).swap_bytes(),
            "rev16" => (arg(1) & 0x00ff_00ff) << 8 | (arg(1) & 0xff00_ff00) >> 8,
            "adds" => {
                let (sum, carry) = arg(1).overflowing_add(arg(2));
                self.carry = carry;
                sum
            }
            "cmp" | "cmn" | "tst" => {
                let (a, b) = (arg(0), arg(1));
                let (a, b, carry) = match mnemonic {
                    "cmp" => (a, b, low(a) >= low(b)),
                    "cmn" => (a, low(b.wrapping_neg()), low(a.wrapping_add(b)) < low(a)),
                    _ => (a & b, 0, false),
                };
                self.carry = carry;
                self.flags = Some((signed(a), signed(low(b)), low(a), low(b)));
                return 4;
            }
            "b" => return number(ops[0].trim_start_matches(['$', '+'])) as i64,
            "cbz" | "cbnz" => {
                let jumps = (arg(0) == 0) == (mnemonic == "cbz");
                return if jumps { number(ops[1].trim_start_matches(['$', '+'])) as i64 } else { 4 };
            }
            "dmb" | "nop" => return 4,
            _ => return self.memory(mnemonic, &ops, bits as u32 / 8),
        };
        self.set(ops[0], low(result));
        4
    }

    /// Conditional branches, loads, stores and atomic operations.
    fn memory(&mut self, mnemonic: &str, ops: &[&str], bytes: u32) -> i64 {
        if let Some(condition) = mnemonic.strip_prefix("b.") {
            let jumps = self.holds(condition);
            return if jumps { number(ops[0].trim_start_matches(['$', '+'])) as i64 } else { 4 };
        }
        let size = |stem: &str| match mnemonic.trim_start_matches(stem).trim_start_matches('r') {
            "b" => 1,
            "h" => 2,
            "sb" => 1,
            "sh" => 2,
            "sw" => 4,
            "" => bytes,
            _ => panic!("no instruction {mnemonic}"),
        };
        match mnemonic {
            "ldxr" => {
                let value = self.read(self.address(ops[1]), bytes);
                self.set(ops[0], value);
            }
            "stxr" | "stlxr" => {
                let bytes = if ops[1].starts_with('w') { 4 } else { 8 };
                self.write(self.address(ops[2]), bytes, self.get(ops[1]));
                self.set(ops[0], 0);
            }
            "ldaddal" | "ldadd" | "ldsetal" | "ldset" | "ldeoral" | "ldeor" | "ldclral" | "ldclr" | "swpal"
            | "casal" => {
                let (at, src) = (self.address(ops[2]), self.get(ops[0]));
                let old = self.read(at, bytes);
                let (new, to) = match mnemonic.trim_end_matches("al") {
                    "ldadd" => (old.wrapping_add(src), ops[1]),
                    "ldset" => (old | src, ops[1]),
                    "ldeor" => (old ^ src, ops[1]),
                    "ldclr" => (old & !src, ops[1]),
                    "swp" => (src, ops[1]),
                    _ => (if old == src { self.get(ops[1]) } else { old }, ops[0]),
                };
                self.write(at, bytes, new);
                self.set(to, old);
            }
            _ if mnemonic.starts_with("ld") => {
                let size = match mnemonic.strip_prefix("lda") {
                    Some(_) => size("lda"),
                    None => size(if mnemonic.starts_with("ldu") { "ldu" } else { "ld" }),
                };
                let (value, spare) = (self.read(self.address(ops[1]), size), 64 - 8 * size);
                let signed = mnemonic.contains("rs");
                self.set(ops[0], if signed { ((value << spare) as i64 >> spare) as u64 } else { value });
            }
            _ => {
                let stem = ["stl", "stu", "st"].into_iter().find(|stem| mnemonic.starts_with(stem));
                let size = size(stem.unwrap_or_else(|| panic!("no instruction {mnemonic} {ops:?}")));
                self.write(self.address(ops[1]), size, self.get(ops[0]));
            }
        }
        4
    }
}

fn index(number: &str) -> usize {
    number.parse().unwrap_or_else(|_| panic!("no register number {number}"))
}

/// Decimal or hexadecimal, perhaps negative.
fn number(text: &str) -> u64 {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let value = match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => digits.parse(),
    };
    let value = value.unwrap_or_else(|_| panic!("no number {text}"));
    if negative { value.wrapping_neg() } else { value }
}

/// Parts between commas outside of brackets.
fn operands(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    if !text.is_empty() {
        parts.push(text[start..].trim());
    }
    parts
}
