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
