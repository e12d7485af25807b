# shellcheck shell=sh disable=SC2154 # what lib.sh sets
# SPDX-License-Identifier: GPL-2.0
#
# What was to be tried, what came of it, and what that amounts to. Sourced
# after lib.sh and machines.sh.
#
# A unit is a thing to be tried: a test on a machine, a gate, a mutant. It is
# known by its name on its machine; a row of the results belongs to it if its
# test has that name, or begins with it and a colon. build/results has
#
#   units.tsv       what this run is to try, written before it tries anything:
#                   id, pin, kind, machine, interface, seconds of the last time
#   results.tsv     a row for each case
#   provenance.tsv  from what and where: key and value

# Which mutants are tried: all, or K/N for each N-th from the K-th on
case ${MUTANTS:-} in
'') unset MUTANTS ;;
all) ;;
[1-9]/[1-9]) [ "${MUTANTS%/*}" -le "${MUTANTS#*/}" ] ;;
*) false ;;
esac || die "MUTANTS=$MUTANTS is no share of the mutants: set it to all, or to 2/3 for the second third of them, or leave it out"

mutants_count()
{
	"$top/scripts/mutants" list | wc -l
}

# mutants_turn: what a run of everything tries, where the user has not said it. All
# mutants of the default pin take two hours of processor time, so it is a share that
# has about forty of them. The commit decides which share: it is judged by the same
# mutants on every host, and the next commit by others.
mutants_turn()
{
	[ -z "${MUTANTS:-}" ] || return 0
	turn_of=$(($(mutants_count) / 45 + 1))
	[ "$turn_of" -le 9 ] || turn_of=9
	turn_commit=$(project_commit | cut -c1-7)
	case $turn_commit in
	*[!0-9a-f]* | '') MUTANTS=1/$turn_of ;;
	*) MUTANTS=$((0x$turn_commit % turn_of + 1))/$turn_of ;;
	esac
	export MUTANTS
}

# row MACHINE INTERFACE TEST VERDICT SECONDS DETAIL [HOW]: one line of results.
# HOW is "run", or "kept" for a verdict that is read back.
row()
{
	printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "${pin:-$PIN}" "$1" "$2" "$3" \
		"$4" "$5" "$(printf %s "$6" | tr '\t\n' '  ')" "${7:-run}"
}

# unit KIND MACHINE INTERFACE NAME: one line of what is to be tried
unit()
{
	printf '%s/%s/%s\t%s\t%s\t%s\t%s\n' "$PIN" "$2" "$4" "$PIN" "$1" "$2" "$3"
}

# units KIND...: what is to be tried; "test:MACHINE" and "test:MACHINE:INTERFACE"
# for a part of the tests, "mutant:INTERFACE" of the mutants; "dkms" for the
# scenarios of the DKMS modules and the tests on the stock kernel.
units()
{
	for u_kind; do
		case $u_kind in
		test)
			for u_machine in $(machines); do
				units "test:$u_machine"
			done
			;;
		test:*)
			u_machine=${u_kind#test:}
			u_interface=${u_machine#*:}
			[ "$u_interface" != "$u_machine" ] || u_interface=
			machine_tests "${u_machine%%:*}" |
				while read -r i _ _ name _; do
					case $u_interface in
					'' | "$i")
						unit test "${u_machine%%:*}" "$i" "$name"
						;;
					esac
				done
			;;
		gate)
			"$top/scripts/lint" list | while read -r name; do
				unit gate host - "lint: $name"
			done
			;;
		upstream)
			"$top/scripts/check-upstream" list |
				while read -r u_machine name; do
					unit upstream "$u_machine" - "$name"
				done
			;;
		client)
			"$top/scripts/check-clients" list |
				while IFS=$TAB read -r i name; do
					unit client amd-single "$i" "$name"
				done
			;;
		across)
			"$top/scripts/check-across" list |
				while IFS=$TAB read -r i name; do
					unit across amd-single "$i" "$name"
				done
			;;
		gate:*)
			unit gate host - "lint: ${u_kind#gate:}"
			;;
		dkms)
			"$top/tools/testing/dkms/run" list | while read -r name; do
				unit dkms chroot - "$name"
			done
			"$top/tools/testing/dkms/run" tests |
				while read -r u_machine i name; do
					unit test "$u_machine" "$i" "$name"
				done
			;;
		mutant*)
			u_interface=${u_kind#mutant}
			{
				mutant_machines | sed "s/^/: /"
				"$top/scripts/mutants" list "${u_interface#:}"
			} | awk -v pin="$PIN" -v OFS='\t' '
				/^: / { machine[$2 OFS $3] = $4; next }
				{
					split($0, f, "\t")
					k = f[2] OFS (f[3] == "payload" ? f[3] : "test")
					m = k in machine ? machine[k] : "-"
					print pin "/" m "/" f[1], pin, "mutant", m, f[2]
				}'
			;;
		esac
	done
}

