/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests here have to know of this kernel that other kernels have
 * otherwise. Each has a file of this name of its own.
 */
#ifndef SELFTEST_KVM_GLUE_H
#define SELFTEST_KVM_GLUE_H

/*
 * Bits of the hypercall input that KVM does not look at, so that every byte of
 * the field that can differ does.
 */
#define HVCALL_ODD_BITS			0xd000b00068000000ULL

/* A flush by registers alone is refused. */
#define HVCALL_FAST_FLUSH_RESULT	3

/* The flags that KVM_SET_CLOCK takes */
#define SET_CLOCK_FLAGS			0U

/* What is behind the last field of a hypercall exit that means something */
#define HYPERCALL_PAD(run)		((run)->hypercall.pad)

/* Sizes of pages that KVM_HC_MAP_GPA_RANGE takes */
#define MAP_GPA_PAGE_SIZES		3

#endif /* SELFTEST_KVM_GLUE_H */
