"""Map cases on the running kernel and through `rtbpf batch`; prints where they differ. As root; nothing is ever attached.

    python3 tests/map_campaign GENERATOR [--rtbpf target/release/rtbpf] [--count 5000] [--seed 0] [--engine checked]
                               [--cred root] [--cases cli/tests/linux_map_cases.jsonl] [--keep FILE]

GENERATOR is one of grid, mutate, sequences, loads, programs, runs. With `--cred uid65534` the caller is nobody. `--cases` are recorded ones that `mutate` changes; `--keep` writes the cases
that differ, with the kernel's answers. Some differences say nothing: numbers of descriptors that a case put in as bytes, bytes
of a stack that a program did not write, devices that the other machine has not, and the order of tables with a seed.
"""
import argparse
import collections
import itertools
import json
import os
import pathlib
import random
import subprocess
import time

import calls
import cases
import linux

GENERATORS = {**cases.GENERATORS, "sequences": calls.sequences}
ROOT = pathlib.Path(__file__).resolve().parents[2]


def differing(theirs, ours):
    """The first step that differs, as both have it."""
    pairs = zip(theirs["steps"], ours.get("steps", []))
    return next(((a, b) for a, b in pairs if not linux.same(a, b)), None)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("generator", choices=GENERATORS)
    options.add_argument("--rtbpf", default=ROOT / "target/release/rtbpf")
    options.add_argument("--count", type=int, default=5000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--engine", default="checked")
    options.add_argument("--cred", default="root")
    options.add_argument("--cases", default=ROOT / "cli/tests/linux_map_cases.jsonl")
    options.add_argument("--keep")
    asked = options.parse_args()
    os.sched_setaffinity(0, {0})
    steps = GENERATORS[asked.generator](cases.Recorded(asked.cases), random.Random(asked.seed))
    asks = [cases.case(number, one, asked.cred) for number, one in enumerate(itertools.islice(steps, asked.count))]
    theirs = []
    for ask in asks:
        # The kernel frees maps later than it makes them.
        if len(theirs) % 200 == 0:
            time.sleep(0.05)
        theirs.append(linux.answer(ask))
    lines = "".join(json.dumps(ask) + "\n" for ask in asks)
    batch = subprocess.run([asked.rtbpf, "batch", "--engine", asked.engine], input=lines, capture_output=True, text=True, check=True)
    ours = [json.loads(line) for line in batch.stdout.splitlines()]
    assert len(ours) == len(asks), f"{len(ours)} answers to {len(asks)} cases"
    clusters, kept = collections.defaultdict(list), []
    for linux_case, our_case in zip(theirs, ours):
        if found := differing(linux_case, our_case):
            a, b = found
            kept.append(linux_case)
            what = a.get("type") or a.get("prog_type") or a.get("map", "")
            clusters[a["op"], what, a["errno"], b.get("errno"), (a.get("log_tail") or "")[:60]].append((linux_case, a, b))
    print(f"{len(asks) - len(kept)} of {len(asks)} agree")
    for kind, found in sorted(clusters.items(), key=lambda item: -len(item[1])):
        shortest, a, b = min(found, key=lambda one: len(json.dumps(one[0])))
        print(f"{len(found)} x {kind}\n   linux {json.dumps(a)[:400]}\n   rtbpf {json.dumps(b)[:400]}\n   case {shortest['id']}")
    if asked.keep:
        pathlib.Path(asked.keep).write_text("".join(json.dumps(one) + "\n" for one in kept))


main()
