// SPDX-License-Identifier: GPL-2.0
/*
 * Changes the state of pages of an SEV guest, for sev_guest_test to see what is
 * told to the hypervisor. Each step is said in the kernel log when it is done,
 * with how many calls it takes, how many pages are told of in these, and how many
 * pages are shared more, or fewer.
 *
 * With ports=1 it accesses ports in place of that, for what a #VC makes of it, and
 * says whether it has read what sev_guest_test answers.
 */
#include <linux/console.h>
#include <linux/gfp.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/set_memory.h>
#include <linux/vmalloc.h>

#define ORDER		9
#define LARGE		512

/* Of nobody; what is read there is what was written last. */
#define PORT		0xf6

static unsigned long page, large, other, third, fourth, two_large;

/* Of the fourth, in the order in which they are mapped: 4 ranges */
static const unsigned int scattered[] = { 8, 9, 5, 2, 1 };
#define RANGES		4
#define SCATTERED	ARRAY_SIZE(scattered)
static void *map;

/*
 * The last 3 pages of one large page and the first 3 of the next: both have to be
 * split, and no page is to be had for the second.
 */
#define HALF		3
#define ACROSS		(two_large + (LARGE - HALF) * PAGE_SIZE)

static struct task_struct *changes;
static int allocations_left;

static int failing_allocation(struct kretprobe_instance *ri,
			      struct pt_regs *regs)
{
	struct page *got = (struct page *)regs_return_value(regs);

	if (current != changes || --allocations_left)
		return 0;
	if (got)
		__free_page(got);
	regs->ax = 0;
	return 0;
}

static struct kretprobe probe = {
	.kp.symbol_name = "__alloc_pages_nodemask",
	.handler = failing_allocation,
};

static int decrypt_half(void)
{
	int ret = register_kretprobe(&probe);

	if (ret)
		return ret;
	allocations_left = 2;
	changes = current;
	ret = set_memory_decrypted(ACROSS, 2 * HALF);
	changes = NULL;
	unregister_kretprobe(&probe);
	return ret == -ENOMEM ? 0 : -EINVAL;
}

static void tell(const char *name, int calls, int told, int shared)
{
	pr_notice("sev_guest_test: step %s %d %d %d\n", name, calls, told, shared);
	/* Another CPU may be at work on the log; it has written all then. */
	console_lock();
	console_unlock();
}

static bool ports;
module_param(ports, bool, 0);

/*
 * By each instruction that is not a string's: with more in RAX than goes out, to a
 * number that would be negative, and in all sizes.
 */
static void access_ports(void)
{
	u64 rax = 0x1122334455667788, byte = 0, word = 0, dword = 0;
	u16 port = PORT;

	asm volatile("outb %%al, %0" : : "i" (PORT), "a" (rax));
	asm volatile("outw %%ax, %0" : : "i" (PORT), "a" (rax));
	asm volatile("outl %%eax, %0" : : "i" (PORT), "a" (rax));
	asm volatile("outb %%al, %%dx" : : "d" (port), "a" (rax));
	asm volatile("outw %%ax, %%dx" : : "d" (port), "a" (rax));
	asm volatile("outl %%eax, %%dx" : : "d" (port), "a" (rax));
	asm volatile("inb %1, %%al" : "+a" (byte) : "i" (PORT));
	asm volatile("inw %%dx, %%ax" : "+a" (word) : "d" (port));
	asm volatile("inl %%dx, %%eax" : "+a" (dword) : "d" (port));
	if (byte == 0x88 && word == 0x7788 && dword == 0x55667788)
		pr_notice("sev_guest_test: ports\n");
}

static int __init sev_pages_test_init(void)
{
	struct page *pages[SCATTERED];
	unsigned int i;
	int ret;

	if (ports) {
		access_ports();
		return 0;
	}
	page = __get_free_page(GFP_KERNEL);
	large = __get_free_pages(GFP_KERNEL, ORDER);
	other = __get_free_pages(GFP_KERNEL, ORDER);
	third = __get_free_pages(GFP_KERNEL, ORDER);
	fourth = __get_free_pages(GFP_KERNEL, ORDER);
	two_large = __get_free_pages(GFP_KERNEL, ORDER + 1);
	if (!page || !large || !other || !third || !fourth || !two_large)
		goto free;
	for (i = 0; i < SCATTERED; i++)
		pages[i] = virt_to_page(fourth + scattered[i] * PAGE_SIZE);
	map = vmap(pages, SCATTERED, VM_MAP, PAGE_KERNEL);
	if (!map)
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
	set_memory_decrypted((unsigned long)map, SCATTERED);
	tell("scattered", RANGES, SCATTERED, SCATTERED);
	ret = decrypt_half();
	if (ret)
		return ret;
	tell("half-failed", 2, 2 * HALF, HALF);
	return 0;
free:
	free_page(page);
	free_pages(large, ORDER);
	free_pages(other, ORDER);
	free_pages(third, ORDER);
	free_pages(fourth, ORDER);
	free_pages(two_large, ORDER + 1);
	return -ENOMEM;
}
module_init(sev_pages_test_init);

static void __exit sev_pages_test_exit(void)
{
	if (ports)
		return;
	tell("end", 0, 0, 0);
	set_memory_encrypted(page, 1);
	set_memory_encrypted(large, LARGE);
	set_memory_encrypted(other + 3 * PAGE_SIZE, 5);
	set_memory_encrypted((unsigned long)map, SCATTERED);
	set_memory_encrypted(ACROSS, 2 * HALF);
	tell("all-back", 4 + RANGES, 1 + LARGE + 5 + SCATTERED + 2 * HALF,
	     -(1 + LARGE + 5 + (int)SCATTERED + HALF));
	vunmap(map);
	free_page(page);
	free_pages(large, ORDER);
	free_pages(other, ORDER);
	free_pages(third, ORDER);
	free_pages(fourth, ORDER);
	free_pages(two_large, ORDER + 1);
}
module_exit(sev_pages_test_exit);

MODULE_DESCRIPTION("pages of an SEV guest that change their state");
MODULE_LICENSE("GPL v2");
