#!/usr/bin/env bash
# Plants bugs in a copy of the verifier, one at a time, and prints which the tests and a short campaign catch.
#
#   tests/planted-bugs.sh [--count 240] [--jobs 2] [--fuzz SECONDS] [--no-suites] [--only N,N] [--list] [--folder DIR]
#
# Bugs that change nothing stand in tests/data/planted-equal.txt, each with the reason.
# All bugs are compiled once, behind a switch that a variable of the environment sets; the tree stays as it is.
set -euo pipefail
exec python3 "$(dirname "$0")/planted-bugs.py" "$@"
