# SPDX-License-Identifier: GPL-2.0
#
# What init.c writes to the channel, as lines of results.tsv: one a case.
# Variables: pin, machine, and why, which says how the guest died, if it did.
# Goes with skips.awk.

BEGIN {
	OFS = "\t"
	interface = "-"
	name = "guest"
}

function row(test, verdict, seconds, detail) {
	gsub(/\t/, " ", test)
	gsub(/\t/, " ", detail)
	if (verdict == "skip" && !skip_is_listed(test, detail)) {
		verdict = "fail"
		detail = "a skip that tools/testing/lab/skips does not list: " detail
	}
	print pin, machine, interface, test, verdict, seconds, detail, "run"
}

# A row is held back until its time, which follows it, is known.
function flush_held() {
	if (held != "")
		row(held, held_verdict, held_seconds, held_detail)
	held = ""
}

function hold(test, verdict, detail) {
	flush_held()
	held = test
	held_verdict = verdict
	held_seconds = "0.000"
	held_detail = detail
	said = ""
	if (verdict == "fail")
		failed++
	cases++
}

/^# lab: test / {
	interface = $4
	name = $5
	cases = failed = own = 0
	said = reason = kernel_said = ""
	split("", results)
	split("", plan)
	next
}
/^# lab: reason / {
	reason = substr($0, 15)
	next
}
/^# lab: / {
	next
}
/^  # seconds / {
	held_seconds = $3
	next
}

# A test's own lines are indented; what is indented deeper is a subtest.
/^  / {
	line = substr($0, 3)
	match(line, /^ */)
	indent = RLENGTH
	text = substr(line, indent + 1)

	if (text ~ /^1\.\.[0-9]+/) {
		plan[indent] = substr(text, 4) + 0
		next
	}
	if (text ~ /^# (answer|report) /)
		next
	# The kernel's own faults are a case of their own, at the end.
	if (text ~ /^# kernel: /) {
		kernel_said = kernel_said (kernel_said == "" ? "" : "; ") substr(text, 11)
		next
	}
	if (text ~ /^#/) {
		if (text !~ /^# (Subtest|Totals|Planned)/) {
			sub(/^# */, "", text)
			said = said (said == "" ? "" : "; ") text
		}
		next
	}
	if (text !~ /^(not )?ok /)
		next

	# The result that follows the cases of a subtest sums them up.
	summary = 0
	for (i in results)
		if (i + 0 > indent && results[i] > 0) {
			summary = 1
			if (!(i in plan))
				hold(name ": plan", "fail", "no plan, " results[i] " cases of a subtest seen")
			else if (plan[i] != results[i])
				hold(name ": plan", "fail", plan[i] " cases planned, " results[i] " seen")
			delete plan[i]
			results[i] = 0
		}
	if (text == "not ok nothing is left behind") {
		hold(name ": nothing is left behind", "fail", said)
		next
	}
	if (text == "ok kernel log is clean" || text == "not ok kernel log is clean") {
		if (!(0 in plan) && results[0])
			hold(name ": plan", "fail", "no plan, " results[0] " cases seen")
		else if ((0 in plan) && plan[0] != results[0])
			hold(name ": plan", "fail", plan[0] " cases planned, " (results[0] + 0) " seen")
		delete plan[0]
		own = cases
		hold(name ": kernel log is clean", text ~ /^not/ ? "fail" : "pass", text ~ /^not/ ? kernel_said : "")
		next
	}
	results[indent]++
	if (summary)
		next

	verdict = text ~ /^not/ ? "fail" : "pass"
	sub(/^(not )?ok +/, "", text)
	sub(/^[0-9]+ */, "", text)
	sub(/^- */, "", text)
	detail = verdict == "fail" ? said : ""
	if (match(text, /# *[Ss][Kk][Ii][Pp][^ ]* */)) {
		verdict = "skip"
		detail = substr(text, RSTART + RLENGTH)
		text = substr(text, 1, RSTART - 1)
		sub(/ +$/, "", text)
		# kselftest.h leaves the name to the reason: "name: reason".
		if (text == "") {
			text = detail
			if (match(detail, /: [^:]*$/)) {
				text = substr(detail, 1, RSTART - 1)
				detail = substr(detail, RSTART + 2)
			}
		}
	}
	hold(name ": " text, verdict, detail)
	next
}

# The result of a whole test: worth a line of its own when its cases do not
# tell it.
/^(not )?ok [0-9]+ / {
	if ($0 ~ /# SKIP/) {
		if (!own)
			hold(name, "skip", said == "" ? "the test cannot run here" : said)
	} else if (reason != "" && !(reason ~ /^exit status 1$/ && failed)) {
		hold(name ": comes to its end", "fail", reason (said == "" ? "" : "; " said))
	} else if (!own) {
		hold(name, "fail", "ran no case")
	}
	flush_held()
	interface = "-"
	name = "guest"
	reason = ""
	own = failed = 0
	next
}

END {
	flush_held()
	if (why != "")
		row("guest", "fail", "0.000", why)
	else if (reason != "")
		row("guest", "fail", "0.000", reason)
}
