#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# usage: no_launcher.sh -n RANKS PROGRAM [ARGUMENT...]
#
# In place of mpirun: starts PROGRAM alone, as a user does who forgot it.
[ "$1" = -n ] || exit 0
shift 2
exec "$@"
