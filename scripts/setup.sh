#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Functions that the other scripts share; source it. Run by itself it installs all
# packages that building and testing need.
#
#   ftmem_root            folder of the source tree
#   ftmem_setup build     packages to build and run; ends the script with status 2
#   ftmem_setup test      those and the ones that tests need
#   ftmem_setup plot      what draws figures, alone
#   ftmem_venv [WHEEL...] sets FTMEM_PYTHON to a Python with PyTorch; makes build/venv if need be
#   ftmem_build PRESET [TARGET...]   configures once, then builds; quiet unless it fails
#   ftmem_jobs            how many things to do at a time

ftmem_here=$PWD
ftmem_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ftmem_jobs=$(nproc 2>/dev/null || echo 2)

ftmem_packages_build="gcc libc6-dev cmake ninja-build pkg-config libopenmpi-dev openmpi-bin
	libisal-dev libhwloc-dev"
ftmem_packages_test="g++ libcmocka-dev python3 groff-base binutils procps iproute2
	clang libclang-rt-dev clang-tidy cppcheck valgrind spin"
ftmem_packages_plot="python3-matplotlib"
ftmem_packages_venv="python3 python3-venv"
ftmem_wheels="torch==2.13.0 numpy pytest"

# Prints those of the packages that are not installed.
ftmem_missing()
{
	local have package

	have=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "$@" 2>/dev/null |
		sed -n 's/^installed //p')
	for package; do
		grep -qxF -- "$package" <<<"$have" || echo "$package"
	done
}

# Elsewhere than on Debian and its kin: the tools themselves.
ftmem_missing_tools()
{
	local tool

	for tool in cc cmake ninja pkg-config mpicc mpirun; do
		command -v "$tool" >/dev/null || echo "$tool"
	done
	for tool in hwloc libisal; do
		pkg-config --exists "$tool" 2>/dev/null || echo "$tool (development files)"
	done
}

ftmem_setup()
{
	local packages missing log as_root=

	packages=$ftmem_packages_build
	[ "$1" = test ] && packages="$packages $ftmem_packages_test"
	[ "$1" = plot ] && packages=$ftmem_packages_plot
	[ "$1" = venv ] && packages=$ftmem_packages_venv

	if ! command -v dpkg-query >/dev/null; then
		[[ $1 != plot && $1 != venv ]] || return 0
		missing=$(ftmem_missing_tools)
		[ -z "$missing" ] && return 0
		echo "This system has no Debian packages. Please install:" >&2
		sed 's/^/    /' <<<"$missing" >&2
		exit 2
	fi

	# shellcheck disable=SC2086
	missing=$(ftmem_missing $packages | tr '\n' ' ')
	[ -z "$missing" ] && return 0
	if [ "$(id -u)" -ne 0 ]; then
		if ! sudo -n true 2>/dev/null; then
			echo "Packages are missing, and this is neither root nor allowed to use" \
				"sudo without a password. Please run:" >&2
			echo "    sudo apt-get update &&" \
				"sudo apt-get install -y --no-install-recommends $missing" >&2
			exit 2
		fi
		as_root="sudo -n"
	fi
	echo "Installing: $missing"
	log=$(mktemp)
	# shellcheck disable=SC2086
	if ! { $as_root apt-get -o DPkg::Lock::Timeout=300 -qq update &&
		$as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -qq \
			install -y --no-install-recommends $missing; } </dev/null >"$log" 2>&1; then
		cat "$log" >&2
		rm -f "$log"
		echo "apt-get failed. Needed: $missing" >&2
		exit 2
	fi
	rm -f "$log"
}

ftmem_build()
{
	local preset=$1 log=$ftmem_root/build/$1.log

	shift
	mkdir -p "$ftmem_root/build"
	if { [ -f "$ftmem_root/build/$preset/build.ninja" ] ||
		(cd "$ftmem_root" && cmake --preset "$preset"); } >"$log" 2>&1 &&
		cmake --build "$ftmem_root/build/$preset" -j "$ftmem_jobs" \
			${1:+--target "$@"} >>"$log" 2>&1; then
		return 0
	fi
	echo "The build of $preset failed:" >&2
	sed '/^\[[0-9]*\/[0-9]*\] /d' "$log" >&2
	return 1
}

ftmem_has_wheels() # PYTHON WHEELS
{
	# shellcheck disable=SC2086
	"$1" - $2 2>/dev/null <<'END'
import importlib.metadata, sys
for wheel in sys.argv[1:]:
    name, _, version = wheel.partition("==")
    assert importlib.metadata.version(name).split("+")[0].startswith(version)
END
}

# An interpreter that FTMEM_PYTHON names already is taken as it is, its path made absolute from
# where the script was called. Fails, with a text, where PyTorch cannot be had.
ftmem_venv()
{
	local venv=$ftmem_root/build/venv log=$ftmem_root/build/venv.log wheels="$ftmem_wheels $*"

	if [ -n "${FTMEM_PYTHON:-}" ]; then
		case $FTMEM_PYTHON in
		/*) ;;
		*/*) FTMEM_PYTHON=$ftmem_here/$FTMEM_PYTHON ;;
		*) FTMEM_PYTHON=$(command -v "$FTMEM_PYTHON" || echo "$FTMEM_PYTHON") ;;
		esac
		export FTMEM_PYTHON
		"$FTMEM_PYTHON" -c 'import torch' && return 0
		echo "FTMEM_PYTHON is $FTMEM_PYTHON, which has no PyTorch." >&2
		return 1
	fi
	if ! ftmem_has_wheels "$venv/bin/python" "$wheels"; then
		mkdir -p "$ftmem_root/build"
		if ! python3 -m venv "$venv" >"$log" 2>&1; then
			(ftmem_setup venv) || return 1
			python3 -m venv --clear "$venv" >"$log" 2>&1 ||
				{ cat "$log" >&2; return 1; }
		fi
		echo "Installing into build/venv: $wheels"
		# shellcheck disable=SC2086
		if ! "$venv/bin/python" -m pip install -q $wheels >"$log" 2>&1; then
			tail -n 20 "$log" >&2
			echo "PyTorch cannot be installed." >&2
			return 1
		fi
	fi
	export FTMEM_PYTHON=$venv/bin/python
}

# Open MPI refuses to start as root unless told twice.
if [ "$(id -u)" -eq 0 ]; then
	export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
	set -euo pipefail
	ftmem_setup test
	echo "All packages are installed."
fi
