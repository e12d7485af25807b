/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the test modules here call of the kernel that other kernels have otherwise.
 * Each has a file of this name of its own.
 */
#ifndef KERNEL_GLUE_H
#define KERNEL_GLUE_H

#include <linux/leafops.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/of.h>
#include <linux/pagemap.h>
#include <asm/text-patching.h>

static inline int glue_overlay_fdt_apply(const void *fdt, u32 size, int *id)
{
	return of_overlay_fdt_apply(fdt, size, id, NULL);
}

/* Device memory that is free has no reference. */
static inline bool glue_is_used(struct page *page)
{
	return page_count(page);
}

/* The device memory that an entry of a page table names, or NULL */
static inline struct page *glue_device_private_page(pte_t pte)
{
	softleaf_t entry;

	if (pte_none(pte) || pte_present(pte))
		return NULL;
	entry = softleaf_from_pte(pte);
	if (!softleaf_is_device_private(entry))
		return NULL;
	return softleaf_to_page(entry);
}

/*
 * What the fault handler does with a page of device memory: it keeps the page, if
 * that is still the one at the address, and leaves the rest to the next fault. Who
 * would take it away from there needs its lock.
 */
static inline vm_fault_t glue_migrate_to_ram(struct vm_fault *vmf)
{
	pte_t *pte = pte_offset_kernel(vmf->pmd, vmf->address);
	struct page *page = vmf->page;
	vm_fault_t ret;

	if (!trylock_page(page))
		return 0;
	if (!pte_same(ptep_get(pte), vmf->orig_pte)) {
		unlock_page(page);
		return 0;
	}
	get_page(page);
	ret = page_pgmap(page)->ops->migrate_to_ram(vmf);
	unlock_page(page);
	put_page(page);
	return ret;
}

#endif /* KERNEL_GLUE_H */
