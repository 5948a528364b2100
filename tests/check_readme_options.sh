#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# usage: check_readme_options.sh README OPTS_TABLE
#
# The README's table of options is what the library's own table says.
set -euo pipefail
readme=$1 program=$2

diff -u --label "$readme" --label "the library" \
	<(sed -n '/^| variable | default | meaning |$/,/^$/p' "$readme" | sed '/^$/d') \
	<("$program")
