//! Files of small programs, each in many variants, with what Linux 6.18 answered to every one.
//!
//! ```text
//! @@value                        a passage: the lines up to `@end`, in place of a line `@value`
//! ...
//! @end
//! == value access                what it is about
//! -- prog xdp kprobe             kinds of program; else sched_cls. Also: `typed`, `flags N`
//! $off = 0 | 44 | 48             `$off` in the program is each of these; `; ` in a value ends a line of it
//! @value
//! r0 = *(u32 *)(r7 + $off)
//! exit
//! => xdp 0 0 13                  the errno of each variant, the last variable changing first; `13*4` for four alike
//! => kprobe 0 0 13
//! ```

use std::fmt::Write;

use rtbpf_abi::map_spec::flags;
use rtbpf_abi::{MapKind, MapSpec, ProgKind, ProgType};

use crate::generate::case::assemble;
use crate::generate::{Case, CaseMap};

/// Programs that differ in the values of a few variables.
#[derive(Clone, Debug, Default)]
pub struct Family {
    /// What it is about.
    pub name: String,
    progs: Vec<String>,
    typed: bool,
    prog_flags: u32,
    variables: Vec<(String, Vec<String>)>,
    text: String,
    answers: Vec<(String, Vec<i32>)>,
}

/// The families of a file. `Err` says which line is wrong.
pub fn parse(text: &str) -> Result<Vec<Family>, String> {
    let mut families: Vec<Family> = Vec::new();
    let mut passages: Vec<(String, String)> = Vec::new();
    let mut in_passage = false;
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix("@@") {
            passages.push((format!("@{name}"), String::new()));
            in_passage = true;
        } else if line == "@end" {
            in_passage = false;
        } else if in_passage {
            let (_, passage) = passages.last_mut().ok_or("no passage")?;
            let _ = writeln!(passage, "{line}");
        } else if let Some(name) = line.strip_prefix("== ") {
            families.push(Family { name: name.to_owned(), ..Family::default() });
        } else {
            let family = families.last_mut().ok_or_else(|| format!("`{line}` before the first family"))?;
            family.line(line, &passages).ok_or_else(|| format!("{}: `{line}`", family.name))?;
        }
    }
    Ok(families)
}

impl Family {
    fn line(&mut self, line: &str, passages: &[(String, String)]) -> Option<()> {
        if let Some(words) = line.strip_prefix("-- ") {
            let mut words = words.split(' ');
            match words.next()? {
                "prog" => self.progs = words.map(str::to_owned).collect(),
                "typed" => self.typed = true,
                "flags" => self.prog_flags = words.next()?.parse().ok()?,
                _ => return None,
            }
        } else if let Some((name, values)) = line.strip_prefix('$').and_then(|rest| rest.split_once(" = ")) {
            let values = values.split(" | ").map(|value| value.trim().replace("; ", "\n")).collect();
            self.variables.push((format!("${name}"), values));
        } else if let Some(answers) = line.strip_prefix("=> ") {
            let (prog, answers) = answers.split_once(' ')?;
            let mut errnos = Vec::new();
            for answer in answers.split(' ') {
                let (errno, times) = answer.split_once('*').unwrap_or((answer, "1"));
                errnos.extend(std::iter::repeat_n(errno.parse::<i32>().ok()?, times.parse().ok()?));
            }
            self.answers.push((prog.to_owned(), errnos));
        } else {
            let passage = passages.iter().find(|(name, _)| name == line).map_or(line, |(_, text)| text.trim_end());
            self.text += passage;
            self.text += "\n";
        }
        Some(())
    }

    /// Every variant as each kind of program, with the errno that the file says.
    pub fn cases(&self) -> Result<Vec<(Case, Option<i32>)>, String> {
        let texts = self.variables.iter().fold(vec![self.text.clone()], |texts, (name, values)| {
            let each = |text: String| values.iter().map(move |value| put(&text, name, value)).collect::<Vec<_>>();
            texts.into_iter().flat_map(each).collect()
        });
        let mut cases = Vec::new();
        for prog in self.progs() {
            let known = self.answers.iter().find(|(name, _)| *name == prog).map(|(_, errnos)| errnos);
            for (index, text) in texts.iter().enumerate() {
                cases.push((self.case(prog, text)?, known.and_then(|errnos| errnos.get(index)).copied()));
            }
        }
        Ok(cases)
    }

    fn progs(&self) -> impl Iterator<Item = &str> {
        let usual = if self.progs.is_empty() { Some("sched_cls") } else { None };
        usual.into_iter().chain(self.progs.iter().map(String::as_str))
    }

