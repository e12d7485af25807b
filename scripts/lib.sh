# shellcheck shell=sh
# SPDX-License-Identifier: GPL-2.0
#
# What the project's shell scripts share. Sourced, with $top set to the
# project's folder.

PIN=v5.10
: "${top:?}"
# shellcheck disable=SC2034 # used by the scripts that source this file
{
	build=$top/build
	results=$build/results
	# The pinned tree with the stack; LINUX= names a copy of it.
	linux=${LINUX:-$build/linux}
	patches=$top/patches/$PIN
	cache=${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/virtquilt
	TAB=$(printf '\t')
	NL='
'
}

# Scripts compare and sort text; a user's language must not change that. The
# kernel's build drops LC_ALL, so the parts are set as well.
LC_ALL=C LANG=C LC_CTYPE=C LC_MESSAGES=C
export LC_ALL LANG LC_CTYPE LC_MESSAGES

# die SENTENCE: one clear sentence with the cause and the cure, then stop.
die()
{
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# pin_value KEY: the values that the pin file gives for KEY, one a line.
pin_value()
{
	sed -n "s/^$1[[:space:]][[:space:]]*//p" "$patches/pin"
}

# machine_value MACHINE VARIABLE: what the machine's file says
machine_value()
{
	# shellcheck disable=SC2016 # expanded by the inner shell
	sh -c '. "$1"; eval "printf \"%s\\n\" \"\${$2:-}\""' sh \
		"$top/tools/testing/lab/machines/$1" "$2"
}

# sha FILE: the sha256 of one file, bare; "-" is standard input
sha()
{
	sha256sum -- "$1" | cut -d' ' -f1
}

# project_files: the files of the project, as git or a plain copy has them
project_files()
{
	if [ -e "$top/.git" ]; then
		git -C "$top" ls-files -co --exclude-standard
	else
		(cd "$top" && find . -type f ! -path "./build/*" | sed "s|^\./||")
	fi | while read -r project_file; do
		[ ! -f "$top/$project_file" ] || echo "$project_file"
	done
}

# What a shell does at its end, for those that also call step: to be redefined.
at_exit()
{
	:
}

# step LABEL LOG COMMAND...: run a long command, its output kept in LOG.
#
# On a terminal one line shows the elapsed time and the log's last line;
# elsewhere a line is printed when the step ends. Success is otherwise
# silent. A failure prints the end of the log and returns the command's
# status. The command runs in the foreground, so that Ctrl-C reaches it.
step()
{
	step_label=$1
	step_log=$2
	shift 2
	mkdir -p "${step_log%/*}" || return 1
	: >"$step_log" || return 1
	step_start=$(date +%s)
	step_ticker=
	if [ -t 1 ]; then
		# Not with the lock of the run
		step_tick 8>&- &
		step_ticker=$!
		trap 'kill "$step_ticker" 2>/dev/null || :; at_exit' EXIT
	fi
	step_status=0
	"$@" >"$step_log" 2>&1 </dev/null || step_status=$?
	if [ -n "$step_ticker" ]; then
		kill "$step_ticker" 2>/dev/null || :
		wait "$step_ticker" 2>/dev/null || :
		trap at_exit EXIT
		printf '\r\033[K'
	fi
	step_took=$(($(date +%s) - step_start))
	if [ "$step_status" -eq 0 ]; then
		printf '%4ds  %s\n' "$step_took" "$step_label"
		return 0
	fi
	printf '%4ds  %s: failed (status %d), the last lines of %s:\n' \
		"$step_took" "$step_label" "$step_status" "$step_log" >&2
	tail -n 40 -- "$step_log" >&2
	return "$step_status"
}

# The moving line of step. One second is the display's pace, nothing waits
# for it.
step_tick()
{
	while :; do
		printf '\r\033[K%4ds  %s: %s' "$(($(date +%s) - step_start))" \
			"$step_label" "$(tail -n 1 -- "$step_log" | cut -c1-50 |
				tr -d '\r\t')"
		sleep 1
	done
}

# apt_site main|security: the site of this machine's own apt that carries
# Debian's archive of that kind, or nothing. Other releases of Debian are
# reached through it, so that no site's name stands in the project.
apt_site()
{
	# shellcheck disable=SC2016 # apt's own variables
	apt-get indextargets --format '$(SITE) $(RELEASE)' \
		'Identifier: Packages' 2>/dev/null |
		awk -v kind="$1" '
			{ site[$2] = $1 }
			$2 ~ /-security$/ && !security {
				security = $2
				release = $2
				sub(/-security$/, "", release)
			}
			END { print kind == "security" ? site[security] : site[release] }'
}

# apt_private FOLDER "SITE SUITE"...: make apt_get below work on these sources
# alone, with lists and a cache in FOLDER, and apt checks the signatures.
apt_private()
{
	apt_folder=$1
	shift
	mkdir -p "$apt_folder/lists/partial" "$apt_folder/cache/archives/partial"
	for apt_source; do
		echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $apt_source main"
	done >"$apt_folder/sources.list"
}

apt_get()
{
	apt-get -q -o "Dir::Etc::sourcelist=$apt_folder/sources.list" \
		-o Dir::Etc::sourceparts=- \
		-o "Dir::State::lists=$apt_folder/lists" \
		-o "Dir::Cache=$apt_folder/cache" \
		-o APT::Sandbox::User="$(id -un)" -o Acquire::Retries=3 \
		-o APT::Update::Error-Mode=any "$@"
}
