# SPDX-License-Identifier: GPL-2.0
#
# Is a skip one that the project accepts? Variable skips: the file that lists
# them, a line each, tab-separated: regular expressions of the case's name and
# of what it gives as its reason, and why that is no failure.

function skip_is_listed(test, detail,	line, field) {
	if (!skips_read) {
		skips_read = 1
		while ((getline line <skips) > 0) {
			if (line ~ /^#/ || line == "")
				continue
			split(line, field, "\t")
			skip_test[++skips_count] = field[1]
			skip_reason[skips_count] = field[2]
		}
		close(skips)
	}
	for (line = 1; line <= skips_count; line++)
		if (test ~ skip_test[line] && detail ~ skip_reason[line])
			return 1
	return 0
}
