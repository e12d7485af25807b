/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Migration of VFIO devices for vendor drivers, where the core of VFIO itself
 * has version 2 of the protocol
 *
 * See Documentation/driver-api/vfio-migration-region.rst.
 */
#ifndef _LINUX_VFIO_MIGRATION_CORE_H
#define _LINUX_VFIO_MIGRATION_CORE_H

#include <linux/types.h>

struct vfio_device;
struct vfio_migration;

void vfio_migration_attach(struct vfio_migration *m, struct vfio_device *vdev);
int vfio_migration_device_feature(struct vfio_migration *m, u32 flags,
				  void __user *arg, size_t argsz);

#endif /* _LINUX_VFIO_MIGRATION_CORE_H */
