/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests here have to know of this kernel that other kernels have
 * otherwise. Each has a file of this name of its own.
 */
#ifndef SELFTEST_KVM_GLUE_H
#define SELFTEST_KVM_GLUE_H

/* Bits of the hypercall input that KVM does not look at: there are none. */
#define HVCALL_ODD_BITS			0ULL

/* A flush by registers alone is done. */
#define HVCALL_FAST_FLUSH_RESULT	0

/* The flags that KVM_SET_CLOCK takes */
#define SET_CLOCK_FLAGS			0xeU

/* What is behind the last field of a hypercall exit that means something */
#define HYPERCALL_PAD(run)		((run)->hypercall.pad)

/* Sizes of pages that KVM_HC_MAP_GPA_RANGE takes */
#define MAP_GPA_PAGE_SIZES		16

#endif /* SELFTEST_KVM_GLUE_H */
