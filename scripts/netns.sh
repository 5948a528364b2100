#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Hosts simulated on one machine: a network namespace each, joined by a bridge, with
# mpirun across them over TCP.
#
# All of it lives in namespaces of one run: processes, mounts, the bridge, the hosts. The
# kernel takes them down when the run's first process ends, however it ends, and runs
# side by side see nothing of each other.
set -euo pipefail
export LC_ALL=C

usage()
{
	cat <<'END'
usage: scripts/netns.sh [OPTION...] [--] MPIRUN-ARGUMENT...
       scripts/netns.sh [OPTION...] --command [--] COMMAND [ARGUMENT...]

Simulates hosts on this machine and runs mpirun across them over TCP, one rank for each
slot unless told otherwise (-n). Each host is a network namespace with a host name and an
address of its own; all are joined by a bridge. They share processors, memory and files.
Nothing is left when it ends, however it ends: no process, no namespace, no interface.

  --hosts N     hosts, 1 to 250 (4)
  --slots S     ranks on each, 1 to 64 (1)
  --rate R      bandwidth of each host's link, each way: a whole number and kbit, mbit or
                gbit, such as 10gbit
  --delay D     delay of each host's link, each way, as tc has it: 100us, 1ms. Where the
                kernel cannot (netem), a program does: right, but not fast
  --mtu N       bytes of a packet, 576 to 65535 (65535: this machine does in software what
                network cards do in hardware; with small packets that is what is measured)
  --name NAME   hosts are NAME0, NAME1, ... (node)
  --command     what follows is a command, not arguments of mpirun. It may run mpirun
                several times: every mpirun in it, given no hosts, uses all of them.
  -h, --help    print this

The command finds the names of the hosts in NETNS_HOSTS, separated by spaces. It may use
`ip netns pids HOST` to list the processes of a host, and `$NETNS_AGENT HOST COMMAND` to
run a shell command on it.

The environment is passed on to all ranks. FTMEM_DIR, unless it is set, is a folder of
this run. MCA parameters of Open MPI are set by OMPI_MCA_ variables, so that --mca has
the last word.

It needs root and the package iproute2.

Exit status: that of the command; 2 bad arguments; 77 the machine does not allow it.

Example, the cost of protection with four nodes on links of 10 Gbit/s:
  scripts/netns.sh --hosts 4 --rate 10gbit -- build/release/bin/ftmem_bench --bytes 256M
END
}

die() # TEXT
{
	printf 'netns.sh: %s\n' "$*" >&2
	exit "${status:-1}"
}

cannot() # TEXT
{
	status=77 die "cannot simulate hosts here: $*"
}

# --- inside: the first process of the run's namespaces ---

netns=/run/netns

# What Open MPI calls instead of ssh. Not `ip netns exec`: that hides the control groups.
write_agent()
{
	cat >"$NETNS_AGENT" <<'END'
#!/bin/sh
host=$1
shift
exec nsenter --net="/run/netns/$host" unshare --uts \
	sh -c 'hostname "$1" && eval "$2"' sh "$host" "$*"
END
	chmod 755 "$NETNS_AGENT"
}

# A kernel without netem cannot delay packets: a program does, whose interfaces take no
# larger ones.
choose_delay()
{
	if tc -n switch qdisc add dev lo root netem delay 1ms 2>/dev/null; then
		netem=yes
		tc -n switch qdisc delete dev lo root
	elif ((mtu > 65521)); then
		mtu=65521
	fi
}

seconds_of() # TIME as tc has it
{
	case $1 in
	*us) echo "${1%us}e-6" ;;
	*) echo "${1%ms}e-3" ;;
	esac
}

