/* SPDX-License-Identifier: GPL-2.0-only */
/* The device tree overlay that is linked into secure_memory */
#ifndef SECURE_MEMORY_OVERLAY_H
#define SECURE_MEMORY_OVERLAY_H

#include <linux/types.h>

extern const u8 __dtb_secure_memory_overlay_begin[];
extern const u8 __dtb_secure_memory_overlay_end[];

#endif /* SECURE_MEMORY_OVERLAY_H */
