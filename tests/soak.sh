#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# A training in a restart loop on simulated nodes, with random faults, for as long as you like.
set -euo pipefail

usage()
{
	cat <<'END'
usage: tests/soak.sh [OPTION...]

Trains examples/train_gpt on simulated nodes, again and again. Any process of it is killed,
terminated or stopped for a while at random times: ranks, ftmem-smp, mpirun, whole nodes. After
each failure it is started again, with the lost nodes empty, replaced or left out. Each round
takes about half a minute and ends with the training; its parameters and optimizer state must be
those of an undisturbed run, bit for bit.

  --minutes N          no round begins after that (2; with FTMEM_TEST_FULL=1 at least 10)
  --seed S             draws the faults; printed at the start and the end. When they strike also
                       depends on the machine
  --round N            only this round of the seed
  --nodes N, --parity M, --ranks-per-node R, --group-nodes G
                       how many; M nodes of a group at most are lost before redundancy is whole
                       again. Default: drawn for each round
  --steps N            how long a round trains (300)
  --verbose            tell each fault, not only those of a round that failed
  --keep               keep logs
  -h, --help

At the end it prints how many faults of each kind there were. Exit status: 0 all rounds were good,
1 one was not, or a run of a minute or more met no fault: what happened in it, where its processes
were if they hung, and how to run it again are printed.
END
}

for option; do
	case $option in -h | --help) usage; exit 0 ;; esac
done
# shellcheck source=scripts/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/setup.sh"
ftmem_setup test
ftmem_build release train_gpt ftmem_smp ftmem_command
bin=$ftmem_root/build/release/bin
exec python3 "$ftmem_root/tests/e2e/soak.py" --trainer "$bin/train_gpt" --smp "$bin/ftmem-smp" \
	--ftmem "$bin/ftmem" "$@"
