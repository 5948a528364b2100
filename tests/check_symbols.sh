#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# usage: check_symbols.sh HEADER LIST LIBFTMEM.SO LIBFTMEM.A
#
# Both libraries define the names of LIST for others and no more, and the header
# declares just these.
set -euo pipefail
header=$1 list=$2 shared=$3 static=$4
failed=0

# Standard input has the names that $1 has.
compare()
{
	sort | diff -u --label "$list" --label "$1" "$list" -
}

sed -n 's/^FTMEM_API .*\b\(ftmem_[a-z_]*\)(.*/\1/p' "$header" | compare "$header" || failed=1
nm -D --defined-only --format=posix "$shared" | awk '$2 != "A" { sub(/@.*/, "", $1); print $1 }' |
	compare "$shared" || failed=1
nm -g --defined-only --format=posix "$static" | awk 'NF > 1 { print $1 }' |
	compare "$static" || failed=1

soname=$(readelf -d "$shared" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p')
if [ "$soname" != libftmem.so.0 ]; then
	echo "soname is $soname, not libftmem.so.0"
	failed=1
fi
exit $failed
