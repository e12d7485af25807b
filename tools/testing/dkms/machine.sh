# shellcheck shell=sh disable=SC2034,SC2154 # shared with run
# SPDX-License-Identifier: GPL-2.0
#
# The machine that boots the stock kernel. Sourced after lib.sh; $machine is its name
# and $out its folder in build/. The file of the machine has variables of the same names as
# the scenarios.

# shellcheck disable=SC2030,SC2031

# build_test_modules ROOT AS COMMAND...: the modules of the tests, into
# $work/test_modules, as a driver of somebody's own is built: against the headers'
# package and what DKMS kept beside the modules. ROOT is called AS where COMMAND
# runs what follows it.
build_test_modules()
{
	d=$1/srv/test_modules as=$2
	shift 2
	devel=$as/var/lib/dkms/virtquilt/$version/$kernel/x86_64/devel
	rm -rf "$d" "$work/test_modules"
	mkdir -p "$d"
	# Those that are KUnit suites, of any machine, cannot be linked.
	kunit=$(unset LAB_MACHINES
	for m in "$lab"/machines/*; do
		machine_value "${m##*/}" tests
	done | awk '$4 == "kunit" { print $3 }' | tr , '\n' | sort -u |
		sed 's/.*/%&.o/' | paste -sd ' ')
	for t in tools/testing/selftests/*/test_modules; do
		folder=$(echo "$t" | cut -d/ -f4)
		# shellcheck disable=SC2016 # awk's own
		lab_tests '{ print $4 == "kunit" ? $5 : $4 }' |
			grep -q "^$folder/" || continue
		mkdir -p "$d/$folder"
		cp -r "$t" "$d/$folder"
		echo "obj-m := \$(filter-out $kunit,\$(obj-m))" \
			>>"$d/$folder/test_modules/Makefile"
		echo "obj-m += $folder/test_modules/" >>"$d/Kbuild.list"
	done
	{
		echo "LINUXINCLUDE := -I$devel/arch/x86/include -I$devel/include \\"
		echo "	-I$devel/include/uapi \$(LINUXINCLUDE)"
		cat "$d/Kbuild.list"
	} >"$d/Kbuild"
	expect 'the modules of the tests' 0 '' \
		"$@" make -s -j"$(njobs)" -C "$as/usr/src/linux-headers-$kernel" \
		M="$as/srv/test_modules" ${VIRTQUILT_CC:+CC="$VIRTQUILT_CC"} \
		KBUILD_EXTRA_SYMBOLS="$devel/Module.symvers" modules
	mv "$d" "$work/test_modules"
}

# stage ROOT [TEST-MODULES]: the kernel, and the modules that its modprobe would
# load for the tests, for the machine
stage()
{
	rm -rf "$out/modules" "$out/vmlinuz"
	mkdir -p "$out/modules" "$out/include/config"
	cp "$1/boot/vmlinuz-$kernel" "$out/vmlinuz"
	echo "$kernel" >"$out/include/config/kernel.release"
	rm -rf "$out/selftests"/*/test_modules
	[ -z "${2:-}" ] || (
		cd "$2" || exit
		find . -name '*.ko' -exec cp --parents {} "$out/modules" \;
	)
	# shellcheck source=tools/testing/lab/stock/amd-stock
	(. "$LAB_MACHINES/$machine" && . "$lab/pin.sh" && echo "$tests") |
		awk 'NF && $3 != "-" { print $3 }' | tr -d = | tr , '\n' |
		sort -u | while read -r m; do
		if [ -n "$(find "$out/modules" -name "$m.ko")" ]; then
			# What it needs of the kernel's
			modinfo -F depends "$(find "$out/modules" -name "$m.ko")" |
				tr , '\n'
		else
			echo "$m"
		fi
	done | sort -u | grep . | while read -r m; do
		[ -z "$(find "$out/modules" -name "$m.ko")" ] || continue
		modprobe -d "$1" -S "$kernel" --show-depends "$m"
	done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | sort -u |
		while read -r f; do
			cp "$f" "$out/modules"
		done
	# Debian's are from 6.12 on.
	find "$out/modules" -name '*.ko.xz' -exec xz -d {} +
}

# boot ROOT [TEST-MODULES]: run the machine with what is in ROOT. Its rows and
# records get the scenario's name.
boot()
{
	stage "$@"
	"$lab/build" "$machine" || {
		row 'the machine builds' fail "see build/log"
		return 0
	}
	row_last=$(date +%s)
	status=0
	RESULTS=$work/boot "$lab/run" "$machine" || status=$?
	for f in console ktap; do
		[ ! -f "$work/boot/$machine.$f" ] ||
			cp "$work/boot/$machine.$f" \
			"$dest/$machine-$scenario.$f"
	done
	awk -F'\t' -v OFS='\t' -v s="$scenario" '{
		$4 = s ": " $4
		$8 = "run"
		print
	}' "$work/boot/$machine.tsv" >>"$rows"
	booted="$(count "$work/boot/$machine.tsv")"
	if [ $status -ne 0 ]; then
		row "machine $machine" fail \
			"$booted; it ended with status $status, see $machine-$scenario.console"
	elif ! grep -q "${TAB}pass${TAB}" "$work/boot/$machine.tsv"; then
		row "machine $machine" fail "no test passed there"
	else
		row "machine $machine" pass "$booted"
	fi
}
