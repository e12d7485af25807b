# shellcheck shell=sh
# SPDX-License-Identifier: GPL-2.0
#
# What the project's shell scripts share. Sourced, with $top set to the
# project's folder. It offers:
#
#   $PIN $pin_word       the pin, PIN= or the default one; what a command that
#                        a user is told must have behind it for another one
#   pins                 those there are
#   $builds              BUILD= or build/: all that is built, of any pin
#   $build $results $cache $linux $patches
#                        folders; $build is $builds, or of a pin that is not the
#                        default one a folder in it
#   $DEBUG               1, or not set, whatever the user has said for "off"
#   own_build own_cache  make these two, or say why they cannot be worked in
#   die SENTENCE         the cause and the cure, then stop
#   bare COMMAND...      run it without the variables that are the project's
#   step LABEL LOG COMMAND...
#                        run a long command, with a moving line
#   moving; move_line TEXT; move_end
#                        a moving line of one's own
#
# How many processors, machines and seconds is in host.sh.

: "${top:?}"

# The environment is the user's until the first script of ours has gone through
# it, and the project's from there on. Only what is named here is let in: a
# variable of a compiler or of git, or one that is called like a script's own,
# would change what is built and judged. First what programs need to find their
# files, the network and the terminal, then what the README tells people to set.
clear_environment()
{
	set -- PATH HOME USER LOGNAME SHELL PWD TMPDIR TERM COLUMNS NO_COLOR CI \
		XDG_CACHE_HOME LD_LIBRARY_PATH LD_PRELOAD APT_CONFIG \
		SSL_CERT_FILE SSL_CERT_DIR CURL_CA_BUNDLE \
		http_proxy https_proxy ftp_proxy all_proxy no_proxy \
		HTTP_PROXY HTTPS_PROXY FTP_PROXY ALL_PROXY NO_PROXY
	# shellcheck disable=SC2086 # words
	case ${0##*/} in
	# An upgrade of somebody's kernel calls this one.
	dkms) set -- "$@" BUILD ;;
	*) set -- "$@" $user_variables ;;
	esac
	# What these say in their heads that they take when called by hand
	case ${0##*/} in
	run) set -- "$@" BENCH IMAGE LAB_MACHINES PAYLOAD QUIET RESULTS TEST UNTIL ;;
	build) set -- "$@" LAB_MACHINES TEST ;;
	kernel) set -- "$@" ARCH CROSS_COMPILE ;;
	stack | lint) set -- "$@" LINUX ;;
	esac
	# A shell does not let go of its own; bash exports functions as well.
	clear_names=$(awk -v keep="$* _ OLDPWD SHLVL PPID IFS OPTIND PS1 PS2 PS4 SHELLOPTS BASHOPTS UID EUID" '
		BEGIN {
			n = split(keep, name, " ")
			for (i = 1; i <= n; i++)
				kept[name[i]]
			for (v in ENVIRON)
				if (v ~ /^BASH_FUNC_[A-Za-z_][A-Za-z0-9_]*%%$/)
					print "-f " substr(v, 11, length(v) - 12)
				else if (v ~ /^[A-Za-z_][A-Za-z0-9_]*$/ &&
				    v !~ /^VIRTQUILT_/ && !(v in kept))
					print "-v " v
		}')
	set -- "$top"
	while read -r clear_kind clear_name; do
		[ -z "$clear_name" ] || unset "$clear_kind" "$clear_name"
	done <<-END
		$clear_names
	END
	top=$1
}
user_variables='ACCEL BUILD CONFIG COVERAGE DEBUG INTERFACE JOBS KERNEL KERNEL_SRC KERNEL_TARBALL KERNEL_URL MACHINES MUTANTS OUT PIN SIGNOFF TIMEOUT_SCALE TO TOPIC TREE VMM VMM_FILES'
if [ -z "${VIRTQUILT_CLEAN:-}" ]; then
	clear_environment
	VIRTQUILT_CLEAN=1
	export VIRTQUILT_CLEAN
fi

# Scripts compare and sort text; a user's language must not change that. The
# kernel's build drops LC_ALL, so the parts are set as well.
LC_ALL=C LANG=C LC_CTYPE=C LC_MESSAGES=C
export LC_ALL LANG LC_CTYPE LC_MESSAGES
# What goes into trees, packages and machines has the same modes for everybody.
umask 022

