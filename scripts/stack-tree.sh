# shellcheck shell=sh
# SPDX-License-Identifier: GPL-2.0
#
# Look at a kernel tree: is it the pinned one, and what has an earlier run left
# there? Sourced by scripts/stack.
#
# TREE/.virtquilt is quilt's folder (QUILT_PC=.virtquilt). In it are also:
#
#   state      "applied"; "installing" or "removing" while files are being moved
#   record     the sha256 of each file before and after, "-" if there is none
#   pristine/  the files that the stack changes, as they were
#   pushed/    the text of each patch when it was pushed
#   patches    a link to the project's patches, for quilt
#   stack      the key of the stack that was pushed
#   pin        the pin whose stack it was
#   folders    folders that the stack has created
#   was        while files are being moved: the sha256 of each file before that

set -eu
: "${top:?}" "${patches:?}" "${linux:?}" "${scratch?}" "${pin_word?}"

# word PATH: PATH, quoted for the shell if it has to be
word()
{
	case $1 in
	*[!A-Za-z0-9_./+,:=@%^-]*) printf '"%s"\n' "$1" ;;
	*) printf '%s\n' "$1" ;;
	esac
}

# hint COMMAND TREE: the make command to type
hint()
{
	echo "'make $1 TREE=$(word "$2")$pin_word'"
}

# check_tree TREE: stop if it is not a kernel tree
check_tree()
{
	if [ ! -f "$1/Makefile" ] || [ ! -f "$1/Kbuild" ] ||
		! grep -q '^PATCHLEVEL = ' "$1/Makefile"; then
		die "$1 is not a kernel tree: name the top folder of an unpacked Linux $(pin_value version)"
	fi
}

check_version()
{
	check_tree "$1"
	version=$(tree_version "$1")
	[ "$version" = "$(pin_value version)" ] ||
		die "$1 is Linux $version, but the stack is for $(pin_value version)$(other_pin "$version"): unpack that version and apply there"
}

# other_pin VERSION: that another pin is for it, if one is
other_pin()
{
	for other in $(pins); do
		if awk -v version="$1" '$1 == "version" && $2 == version { found = 1 }
			END { exit !found }' "$top/patches/$other/pin"; then
			echo " (for that of $1 say PIN=$other)"
			return
		fi
	done
}

# check_pin TREE: stop if the stack that it has is that of another pin
check_pin()
{
	[ -f "$1/.virtquilt/pin" ] || return 0
	applied_pin=$(cat "$1/.virtquilt/pin")
	[ "$applied_pin" = "$PIN" ] ||
		die "the stack on $1 is that of pin $applied_pin: say PIN=$applied_pin"
}

# check_own_tree: stop if the tree that is used by default is not usable
check_own_tree()
{
	[ -d "$linux" ] ||
		die "the pinned tree is not there ($linux): fetch it with 'make tree$pin_word'"
	check_version "$linux"
	case $(state_of "$linux") in
	applied | none) ;;
	*) refuse_half "$linux" ;;
	esac
}

record_of()
{
	if [ -f "$1/.virtquilt/record" ]; then
		cat "$1/.virtquilt/record"
	fi
}

applied_patches()
{
	if [ -f "$1/.virtquilt/applied-patches" ]; then
		cat "$1/.virtquilt/applied-patches"
	fi
}

state_of()
{
	if [ -f "$1/.virtquilt/state" ]; then
		cat "$1/.virtquilt/state"
	elif [ -d "$1/.virtquilt" ] && [ ! -f "$1/.virtquilt/record" ]; then
		echo foreign
	elif [ -d "$1/.virtquilt" ] || [ -d "$1/.virtquilt.old" ]; then
		echo half
	else
		echo none
	fi
}

refuse_half()
{
	die "$1 is half applied (an earlier run was killed): run $(hint unapply "$1") first, which restores the files"
}

refuse_foreign()
{
	die "$1/.virtquilt was not made by 'make apply': move it away with 'mv $(word "$1/.virtquilt") $(word "$1/.virtquilt.mine")'"
}

# check_state TREE: stop if an earlier run was killed in the middle
check_state()
{
	case $(state_of "$1") in
	applied | none) ;;
	foreign) refuse_foreign "$1" ;;
	*) refuse_half "$1" ;;
	esac
}

# original TREE FILE: set $original to the path of FILE as it was before the stack,
# or to nothing if it did not exist. quilt keeps a backup from when a patch first
# touched a file, an empty one if it did not exist. Needs originals_of.
original()
{
	original=$1/.virtquilt/pristine/$2
	[ ! -f "$original" ] || return 0
	for p in $applied; do
		if [ -f "$1/.virtquilt/$p/$2" ]; then
			original=$1/.virtquilt/$p/$2
			[ -s "$original" ] || original=
			return 0
		fi
	done
	original=$1/$2
	[ -f "$original" ] || original=
	case $NL$made$NL in
	*"$NL$2$NL"*) original= ;;
	esac
}

