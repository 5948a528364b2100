#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# usage: run.sh FILE [PYTHON]
#
# Runs a file of tests with pytest. The interpreter is FTMEM_PYTHON, else PYTHON if it is given,
# else the one of build/venv, which scripts/test.sh makes, else python3. Exit status 77
# (skipped) if it has no PyTorch or no pytest; 1 with FTMEM_REQUIRE_ALL set.
set -u

here=$(cd "$(dirname "$0")" && pwd)
venv=$here/../../build/venv/bin/python
python=${FTMEM_PYTHON:-${2:-}}
if [ -z "$python" ]; then
	python=python3
	[ ! -x "$venv" ] || python=$venv
fi

if ! "$python" -c 'import importlib.util as u
assert u.find_spec("torch") and u.find_spec("pytest")' 2>/dev/null; then
	echo "NOT RUN: $python has no PyTorch or no pytest; scripts/test.sh installs them"
	[ -z "${FTMEM_REQUIRE_ALL:-}" ] || exit 1
	exit 77
fi
exec "$python" -m pytest -q -rs -p no:cacheprovider --rootdir "$here" "$here/$1"
