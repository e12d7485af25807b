# shellcheck shell=sh
# SPDX-License-Identifier: GPL-2.0
#
# Write the stack as mails for git am. Sourced by scripts/stack.
#
# TOPIC= names a section of the series, "# TOPIC" at its head: then its patches
# alone, without the new files, and a cover letter if the pin has one of it, in
# cover-letter.TOPIC: a line "Subject: ...", an empty one, and the text.
#
# git does it, in a scratch repository of just the files that the stack touches.
# So the mails have the index lines that "git am -3" needs, and are known to apply.

set -eu
: "${top:?}" "${patches:?}" "${scratch?}"

# g COMMAND...: git in the scratch repository
g()
{
	git -C "$scratch/new/tree" "$@"
}

# plain_git: drop the variables of the hook that we may be called from, and the
# user's settings
plain_git()
{
	command -v git >/dev/null 2>&1 ||
		die "git writes the mails and is not installed: install it, then try again"
	# shellcheck disable=SC2046 # names
	unset $(git rev-parse --local-env-vars)
	GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_ATTR_NOSYSTEM=1
	GIT_COMMITTER_NAME=virtquilt GIT_COMMITTER_EMAIL=virtquilt@localhost
	export GIT_CONFIG_GLOBAL GIT_CONFIG_NOSYSTEM GIT_ATTR_NOSYSTEM \
		GIT_COMMITTER_NAME GIT_COMMITTER_EMAIL
}

# field NAME FILE: a field of a patch's header
field()
{
	sed -n "/^\$/q; s/^$1: //p" "$2" | head -n 1
}

# topic_names: the patches of TOPIC=, or all
topic_names()
{
	[ -n "${TOPIC:-}" ] || {
		patch_names
		return
	}
	patch_names >"$new/all"
	awk -v topic="# $TOPIC" '
		FILENAME == ARGV[1] { known[$1]; next }
		/^# [a-z0-9-]+$/ { on = $0 == topic; next }
		on && $1 in known { print $1 }' "$new/all" "$patches/series"
}

