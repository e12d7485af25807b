// SPDX-License-Identifier: GPL-2.0-only
/*
 * Announces secure memory in the device tree, as the firmware of a machine
 * with an ultravisor does.  kvm-hv looks for it when it is loaded.
 *
 * Makes a function fail that kvm-hv calls when it is loaded, too.
 */
#include <linux/atomic.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/of.h>
#include <linux/slab.h>

#include "kernel_glue.h"
#include "secure_memory_overlay.h"

/* The size that the overlay holds for the module to fill in. */
#define PLACEHOLDER	0x05ec12e505ec12e5ULL

static unsigned long size = 16 << 20;
module_param(size, ulong, 0444);
MODULE_PARM_DESC(size, "bytes of secure memory to announce");

static unsigned int form;
module_param(form, uint, 0444);
MODULE_PARM_DESC(form, "0: nodes, 1: ranges as of old, 2: nothing");

static char *fail;
module_param(fail, charp, 0444);
MODULE_PARM_DESC(fail, "the function that fails when next a module calls it");

static long result;
module_param(result, long, 0444);
MODULE_PARM_DESC(result, "what it returns");

static const struct {
	const u8 *begin, *end;
} forms[] = {
	{ __dtb_secure_memory_overlay_begin, __dtb_secure_memory_overlay_end },
	{ __dtb_secure_memory_ranges_begin, __dtb_secure_memory_ranges_end },
	{ __dtb_secure_memory_none_begin, __dtb_secure_memory_none_end },
};

static int overlay;

static int announce(const u8 *begin, size_t len)
{
	const __be64 wanted = cpu_to_be64(PLACEHOLDER);
	const __be64 value = cpu_to_be64(size);
	size_t i;
	u8 *fdt;
	int rc;

	fdt = kmemdup(begin, len, GFP_KERNEL);
	if (!fdt)
		return -ENOMEM;
	/* Cells of four bytes, so aligned to no more than that. */
	for (i = 0; i + sizeof(value) <= len; i += sizeof(__be32))
		if (!memcmp(fdt + i, &wanted, sizeof(value)))
			memcpy(fdt + i, &value, sizeof(value));

	rc = glue_overlay_fdt_apply(fdt, len, &overlay);
	if (rc && overlay)
		of_overlay_remove(&overlay);
	kfree(fdt);
	return rc;
}

static atomic_t failed;

static int __kprobes fail_taken(struct kprobe *probe, struct pt_regs *regs)
{
	/* The module that is loaded next is kvm-hv. */
	if (!is_vmalloc_addr((void *)regs->link) || atomic_xchg(&failed, 1))
		return 0;
	regs->gpr[3] = result;
	instruction_pointer_set(regs, regs->link);
	return 1;
}

/* A probe that has this is not optimized, which would lose the new nip. */
static void no_optimization(struct kprobe *probe, struct pt_regs *regs,
			    unsigned long flags)
{
}

static struct kprobe fail_probe = {
	.pre_handler = fail_taken,
	.post_handler = no_optimization,
};

static int __init secure_memory_init(void)
{
	int rc;

	if (form >= ARRAY_SIZE(forms))
		return -EINVAL;
	rc = announce(forms[form].begin, forms[form].end - forms[form].begin);
	if (rc || !fail)
		return rc;
	fail_probe.symbol_name = fail;
	rc = register_kprobe(&fail_probe);
	if (rc)
		of_overlay_remove(&overlay);
	return rc;
}

static void __exit secure_memory_exit(void)
{
	if (fail)
		unregister_kprobe(&fail_probe);
	of_overlay_remove(&overlay);
}

module_init(secure_memory_init);
module_exit(secure_memory_exit);

MODULE_LICENSE("GPL v2");
MODULE_DESCRIPTION("Secure memory for the tests of KVM_CAP_PPC_SECURE_GUEST");