join_host() # NUMBER: a cable from the switch to the host
{
	if [ -n "$delay" ] && [ -z "$netem" ]; then
		"$link" "$(seconds_of "$delay")" "$mtu" switch "port$1" "$name$1" eth0 ||
			cannot "no --delay: neither has the kernel netem, nor does $link work"
	else
		ip -n switch link add "port$1" mtu "$mtu" type veth \
			peer name eth0 mtu "$mtu" netns "$name$1"
	fi
	shape switch "port$1"
	shape "$name$1" eth0
}

shape() # NAMESPACE INTERFACE: what leaves it
{
	local place=(root)

	if [ -n "$delay" ] && [ -n "$netem" ]; then
		tc -n "$1" qdisc add dev "$2" "${place[@]}" handle 1: netem \
			delay "$delay" limit 100000 || cannot "tc refuses --delay $delay"
		place=(parent 1:1)
	fi
	[ -n "$rate" ] || return 0
	tc -n "$1" qdisc add dev "$2" "${place[@]}" handle 2: tbf \
		rate "$rate" burst 128kb latency 50ms || cannot "tc refuses --rate $rate"
}

make_hosts()
{
	local i host

	mkdir -p "$netns"
	mount -t tmpfs -o mode=755 tmpfs "$netns"
	ip netns add switch
	ip -n switch link set lo up
	[ -z "$delay" ] || choose_delay
	ip -n switch link add eth0 type bridge
	ip -n switch addr add 198.18.0.1/16 dev eth0
	ip -n switch link set eth0 up
	printf '127.0.0.1 localhost\n198.18.0.1 %s\n' "$(hostname)" >"$dir/hosts"
	for ((i = 0; i < hosts; i++)); do
		host=$name$i
		names+=("$host")
		ip netns add "$host"
		join_host "$i"
		ip -n switch link set "port$i" master eth0 up
		ip -n "$host" addr add "198.18.1.$((i + 1))/16" dev eth0
		ip -n "$host" link set eth0 up
		ip -n "$host" link set lo up
		echo "198.18.1.$((i + 1)) $host" >>"$dir/hosts"
		echo "$host slots=$slots" >>"$dir/hostfile"
	done
	mount --bind "$dir/hosts" /etc/hosts
}

prefer() # VARIABLE VALUE: unless the caller has set it
{
	[ -n "${!1:-}" ] || export "$1=$2"
}

set_environment()
{
	export NETNS_AGENT=$dir/agent NETNS_HOSTS=${names[*]}
	write_agent
	export OMPI_MCA_plm_rsh_agent=$NETNS_AGENT
	export OMPI_MCA_plm_rsh_no_tree_spawn=1
	export OMPI_MCA_orte_default_hostfile=$dir/hostfile
	export OMPI_MCA_orte_tmpdir_base=$dir
	export OMPI_MCA_oob_tcp_if_include=eth0 OMPI_MCA_btl_tcp_if_include=eth0
	export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
	prefer OMPI_MCA_pml ob1
	prefer OMPI_MCA_btl self,tcp
	# Each host believes that all processors are its own.
	prefer OMPI_MCA_hwloc_base_binding_policy none
	((hosts * slots <= $(nproc))) || prefer OMPI_MCA_mpi_yield_when_idle 1
	prefer FTMEM_DIR "$dir/ftmem"
}