    fn case(&self, prog: &str, text: &str) -> Result<Case, String> {
        let of_type = || ProgType::from_name(prog).and_then(|prog| ProgKind::of(prog, None, false));
        let kind = ProgKind::from_name(prog).or_else(of_type).ok_or_else(|| format!("no program type {prog}"))?;
        let (insns, names) = assemble(text).map_err(|error| format!("{}: {error}", self.name))?;
        let maps = names.iter().map(|name| map(name).ok_or_else(|| format!("no map called {name}")));
        let maps = maps.collect::<Result<_, _>>()?;
        let name = format!("{} as {prog}:\n{text}", self.name);
        Ok(Case { name, kind, prog_flags: self.prog_flags, insns, maps, typed: self.typed, packets: Vec::new() })
    }

    /// The lines that say what was answered.
    pub fn answers(&self, errnos: &[i32]) -> String {
        let mut out = String::new();
        let each = errnos.len() / self.progs().count().max(1);
        for (prog, errnos) in self.progs().zip(errnos.chunks(each.max(1))) {
            let _ = write!(out, "=> {prog}");
            for alike in errnos.chunk_by(|a, b| a == b) {
                let _ = match alike {
                    [one] => write!(out, " {one}"),
                    _ => write!(out, " {}*{}", alike[0], alike.len()),
                };
            }
            out += "\n";
        }
        out
    }
}

/// `text` with `value` for the whole word `name`.
fn put(text: &str, name: &str, value: &str) -> String {
    let mut parts = text.split(name);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let longer = part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        out += if longer { name } else { value };
        out += part;
    }
    out
}

/// The maps that programs name.
fn map(name: &str) -> Option<CaseMap> {
    use MapKind as K;
    let (kind, key, value, entries) = match name {
        "hash" => (K::Hash, 4, 16, 8),
        "hash8" => (K::Hash, 8, 8, 8),
        "wide" => (K::Hash, 16, 64, 8),
        "array" => (K::Array, 4, 48, 8),
        "one" | "readonly" | "writeonly" => (K::Array, 4, 64, 1),
        "const" => (K::Array, 4, 16, 1),
        "percpu_hash" => (K::PercpuHash, 4, 16, 8),
        "percpu_array" => (K::PercpuArray, 4, 16, 8),
        "lru" => (K::LruHash, 4, 16, 8),
        "lpm" => (K::LpmTrie, 8, 16, 8),
        "ring" => (K::Ringbuf, 0, 0, 4096),
        "uring" => (K::UserRingbuf, 0, 0, 4096),
        "progs" => (K::ProgArray, 4, 4, 4),
        "perf" => (K::PerfEventArray, 4, 4, 4),
        "queue" => (K::Queue, 0, 16, 8),
        "stk" => (K::Stack, 0, 16, 8),
        "bloom" => (K::BloomFilter, 0, 16, 8),
        "sockmap" => (K::Sockmap, 4, 4, 8),
        "sockhash" => (K::Sockhash, 4, 4, 8),
        "xsk" => (K::Xskmap, 4, 4, 8),
        "devmap" => (K::Devmap, 4, 4, 8),
        "cpumap" => (K::Cpumap, 4, 4, 8),
        "cgarray" => (K::CgroupArray, 4, 4, 8),
        "reuse" => (K::ReuseportSockarray, 4, 4, 8),
        "cgst" => (K::CgroupStorage, 16, 24, 0),
        "pcgst" => (K::PercpuCgroupStorage, 16, 24, 0),
        "aom" => (K::ArrayOfMaps, 4, 4, 4),
        "hom" => (K::HashOfMaps, 4, 4, 4),
        _ => return None,
    };
    let mut map = CaseMap::new(kind, key, value, entries);
    match name {
        "readonly" => map.spec.flags = flags::RDONLY_PROG,
        "writeonly" => map.spec.flags = flags::WRONLY_PROG,
        "lpm" => map.spec.flags = flags::NO_PREALLOC,
        "const" => {
            map.spec.flags = flags::RDONLY_PROG;
            map.spec.frozen = Some([3, 0, 0, 0, 0, 0, 0, 0, b'7', 0, 0, 1, 1, 1, 1, 1].into());
        }
        "aom" | "hom" => map.spec.inner = Some(Box::new(MapSpec::new(K::Array, 4, 4, 1))),
        _ => {}
    }
    Some(map)
}
