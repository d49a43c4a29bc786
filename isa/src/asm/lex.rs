//! Text to tokens, one line at a time.

use super::AsmError;

/// One token and where it stands.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Token<'a> {
    pub kind: Kind<'a>,
    /// As written.
    pub text: &'a str,
    /// From 1, in characters.
    pub column: u32,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Kind<'a> {
    /// A register, mnemonic, label or name; a register's `%` is dropped.
    Word(&'a str),
    /// A number without its sign.
    Number(u64),
    /// A sign or operator.
    Punct(&'a str),
}

/// Operators, longest first.
const PUNCTUATION: &[&str] = &[
    "<<=", ">>=", "+=", "-=", "*=", "/=", "%=", "|=", "&=", "^=", "==", "!=", "<=", ">=", "<", ">", "&", "=", "(", ")",
    "[", "]", ",", ":", "*", "+", "-", "#",
];

/// The tokens of a line. `;`, `//` and `#` begin a comment; a `#` between a name and a number does not.
pub(super) fn tokens(line: &str, line_number: u32) -> Result<Vec<Token<'_>>, AsmError> {
    let mut out: Vec<Token> = Vec::new();
    let mut rest = line;
    let mut column = 1;
    loop {
        let trimmed = rest.trim_start();
        column += (rest.chars().count() - trimmed.chars().count()) as u32;
        let is_adjacent = rest.len() == trimmed.len();
        rest = trimmed;
        let is_number_sign = rest.starts_with('#') && is_adjacent && names_a_number(out.last(), rest);
        if rest.is_empty()
            || rest.starts_with(';')
            || rest.starts_with("//")
            || rest.starts_with('#') && !is_number_sign
        {
            return Ok(out);
        }
        let (kind, length) = token(rest).ok_or_else(|| AsmError {
            line: line_number,
            column,
            expected: "an instruction, label or comment".into(),
            found: rest.chars().take(1).collect(),
        })?;
        let (text, after) = rest.split_at(length);
        out.push(Token { kind, text, column });
        column += text.chars().count() as u32;
        rest = after;
    }
}

fn names_a_number(last: Option<&Token>, rest: &str) -> bool {
    let after = rest.trim_start_matches('#');
    matches!(last, Some(Token { kind: Kind::Word(_), .. }))
        && after.starts_with(|c: char| c == '-' || c.is_ascii_digit())
}

/// The token that `rest` begins with, and its length in bytes.
fn token(rest: &str) -> Option<(Kind<'_>, usize)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '$' | '@');
    let word_length = |s: &str| s.find(|c| !is_word(c)).unwrap_or(s.len());
    let first = rest.chars().next()?;
    if first.is_ascii_digit() {
        let length = word_length(rest);
        let text = rest.get(..length)?;
        return Some((number(text).map_or(Kind::Word(text), Kind::Number), length));
    }
    if is_word(first) {
        let length = word_length(rest);
        return Some((Kind::Word(rest.get(..length)?), length));
    }
    if let Some(name) = rest.strip_prefix('%')
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
    {
        let length = word_length(name);
        return Some((Kind::Word(name.get(..length)?), length + 1));
    }
    PUNCTUATION.iter().find(|p| rest.starts_with(**p)).map(|p| (Kind::Punct(p), p.len()))
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_columns() {
        let check = |line: &str, want: &[(&str, u32)]| {
            let got: Vec<_> = tokens(line, 1).unwrap().iter().map(|t| (t.text, t.column)).collect();
            assert_eq!(got, want, "{line}");
        };
        check("r1 s>>= 0x10 ; comment", &[("r1", 1), ("s", 4), (">>=", 5), ("0x10", 9)]);
        check("  mov %r0, -1 # comment", &[("mov", 3), ("%r0", 7), (",", 10), ("-", 12), ("1", 13)]);
        check("call bpf_x#5 // comment", &[("call", 1), ("bpf_x", 6), ("#", 11), ("5", 12)]);
        check("exit #5", &[("exit", 1)]);
        check("", &[]);
    }

    #[test]
    fn what_is_no_token_is_named() {
        let error = tokens("r0 = 1 ? 2", 7).unwrap_err();
        assert_eq!((error.line, error.column, error.found.as_str()), (7, 8, "?"));
        assert_eq!(tokens("r0 = 0xg", 1).unwrap()[2].kind, Kind::Word("0xg"));
    }
}
