//! Types as C text.

use crate::read::Btf;
use crate::types::{Kind, Members, TypeId};

/// Links of one declarator (pointer to array of pointer …), and structs within structs, that are spelled out.
const MAX_DEPTH: usize = 64;

/// Bytes that one definition may take.
const MAX_TEXT: usize = 1 << 20;

impl Btf {
    /// `name` declared with type `id`, such as `int (*name)[4]`; an empty name gives the bare type.
    pub fn declare(&self, id: TypeId, name: &str) -> String {
        let mut printer = Printer { btf: self, out: String::new() };
        let text = printer.declarator(id, name.to_owned(), 0, 0);
        printer.out.push_str(&text);
        printer.out
    }

    /// The definition of a struct, union, enum, typedef, function or variable; for other types, their name.
    pub fn define(&self, id: TypeId) -> String {
        let mut printer = Printer { btf: self, out: String::new() };
        let Some(ty) = self.get(id) else { return "void".to_owned() };
        match ty.kind {
            Kind::Struct { .. } | Kind::Union { .. } | Kind::Enum { .. } => printer.body(id, 0, 0) + ";",
            Kind::Typedef { to } => format!("typedef {};", self.declare(to, ty.name)),
            Kind::Fwd { is_union } => format!("{} {};", if is_union { "union" } else { "struct" }, ty.name),
            Kind::Func { proto, .. } => format!("{};", self.declare(proto, ty.name)),
            Kind::Var { ty: of, .. } => format!("{};", self.declare(of, ty.name)),
            Kind::DataSec { vars, .. } => {
                let mut text = format!("/* {}: {} variables */\n", ty.name, vars.len());
                for var in vars.iter() {
                    text.push_str(&self.define(var.ty));
                    text.push('\n');
                }
                text
            }
            _ => self.declare(id, ""),
        }
    }
}

struct Printer<'a> {
    btf: &'a Btf,
    out: String,
}

