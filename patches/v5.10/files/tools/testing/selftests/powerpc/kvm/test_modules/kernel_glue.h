/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the test modules here call of the kernel that other kernels have otherwise.
 * Each has a file of this name of its own.
 */
#ifndef KERNEL_GLUE_H
#define KERNEL_GLUE_H

#include <linux/mm.h>
#include <linux/of.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <asm/code-patching.h>

static inline int glue_overlay_fdt_apply(const void *fdt, u32 size, int *id)
{
	return of_overlay_fdt_apply(fdt, size, id);
}

/* Device memory that is free has a reference of its owner's. */
static inline bool glue_is_used(struct page *page)
{
	return page_count(page) > 1;
}

/* The device memory that an entry of a page table names, or NULL */
static inline struct page *glue_device_private_page(pte_t pte)
{
	swp_entry_t entry;

	if (!is_swap_pte(pte))
		return NULL;
	entry = pte_to_swp_entry(pte);
	if (!is_device_private_entry(entry))
		return NULL;
	return device_private_entry_to_page(entry);
}

/* What the fault handler does with a page of device memory */
static inline vm_fault_t glue_migrate_to_ram(struct vm_fault *vmf)
{
	return vmf->page->pgmap->ops->migrate_to_ram(vmf);
}

#endif /* KERNEL_GLUE_H */