# die SENTENCE: one clear sentence with the cause and the cure, then stop.
die()
{
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

case ${DEBUG:-} in
'' | 0 | [Nn] | [Nn][Oo] | [Oo][Ff][Ff] | [Ff][Aa][Ll][Ss][Ee]) unset DEBUG ;;
1 | [Yy] | [Yy][Ee][Ss] | [Oo][Nn] | [Tt][Rr][Uu][Ee]) DEBUG=1 ;;
*) die "DEBUG=$DEBUG says neither yes nor no: set it to 1 or to 0" ;;
esac
# Emulators are given paths there, with words and commas around them.
case ${TMPDIR:-} in
'' | *[[:space:],]*) unset TMPDIR ;;
*) [ -d "$TMPDIR" ] || unset TMPDIR ;;
esac
[ -w "${TMPDIR:-/tmp}" ] || unset TMPDIR
case ${BUILD:-} in
'') unset BUILD ;;
/*) BUILD=${BUILD%/} ;;
*) BUILD=$top/${BUILD%/} ;;
esac

# pins: those there are, by their names
pins()
{
	for pin_file in "$top"/patches/*/pin; do
		pin_file=${pin_file%/pin}
		echo "${pin_file##*/}"
	done
}

default_pin=$(sed '/^#/d' "$top/patches/default")
builds=${BUILD:-$top/build}
build=$builds
# shellcheck disable=SC2034 # used by the scripts that source this file
pin_word=
case ${PIN:=$default_pin} in
"$default_pin") ;;
all)
	[ "${0##*/}" = check ] ||
		die "PIN=all is for what builds and tests: name one pin, there are $(pins | paste -sd ' ')"
	;;
*[!a-z0-9.]* | .*)
	die "PIN=$PIN is no name of a pin: there are $(pins | paste -sd ' ')"
	;;
*)
	[ -f "$top/patches/$PIN/pin" ] ||
		die "PIN=$PIN: there is no such pin: there are $(pins | paste -sd ' ')"
	build=$builds/$PIN
	# shellcheck disable=SC2034 # the same
	pin_word=" PIN=$PIN"
	;;
esac
# shellcheck disable=SC2034 # used by the scripts that source this file
{
	results=$build/results
	# The pinned tree with the stack; LINUX= names a copy of it.
	linux=${LINUX:-$build/linux}
	patches=$top/patches/$PIN
	cache=${HOME:-/nonexistent}/.cache/virtquilt
	case ${XDG_CACHE_HOME:-} in
	/*) cache=$XDG_CACHE_HOME/virtquilt ;;
	esac
	TAB=$(printf '\t')
	NL='
'
}

# bare COMMAND...: without the user's and the tools' own variables, which mean
# something else to other people's makefiles
bare()
{
	# shellcheck disable=SC2046,SC2086 # words
	env $(printf -- '-u %s ' $user_variables LINUX VIRTQUILT_CLEAN) "$@"
}

# own_folder FOLDER VARIABLE: make FOLDER; VARIABLE names another one. It may
# be on a file system that cannot be written, or have been root's since a "sudo
# make", wholly or in part.
own_folder()
{
	own_why=$(mkdir -p -- "$1" 2>&1) ||
		die "$1 cannot be made (${own_why##*: }): see to its place, or name another one with $2="
	own_other=$(find "$1" -maxdepth 2 ! -user "$(id -u)" ! -writable \
		-print -quit 2>/dev/null)
	[ -z "$own_other" ] ||
		die "$own_other belongs to $(stat -c %U -- "$own_other"), perhaps since a 'sudo make': give it back with 'sudo chown -R $(id -un) $1', or name another folder with $2="
	[ -w "$1" ] ||
		die "$1 cannot be written: see to its mode and file system, or name another folder with $2="
}

own_cache()
{
	own_folder "$cache" XDG_CACHE_HOME
}

# Not in a folder with somebody's files in it: "make clean" removes this one.
own_build()
{
	case $top$builds in
	*[[:space:]:]*)
		die "the kernel's build takes no blank and no colon in a path, and there is one in $top or $builds: move the project, or name another folder with BUILD="
		;;
	esac
	[ "$builds" = "$top/build" ] || [ -f "$builds/.virtquilt-build" ] ||
		[ -z "$(find "$builds" -mindepth 1 -print -quit 2>/dev/null)" ] ||
		die "BUILD=$build has files in it that are not this project's: name a folder that is empty or not there yet"
	own_folder "$builds" BUILD
	: >"$builds/.virtquilt-build"
	[ "$build" = "$builds" ] || own_folder "$build" BUILD
}

# pin_value KEY: the values that the pin file gives for KEY, one a line.
pin_value()
{
	sed -n "s/^$1[[:space:]][[:space:]]*//p" "$patches/pin"
}

