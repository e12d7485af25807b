# SPDX-License-Identifier: GPL-2.0
#
# verdict.awk CASES UNITS RESULTS: the results again, with a failure for each
# unit without a row, for each test with fewer cases than CASES says, and for
# each interface that no case proved on a machine that has tests of it. A client that
# cannot be had, or has no protocol in common with the kernel, has one case, a skip.
# Goes with skips.awk; variables: pin, skips.

BEGIN {
	FS = OFS = "\t"
}

FILENAME == ARGV[1] && ARGV[1] != "/dev/null" {
	if ($0 !~ /^#/)
		cases[$1 OFS $2] = $3
	next
}
FILENAME == ARGV[2] {
	units++
	name = substr($1, length($2 "/" $4 "/") + 1)
	order[units] = $4 OFS name
	kind[$4 OFS name] = $3
	interface[$4 OFS name] = $5
	if ($3 == "test" && $5 != "-")
		to_prove[$4 OFS $5]
	next
}
FNR == 1 {
	print
	next
}
{
	# A name may hold a colon itself, as that of a gate: the longest that is
	# known counts.
	unit = ""
	if (($2 OFS $4) in kind)
		unit = $2 OFS $4
	else {
		name = $4
		while (unit == "" && match(name, /.*: /)) {
			name = substr(name, 1, RLENGTH - 2)
			if (($2 OFS name) in kind)
				unit = $2 OFS name
		}
	}
	if ($5 == "skip" && !skip_is_listed($4, $7)) {
		$5 = "fail"
		$7 = "verdict: a skip that tools/testing/lab/skips does not list: " $7
	}
	print
	if (unit == "")
		next
	seen[unit]++
	if (!is_counted(unit) || $4 ~ /: (kernel log is clean|plan|nothing is left behind|comes to its end)$/)
		next
	count[unit]++
	if (kind[unit] == "client" && $5 == "skip" && \
	    ($2 OFS $4 == unit || $2 OFS $4 == unit ": protocol"))
		skipped[unit]
	if ($5 == "pass" && kind[unit] == "test")
		proven[$2 OFS $3] = 1
}

function is_counted(unit) {
	return kind[unit] == "test" || kind[unit] == "client"
}

function failure(where, what, test, why) {
	split(where, part, OFS)
	print pin, part[1], what, test, "fail", "0.000", "verdict: " why, "run"
}

END {
	if (!units)
		failure("host", "-", "list", "nothing was to be tried")
	for (u = 1; u <= units; u++) {
		unit = order[u]
		split(unit, part, OFS)
		if (!seen[unit])
			failure(unit, interface[unit], part[2] ": missing",
				"it was to be tried, and there is no result of it")
		else if (is_counted(unit) && !(unit in skipped) && \
			 count[unit] + 0 < cases[unit] + 0)
			failure(unit, interface[unit], part[2] ": fewer cases",
				(count[unit] + 0) " cases, " cases[unit] " before: if that is meant, run \"make cases\"")
	}
	for (i in to_prove)
		if (!proven[i]) {
			split(i, part, OFS)
			failure(i, part[2], "proven", "no case of this interface passed on this machine")
		}
}
