#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# usage: check_install.sh CMAKE BUILD_DIR LIBDIR C_COMPILER MPIRUN
#
# What `cmake --install` leaves is complete, can be moved, and a project outside the
# tree builds and runs against it: through pkg-config and through find_package(), with
# the shared library and with the static one, as C and as C++.
set -euo pipefail
cmake=$1 build=$2 libdir=$3 cc=$4 mpirun=$5
cxx=${CXX:-c++}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/ftm.XXXXXX")
trap 'rm -rf "$work"' EXIT
# The installed programs, not those of the build, are to be found.
unset FTMEM_SMP

"$cmake" --install "$build" --prefix "$work/first" >"$work/log"
mv "$work/first" "$work/prefix"
prefix=$work/prefix

for file in include/ftmem.h "$libdir/libftmem.so" "$libdir/libftmem.so.0" "$libdir/libftmem.a" \
	"$libdir/pkgconfig/ftmem.pc" "$libdir/cmake/ftmem/ftmemConfig.cmake" \
	bin/ftmem bin/ftmem-smp bin/ftmem_bench share/man/man1/ftmem.1 share/man/man1/ftmem-smp.1 \
	share/doc/ftmem/LICENSE; do
	if [ ! -e "$prefix/$file" ]; then
		echo "not installed: $file"
		exit 1
	fi
done

run()
{
	echo "== $1"
	sh "$here/util/mpi_run.sh" "$mpirun" 2 "$2"
}

export PKG_CONFIG_PATH=$prefix/$libdir/pkgconfig${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
strict="-Wall -Wextra -Werror"
rpath=-Wl,-rpath,$prefix/$libdir
static=$(pkg-config --static --libs ftmem | sed 's/-lftmem\b/-l:libftmem.a/')

# Word splitting is what pkg-config's output is for.
# shellcheck disable=SC2046,SC2086
{
	$cc -std=c11 $strict "$here/install/main.c" -o "$work/c_shared" \
		$(pkg-config --cflags --libs ftmem) $rpath
	$cc -std=c11 $strict "$here/install/main.c" -o "$work/c_static" \
		$(pkg-config --cflags ftmem) $static
}
run "pkg-config, shared" "$work/c_shared"
# A static program knows only where ftmem-smp was to be installed: PATH tells it.
PATH=$prefix/bin:$PATH run "pkg-config, static" "$work/c_static"
if command -v "$cxx" >/dev/null; then
	# shellcheck disable=SC2046,SC2086
	"$cxx" -std=c++17 $strict -Wno-missing-field-initializers -x c++ "$here/install/main.c" \
		-x none -o "$work/cxx_shared" $(pkg-config --cflags --libs ftmem) $rpath
	run "pkg-config, C++17" "$work/cxx_shared"
fi

"$cmake" -S "$here/install" -B "$work/outside" -DCMAKE_PREFIX_PATH="$prefix" \
	-DCMAKE_C_COMPILER="$cc" >"$work/log" || { cat "$work/log"; exit 1; }
"$cmake" --build "$work/outside" >"$work/log" || { cat "$work/log"; exit 1; }
run "find_package, shared" "$work/outside/with_shared"
PATH=$prefix/bin:$PATH run "find_package, static" "$work/outside/with_static"

for program in "$work/c_static" "$work/outside/with_static"; do
	if readelf -d "$program" | grep -q libftmem; then
		echo "$program links the shared library"
		exit 1
	fi
done
bash "$here/check_header.sh" "$prefix/include" "$cc"