# tree_version TREE: the release that it is of
tree_version()
{
	awk -F' *= *' '
		$1 == "VERSION" { v = $2 } $1 == "PATCHLEVEL" { p = $2 }
		$1 == "SUBLEVEL" { s = $2 } $1 == "EXTRAVERSION" { e = $2; exit }
		END { print v "." p "." s e }' "$1/Makefile"
}

# sha FILE: the sha256 of one file, bare; "-" is standard input
sha()
{
	sha256sum -- "$1" | cut -d' ' -f1
}

# project_git ARGUMENT...: git on the project, whoever owns the checkout
project_git()
{
	git -c safe.directory='*' -C "$top" "$@"
}

# project_files: the files of the project, as git or a plain copy has them.
# Listed as a whole before any is looked at: one that breaks off is an error.
project_files()
{
	mkdir -p "$build"
	{
		[ -e "$top/.git" ] &&
			project_git ls-files -co --exclude-standard 2>/dev/null ||
			(cd "$top" && find . -type f ! -path './build/*' \
				! -path './.git/*' | sed 's|^\./||')
	} >"$build/files.$$" || die "the files of $top could not be listed"
	while read -r project_file; do
		[ ! -f "$top/$project_file" ] || echo "$project_file"
	done <"$build/files.$$"
	rm -f "$build/files.$$"
}

# What a shell does at its end, for those that also call step: to be redefined.
at_exit()
{
	:
}

# moving: is somebody looking, at a terminal on which a line can be replaced?
# A CI that runs its jobs on one keeps all of what is written.
moving()
{
	[ -t 1 ] || return 1
	case ${TERM:-dumb} in
	dumb | unknown) return 1 ;;
	esac
	case ${CI:-} in
	'' | 0 | false) ;;
	*) return 1 ;;
	esac
}

# move_line TEXT: show TEXT in place of the last one, cut to what the terminal
# has room for now: a line that wraps would stay. Nothing where nobody looks.
move_line()
{
	moving || return 0
	{
		move_width=$(stty size 2>/dev/null <&5 | cut -d" " -f2)
	} 5>&1
	[ "${move_width:-0}" -gt 0 ] || move_width=${COLUMNS:-80}
	[ "$move_width" -gt 1 ] 2>/dev/null || move_width=80
	printf '\r\033[K%s' "$(printf '%s' "$1" | tr '\t\n' '  ' |
		tr -cd '[:print:]' | cut -c "1-$((move_width - 1))")"
}

# move_end: leave an empty line for what is printed next
move_end()
{
	! moving || printf '\r\033[K'
}

# step LABEL LOG COMMAND...: run a long command, its output kept in LOG.
#
# On a terminal a moving line shows the elapsed time and the log's last line;
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
	if moving; then
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
		move_end
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
	# Whoever kills this shell does not kill its ticker.
	while kill -0 $$ 2>/dev/null; do
		move_line "$(printf '%4ds  %s: %s' "$(($(date +%s) - step_start))" \
			"$step_label" "$(tail -n 1 -- "$step_log")")"
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

# apt_private FOLDER "SITE SUITE"...: make apt_get and apt_cache below work on these
# sources alone, with lists and a cache in FOLDER, and apt checks the signatures.
# $apt_kinds can be "deb deb-src", for the lists of sources as well.
apt_private()
{
	apt_folder=$1
	shift
	mkdir -p "$apt_folder/lists/partial" "$apt_folder/cache/archives/partial"
	for apt_source; do
		for apt_kind in ${apt_kinds:-deb}; do
			echo "$apt_kind [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $apt_source main"
		done
	done >"$apt_folder/sources.list"
}

# apt_on PROGRAM ARGUMENT...
apt_on()
{
	apt_program=$1
	shift
	"$apt_program" -q -o "Dir::Etc::sourcelist=$apt_folder/sources.list" \
		-o Dir::Etc::sourceparts=- \
		-o "Dir::State::lists=$apt_folder/lists" \
		-o "Dir::Cache=$apt_folder/cache" \
		-o APT::Sandbox::User="$(id -un)" -o Acquire::Retries=3 \
		-o APT::Update::Error-Mode=any "$@"
}

apt_get()
{
	apt_on apt-get "$@"
}

apt_cache()
{
	apt_on apt-cache "$@"
}
