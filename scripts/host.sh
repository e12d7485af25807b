# shellcheck shell=sh
# SPDX-License-Identifier: GPL-2.0
#
# What this host can carry, and what the user says of it. Sourced after lib.sh:
#
#   njobs          compilers side by side: JOBS=, or what there are processors
#                  and memory for
#   nmachines      machines side by side: MACHINES=, or the same
#   scaled SECONDS a time limit, by TIMEOUT_SCALE=
#   $ACCEL         kvm, or not set: emulated
#
# A value that makes no sense stops the script that sources this.

# An empty one is as good as none. VIRTQUILT_ROOT is for tests.
host_number()
{
	eval "host_value=\${$1:-}"
	case $host_value in
	'') unset "$1" ;;
	*[!0-9]* | 0* | ?????*)
		die "$1=$host_value is no number of $2: set it to 1 or more, or leave it out" ;;
	esac
}
host_number JOBS 'compilers side by side'
host_number MACHINES 'machines side by side'
case ${TIMEOUT_SCALE:-} in
'') unset TIMEOUT_SCALE ;;
*[!0-9.]* | *.*.* | . | ?????????*) host_value=bad ;;
*[1-9]*) ;;
*) host_value=bad ;;
esac
[ "$host_value" != bad ] ||
	die "TIMEOUT_SCALE=$TIMEOUT_SCALE is no factor for time limits: set it to a number above 0, as in 4 or 0.5, or leave it out"

# cgroup_folders CONTROLLER: where the control groups that this process is in
# have their limits, from the innermost to the outermost, of version 1 or 2. A
# container sees the outer ones at the root, or not at all.
cgroup_folders()
{
	while IFS=: read -r _ host_controllers host_path; do
		case ,$host_controllers, in
		,,) host_folder=/sys/fs/cgroup ;;
		*,"$1",*) host_folder=/sys/fs/cgroup/$1 ;;
		*) continue ;;
		esac
		host_path=${host_path%/}
		while :; do
			echo "${VIRTQUILT_ROOT:-}$host_folder$host_path"
			[ -n "$host_path" ] || break
			host_path=${host_path%/*}
		done
	done 2>/dev/null <"${VIRTQUILT_ROOT:-}/proc/self/cgroup"
}

# Processors that this process may run on, and what of their time it may use
processors()
{
	{
		nproc
		cgroup_folders cpu | while read -r host_folder; do
			host_quota=max host_period=
			if [ -f "$host_folder/cpu.max" ]; then
				read -r host_quota host_period <"$host_folder/cpu.max"
			elif [ -f "$host_folder/cpu.cfs_quota_us" ]; then
				read -r host_quota <"$host_folder/cpu.cfs_quota_us"
				read -r host_period <"$host_folder/cpu.cfs_period_us"
			fi
			case $host_quota in
			max | -1) ;;
			*) echo $(((host_quota + host_period - 1) / host_period)) ;;
			esac
		done
	} | sort -n | head -n 1
}

# Memory in MiB, as much of it as there is and as this process may use
memory()
{
	{
		awk '$1 == "MemTotal:" { print int($2 / 1024) }' \
			"${VIRTQUILT_ROOT:-}/proc/meminfo"
		cgroup_folders memory | while read -r host_folder; do
			for host_file in memory.max memory.limit_in_bytes; do
				[ ! -f "$host_folder/$host_file" ] ||
					cat "$host_folder/$host_file"
			done
		done | awk '/^[0-9]+$/ { printf "%d\n", $1 / 1048576 }'
	} | sort -n | head -n 1
}

# at_most MIB: the processors, as many as there is memory of MIB each, but one
at_most()
{
	host_n=$(processors)
	host_fit=$(($(memory) / $1))
	[ "$host_n" -le "$host_fit" ] || host_n=$host_fit
	[ "$host_n" -ge 1 ] || host_n=1
	echo "$host_n"
}

# A compiler needs about 400 MiB, a machine its 2 GiB and the emulator.
njobs()
{
	echo "${JOBS:-$(at_most 400)}"
}

nmachines()
{
	echo "${MACHINES:-$(at_most 2500)}"
}

scaled()
{
	awk -v s="$1" -v by="${TIMEOUT_SCALE:-1}" 'BEGIN {
		t = s * by
		print int(t) + (t > int(t)) }'
}

# KVM in place of the emulator, for machines that have a way for it. What a
# processor of the host's own says is recorded under another name.
case ${ACCEL:-} in
'' | tcg) unset ACCEL ;;
kvm)
	grep -qw svm "${VIRTQUILT_ROOT:-}/proc/cpuinfo" ||
		die "ACCEL=kvm needs a processor with AMD's SVM, which this host does not have or show: leave ACCEL out, then it is emulated"
	if [ ! -r "${VIRTQUILT_ROOT:-}/dev/kvm" ] || [ ! -w "${VIRTQUILT_ROOT:-}/dev/kvm" ]; then
		die "ACCEL=kvm needs /dev/kvm, which is not there or not open to $(id -un): load kvm-amd and join the group kvm, or leave ACCEL out"
	fi
	grep -qsx '[1Y]' "${VIRTQUILT_ROOT:-}/sys/module/kvm_amd/parameters/nested" ||
		die "ACCEL=kvm needs guests that can have guests: load kvm-amd with nested=1, or leave ACCEL out"
	;;
*) die "ACCEL=$ACCEL: it can only be kvm; leave it out, then the processor is emulated" ;;
esac
