//! Values of a kernel configuration, as variables of their declared types.

use std::collections::HashMap;

use rtbpf_btf::{Btf, Int, Kind, TypeId};

/// A kernel configuration: `CONFIG_X=y`, `=m`, `="text"`, `=12`, `=0x12`.
pub(crate) struct Kconfig<'a> {
    values: HashMap<&'a str, &'a str>,
    version: u32,
}

impl<'a> Kconfig<'a> {
    pub fn new(text: &'a str, version: u32) -> Kconfig<'a> {
        let lines = text.lines().filter(|line| line.starts_with("CONFIG_"));
        let values = lines.filter_map(|line| line.trim_end().split_once('=')).collect();
        // Linux 6.18, whose rules this machine follows.
        let version = if version == 0 { 6 << 16 | 18 << 8 } else { version };
        Kconfig { values, version }
    }

    /// The text of `name`; the version and the two features that libbpf looks up are numbers.
    fn text(&self, name: &str) -> Option<String> {
        match name {
            "LINUX_KERNEL_VERSION" => Some(self.version.to_string()),
            "LINUX_HAS_BPF_COOKIE" | "LINUX_HAS_SYSCALL_WRAPPER" => Some("y".to_owned()),
            _ => self.values.get(name).map(|text| (*text).to_owned()),
        }
    }

    /// The bytes of `name` as a variable of type `ty`, `None` when the configuration does not have it.
    pub fn value(&self, name: &str, btf: &Btf, ty: TypeId) -> Option<Result<Vec<u8>, String>> {
        self.text(name).map(|text| bytes_of(btf, ty, &text))
    }
}

fn bytes_of(btf: &Btf, ty: TypeId, text: &str) -> Result<Vec<u8>, String> {
    let declared = || btf.declare(ty, "");
    let mismatch = || format!("its value {text} does not fit its type `{}`", declared());
    let ty_ = btf.peel(ty);
    let number = |bytes: u32, signed: bool| {
        let (value, bits) = (parse(text).ok_or_else(mismatch)?, bytes.min(8) * 8);
        let fits = match signed {
            true => value >= -(1i128 << (bits - 1)) && value < 1i128 << (bits - 1),
            false => value >= 0 && value < 1i128 << bits,
        };
        if fits {
            Ok(value.to_le_bytes().get(..bytes.min(8) as usize).unwrap_or_default().to_vec())
        } else {
            Err(mismatch())
        }
    };
    match (ty_.kind, text) {
        // `enum libbpf_tristate`: no, yes, module.
        (Kind::Enum { bytes, .. }, "n" | "y" | "m") if ty_.name == "libbpf_tristate" => {
            let value = match text {
                "y" => 1u64,
                "m" => 2,
                _ => 0,
            };
            Ok(value.to_le_bytes().get(..bytes.min(8) as usize).unwrap_or_default().to_vec())
        }
        (Kind::Int(Int { encoding, bytes: 1, .. }), "n" | "y") if encoding.bool => Ok(vec![u8::from(text == "y")]),
        (Kind::Int(Int { encoding, bytes: 1, .. }), "n" | "y" | "m") if !encoding.bool => Ok(text.as_bytes().to_vec()),
        (Kind::Int(Int { encoding, bytes, .. }), _) if !encoding.bool && bytes > 0 => number(bytes, encoding.signed),
        (Kind::Enum { bytes, signed, .. }, _) if bytes > 0 => number(bytes, signed),
        (Kind::Array { elem, len, .. }, _) if btf.size_of(elem) == Some(1) => {
            let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or_else(mismatch)?;
            // Cut to the array, which always ends in NUL.
            let size = btf.size_of(ty).filter(|&size| size == u64::from(len) && size > 0 && size <= 1 << 16);
            let size = size.ok_or_else(mismatch)? as usize;
            let mut bytes: Vec<u8> = inner.bytes().take(size - 1).collect();
            bytes.resize(size, 0);
            Ok(bytes)
        }
        _ => Err(mismatch()),
    }
}

fn parse(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let value = match digits.strip_prefix("0x") {
        Some(hex) => i128::from(u64::from_str_radix(hex, 16).ok()?),
        None if digits == "y" => 1,
        None => i128::from(digits.parse::<u64>().ok()?),
    };
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtbpf_btf::{Builder, IntEncoding};

    #[test]
    fn values_take_their_declared_types() {
        let mut b = Builder::new();
        let int = b.int("int", 4, true);
        let flag = b.int_with("_Bool", 1, IntEncoding { bool: true, ..IntEncoding::default() });
        let char_ = b.int("char", 1, true);
        let text = b.array(char_, 6);
        let tristate = b.enumeration("libbpf_tristate", 4, false, &[("TRI_NO", 0), ("TRI_YES", 1), ("TRI_MODULE", 2)]);
        let btf = b.build().unwrap();
        let config = "CONFIG_HZ=250\nCONFIG_BPF=y\n# CONFIG_OFF is not set\nCONFIG_X=m\nCONFIG_S=\"abcdefgh\"\n";
        let kconfig = Kconfig::new(config, 0);
        let check = |name, ty, expected: Option<&[u8]>| {
            let value = kconfig.value(name, &btf, ty).map(|value| value.unwrap());
            assert_eq!(value.as_deref(), expected, "{name}");
        };
        check("CONFIG_HZ", int, Some(&[250, 0, 0, 0]));
        check("CONFIG_BPF", flag, Some(&[1]));
        check("CONFIG_BPF", char_, Some(b"y"));
        check("CONFIG_X", tristate, Some(&[2, 0, 0, 0]));
        check("CONFIG_S", text, Some(b"abcde\0"));
        check("CONFIG_OFF", flag, None);
        check("LINUX_KERNEL_VERSION", int, Some(&[0, 18, 6, 0]));
        assert!(kconfig.value("CONFIG_HZ", &btf, char_).unwrap().is_err());
        assert!(kconfig.value("CONFIG_X", &btf, flag).unwrap().is_err());
    }
}
