//! Kernel functions of the checked interpreter, by name. Meanings follow the kernel's documentation of each.
//!
//! Their arguments are checked here as they are used: a function that touches memory goes through the regions, as every
//! load and store of the program does.

use rtbpf_abi::Errno;
use rtbpf_abi::limits::MAX_LOOPS;
use rtbpf_isa::{Reg, Size};
use rtbpf_rt::lock::{Class, Lock};

use super::checked::Checked;
use crate::error::FaultKind;
use crate::helpers::native;

/// The longest string that the string functions look at.
const MAX_STRING: u64 = 4096;

/// How a kernel function ended.
pub(super) enum Outcome {
    /// With this in R0.
    Returned(u64),
    /// The program ended with this (`bpf_throw`).
    Thrown(u64),
}

impl Checked {
    /// Calls the kernel function with the number that the loader gave its name; the run's result when it ended the
    /// program.
    pub(super) fn kfunc(&mut self, id: i32, args: &[u64; 5]) -> Result<Option<u64>, FaultKind> {
        let exe = self.exe.clone();
        let name = exe.kfuncs.iter().find(|(known, _)| *known == id).map(|(_, name)| name.as_str());
        match self.kfunc_by_name(name.ok_or(FaultKind::UnknownKfunc(id))?, id, args)? {
            Outcome::Returned(value) => {
                self.set(Reg::R0, value);
                Ok(None)
            }
            Outcome::Thrown(cookie) => {
                while let Some(frame) = self.frames.pop() {
                    self.restore(frame);
                }
                Ok(Some(cookie))
            }
        }
    }

    fn kfunc_by_name(&mut self, name: &str, id: i32, args: &[u64; 5]) -> Result<Outcome, FaultKind> {
        let [r1, r2, r3, ..] = *args;
        let returned = match name {
            "bpf_iter_num_new" => self.iter_num_new(r1, r2 as i32, r3 as i32)?,
            "bpf_iter_num_next" => self.iter_num_next(r1)?,
            "bpf_iter_num_destroy" => self.word(r1, Some(0))?,
            // One program runs on a slot at a time, and nothing interrupts the interpreter.
            "bpf_rcu_read_lock" | "bpf_rcu_read_unlock" | "bpf_preempt_disable" | "bpf_preempt_enable" => 0,
            "bpf_local_irq_save" => self.word(r1, Some(1))?,
            "bpf_local_irq_restore" => self.word(r1, Some(0))?,
            "bpf_res_spin_lock" => self.res_lock(r1)?,
            "bpf_res_spin_unlock" => self.res_unlock(r1)?,
            "bpf_res_spin_lock_irqsave" => {
                self.word(r2, Some(1))?;
                self.res_lock(r1)?
            }
            "bpf_res_spin_unlock_irqrestore" => {
                self.word(r2, Some(0))?;
                self.res_unlock(r1)?
            }
            "bpf_throw" => return Ok(Outcome::Thrown(r1)),
            "bpf_cast_to_kern_ctx" | "bpf_rdonly_cast" => r1,
            "bpf_strcmp" => self.compare(r1, r2, |byte| byte),
            "bpf_strcasecmp" => self.compare(r1, r2, |byte| byte.to_ascii_lowercase()),
            "bpf_strlen" => self.string(r1, MAX_STRING).map_or_else(Errno::as_ret, |s| s.len() as u64),
            "bpf_strnlen" => match self.string(r1, r2.min(MAX_STRING)) {
                Err(Errno::E2BIG) if r2 < MAX_STRING => r2,
                other => other.map_or_else(Errno::as_ret, |s| s.len() as u64),
            },
            "bpf_strchr" => self.find(r1, MAX_STRING, |s| position(s, r2 as u8)),
            "bpf_strnchr" => self.find(r1, r2.min(MAX_STRING), |s| position(s, r3 as u8)),
            "bpf_strrchr" => self.find(r1, MAX_STRING, |s| match r2 as u8 {
                0 => Some(s.len()),
                byte => s.iter().rposition(|b| *b == byte),
            }),
            "bpf_strchrnul" => self.find(r1, MAX_STRING, |s| Some(position(s, r2 as u8).unwrap_or(s.len()))),
            "bpf_strspn" => self.span(r1, r2, true),
            "bpf_strcspn" => self.span(r1, r2, false),
            "bpf_strstr" => self.within(r1, r2, MAX_STRING),
            "bpf_strnstr" => self.within(r1, r2, r3.min(MAX_STRING)),
            _ => return Err(FaultKind::UnknownKfunc(id)),
        };
        Ok(Outcome::Returned(returned))
    }