export_series()
{
	out=$1 tree=$2
	plain_git
	signoff=${SIGNOFF:-}
	if [ -n "$signoff" ] &&
		! printf '%s\n' "$signoff" | awk 'NR > 1 ||
			!/^[^<>@]*[^<>@ ] <[^<>@ ]+@[^<>@ ]+>$/ { bad = 1 }
			END { exit bad }'; then
		die "SIGNOFF=$(echo "$signoff" | paste -sd ' ') is not a name and an address: set SIGNOFF='Your Name <you@your.example>'"
	fi
	check_state "$tree"
	check_version "$tree"
	need_patches "$tree"
	check_manifest "$tree"
	mkdir -p -- "$out" 2>/dev/null || :
	{ [ -d "$out" ] && [ -w "$out" ]; } ||
		die "cannot write to $out: name another folder with OUT="

	commit_stack "$tree"
	base_of "$tree"
	write_mails
	cover=
	if [ -n "${TOPIC:-}" ] && [ -f "$patches/cover-letter.$TOPIC" ]; then
		write_cover "$patches/cover-letter.$TOPIC"
	fi
	replace_mails
	echo "$out: $(g rev-list --count base..HEAD) mails; in a git tree of Linux $(pin_value version): git am -3 $(word "$out")/*.patch"
	for p in $left_out; do
		echo "left out, since it changes nothing yet: $p"
	done
	[ -z "$cover" ] ||
		echo "$out/$cover: the cover letter"
	[ -n "$base" ] ||
		echo "no base-commit: $base_why"
	if grep -q "^Signed-off-by: .*\.example>" "$out"/*.patch; then
		echo "the Signed-off-by in the mails is a placeholder, and nobody can forward them like that: 'make export SIGNOFF=\"Your Name <you@host>\"' puts your own in"
	fi
}

# commit_stack TREE: fill the scratch repository: the files as they were, tagged
# base; the new files; one commit for each patch
commit_stack()
{
	new=$scratch/new
	mkdir -p "$new/tree" "$new/mails"
	: >"$new/newfiles"
	[ -n "${TOPIC:-}" ] || newfiles >"$new/newfiles"
	touched_by_series | comm -23 - "$new/newfiles" >"$new/files"
	plant "$1" "$new" "$new/files"
	g init -q
	g config core.autocrlf false
	g config user.name virtquilt
	g config user.email virtquilt@localhost
	g add -A -f .
	g commit -q --allow-empty -m "Linux $(pin_value version)"
	g tag base

	copy_new "$new/tree" "$new/newfiles"
	(cd "$new/tree" && xargs -r chmod u=rwX,go=rX -- <"$new/newfiles")
	: >"$new/names"
	left_out=
	lead=
	for p in $(topic_names); do
		if [ -z "$(touched "$patches/$p")" ]; then
			left_out="$left_out $p"
			continue
		fi
		case $(series_entries | grep -e "^${p}[[:space:]]") in
		?*) die "the series has options for $p, which git am would not see: 'make refresh' makes it an ordinary -p1 patch" ;;
		esac
		for f in From Date Subject; do
			[ -n "$(field "$f" "$patches/$p")" ] ||
				die "$p has no $f: line, which git am needs: add it with '\${EDITOR:-vi} $(word "$patches/$p")' as in the other patches"
		done
		# The new files come first, since patches refer to them, with
		# the author and date of the first patch.
		if [ -z "$lead" ]; then
			lead=$p
			[ ! -s "$new/newfiles" ] || commit_new_files "$p"
		fi
		sed '1s/^/From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001\n/' \
			"$patches/$p" >"$new/mail"
		g am -q --keep-cr --keep-non-patch --whitespace=nowarn "$new/mail" \
			>"$new/log" 2>&1 ||
			die "$p does not apply ($(sed -n '/^error: /{s///p;q}' "$new/log")): $(way_past "$1" "$p"), then try again"
		echo "$p" >>"$new/names"
	done
	[ -n "$lead" ] || [ -z "${TOPIC:-}" ] ||
		die "the series has no patch of $TOPIC: TOPIC can be $(sed -n 's/^# \([a-z0-9-]*\)$/\1/p' "$patches/series" | paste -sd ' ')"
	[ -n "$lead" ] ||
		die "the series has no patch: there is nothing to export"
}

commit_new_files()
{
	author=$(field From "$patches/$1")
	g add -A -f .
	{
		echo "virtquilt: Add the new files of the stack"
		echo
		echo "Tests, libraries and reference drivers that the pinned tree does not"
		echo "have. The patches that follow put them to use."
		echo
		echo "Signed-off-by: $author"
	} | g commit -q --author="$author" --date="$(field Date "$patches/$1")" -F -
	echo new-files.patch >>"$new/names"
}

# base_of TREE: set $base to TREE's HEAD if that has everything as it was before the
# stack. Otherwise leave it empty and set $base_why to the reason.
base_of()
{
	base=
	if [ "$(git -C "$1" rev-parse --show-toplevel 2>/dev/null)" != "$1" ]; then
		base_why="$1 is not a git tree; name one with TREE= or KERNEL_SRC="
		[ ! -e "$1/.git" ] ||
			base_why="git does not read $1 ($(git -C "$1" rev-parse 2>&1 | head -n 1))"
		return
	fi
	base=$(git -C "$1" rev-parse -q --verify HEAD) || {
		base_why="$1 has no commit yet"
		return
	}
	# The touched files must be the same, the new files must not exist.
	g ls-tree -r base | sort >"$new/base"
	cat "$new/files" "$new/newfiles" | (
		cd "$new/tree" && xargs git -C "$1" ls-tree -r HEAD --
	) | sort >"$new/head"
	differs=$(comm -3 "$new/base" "$new/head" | cut -f2- | sed 's/^.*\t//' |
		head -n 1)
	[ -n "$differs" ] || return 0
	base=
	base_why="$differs in the last commit of $1 is not as in Linux $(pin_value version)"
}

# write_mails: run git format-patch, then number the mails our way and put in
# SIGNOFF and the base
write_mails()
{
	g format-patch -q --full-index --keep-subject -N --signature=virtquilt \
		--no-numbered -o "$new/mails" base..HEAD >/dev/null
	total=$(grep -c . "$new/names")
	base_line="base-commit: $base"
	[ -n "$base" ] || base_line="base: Linux $(pin_value version), not a commit"
	n=0
	for mail in "$new"/mails/*.patch; do
		n=$((n + 1))
		name=$(sed -n "${n}p" "$new/names")
		number=$(printf '%02d' "$n")
		SIGNOFF=$signoff awk -v number="$number/$total" -v n="$n" \
			-v base="$base_line" -v topic="${TOPIC:-}" '
			BEGIN { signoff = ENVIRON["SIGNOFF"] }
			/^$/ { body = 1 }
			!body && /^Subject: / { sub(/^Subject: /, "&[PATCH " number "] ") }
			!diff && signoff && /^Signed-off-by: / {
				if (/\.example>$/)
					$0 = "Signed-off-by: " signoff
				if ($0 == "Signed-off-by: " signoff && signed++)
					next
			}
			!diff && /^---$/ {
				diff = 1
				if (signoff && !signed)
					print "Signed-off-by: " signoff
			}
			# The list has no use for where it is not yet.
			topic != "" && !diff && /^Patch-mainline: / { next }
			n == 1 && /^-- $/ { held = 1; next }
			held {
				if (/^virtquilt$/)
					print "\n" base
				print "-- "
				held = 0
			}
			{ print }' "$mail" >"$new/mails/$number-${name##*/}"
		rm -f -- "$mail"
	done
}

