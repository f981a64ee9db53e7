#!/usr/bin/env bash
# Looks for leaks with Valgrind: check-leaks.sh BUILD BUNDLE [ROUNDS]
#
# Runs himar_rounds of a build folder (preset release) once for one round and once for ROUNDS (100). Memory that is lost
# ends the check with 1, and so does memory that is still held at the end and grows with the rounds: what ONNX Runtime
# keeps for the whole process does not.
set -euo pipefail
say_why() { echo "himar: $*" >&2; exit 1; }
[ $# -ge 2 ] || say_why "use: check-leaks.sh BUILD BUNDLE [ROUNDS]"
command -v valgrind > /dev/null || say_why "valgrind is missing; install it (Debian: apt-get install valgrind)."
[ -x "$1/tests/himar_rounds" ] || say_why "$1/tests/himar_rounds is missing; build the tests first."
log=$(mktemp)
trap 'rm -f "$log"' EXIT

held_after() {
  valgrind --suppressions="$here/valgrind.supp" --leak-check=full --show-leak-kinds=definite,indirect --errors-for-leak-kinds=definite,indirect \
    --error-exitcode=99 --log-file="$log" "$program" "$bundle" "$1" > /dev/null || { cat "$log" >&2; exit 1; }
  sed -n 's/.*in use at exit: \([0-9,]*\) bytes.*/\1/p' "$log" | tr -d ,
}

here=$(dirname "$0")
program=$1/tests/himar_rounds bundle=$2 rounds=${3:-100}
first=$(held_after 1)
last=$(held_after "$rounds")
echo "held at the end: $first bytes after 1 round, $last bytes after $rounds; nothing lost"
[ $((last - first)) -le $((rounds * 64)) ] || say_why "memory grows by $(((last - first) / (rounds - 1))) bytes a round."