# with_seconds <UNITS: the time that each took the last time behind it
with_seconds()
{
	[ -s "$results/seconds.tsv" ] || echo >"$results/seconds.tsv"
	awk -F'\t' -v OFS='\t' 'NR == FNR {
			seconds[$1] = $2
			next
		}
		{ print $0, $1 in seconds ? seconds[$1] : "-" }' \
		"$results/seconds.tsv" -
}

# plan KIND...: write down what this run is to try, before it does.
plan()
{
	rm -f "$results"/*.tsv.new
	units "$@" >"$results/units.tsv.new" ||
		die "the list of what is to be tried could not be made (above)"
	doubled=$(cut -f1 "$results/units.tsv.new" | sort | uniq -d)
	[ -z "$doubled" ] ||
		die "two units have the name $doubled: give one of them another, in its machine's list of tests"
	[ -s "$results/units.tsv.new" ] ||
		die "there is nothing to be tried${MUTANTS:+ with MUTANTS=$MUTANTS}: the lists of tests are in tools/testing/lab/machines"
	with_seconds <"$results/units.tsv.new" >"$results/units.tsv"
	rm -f "$results/units.tsv.new"
	provenance >"$results/provenance.tsv"
}

# provenance: from what, with what, where and when
provenance()
{
	printf 'date\t%s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
	printf 'host\t%s\n' "$(uname -srm)"
	printf 'pin\t%s %s\n' "$PIN" "$(pin_value version)"
	printf 'commit\t%s\n' "$(project_commit)"
	printf 'debug\t%s\n' "${DEBUG:-no}"
	printf 'mutants\t%s\n' "${MUTANTS:-all}"
	printf 'processors\t%s\n' "$(processors)"
	for tool in gcc powerpc64le-linux-gnu-gcc i686-linux-gnu-gcc ld \
		qemu-system-x86_64 qemu-system-ppc64 sparse make busybox; do
		printf '%s\t%s\n' "$tool" "$("$tool" --version 2>/dev/null |
			head -n 1 | tr '\t' ' ')"
	done
	printf 'bochs\t%s\n' "$(dpkg-query -W -f '${Version}' bochs 2>/dev/null)"
	printf 'toolchain\t%s\n' "$("$top/scripts/toolchain" | sha -)"
}

# project_commit: the commit that the project stands at, and whether its files
# differ from it
project_commit()
{
	[ -e "$top/.git" ] || {
		echo 'none, not a git checkout'
		return
	}
	printf '%s%s\n' "$(project_git rev-parse HEAD 2>/dev/null || echo unknown)" \
		"$([ -z "$(project_git status --porcelain 2>/dev/null)" ] ||
			echo ', with changes')"
}

# collect NAME...: all that this run found, as one table
collect()
{
	{
		printf 'pin\tmachine\tinterface\ttest\tverdict\tseconds\tdetail\thow\n'
		for f; do
			[ ! -f "$results/$f.tsv" ] || cat "$results/$f.tsv"
		done
	} >"$results/results.tsv"
}

# verdict: what is missing, unlisted or too little becomes a row that fails;
# then the last line counts. Not 0 if anything failed or nothing passed.
verdict()
{
	awk -v skips="$top/tools/testing/lab/skips" -v pin="$PIN" \
		-f "$top/tools/testing/lab/skips.awk" -f "$top/scripts/verdict.awk" \
		"$(counts_file)" "$results/units.tsv" "$results/results.tsv" \
		>"$results/results.tsv.new" ||
		die "the results could not be judged (above)"
	mv "$results/results.tsv.new" "$results/results.tsv"
	# All that failed, once more: what was told of it before may be far above, or
	# cut off where somebody else keeps what was printed.
	awk -F'\t' -v all="$results/results.tsv" '
		$5 == "fail" && ++n <= 20 {
			sub(/^verdict: /, "", $7)
			print "       not ok: " $4 " on " $2 ($7 == "" ? "" : ": " $7)
		}
		END {
			if (n > 20)
				print "       not ok: and " n - 20 " more: see " all
		}' "$results/results.tsv"
	remember_seconds
	awk -F'\t' 'NR > 1 { n[$5]++ } END {
		printf "%d passed, %d failed, %d skipped\n",
			n["pass"], n["fail"], n["skip"]
		exit n["fail"] > 0 || !n["pass"]
	}' "$results/results.tsv"
}

# How many cases each test has, on each machine: committed with the pin
counts_file()
{
	if [ -f "$patches/cases" ]; then
		echo "$patches/cases"
	else
		echo /dev/null
	fi
}

# remember_seconds: the time of each unit, for the next list
remember_seconds()
{
	awk -F'\t' -v OFS='\t' '
		FILENAME == ARGV[1] { seconds[$1] = $2; next }
		FILENAME == ARGV[2] { id[$4 "\t" substr($1, length($2 "/" $4 "/") + 1)] = $1; next }
		FNR > 1 && $8 != "kept" {
			name = $4
			sub(/: .*/, "", name)
			key = $2 "\t" (($2 "\t" $4) in id ? $4 : name)
			if (key in id)
				new[id[key]] += $6
		}
		END {
			for (i in new)
				seconds[i] = sprintf("%.3f", new[i])
			for (i in seconds)
				print i, seconds[i]
		}' "$results/seconds.tsv" "$results/units.tsv" \
		"$results/results.tsv" | sort >"$results/seconds.tsv.new"
	mv "$results/seconds.tsv.new" "$results/seconds.tsv"
}

