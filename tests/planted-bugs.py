"""Plants bugs in a copy of the verifier; see planted-bugs.sh.

A bug is one line that does something else while `crate::planted(N)` holds: a condition inverted, never true or with
another comparison, an operator exchanged, a bound off by one, a statement left out. Lines that do not compile with their
bug are put back. N comes from RTBPF_PLANTED, so one build holds every bug.
"""

import argparse, concurrent.futures, hashlib, json, os, re, shutil, subprocess, sys, tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Bugs that change nothing which a program can show: the words of the report, and below, indented, why.
EQUAL = ROOT / "tests/data/planted-equal.txt"
SKIPPED = {"exhaustive.rs", "reject.rs", "lib.rs", "verified.rs", "lower.rs"}
SWAPS = [
    (r" <= ", " < "), (r" >= ", " > "), (r" < ", " <= "), (r" > ", " >= "), (r" == ", " != "), (r" != ", " == "),
    (r" && ", " || "), (r" \|\| ", " && "), (r" \+ 1\b", ""), (r" - 1\b", ""), (r" \+ ", " - "), (r" - ", " + "),
    (r"\.min\(", ".max("), (r"\.max\(", ".min("), (r" & ", " | "), (r" \| ", " & "), (r"\.wrapping_add\(", ".wrapping_sub("),
    (r"\.all\(", ".any("), (r"\.any\(", ".all("), (r"\btrue\b", "false"), (r"\bfalse\b", "true"),
]
SWITCH = """#![allow(warnings)]
pub(crate) fn planted(n: u32) -> bool {
    static N: std::sync::LazyLock<u32> =
        std::sync::LazyLock::new(|| std::env::var("RTBPF_PLANTED").ok().and_then(|n| n.parse().ok()).unwrap_or(0));
    *N == n
}
"""
IF = re.compile(r"^(\s*(?:\} else )?if )((?!let\b).*[^=|]) \{$")
LET = re.compile(r"^(\s*let [\w: ()<>,]+ = )([^{}]*);$")
ARM = re.compile(r"^(\s*[^=]* => )([^{}]*),$")
CALL = re.compile(r"^\s*[\w.]+(?:\([^;{}]*\)|\[[^;{}]*\])*(?: [-+|&^]?= [^;{}]*|\.\w+\([^;{}]*\)\??|\([^;{}]*\)\??);$")
TAIL = re.compile(r"^(\s+)((?!\s|&&|\|\||[-+*/|&^] |let|return|use|//|#|\.|if|for|while|match|fn|pub)[^{};]*[^{};,.(\[=])$")


def bugs_of(line):
    """What may be planted in this line: (what, the line with `N` for the number)."""
    found = []
    if "refuse!" in line or "format!" in line or '"' in line or line.lstrip().startswith(("//", "#", "*")):
        return found
    def swapped(text):
        for pattern, other in SWAPS:
            hits = list(re.finditer(pattern, text))
            for hit in hits[:2]:
                yield f"{other.strip() or 'nothing'} for {hit.group().strip()}", text[: hit.start()] + other + text[hit.end() :]
    if m := IF.match(line):
        head, condition = m.groups()
        if " let " not in condition:
            found.append(("inverted", f"{head}(crate::planted(N) ^ ({condition})) {{"))
            found.append(("never", f"{head}(!crate::planted(N) && ({condition})) {{"))
            found += [(w, f"{head}(if crate::planted(N) {{ {t} }} else {{ {condition} }}) {{") for w, t in swapped(condition)]
    elif m := LET.match(line) or ARM.match(line):
        end = line[-1]
        found += [(w, f"{m[1]}(if crate::planted(N) {{ {t} }} else {{ {m[2]} }}){end}") for w, t in swapped(m[2])]
    elif CALL.match(line) and not line.lstrip().startswith(("return", "let", "use", "break", "continue")):
        found.append(("left out", f"if !crate::planted(N) {{ {line.strip()} }}"))
    elif m := TAIL.match(line):
        found += [(w, f"{m[1]}(if crate::planted(N) {{ {t} }} else {{ {m[2]} }})") for w, t in swapped(m[2])]
    return found


def candidates(source):
    for path in sorted(source.rglob("*.rs")):
        # What is said decides nothing.
        if path.name in SKIPPED or path.parent.name == "log":
            continue
        open_brackets = 0
        for at, line in enumerate(path.read_text().split("\n")):
            if line.startswith("#[cfg(test)]"):
                break
            # Lines inside an expression that began earlier cannot be told from whole ones.
            whole = open_brackets == 0
            open_brackets = max(0, open_brackets + line.count("(") + line.count("[") - line.count(")") - line.count("]"))
            if whole and open_brackets == 0:
                for what, text in bugs_of(line):
                    yield path, at, what, text


def write(tree, originals, planted):
    by_file = {}
    for number, (path, at, _, text) in planted.items():
        by_file.setdefault(path, {})[at] = text.replace("planted(N)", f"planted({number})")
    for path, original in originals.items():
        lines = original.split("\n")
        for at, text in by_file.get(path, {}).items():
            lines[at] = text
        content = "\n".join(lines)
        if path.read_text() != content:
            path.write_text(content)


