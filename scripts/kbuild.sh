# shellcheck shell=sh
# SPDX-License-Identifier: GPL-2.0
#
# How the project calls the kernel's build. Sourced after lib.sh.

: "${top:?}"
. "$top/scripts/host.sh"

# ccache keys by content and sees paths below build/ relative, so a second
# clone finds what the first one compiled. It goes by the dependencies that the
# compiler writes, which spares a run of the preprocessor for each file; see
# scripts/cc for what it does not see so.
# shellcheck disable=SC2154 # from lib.sh
{
	CCACHE_DIR=$cache/ccache
	CCACHE_BASEDIR=$build
	CCACHE_NOHASHDIR=1
	CCACHE_DEPEND=1
	CCACHE_MAXSIZE=3G
	export CCACHE_DIR CCACHE_BASEDIR CCACHE_NOHASHDIR CCACHE_DEPEND CCACHE_MAXSIZE
}
# The same source gives the same image.
KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 1970'
KBUILD_BUILD_USER=virtquilt
KBUILD_BUILD_HOST=virtquilt
KBUILD_BUILD_VERSION=1
export KBUILD_BUILD_TIMESTAMP KBUILD_BUILD_USER KBUILD_BUILD_HOST \
	KBUILD_BUILD_VERSION

kbuild_compiler()
{
	"${CROSS_COMPILE:-}gcc" -dumpfullversion -dumpmachine
}

# kbuild TREE OBJECTS ARGUMENT...
kbuild()
{
	kbuild_tree=$1 kbuild_objects=$2
	shift 2
	bare make -s -C "$kbuild_tree" O="$kbuild_objects" -j"$(njobs)" \
		CC="$top/scripts/cc ${CROSS_COMPILE:-}gcc" "$@"
}

# keep_environment OBJECTS COMMAND...: keep what kbuild's top makefile tells those
# below it, and the folders that it goes down to, for anew. COMMAND calls that
# makefile with the arguments that it is given here. It has to be asked by a target of
# its own. The makefile calls itself in the folder of the objects; only that one counts.
keep_environment()
{
	kept=$1/kbuild-environment
	shift
	rm -f "$kept"
	# shellcheck disable=SC2016 # expanded by make
	"$@" '--eval=kbuild-environment: ; @[ -z "$$KBUILD_CFLAGS" ] || { export -p; echo "build_dirs=\"$(build-dirs)\""; } >kbuild-environment.new' kbuild-environment
	! grep -q '^build_dirs="[a-z]' "$kept.new" || mv "$kept.new" "$kept"
}

# kept_environment OBJECTS: is it there?
kept_environment()
{
	[ -f "$1/kbuild-environment" ]
}

# anew TREE OBJECTS COMMAND...: with what was kept, in the folder of the objects. To
# find that out takes kbuild's top makefile 3 s; only the kernel's configuration and the
# compiler could change it, and a single patch that adds no symbol changes neither.
anew()
(
	# shellcheck disable=SC2030 # part is called here
	anew_tree=$1 anew_objects=$2
	shift 2
	# shellcheck disable=SC1091 # made by keep_environment
	. "$anew_objects/kbuild-environment"
	unset MFLAGS MAKELEVEL MAKEOVERRIDES
	MAKEFLAGS="rRs --include-dir=$anew_tree"
	export MAKEFLAGS
	cd "$anew_objects" || exit
	# shellcheck disable=SC2030 # the same
	jobs=$(njobs)
	"$@"
)

# part MAKEFILE ARGUMENT...: one of those below the top makefile. By anew.
part()
{
	part_file=$1
	shift
	# shellcheck disable=SC2031 # by anew
	make -j"$jobs" -f "$anew_tree/scripts/$part_file" "$@"
}

# singles TARGETS [ARGUMENT...]: single targets, by their paths with blanks between
# them, as the top makefile has them built. By anew.
singles()
{
	KBUILD_SINGLE_TARGETS=$1
	export KBUILD_SINGLE_TARGETS
	shift
	# shellcheck disable=SC2154 # from what was kept
	for d in $build_dirs; do
		case " $KBUILD_SINGLE_TARGETS" in
		*" $d/"*) part Makefile.build "obj=$d" single-build=1 \
			need-builtin=1 need-modorder=1 "$@" || return ;;
		esac
	done
}
