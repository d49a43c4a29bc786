//! Calls of helpers: arguments as the prototype wants them, one of them often something else.

use rtbpf_abi::helper::{self, HelperId, HelperProto, MemSize, MemUse};
use rtbpf_abi::{Arg, MapKind, Ret};

use super::{EDGES, MAPS, Sibling, map};

/// Helpers that are never called: they write kernel memory or end processes, and say so in the kernel's log even when a
/// program is only loaded.
const NEVER: &[u32] = &[36, 58, 109, 117];

/// What a call needs to know of its own arguments.
#[derive(Default)]
struct Call {
    map: Option<&'static str>,
    size: Option<(usize, i32)>,
}

impl Sibling<'_> {
    pub(super) fn call_any(&mut self) {
        let common = [1, 2, 3, 12, 26, 28, 84, 86, 87, 113, 130, 131, 132, 164, 181, 195, 197, 198, 199, 201, 203];
        let id = if self.rng.chance(1, 2) {
            self.rng.pick(&common)
        } else {
            1 + self.rng.below(u64::from(helper::LAST)) as u32
        };
        if NEVER.contains(&id) {
            return;
        }
        let id = HelperId(id);
        let known = helper::proto_for(id, self.kind).found();
        // Objects of the kernel and fields of values are not to be had here; asking for them is worth a few programs.
        let makes = |proto: &&HelperProto| proto.args.iter().all(|arg| is_made(*arg));
        if !known.as_ref().is_some_and(makes) && !self.rng.chance(1, 6) {
            return;
        }
        // A kind that does not know the helper is asked as well, now and then.
        let Some(proto) = known.or_else(|| helper::rows_of(id).first().filter(|_| self.rng.chance(1, 8))) else {
            return;
        };
        let odd = if self.rng.chance(1, 3) { Some(self.rng.below(5) as usize) } else { None };
        self.call(proto, odd);
    }

    /// Calls `proto`; argument `odd` is one of the program's values, whatever it is.
    fn call(&mut self, proto: &HelperProto, odd: Option<usize>) {
        let mut call = Call::default();
        // What must stand on the stack first.
        if proto.args.iter().any(|arg| matches!(arg, Arg::Dynptr(_))) {
            self.line("r1 = map[one][0]+0 ll\nr2 = 64\nr3 = 0\nr4 = r10\nr4 += -80\ncall 197");
        }
        if proto.args.contains(&Arg::RingbufDynptr) {
            self.line("r1 = map[ring] ll\nr2 = 8\nr3 = 0\nr4 = r10\nr4 += -96\ncall 198");
        }
        for (i, &arg) in proto.args.iter().enumerate() {
            let reg = format!("r{}", i + 1);
            if arg == Arg::None {
                continue;
            }
            let text = match odd == Some(i) {
                true => match self.rng.below(4) {
                    0 => format!("{reg} = r7"),
                    1 => format!("{reg} = r8"),
                    2 => format!("{reg} = {}", self.rng.pick(&EDGES)),
                    _ => format!("{reg} = r10\n{reg} += {}", self.rng.pick(&[0, -1, -4, -8, -16, -63, -64, -96, -512])),
                },
                false => self.argument(proto, &mut call, i, arg, &reg),
            };
            self.line(text);
        }
        self.line(format!("call {}", proto.id.0));
        self.result(proto);
    }

    /// The lines that put a right argument into `reg`.
    fn argument(&mut self, proto: &HelperProto, call: &mut Call, i: usize, arg: Arg, reg: &str) -> String {
        let memory = |sibling: &mut Self, bytes: i32, values_only: bool| match sibling.rng.below(8) {
            _ if values_only => format!("{reg} = map[one][0]+0 ll"),
            0 => format!("{reg} = map[one][0]+{} ll", sibling.rng.pick(&[0, 64 - bytes.clamp(0, 64)])),
            1 => format!("{reg} = map[readonly][0]+0 ll"),
            2 => format!("{reg} = r7"),
            3 => format!("{reg} = r10\n{reg} += {}", -sibling.rng.pick(&[bytes, bytes - 1, bytes + 1])),
            _ => format!("{reg} = r10\n{reg} += -64"),
        };
        match arg {
            Arg::None => String::new(),
            Arg::Anything | Arg::Scalar | Arg::ConstZero if proto.id.0 == 181 && i == 0 => format!("{reg} = 5"),
            Arg::Anything if self.rng.chance(1, 3) => format!("{reg} = {}", self.rng.pick(&["r7", "r8", "r10"])),
            Arg::Anything | Arg::ConstZero => format!("{reg} = {}", self.rng.pick(&[0, 0, 0, 1, 8, -1])),
            Arg::Scalar => format!("{reg} = 1"),
            Arg::Ctx | Arg::CtxOrNull => format!("{reg} = r6"),
            Arg::Map(kinds) => {
                let name = self.map_of(kinds);
                call.map = Some(name);
                format!("{reg} = map[{name}] ll")
            }
            Arg::MapKey => memory(self, call.map.map_or(4, |name| map(name).key_size as i32), false),
            Arg::MapValue(_) | Arg::MapValueOrNull => {
                memory(self, call.map.map_or(8, |name| map(name).value_size as i32), false)
            }
            Arg::Mem { size: MemSize::Fixed(bytes), .. } => memory(self, bytes as i32, false),
            Arg::Mem { size: MemSize::Arg(of), map_value_only, access, .. } => {
                let bytes = self.rng.pick(&[1, 4, 8, 16, 32, 64]);
                call.size = Some((usize::from(of) - 1, bytes));
                let deep = access == MemUse::Write && self.rng.chance(1, 4);
                if deep {
                    format!("{reg} = r10\n{reg} += -{}", 96 + bytes)
                } else {
                    memory(self, bytes, map_value_only)
                }
            }
            Arg::Size { .. } => match (call.size, self.rng.below(8)) {
                (_, 0) => format!("{reg} = {}", self.rng.pick(&EDGES)),
                (_, 1) => format!("{reg} = r8"),
                (Some((at, bytes)), _) if at == i => format!("{reg} = {bytes}"),
                _ => format!("{reg} = 8"),
            },
            Arg::AllocSize => format!("{reg} = {}", self.rng.pick(&[8, 8, 16, 64, 0, -1])),
            Arg::Func => {
                let function = self.label();
                let body = match self.rng.below(8) {
                    0 => "r0 = 2".to_owned(),
                    1 => "r0 = r1".to_owned(),
                    2 => "r0 = *(u32 *)(r2 + 0)".to_owned(),
                    3 => "*(u64 *)(r3 - 8) = r1\nr0 = 0".to_owned(),
                    4 => "call 7\nr0 &= 1".to_owned(),
                    5 => "*(u64 *)(r2 + 0) = 7\nr0 = 0".to_owned(),
                    _ => "r0 = 0".to_owned(),
                };
                self.functions.push_str(&format!("{function}:\n{body}\nexit\n"));
                format!("{reg} = {function} ll")
            }
            Arg::StackOrNull | Arg::Stack => format!("{reg} = r10\n{reg} += {}", self.rng.pick(&[0, -8, -64])),
            Arg::DynptrUninit(_) => format!("{reg} = r10\n{reg} += {}", self.rng.pick(&[-96, -96, -96, -112, -92, -8])),
            Arg::Dynptr(_) => format!("{reg} = r10\n{reg} += {}", self.rng.pick(&[-80, -80, -80, -72])),
            Arg::RingbufDynptr => format!("{reg} = r10\n{reg} += -96"),
            Arg::RingbufMem => match self.held.first().cloned() {
                Some((place, _)) => {
                    self.held.clear();
                    format!("{reg} = {place}")
                }
                None => format!("{reg} = r7"),
            },
            Arg::SockCommon
            | Arg::SockCommonOrBtf
            | Arg::SockCommonOrBtfOrNull
            | Arg::SockOrNull
            | Arg::SockAcquired
            | Arg::MapOfArg1
            | Arg::ConstStr
            | Arg::SpinLock
            | Arg::SpinLockHeld
            | Arg::Timer
            | Arg::KptrSlot
            | Arg::Btf(_)
            | Arg::BtfOrNull(_)
            | Arg::KptrValue
            | Arg::PercpuBtf => format!("{reg} = {}", self.rng.pick(&["r7", "r8"])),
        }
    }

    /// A map of one of `kinds`, or, now and then, of any.
    fn map_of(&mut self, kinds: &[MapKind]) -> &'static str {
        let fitting: Vec<&'static str> = MAPS.iter().copied().filter(|name| kinds.contains(&map(name).kind)).collect();
        match self.rng.choose(&fitting) {
            Some(name) if !self.rng.chance(1, 10) => name,
            _ => self.rng.pick(MAPS),
        }
    }

    /// Uses the result, mostly as it may be used.
    fn result(&mut self, proto: &HelperProto) {
        let careless = self.rng.chance(1, 10);
        match proto.ret {
            Ret::RingbufMemOrNull(_) => {
                let none = self.label();
                if !careless {
                    self.line(format!("if r0 == 0 goto {none}\n*(u8 *)(r0 + 0) = 1\nr1 = r0\nr2 = 0\ncall 132"));
                }
                self.line(format!("{none}:"));
            }
            Ret::SockOrNull { acquired, .. } => {
                let none = self.label();
                if !careless {
                    self.line(format!("if r0 == 0 goto {none}"));
                }
                if self.rng.chance(1, 2) {
                    self.line("r9 = *(u32 *)(r0 + 4)");
                }
                if acquired && (!careless || self.looks_up_sockets()) {
                    self.line("r1 = r0\ncall 86");
                }
                self.line(format!("{none}:"));
            }
            Ret::MapValueOrNull | Ret::DynptrSliceOrNull(_) => {
                let none = self.label();
                if !careless {
                    let test = self.rng.pick(&["r0 == 0", "r0 == 0", "r0 == 0", "w0 == 0", "r0 < 1"]);
                    self.line(format!("if {test} goto {none}"));
                }
                if self.rng.chance(1, 2) {
                    self.load("r0");
                }
                self.line(format!("{none}:"));
            }
            Ret::Int | Ret::Range(..) | Ret::ErrnoOrUpTo(_) | Ret::Cpu | Ret::Void | Ret::MapValue => {
                if self.rng.chance(1, 4) {
                    self.line("r8 = r0");
                }
            }
            Ret::Btf { .. } | Ret::KptrOrNull | Ret::Percpu { .. } => {
                if careless {
                    self.load("r0");
                }
            }
        }
        if proto.args.iter().any(|arg| matches!(arg, Arg::DynptrUninit(_))) && proto.acquires && !careless {
            self.line("r1 = r10\nr1 += -96\nr2 = 0\ncall 200");
        }
    }
}

/// Whether a right argument can be made in a few lines.
fn is_made(arg: Arg) -> bool {
    !matches!(
        arg,
        Arg::MapOfArg1
            | Arg::ConstStr
            | Arg::SpinLock
            | Arg::SpinLockHeld
            | Arg::Timer
            | Arg::KptrSlot
            | Arg::Btf(_)
            | Arg::BtfOrNull(_)
            | Arg::KptrValue
            | Arg::PercpuBtf
            | Arg::SockAcquired
            | Arg::SockCommon
            | Arg::SockCommonOrBtf
            | Arg::SockCommonOrBtfOrNull
            | Arg::SockOrNull
    )
}