    /// Reads the 8 bytes at a pointer, or writes them where `value` is given. Answers 0 after a write.
    fn word(&mut self, at: u64, value: Option<u64>) -> Result<u64, FaultKind> {
        match value {
            Some(value) => self.store(at, 0, Size::D, value).map(|()| 0),
            None => self.load(at, 0, Size::D, false),
        }
    }

    /// An iterator is 8 bytes of stack: the current number, and the end. One that failed to begin is empty.
    fn iter_num_new(&mut self, at: u64, start: i32, end: i32) -> Result<u64, FaultKind> {
        let (state, result) = if start > end {
            (0, Errno::EINVAL.as_ret())
        } else if end as i64 - start as i64 > MAX_LOOPS as i64 {
            (0, Errno::E2BIG.as_ret())
        } else {
            (pack(start.wrapping_sub(1), end), 0)
        };
        self.word(at, Some(state))?;
        Ok(result)
    }

    fn iter_num_next(&mut self, at: u64) -> Result<u64, FaultKind> {
        let state = self.word(at, None)?;
        let (current, end) = (state as u32 as i32, (state >> 32) as u32 as i32);
        let next = current as i64 + 1;
        if next >= end as i64 {
            self.word(at, Some(0))?;
            return Ok(0);
        }
        self.word(at, Some(pack(current.wrapping_add(1), end)))?;
        // The number is the iterator's own first half.
        Ok(at)
    }

    fn res_lock(&mut self, at: u64) -> Result<u64, FaultKind> {
        let addr = self.regions.native(at, 4, true)?;
        let lock = native::lock_at(addr).ok_or(FaultKind::Expected { expected: "an aligned lock", found: at })?;
        Ok(match lock.acquire(&self.host.cx, Class::Value) {
            Ok(()) => {
                self.host.locks.push(addr);
                0
            }
            Err(rtbpf_rt::LockError::Deadlock) => Errno::EDEADLK.as_ret(),
            Err(_) => Errno::ETIMEDOUT.as_ret(),
        })
    }

    fn res_unlock(&mut self, at: u64) -> Result<u64, FaultKind> {
        let addr = self.regions.native(at, 4, true)?;
        // A program that nobody verified may give back what it does not hold.
        if let Some(held) = self.host.locks.iter().rposition(|held| *held == addr)
            && let Some(lock) = native::lock_at(addr)
        {
            self.host.locks.remove(held);
            lock.release();
        }
        Ok(0)
    }

    /// The bytes at `at` up to a NUL, of which there must be one within `limit` bytes.
    fn string(&mut self, at: u64, limit: u64) -> Result<Vec<u8>, Errno> {
        let mut bytes = Vec::new();
        for off in 0..limit {
            let (region, start) = self.regions.resolve(at.wrapping_add(off)).map_err(|_| Errno::EFAULT)?;
            let byte = region.span.load(start, Size::B).filter(|_| region.readable).ok_or(Errno::EFAULT)?;
            if byte == 0 {
                return Ok(bytes);
            }
            bytes.push(byte as u8);
        }
        Err(Errno::E2BIG)
    }

    /// -1, 0 or 1, as the first string comes before, with or after the second.
    fn compare(&mut self, a: u64, b: u64, fold: impl Fn(u8) -> u8) -> u64 {
        let strings = self.string(a, MAX_STRING).and_then(|a| Ok((a, self.string(b, MAX_STRING)?)));
        match strings {
            Ok((a, b)) => a.into_iter().map(&fold).cmp(b.into_iter().map(&fold)) as i64 as u64,
            Err(errno) => errno.as_ret(),
        }
    }

    /// Where `place` finds something in a string of at most `limit` bytes.
    fn find(&mut self, at: u64, limit: u64, place: impl Fn(&[u8]) -> Option<usize>) -> u64 {
        let found = self.string(at, limit).and_then(|s| place(&s).ok_or(Errno::ENOENT));
        found.map_or_else(Errno::as_ret, |at| at as u64)
    }

    /// How many bytes from the start of a string are (`inside`), or are not, among those of a set.
    fn span(&mut self, at: u64, set: u64, inside: bool) -> u64 {
        match self.string(set, MAX_STRING) {
            Ok(set) => self.find(at, MAX_STRING, |s| Some(s.iter().take_while(|b| set.contains(b) == inside).count())),
            Err(errno) => errno.as_ret(),
        }
    }

    /// Where the second string begins in the first.
    fn within(&mut self, at: u64, part: u64, limit: u64) -> u64 {
        match self.string(part, MAX_STRING) {
            Ok(part) if part.is_empty() => 0,
            Ok(part) => self.find(at, limit, |s| s.windows(part.len()).position(|window| window == part)),
            Err(errno) => errno.as_ret(),
        }
    }
}

