// SPDX-License-Identifier: GPL-2.0-only
/*
 * Announces secure memory in the device tree, as the firmware of a machine
 * with an ultravisor does.  kvm-hv looks for it when it is loaded.
 */
#include <linux/module.h>
#include <linux/of.h>
#include <linux/slab.h>

#include "secure_memory_overlay.h"

/* The size that the overlay holds for the module to fill in. */
#define PLACEHOLDER	0x05ec12e505ec12e5ULL

static unsigned long size = 16 << 20;
module_param(size, ulong, 0444);
MODULE_PARM_DESC(size, "bytes of secure memory to announce");

static int overlay;

static int __init secure_memory_init(void)
{
	size_t i, len = __dtb_secure_memory_overlay_end -
			__dtb_secure_memory_overlay_begin;
	__be64 value = cpu_to_be64(PLACEHOLDER);
	u8 *fdt;
	int rc;

	fdt = kmemdup(__dtb_secure_memory_overlay_begin, len, GFP_KERNEL);
	if (!fdt)
		return -ENOMEM;
	/* Cells of four bytes, so aligned to no more than that. */
	for (i = 0; i + sizeof(value) <= len; i += sizeof(__be32))
		if (!memcmp(fdt + i, &value, sizeof(value)))
			break;
	if (i + sizeof(value) > len) {
		rc = -EINVAL;
		goto out;
	}
	value = cpu_to_be64(size);
	memcpy(fdt + i, &value, sizeof(value));

	rc = of_overlay_fdt_apply(fdt, len, &overlay);
	if (rc && overlay)
		of_overlay_remove(&overlay);
out:
	kfree(fdt);
	return rc;
}

static void __exit secure_memory_exit(void)
{
	of_overlay_remove(&overlay);
}

module_init(secure_memory_init);
module_exit(secure_memory_exit);

MODULE_LICENSE("GPL v2");
MODULE_DESCRIPTION("Secure memory for the tests of KVM_CAP_PPC_SECURE_GUEST");
