#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# usage: check_man.sh MAN_DIR HEADER
#
# The man pages render without a warning, and every function of the header is in one.
set -euo pipefail
pages=$1 header=$2
failed=0

if ! command -v groff >/dev/null; then
	echo "no groff: man pages not checked"
	exit 77
fi
for page in ftmem.1 ftmem-smp.1; do
	if [ ! -f "$pages/$page" ]; then
		echo "$page is missing"
		failed=1
	fi
done
for page in "$pages"/*.[1-8]; do
	[ -f "$page" ] || continue
	warnings=$(groff -man -Tutf8 -ww -z "$page" 2>&1) || failed=1
	if [ -n "$warnings" ]; then
		echo "$warnings"
		failed=1
	fi
done
while read -r name; do
	if ! cat "$pages"/*.3 2>/dev/null | grep -q "$name"; then
		echo "$name is in no man page of section 3"
		failed=1
	fi
done < <(sed -n 's/^FTMEM_API .*\b\(ftmem_[a-z_]*\)(.*/\1/p' "$header")
exit $failed