fn position(string: &[u8], byte: u8) -> Option<usize> {
    if byte == 0 { Some(string.len()) } else { string.iter().position(|b| *b == byte) }
}

fn pack(current: i32, end: i32) -> u64 {
    (end as u32 as u64) << 32 | current as u32 as u64
}

#[cfg(test)]
mod tests {
    use rtbpf_abi::{Errno, ProgType};
    use rtbpf_verifier::Assumptions;

    use crate::{Config, Ctx, Engine};

    /// Runs `text` over the memory, with `call kfunc N` as the functions' numbers in `names`.
    fn run(names: &[&str], memory: &[u8], text: &str) -> Result<u64, String> {
        let engine = Engine::new(Config { max_insns: Some(10_000), ..Config::linux() });
        let mut assembly = rtbpf_isa::asm::assemble(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        for slot in &mut assembly.slots {
            // A call of helper 1000 + n stands for kernel function n: pseudo source 2.
            if slot.code == 0x85 && slot.src == 0 && slot.imm >= 1000 {
                (slot.src, slot.imm) = (2, slot.imm - 1000);
            }
        }
        let program = rtbpf_isa::decode(&assembly.slots).expect("the test's program decodes");
        let kfuncs = names.iter().enumerate().map(|(at, name)| (at as i32, name.to_string())).collect();
        let given = Assumptions { kfuncs, ..Assumptions::new(ProgType::Plain) };
        let exe = engine.bind_unverified(program, given, vec![]).map_err(|error| error.to_string())?;
        exe.run(&mut engine.session(0), &mut Ctx::plain(memory)).map_err(|error| error.to_string())
    }

    #[test]
    fn numbers_are_iterated_up_to_their_end() {
        let names = ["bpf_iter_num_new", "bpf_iter_num_next", "bpf_iter_num_destroy"];
        let sum = |from: i32, to: i32| {
            let text = format!(
                "r6 = 0\nr1 = r10\nr1 += -8\nr2 = {from}\nr3 = {to}\ncall 1000\nl:\nr1 = r10\nr1 += -8\ncall 1001\n\
                 if r0 == 0 goto out\nr0 = *(s32 *)(r0 + 0)\nr6 += r0\ngoto l\nout:\nr1 = r10\nr1 += -8\ncall 1002\nr0 = r6\nexit"
            );
            run(&names, &[], &text).map(|sum| sum as i64)
        };
        assert_eq!(sum(1, 5), Ok(10));
        assert_eq!(sum(-3, 0), Ok(-6));
        assert_eq!(sum(5, 1), Ok(0), "an iterator that failed to begin is empty");
        let new = "r1 = r10\nr1 += -8\nr2 = 0\nr3 = 8388609\ncall 1000\nexit";
        assert_eq!(run(&names, &[], new), Ok(Errno::E2BIG.as_ret()));
    }

    #[test]
    fn a_throw_ends_the_program_from_any_frame() {
        assert_eq!(run(&["bpf_throw"], &[], "call f\nr0 = 1\nexit\nf:\nr1 = 77\ncall 1000\nexit"), Ok(77));
    }

    #[test]
    fn strings_are_bounded_by_their_memory() {
        let names = ["bpf_strlen", "bpf_strcmp", "bpf_strchr", "bpf_strstr"];
        let memory = b"abcabd\0abd\0zzz";
        let check = |text: &str, result: i64| {
            assert_eq!(run(&names, memory, &format!("{text}\nexit")), Ok(result as u64), "{text}");
        };
        check("call 1000", 6);
        check("r1 += 11\ncall 1000", -(Errno::EFAULT as i64));
        check("r1 = 0\ncall 1000", -(Errno::EFAULT as i64));
        check("r2 = r1\nr2 += 7\ncall 1001", -1);
        check("r2 = 99\ncall 1002", 2);
        check("r2 = 120\ncall 1002", -(Errno::ENOENT as i64));
        check("r2 = r1\nr2 += 7\ncall 1003", 3);
    }

    #[test]
    fn a_lock_taken_twice_says_so() {
        let names = ["bpf_res_spin_lock", "bpf_res_spin_unlock"];
        let text = "r6 = r1\ncall 1000\nr1 = r6\ncall 1000\nr7 = r0\nr1 = r6\ncall 1001\nr0 = r7\nexit";
        assert_eq!(run(&names, &[0; 8], text), Ok(Errno::EDEADLK.as_ret()));
    }
}
