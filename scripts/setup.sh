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
#   ftmem_build PRESET [TARGET...]   configures once, then builds; quiet unless it fails
#   ftmem_jobs            how many things to do at a time

ftmem_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ftmem_jobs=$(nproc 2>/dev/null || echo 2)

ftmem_packages_build="gcc libc6-dev cmake ninja-build pkg-config libopenmpi-dev openmpi-bin
	libisal-dev libhwloc-dev"
ftmem_packages_test="g++ libcmocka-dev python3 groff-base binutils procps iproute2"
ftmem_packages_plot="python3-matplotlib"

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

	if ! command -v dpkg-query >/dev/null; then
		[ "$1" != plot ] || return 0
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
			echo "Packages are missing, and this is neither root nor allowed to use sudo" \
				"without a password. Please run:" >&2
			echo "    sudo apt-get update && sudo apt-get install -y --no-install-recommends" \
				"$missing" >&2
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

# Open MPI refuses to start as root unless told twice.
if [ "$(id -u)" -eq 0 ]; then
	export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
	set -euo pipefail
	ftmem_setup test
	echo "All packages are installed."
fi
