#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# usage: scripts/format.sh [FILE...]
#
# Wraps the lines of C files that are wider than 100 columns, with clang-format, and
# leaves all others as they are. Without arguments: all files of the tree.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ $# -eq 0 ]; then
	mapfile -t files < <(find include src tests bench examples -name '*.[ch]')
	set -- "${files[@]}"
fi
for file; do
	mapfile -t lines < <(expand -t 8 "$file" |
		awk 'length > 100 { print "--lines=" NR ":" NR }')
	[ ${#lines[@]} -eq 0 ] || clang-format -i "${lines[@]}" "$file"
done
