/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests here have to know of this kernel that other kernels have
 * otherwise: functions that kvm-hv calls, as the symbols that it needs. Each kernel
 * has a file of this name of its own.
 */
#ifndef SECURE_GUEST_GLUE_H
#define SECURE_GUEST_GLUE_H

/* The host's page behind a guest's, and what is returned if there is none */
#define LOOK_UP_GFN		"__gfn_to_page"
#define LOOK_UP_GFN_FAILED	0

/* The memory area at an address */
#define FIND_VMA		"find_vma_intersection"

/* Memory for a structure, with another configuration as well, or NULL */
#define SMALL_ALLOC		"__kmalloc_cache_noprof"
#define SMALL_ALLOC_OTHER	NULL

/* For the map of secure memory, and for what is known of a slot's pages */
#define BITMAP_ALLOC		"bitmap_zalloc"
#define LARGE_ALLOC		"vcalloc_noprof"

/* A page for what comes out of secure memory */
#define PAGE_ALLOC		"__folio_alloc_noprof"

/* Where others may run, or NULL for a kernel that lets them anywhere */
#define COND_RESCHED		NULL

#endif /* SECURE_GUEST_GLUE_H */
