/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests here have to know of this kernel that other kernels have
 * otherwise: functions that kvm-hv calls, as the symbols that it needs. Each kernel
 * has a file of this name of its own.
 */
#ifndef SECURE_GUEST_GLUE_H
#define SECURE_GUEST_GLUE_H

/* The host's page behind a guest's, and what is returned if there is none */
#define LOOK_UP_GFN		"gfn_to_pfn"
#define LOOK_UP_GFN_FAILED	0x7ff0000000000000LL

/* The memory area at an address */
#define FIND_VMA		"find_vma"

/* Memory for a structure, with another configuration as well, or NULL */
#define SMALL_ALLOC		"kmem_cache_alloc_trace"
#define SMALL_ALLOC_OTHER	"kmem_cache_alloc"

/* For the map of secure memory, and for what is known of a slot's pages */
#define BITMAP_ALLOC		"__kmalloc"
#define LARGE_ALLOC		"vcalloc"

/* A page for what comes out of secure memory */
#define PAGE_ALLOC		"__alloc_pages_nodemask"

/* Where others may run, or NULL for a kernel that lets them anywhere */
#define COND_RESCHED		"_cond_resched"

#endif /* SECURE_GUEST_GLUE_H */
