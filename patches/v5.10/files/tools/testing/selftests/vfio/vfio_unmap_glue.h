/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where vfio_unmap_test and vfio_dma_rw_test have their devices from, which other
 * kernels have otherwise.  Each has a file of this name of its own.
 */
#ifndef VFIO_UNMAP_GLUE_H
#define VFIO_UNMAP_GLUE_H

#include <unistd.h>

#include "vfio_group_domain_lib.h"

static int pin_iommu, pin_parent;

/* The devices are on one that is behind a software IOMMU */
static inline int pin_devices_begin(void)
{
	int ret = modules_load(false);

	if (ret)
		return ret;
	pin_iommu = iommu_open();
	if (pin_iommu < 0)
		return pin_iommu;
	ret = devices_remove_all(pin_iommu);
	if (ret)
		return ret;
	pin_parent = device_add(pin_iommu, 0, VFIO_TEST_DEV_AUX);

	return pin_parent < 0 ? pin_parent : 0;
}

static inline int pin_device_create(unsigned int nr, struct mdev *m)
{
	return mdev_create(pin_parent, VFIO_TEST_MDEV_PLAIN, nr, m);
}

/* Nobody has one of them open any more */
static inline void pin_devices_end(void)
{
	devices_remove_all(pin_iommu);
	close(pin_iommu);
}

#endif /* VFIO_UNMAP_GLUE_H */