# write_counts: commit to the number of cases that each test has now. What was
# not run, or failed and may have stopped early, keeps its count.
write_counts()
{
	[ -f "$results/results.tsv" ] ||
		die "there are no results to count: run 'make check' first"
	{
		echo "# SPDX-License-Identifier: GPL-2.0"
		echo "# How many cases each test has on its machine; fewer are a failure. Written"
		echo "# by 'make cases' from the last run."
		awk -F'\t' -v OFS='\t' '
			function is_case(test) {
				return test !~ /: (kernel log is clean|plan|nothing is left behind|comes to its end|missing|fewer cases)$/
			}
			FILENAME == ARGV[1] {
				if ($0 !~ /^#/)
					old[$1 OFS $2] = $3
				next
			}
			FNR == 1 || $2 == "host" || $4 !~ /: / || $4 ~ /^(guest|machine|lint|after removal): / { next }
			{
				name = $4
				sub(/: .*/, "", name)
				# One that speaks another protocol has not been tried.
				if ($5 == "skip" && $4 == name ": protocol")
					next
				if (is_case($4))
					new[$2 OFS name]++
				if ($5 == "fail" && $4 !~ /: fewer cases$/)
					bad[$2 OFS name]
			}
			END {
				for (i in new)
					if (!(i in bad) || !(i in old))
						old[i] = new[i]
				for (i in old)
					print i, old[i]
			}' "$(counts_file)" "$results/results.tsv" | sort
	} >"$results/cases.new"
	mv "$results/cases.new" "$patches/cases"
	echo "$patches/cases: $(grep -vc '^#' "$patches/cases") tests"
}
