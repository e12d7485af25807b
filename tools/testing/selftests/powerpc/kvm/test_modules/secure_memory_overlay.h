/* SPDX-License-Identifier: GPL-2.0-only */
/* The device tree overlays that are linked into secure_memory */
#ifndef SECURE_MEMORY_OVERLAY_H
#define SECURE_MEMORY_OVERLAY_H

#include <linux/types.h>

extern const u8 __dtb_secure_memory_overlay_begin[];
extern const u8 __dtb_secure_memory_overlay_end[];
extern const u8 __dtb_secure_memory_ranges_begin[];
extern const u8 __dtb_secure_memory_ranges_end[];
extern const u8 __dtb_secure_memory_none_begin[];
extern const u8 __dtb_secure_memory_none_end[];

#endif /* SECURE_MEMORY_OVERLAY_H */
