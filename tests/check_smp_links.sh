#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# usage: check_smp_links.sh PROGRAM...
#
# The programs that outlive a job load neither MPI nor a device's runtime, directly
# or through another library, and have no code that would look for a device.
set -euo pipefail
foreign='libmpi|libopen-|libpmix|libucp|libcuda|libnv|libnccl'
failed=0

for program; do
	needed=$(readelf -d "$program" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
	echo "$(basename "$program") needs:" $needed
	if { echo "$needed"; ldd "$program"; } | grep -E "$foreign"; then
		failed=1
	fi
	if grep -q 'libcuda\.so' "$program"; then
		echo "$(basename "$program") contains the device backend"
		failed=1
	fi
done
exit $failed