# All of the run but this process itself.
others()
{
	local found=(/proc/[0-9]*)

	((${#found[@]} > 1))
}

inside() # COMMAND...
{
	local i result=0

	trap 'stopped=yes; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true' TERM
	make_hosts
	set_environment
	[ -z "$stopped" ] || exit 143
	nsenter --net="$netns/switch" "$@" <&0 &
	child=$!
	wait "$child" || result=$?
	# A signal ends the wait too.
	for ((i = 0; i < 50; i++)); do
		kill -0 "$child" 2>/dev/null || break
		sleep 0.1
	done
	# ftmem-smp outlives its trainers; asked to end, it removes its files.
	kill -TERM -1 2>/dev/null || true
	for ((i = 0; i < 40; i++)); do
		others || break
		sleep 0.05
	done
	exit "$result"
}

# --- arguments ---

hosts=4 slots=1 rate="" delay="" netem="" mtu=65535 name=node command=""
link=$(dirname "${BASH_SOURCE[0]}")/netns_link.py
dir="" names=() child="" stopped=""
given=("$@")
if [ "${1:-}" = --inside ]; then
	# It ends all processes that it sees.
	[ $$ -eq 1 ] || status=2 die "--inside is for netns.sh itself"
	dir=$2
	shift 2
fi

number() # OPTION VALUE LEAST MOST
{
	if [[ ! $2 =~ ^[1-9][0-9]{0,4}$ ]] || (($2 < $3 || $2 > $4)); then
		status=2 die "$1: '$2' is not a number from $3 to $4"
	fi
}

while (($#)); do
	case $1 in
	--hosts | --slots | --rate | --delay | --mtu | --name)
		(($# > 1)) || status=2 die "$1: a value is missing; see --help"
		declare "${1#--}=$2"
		shift 2
		;;
	--command) command=yes; shift ;;
	-h | --help) usage; exit 0 ;;
	--) shift; break ;;
	-*) status=2 die "$1: not understood; see --help. What is for mpirun goes behind --" ;;
	*) break ;;
	esac
done
(($#)) || status=2 die "nothing to run; see --help"
number --hosts "$hosts" 1 250
number --slots "$slots" 1 64
number --mtu "$mtu" 576 65535
[[ -z $rate || $rate =~ ^[1-9][0-9]*[kmg]bit$ ]] ||
	status=2 die "--rate: '$rate' is no rate such as 10gbit or 500mbit"
[[ -z $delay || $delay =~ ^[1-9][0-9]*[um]s$ ]] ||
	status=2 die "--delay: '$delay' is no time such as 100us or 1ms"
if [[ ! $name =~ ^[a-z][a-z0-9-]{0,30}$ || $name = switch ]]; then
	status=2 die "--name: '$name' cannot begin the name of a host"
fi
[ -n "$command" ] || set -- mpirun "$@"
[ -z "$dir" ] || inside "$@"

# --- outside ---

[ "$(id -u)" -eq 0 ] || cannot "only root may make network namespaces, and this is not root"
for tool in ip tc nsenter unshare setpriv hostname; do
	command -v "$tool" >/dev/null ||
		cannot "there is no program $tool: install iproute2, util-linux and hostname"
done
flags=(--net --mount --pid --fork --kill-child --mount-proc)
why=$(unshare "${flags[@]}" true 2>&1) || cannot "$why"

# Open MPI divides the paths in its parameters at spaces, colons and commas.
folder=${TMPDIR:-/tmp}
[[ $folder =~ ^/[A-Za-z0-9/._+-]*$ ]] || folder=/tmp
dir=$(mktemp -d "$folder/netns.XXXXXX")
runner=""

# The run is asked to end, and ended if it does not.
# shellcheck disable=SC2317
stop()
{
	local first i

	trap '' INT TERM HUP
	first=$(cat "/proc/$runner/task/$runner/children" 2>/dev/null) || true
	# shellcheck disable=SC2086
	[ -z "$first" ] || kill -TERM $first 2>/dev/null || true
	for ((i = 0; i < 100; i++)); do
		kill -0 "$runner" 2>/dev/null || return 0
		sleep 0.1
	done
	kill -KILL "$runner" 2>/dev/null || true
}

trap 'rm -rf "$dir"' EXIT
trap stop INT TERM HUP
# If this shell is killed, all goes too. What it starts in the background would ignore
# Ctrl-C.
setpriv --pdeathsig KILL env --default-signal=INT,QUIT unshare "${flags[@]}" \
	"$0" --inside "$dir" "${given[@]}" <&0 &
runner=$!
result=0
wait "$runner" || result=$?
# A signal ends the wait too; the runner has ended then.
exit "$result"