def cargo(tree, *words):
    environment = {"CARGO_PROFILE_DEV_OPT_LEVEL": "2", **os.environ, "CARGO_INCREMENTAL": "0"}
    done = subprocess.run(["cargo", *words, "--message-format=json"], cwd=tree, env=environment, capture_output=True, text=True)
    return done.returncode, [json.loads(line) for line in done.stdout.split("\n") if line.startswith("{")], done.stderr


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--count", type=int, default=240)
    options.add_argument("--jobs", type=int, default=2)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--fuzz", type=int, default=0, help="seconds of `campaign sound` for each bug")
    options.add_argument("--no-suites", action="store_true", help="only the campaign")
    options.add_argument("--only", default="")
    options.add_argument("--list", action="store_true")
    options.add_argument("--folder", help="where the copy is made, and kept for the next run")
    asked = options.parse_args()
    folder = asked.folder or tempfile.mkdtemp(prefix="planted-")
    tree = Path(folder) / "tree"
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    for left in set(tree.rglob("*.rs")) - {tree / name for name in files}:
        left.unlink()
    for name in filter(None, files):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name)
    try:
        run(asked, tree)
    finally:
        if not asked.folder:
            shutil.rmtree(folder)


def equal():
    lines = EQUAL.read_text().split("\n")
    return {line for line in lines if line and not line.startswith((" ", "#"))}


def run(asked, tree):
    source = tree / "verifier/src"
    library = source / "lib.rs"
    text = library.read_text()
    head, rest = text.split("\n\n", 1)
    library.write_text(head + "\n" + SWITCH.replace("pub(crate)", "\npub(crate)", 1) + "\n" + re.sub(r"(?m)^#!\[[^\]]*\]\n", "", rest))
    everything = list(candidates(source))
    originals = {path: path.read_text() for path in {c[0] for c in everything}}
    # At most one bug a line, spread evenly over the files; a change elsewhere leaves the choice as it is.
    everything.sort(key=lambda bug: hashlib.sha256(f"{asked.seed} {bug[0].relative_to(tree)} {bug[2]} {bug[3]}".encode()).digest())
    taken, chosen = set(), []
    for candidate in everything:
        if candidate[:2] not in taken:
            taken.add(candidate[:2])
            chosen.append(candidate)
    planted = dict(enumerate(chosen[: asked.count * 5 // 4], 1))
    while True:
        write(tree, originals, planted)
        code, messages, errors = cargo(tree, "check", "-q", "-p", "rtbpf-verifier")
        if code == 0:
            break
        bad = {(tree / span["file_name"], span["line_start"] - 1) for m in messages if m["reason"] == "compiler-message" and m["message"]["level"] == "error" for span in m["message"]["spans"]}
        remaining = {n: bug for n, bug in planted.items() if bug[:2] not in bad}
        if len(remaining) == len(planted):
            sys.exit(f"the copy does not compile:\n{errors}\n" + "\n".join(m["message"]["rendered"] for m in messages if m["reason"] == "compiler-message" and m["message"]["level"] == "error")[:3000])
        planted = remaining
    for surplus in list(planted)[asked.count :]:
        del planted[surplus]
    write(tree, originals, planted)
    if asked.list:
        for number, (path, at, what, _) in planted.items():
            print(number, f"{path.relative_to(tree)}:{at + 1}", what, originals[path].split("\n")[at].strip())
        return
    suites, of_tests = [], ("mechanisms", "variants", "soundness")
    for words in () if asked.no_suites else (["-p", "rtbpf-tests", "--test", "mechanisms", "--test", "variants", "--test", "soundness", "--bin", "campaign"], ["-p", "rtbpf-verifier", "--tests"]):
        code, messages, errors = cargo(tree, "test", "-q", "--no-run", *words)
        if code:
            sys.exit(errors)
        suites += [(m["target"]["name"], m["executable"]) for m in messages if m.get("executable")]
    # What costs least comes first.
    order = ["linux", "log", "regions", "globals", "rules", "variants", "mechanisms", "soundness", "nasty", "agreement", "rtbpf_verifier"]
    suites = sorted((s for s in suites if s[0] in order), key=lambda s: order.index(s[0]))
    campaign = None
    if asked.fuzz:
        code, messages, errors = cargo(tree, "build", "-q", "-p", "rtbpf-tests", "--bin", "campaign")
        if code:
            sys.exit(errors)
        campaign = next(m["executable"] for m in messages if m.get("executable"))

    def fails(number, command, folder, seconds):
        environment = {**os.environ, "RTBPF_PLANTED": str(number), "RUST_BACKTRACE": "0"}
        try:
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            return True
        return done.returncode != 0 or re.search(r"\b[1-9]\d* programs escape", done.stdout) is not None

    def judge(number):
        by = []
        for name, executable in suites:
            room = tree / ("tests" if name in of_tests else "verifier")
            if fails(number, [executable, "-q"], room, 60):
                by.append(name)
                break
        if campaign and fails(number, [campaign, "sound", "--generator", "shaped", "--seconds", str(asked.fuzz), "--count", "1000000000"], tree, asked.fuzz + 20):
            by.append("campaign")
        return number, by

    for name, executable in suites:
        if fails(0, [executable, "-q"], tree / ("tests" if name in of_tests else "verifier"), 300):
            sys.exit(f"{name} fails with nothing planted")
    only = {int(n) for n in asked.only.split(",") if n}
    numbers = [n for n in planted if not only or n in only]
    caught, same, survivors, totals, known = 0, 0, [], {}, equal()
    with concurrent.futures.ThreadPoolExecutor(asked.jobs) as pool:
        for number, by in pool.map(judge, numbers):
            path, at, what, _ = planted[number]
            code = originals[path].split("\n")[at].strip()
            line = f"{number} {path.relative_to(tree)}:{at + 1} {what}: {code}"
            name = f"{path.relative_to(source)} {what}: {code}"
            print(f"{'caught by ' + ', '.join(by) if by else 'EQUAL' if name in known else 'SURVIVED'} {line}", flush=True)
            caught += bool(by)
            same += not by and name in known
            survivors += [] if by or name in known else [line]
            for name in by:
                totals[name] = totals.get(name, 0) + 1
    print(f"{caught} of {len(numbers)} caught ({totals}), {same} change nothing, {len(survivors)} survive")
    print("\n".join(survivors))


main()