# write_cover FILE: what comes before the mails, with the list of them. It is named
# such that the mails alone are *.patch, since git am has no use for it.
write_cover()
{
	cover=00-cover-letter
	from=$(field From "$patches/$lead")
	case ${signoff:-},$from in
	?*,*.example\>) from=$signoff ;;
	esac
	{
		echo "From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001"
		echo "From: $from"
		echo "Date: $(field Date "$patches/$lead")"
		echo "Subject: [PATCH 00/$total] $(field Subject "$1")"
		sed '1,/^$/d' "$1" | sed '1s/^/\n/'
		echo
		g log --reverse --format='  %s' base..HEAD
		echo
		g diff --stat base HEAD
		printf '\n%s\n-- \nvirtquilt\n' "$base_line"
	} >"$new/mails/$cover"
}

# replace_mails: move the mails to $out, in place of those of a former export
replace_mails()
{
	: >"$new/former"
	for mail in "$out"/[0-9][0-9]-*.patch "$out/00-cover-letter"; do
		[ -e "$mail" ] || continue
		if [ "$(tail -n 2 "$mail" | head -n 1)" = virtquilt ] ||
			[ "$(tail -n 1 "$mail")" = virtquilt ]; then
			echo "$mail" >>"$new/former"
		elif [ -e "$new/mails/${mail##*/}" ]; then
			die "$mail exists and was not written by 'make export': name another folder with OUT="
		fi
	done
	# All of them, or none
	parts=$out/.new
	rm -rf -- "$parts"
	{ mkdir -- "$parts" && cp -- "$new"/mails/* "$parts"; } 2>/dev/null ||
		die "the mails cannot be written to $out: free some space, or name another folder with OUT="
	mv -f -- "$parts"/* "$out"
	while read -r mail; do
		[ -e "$new/mails/${mail##*/}" ] || rm -f -- "$mail"
	done <"$new/former"
}