impl Printer<'_> {
    /// C reads declarators inside out: `inner` is what has been wrapped so far.
    fn declarator(&mut self, id: TypeId, inner: String, depth: usize, indent: usize) -> String {
        if depth > MAX_DEPTH || inner.len() > MAX_TEXT {
            return spaced("...", &inner);
        }
        let Some(ty) = self.btf.get(id) else { return spaced("void", &inner) };
        let depth = depth + 1;
        match ty.kind {
            Kind::Void => spaced("void", &inner),
            Kind::Int(_) | Kind::Float { .. } | Kind::Typedef { .. } => spaced(ty.name, &inner),
            Kind::Struct { .. } | Kind::Union { .. } | Kind::Enum { .. } if ty.name.is_empty() => {
                let body = self.body(id, depth, indent);
                spaced(&body, &inner)
            }
            Kind::Struct { .. } => spaced(&format!("struct {}", ty.name), &inner),
            Kind::Union { .. } => spaced(&format!("union {}", ty.name), &inner),
            Kind::Enum { .. } => spaced(&format!("enum {}", ty.name), &inner),
            Kind::Fwd { is_union: false } => spaced(&format!("struct {}", ty.name), &inner),
            Kind::Fwd { is_union: true } => spaced(&format!("union {}", ty.name), &inner),
            Kind::Ptr { to } => {
                let wrapped = match self.btf.get(to).map(|to| to.kind) {
                    Some(Kind::Array { .. } | Kind::FuncProto { .. }) => format!("(*{inner})"),
                    _ => format!("*{inner}"),
                };
                self.declarator(to, wrapped, depth, indent)
            }
            Kind::Array { elem, len, .. } => self.declarator(elem, format!("{inner}[{len}]"), depth, indent),
            Kind::FuncProto { ret, params } => {
                let mut list = Vec::new();
                for param in params.iter().take(64) {
                    list.push(match param.ty {
                        TypeId::VOID => "...".to_owned(),
                        ty => self.declarator(ty, param.name.to_owned(), depth + 8, indent),
                    });
                }
                let list = if list.is_empty() { "void".to_owned() } else { list.join(", ") };
                self.declarator(ret, format!("{inner}({list})"), depth, indent)
            }
            Kind::Const { to } => self.qualified("const", to, inner, depth, indent),
            Kind::Volatile { to } => self.qualified("volatile", to, inner, depth, indent),
            Kind::Restrict { to } => self.qualified("restrict", to, inner, depth, indent),
            Kind::TypeTag { to } => {
                let tag = format!("__attribute__((btf_type_tag(\"{}\")))", ty.name);
                self.qualified(&tag, to, inner, depth, indent)
            }
            Kind::Func { proto, .. } => self.declarator(proto, inner, depth, indent),
            Kind::Var { ty: of, .. } => self.declarator(of, inner, depth, indent),
            Kind::DataSec { .. } | Kind::DeclTag { .. } => spaced(ty.name, &inner),
        }
    }

    /// A qualifier goes behind a pointer's star, and before everything else.
    fn qualified(&mut self, word: &str, to: TypeId, inner: String, depth: usize, indent: usize) -> String {
        match self.btf.get(to).map(|ty| ty.kind) {
            Some(Kind::Ptr { .. }) => self.declarator(to, spaced(word, &inner), depth, indent),
            _ => format!("{word} {}", self.declarator(to, inner, depth, indent)),
        }
    }

    fn body(&mut self, id: TypeId, depth: usize, indent: usize) -> String {
        let Some(ty) = self.btf.get(id) else { return "void".to_owned() };
        match ty.kind {
            Kind::Struct { members, .. } => self.members(spaced("struct", ty.name), members, depth, indent),
            Kind::Union { members, .. } => self.members(spaced("union", ty.name), members, depth, indent),
            Kind::Enum { values, .. } => {
                let pad = "\t".repeat(indent);
                let mut text = format!("{} {{\n", spaced("enum", ty.name));
                for value in values.iter() {
                    text.push_str(&format!("{pad}\t{} = {},\n", value.name, value.value));
                }
                text + &pad + "}"
            }
            _ => spaced(ty.name, ""),
        }
    }

    fn members(&mut self, head: String, members: Members<'_>, depth: usize, indent: usize) -> String {
        let pad = "\t".repeat(indent);
        if depth > MAX_DEPTH {
            return format!("{head} {{ ... }}");
        }
        let mut text = format!("{head} {{\n");
        for member in members.iter() {
            if text.len() > MAX_TEXT {
                text.push_str("...\n");
                break;
            }
            let name = match member.bitfield {
                0 => member.name.to_owned(),
                bits => format!("{}: {bits}", member.name),
            };
            let declared = self.declarator(member.ty, name, depth, indent + 1);
            text.push_str(&format!("{pad}\t{declared};\n"));
        }
        text + &pad + "}"
    }
}

fn spaced(left: &str, right: &str) -> String {
    match right {
        "" => left.to_owned(),
        right => format!("{left} {right}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Builder, NewMember};

    #[test]
    fn declarators_read_inside_out() {
        let mut b = Builder::new();
        let int = b.int("int", 4, true);
        let constant = b.constant(int);
        let p = b.pointer(constant);
        let cp = b.constant(p);
        let arr = b.array(int, 4);
        let parr = b.pointer(arr);
        let fun = b.func_proto(int, &[("a", p), ("", TypeId::VOID)]);
        let pfun = b.pointer(fun);
        let anon = b.structure("", 4, &[NewMember::bits("x", int, 0, 3)]);
        let s = b.structure("s", 8, &[NewMember::new("in", anon, 0), NewMember::new("f", pfun, 64)]);
        let e = b.enumeration("e", 4, true, &[("A", -1)]);
        let btf = b.build().unwrap();
        let check = |id, text| assert_eq!(btf.declare(id, "v"), text);
        check(p, "const int *v");
        check(cp, "const int *const v");
        check(arr, "int v[4]");
        check(parr, "int (*v)[4]");
        check(pfun, "int (*v)(const int *a, ...)");
        check(s, "struct s v");
        assert_eq!(btf.declare(parr, ""), "int (*)[4]");
        assert_eq!(btf.define(s), "struct s {\n\tstruct {\n\t\tint x: 3;\n\t} in;\n\tint (*f)(const int *a, ...);\n};");
        assert_eq!(btf.define(e), "enum e {\n\tA = -1,\n};");
    }
}