# originals_of TREE: prepare for original
originals_of()
{
	applied=$(applied_patches "$1")
	made=$(record_of "$1" | sed -n 's/^- [^ ]* //p')
}

# check_manifest TREE: stop if a file that the series touches is not the pinned one,
# or was not before the stack.
check_manifest()
{
	originals_of "$1"
	differs=$(while read -r sum f; do
		case $sum in '' | '#'*) continue ;; esac
		[ ! -f "$1/.virtquilt/pristine/$f" ] || continue
		original "$1" "$f"
		printf '%s  %s\n' "$sum" "${original:-$1/$f}"
	done <"$patches/manifest" | sha256sum -c --quiet 2>/dev/null |
		sed -n '1s/: FAILED.*//p')
	[ -n "$differs" ] || return 0
	f=${differs#"$1/"}
	[ -e "$1/$f" ] ||
		die "$1 has no $f, which the pinned tree has: unpack the tree again"
	for p in $(patch_names); do
		touched "$patches/$p" | grep -qxF -e "$f" || continue
		if in_tree "$1" "$p"; then
			die "$1 is half applied: $f already carries $p, put there by other means; take it out, or unpack the tree again ($(hint status "$1") tells more)"
		fi
	done
	die "$f in $1 differs from the pinned $(pin_value version): restore it, or unpack the tree again"
}

# in_tree TREE PATCH: would PATCH come off cleanly?
in_tree()
{
	(cd "$1" && patch -R -p1 -F0 -s -f --dry-run <"$patches/$2" >/dev/null 2>&1)
}

# check_writable TREE <files: stop if one of them cannot be replaced or created.
# Symbolic links would lead out of the tree.
check_writable()
{
	while read -r f; do
		[ ! -L "$1/$f" ] ||
			die "$f in $1 is a symbolic link: name a tree of plain files"
		[ ! -e "$1/$f" ] || [ -w "$1/$f" ] ||
			die "$1/$f cannot be written: get write permission for the tree, or name a copy of your own"
		d=$f
		while [ "$d" != "${d%/*}" ]; do
			d=${d%/*}
			[ ! -L "$1/$d" ] ||
				die "$d in $1 is a symbolic link: name a tree of plain folders"
			[ ! -e "$1/$d" ] || [ -w "$1/$d" ] ||
				die "$1/$d cannot be written: get write permission for the tree, or name a copy of your own"
		done
	done
	[ -w "$1" ] ||
		die "cannot write to $1: get write permission for it, or name a copy of your own"
}

# copy FROM TO LIST: copy the listed files that exist
copy()
{
	(
		cd "$1"
		while read -r f; do
			[ ! -f "$f" ] || echo "$f"
		done <"$3" | xargs -r cp --parents -p -t "$2" --
	)
}

# plant TREE DIR LIST: copy the listed files, as they were before the stack, to
# DIR/tree
plant()
{
	originals_of "$1"
	: >"$scratch/plant.here"
	: >"$scratch/plant.aside"
	while read -r f; do
		original "$1" "$f"
		case $original in
		'') ;;
		"$1/.virtquilt/pristine/$f") echo "$f" >>"$scratch/plant.aside" ;;
		"$1/$f") echo "$f" >>"$scratch/plant.here" ;;
		*)
			case $f in
			*/*) mkdir -p "$2/tree/${f%/*}" ;;
			esac
			cp -p -- "$original" "$2/tree/$f"
			;;
		esac
	done <"$3"
	copy "$1" "$2/tree" "$scratch/plant.here"
	[ ! -s "$scratch/plant.aside" ] ||
		copy "$1/.virtquilt/pristine" "$2/tree" "$scratch/plant.aside"
}

# sums TREE <record: print "before after now file" for each line, where now is the
# file's present sha256, or "-" if it does not exist
sums()
{
	sums_record=$(cat)
	[ -n "$sums_record" ] || return 0
	{
		echo "$sums_record" | (
			cd "$1"
			while read -r _ _ f; do
				[ ! -f "$f" ] || echo "$f"
			done | xargs -r sha256sum --
		) | sed 's/^\([^ ]*\)  /now \1 /'
		echo "$sums_record"
	} | awk '$1 == "now" { now[$3] = $2; next }
		NF { print $1, $2, $3 in now ? now[$3] : "-", $3 }'
}
