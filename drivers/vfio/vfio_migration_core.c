// SPDX-License-Identifier: GPL-2.0-only
/*
 * Migration of VFIO devices for vendor drivers: version 2 of the protocol by way
 * of the core of VFIO
 *
 * The core has version 2 itself from 5.18 on: it takes VFIO_DEVICE_FEATURE, looks
 * at its arguments, and has callbacks for the state and the descriptor.  Each
 * device has callbacks of its own here, which tell what it is.
 *
 * The descriptor's number is the core's business: it is taken when the state has
 * been changed.
 */

#include <linux/bug.h>
#include <linux/build_bug.h>
#include <linux/container_of.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/vfio.h>
#include <linux/vfio_migration_core.h>

#include "vfio_migration_priv.h"

static_assert((u32)VFM_ERROR == VFIO_DEVICE_STATE_ERROR);
static_assert((u32)VFM_STOP == VFIO_DEVICE_STATE_STOP);
static_assert((u32)VFM_RUNNING == VFIO_DEVICE_STATE_RUNNING);
static_assert((u32)VFM_STOP_COPY == VFIO_DEVICE_STATE_STOP_COPY);
static_assert((u32)VFM_RESUMING == VFIO_DEVICE_STATE_RESUMING);
static_assert((u32)VFM_RUNNING_P2P == VFIO_DEVICE_STATE_RUNNING_P2P);

static struct vfio_migration *vfm_of(struct vfio_device *vdev)
{
	return container_of(vdev->mig_ops, struct vfio_migration, core.ops);
}

static struct file *vfm_core_set_state(struct vfio_device *vdev,
				       enum vfio_device_mig_state state)
{
	return vfm_v2_change(vfm_of(vdev), state);
}

static int vfm_core_get_state(struct vfio_device *vdev,
			      enum vfio_device_mig_state *state)
{
	enum vfm_state is;
	int ret = vfm_v2_state(vfm_of(vdev), &is);

	if (!ret)
		*state = (u32)is;

	return ret;
}

static int vfm_core_get_data_size(struct vfio_device *vdev,
				  unsigned long *length)
{
	u64 bytes;
	int ret = vfm_v2_stop_length(vfm_of(vdev), &bytes);

	if (!ret)
		*length = min_t(u64, bytes, ULONG_MAX);

	return ret;
}

/**
 * vfio_migration_attach() - Let the VFIO core know that a device can migrate
 * @m: the migration of the device
 * @vdev: the device
 *
 * To be called by the driver before it registers the device.  What the IOMMU
 * does not know of the pages that the device writes, the device does not either:
 * log_ops stay as the driver has set them.
 *
 * Context: Process context.  @vdev must be unregistered before
 * vfio_migration_destroy().
 */
void vfio_migration_attach(struct vfio_migration *m, struct vfio_device *vdev)
{
	m->core.ops.migration_set_state = vfm_core_set_state;
	m->core.ops.migration_get_state = vfm_core_get_state;
	vfm_core_data_size(&m->core, vfm_core_get_data_size);
	vdev->mig_ops = &m->core.ops;
	vdev->migration_flags = vfm_v2_flags(m);
}
EXPORT_SYMBOL_GPL(vfio_migration_attach);

/**
 * vfio_migration_device_feature() - Answer for features the core does not know
 * @m: the migration of the device
 * @flags: as the core passes them to the driver
 * @arg: likewise
 * @argsz: likewise
 *
 * To be called by the driver as its &vfio_device_ops.device_feature.  A driver
 * that has features of its own looks at them first, or goes by -ENOTTY.
 *
 * Context: Process context.
 *
 * Return: as vfio_migration_feature()
 */
int vfio_migration_device_feature(struct vfio_migration *m, u32 flags,
				  void __user *arg, size_t argsz)
{
	struct vfio_device_feature feature = {
		.argsz = min_t(size_t, argsz, U32_MAX - sizeof(feature)) +
			 sizeof(feature),
		.flags = flags,
	};

	return vfm_v2_answer(m, &feature, arg);
}
EXPORT_SYMBOL_GPL(vfio_migration_device_feature);
