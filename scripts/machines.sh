# shellcheck shell=sh disable=SC2154 # what lib.sh sets
# SPDX-License-Identifier: GPL-2.0
#
# What the machines' files say: which machines there are and what they test.
# Sourced after lib.sh.

# machines: all of them, the accelerated ones with ACCEL= only, and not those that
# the pin has nothing to try on
machines()
{
	no_machines=
	[ ! -f "$patches/lab" ] ||
		no_machines=$(awk -F'\t' '$1 == "machine" { print $2 }' "$patches/lab")
	for m in "${LAB_MACHINES:-$top/tools/testing/lab/machines}"/*; do
		case $m in
		*-kvm) [ "${ACCEL:-}" = kvm ] || continue ;;
		esac
		case $NL$no_machines$NL in
		*"$NL${m##*/}$NL"*) continue ;;
		esac
		echo "${m##*/}"
	done
}

# machine_value MACHINE VARIABLE: what the machine's file says
machine_value()
{
	# shellcheck disable=SC2016 # expanded by the inner shell
	env top="$top" build="$build" patches="$patches" machine="$1" sh -c '. "$1"
		. "$top/tools/testing/lab/pin.sh"
		eval "printf \"%s\\n\" \"\${$2:-}\""' sh \
		"${LAB_MACHINES:-$top/tools/testing/lab/machines}/$1" "$2"
}

# config_files NAME...: the kernel's configuration of these names, and what the pin
# has on top of each, joined by commas
config_files()
{
	for c; do
		echo "$top/tools/testing/lab/config/$c"
		[ ! -f "$patches/config/$c" ] || echo "$patches/config/$c"
	done | paste -sd ,
}

# pin_interfaces: what the pin says of each interface, tab-separated: name; added,
# upstream or none; and the reason
pin_interfaces()
{
	grep -v '^#' "$patches/interfaces"
}

# machine_with FOLDER MACHINE TESTS PAYLOAD: a machine in FOLDER, for LAB_MACHINES=,
# that is like MACHINE, runs these tests alone, and has this payload
machine_with()
{
	mkdir -p "$1"
	{
		# shellcheck disable=SC2016 # expanded where it is sourced
		echo ". \"\$top/tools/testing/lab/machines/$2\""
		echo 'limit=7200'
		printf "tests='\n%s\n'\npayload='\n%s\n'\n" "$3" "$4"
	} >"$1/$2"
}

# named_tests <LIST: a machine's list of tests with the name of each put in,
# tab-separated: interface, time limit, modules, name, command. It is the name of
# the program or suite, with the parameters of modules behind it, or if there are
# none the words that it is called with, files aside.
named_tests()
{
	awk -v OFS='\t' 'NF {
		name = $4 == "kunit" ? $5 : $4
		sub(/.*\//, "", name)
		with = ""
		n_with = 0
		n = split($3, module, ",")
		for (i = 1; i <= n; i++)
			if (sub(/^[^:]*:/, "", module[i]) && module[i] != "")
				with = with (n_with++ ? "," : "") module[i]
		for (i = 5; $4 != "kunit" && !n_with && i <= NF; i++)
			if ($i !~ /\//)
				with = with (with == "" ? "" : ",") $i
		if (with != "")
			name = name "(" with ")"
		command = $4
		for (i = 5; i <= NF; i++)
			command = command " " $i
		print $1, $2, $3, name, command
	}'
}

# machine_tests MACHINE: those of a machine
machine_tests()
{
	machine_value "$1" tests | named_tests
}

# interfaces MACHINE: the interfaces that it has tests of
interfaces()
{
	machine_tests "$1" | cut -f1 | sort -u
}

# mutant_machines: for each interface, where its mutants of kind test and of kind
# payload are tried: the machine with the most such tests of it. INTERFACE, KIND and
# MACHINE, with blanks between them
mutant_machines()
{
	for m in $(machines); do
		{
			machine_value "$m" payload | sed 's/^/: /'
			machine_tests "$m"
		} | awk -F'\t' -v m="$m" '
			/^: / { split($0, f, " "); payload[f[2]]; next }
			{
				split($5, command, " ")
				n[$1 " " (command[1] in payload ? "payload" : "test")]++
			}
			END { for (i in n) print i, n[i], m }'
	done | sort -k1,2 -k3,3nr -k4 | awk '!seen[$1, $2]++ { print $1, $2, $4 }'
}

# mutant_machine INTERFACE KIND <MACHINES: the machine for a mutant of that kind, by
# what mutant_machines said
mutant_machine()
{
	awk -v i="$1" -v k="$2" '
		BEGIN { if (k != "payload") k = "test" }
		$1 == i && $2 == k { print $3 }'
}

# boots_with OBJECTS: what machines are booted with, a sum for each file
boots_with()
{
	(
		cd "$1" || exit
		sha256sum lab-image
		find root/lab -type f | sort | xargs sha256sum
	)
}

# build_machine MACHINE: what it boots, or a row that says that it does not build
build_machine()
{
	rm -f "$results/$1".*
	"$top/tools/testing/lab/build" "$1" || {
		row "$1" - build fail 0.000 \
			"the machine does not build, see build/log" \
			>"$results/$1.tsv"
		return 1
	}
}

# run_machine MACHINE: its tests, told in one piece when it has ended
run_machine()
{
	rm_status=0
	"$top/tools/testing/lab/run" "$1" >"$build/log/run-$1.log" 2>&1 ||
		rm_status=$?
	cat "$build/log/run-$1.log"
	# Only what is in the results counts.
	[ $rm_status -eq 0 ] ||
		grep -q "${TAB}fail${TAB}" "$results/$1.tsv" 2>/dev/null ||
		row "$1" - machine fail 0.000 \
			"its run ended with status $rm_status, see build/log/run-$1.log" \
			>>"$results/$1.tsv"
	return $rm_status
}

# run_machines MACHINE...: side by side, as many as the host carries
run_machines()
{
	printf '%s\n' "$@" |
		xargs -r -P "$(nmachines)" -n 1 \
			"$top/scripts/check" run || :
}
