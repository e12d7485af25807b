// SPDX-License-Identifier: GPL-2.0
/*
 * Changes the state of pages of an SEV guest, for sev_guest_test to see what is
 * told to the hypervisor. Each step is said in the kernel log when it is done,
 * with how many calls it takes, how many pages are told of in these, and how many
 * pages are shared more, or fewer.
 */
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/set_memory.h>

#define ORDER		9
#define LARGE		512

static unsigned long page, large, other, third;

static void tell(const char *name, int calls, int told, int shared)
{
	pr_info("sev_guest_test: step %s %d %d %d\n", name, calls, told, shared);
}

static int __init sev_pages_test_init(void)
{
	page = __get_free_page(GFP_KERNEL);
	large = __get_free_pages(GFP_KERNEL, ORDER);
	other = __get_free_pages(GFP_KERNEL, ORDER);
	third = __get_free_pages(GFP_KERNEL, ORDER);
	if (!page || !large || !other || !third)
		goto free;

	tell("start", 0, 0, 0);
	set_memory_decrypted(page, 1);
	tell("one-page", 1, 1, 1);
	set_memory_decrypted(large, LARGE);
	tell("2M-at-once", 1, LARGE, LARGE);
	set_memory_decrypted(other + 3 * PAGE_SIZE, 5);
	tell("part-of-2M", 1, 5, 5);
	/* Nothing changes, and the large page stays one. */
	set_memory_encrypted(third + 3 * PAGE_SIZE, 5);
	tell("encrypted-twice", 1, 5, 0);
	set_memory_encrypted(large + PAGE_SIZE, LARGE - 2);
	tell("all-but-the-ends-back", 1, LARGE - 2, -(LARGE - 2));
	set_memory_decrypted(large, LARGE);
	tell("shared-twice", 1, LARGE, LARGE - 2);
	return 0;
free:
	free_page(page);
	free_pages(large, ORDER);
	free_pages(other, ORDER);
	free_pages(third, ORDER);
	return -ENOMEM;
}
module_init(sev_pages_test_init);

static void __exit sev_pages_test_exit(void)
{
	tell("end", 0, 0, 0);
	set_memory_encrypted(page, 1);
	set_memory_encrypted(large, LARGE);
	set_memory_encrypted(other + 3 * PAGE_SIZE, 5);
	tell("all-back", 3, 1 + LARGE + 5, -(1 + LARGE + 5));
	free_page(page);
	free_pages(large, ORDER);
	free_pages(other, ORDER);
	free_pages(third, ORDER);
}
module_exit(sev_pages_test_exit);

MODULE_DESCRIPTION("pages of an SEV guest that change their state");
MODULE_LICENSE("GPL v2");
