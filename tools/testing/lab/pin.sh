# shellcheck shell=sh disable=SC2034,SC2154 # what the machine's file sets
# SPDX-License-Identifier: GPL-2.0
#
# What the pin says of a machine. Sourced after the machine's file, with $machine
# its name and $patches the pin's folder.
#
# Tests of an interface that the pin does not have are not run. What else differs
# is in the file "lab" of the pin, tab-separated:
#
#   append   MACHINE  words for the kernel's command line
#   machine  MACHINE  why: there is nothing to be tried on this one
#   module   MODULE   why: what is loaded for a test elsewhere, and not on this pin
#   without  TEST     why: a test that does not hold on this pin, by the name of
#                     its program or suite

: "${patches:?}" "${machine:?}"

# pin_tests TESTS: those of a list that the pin has, with the modules that it has
pin_tests()
{
	printf '%s\n' "$1" | awk -v lab="$patches/lab" \
		-v interfaces="$patches/interfaces" '
		BEGIN {
			while ((getline line <lab) > 0)
				if (split(line, f, "\t") == 3)
					said[f[1], f[2]]
			while ((getline line <interfaces) > 0)
				if (split(line, f, "\t") == 3 && f[2] == "none")
					none[f[1]]
		}
		!NF || $1 in none { next }
		{
			name = $4 == "kunit" ? $5 : $4
			sub(/.*\//, "", name)
		}
		("without", name) in said { next }
		{
			modules = ""
			n = split($3, module, ",")
			for (i = 1; i <= n; i++) {
				m = module[i]
				gsub(/^=|:.*/, "", m)
				if (!(("module", m) in said))
					modules = modules (modules == "" ? "" : ",") module[i]
			}
			if (modules != $3)
				$3 = modules == "" ? "-" : modules
			print
		}'
}

if [ -f "$patches/lab" ] || grep -qs "	none	" "$patches/interfaces"; then
	tests=$(pin_tests "$tests")
	client_tests=$(pin_tests "${client_tests:-}")
	count_benches=$(pin_tests "${count_benches:-}")
	time_benches=$(pin_tests "${time_benches:-}")
fi
if [ -f "$patches/lab" ]; then
	append="$append $(awk -F'\t' -v m="$machine" \
		'$1 == "append" && $2 == m { printf "%s%s", n++ ? " " : "", $3 }' \
		"$patches/lab")"
	append=${append% }
fi
