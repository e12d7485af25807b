/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where vfio_unmap_test and vfio_dma_rw_test have their devices from, which other
 * kernels have otherwise.  Each has a file of this name of its own.
 */
#ifndef VFIO_UNMAP_GLUE_H
#define VFIO_UNMAP_GLUE_H

#include <stdio.h>
#include <stdlib.h>

#include "vfio_group_domain_lib.h"

static unsigned int pin_devices;

static inline int pin_devices_begin(void)
{
	int ret = module_load("vfio_iommu_type1");

	return ret ?: module_load("vfio_test_mdev");
}

static inline int pin_device_create(unsigned int nr, struct mdev *m)
{
	char path[128], base[64];
	int ret;

	snprintf(m->name, sizeof(m->name),
		 "76676400-0000-4000-8000-%012x", nr);
	ret = file_write("/sys/class/mdev_bus/" VFIO_TEST_MDEV_DRIVER
			 "/mdev_supported_types/" VFIO_TEST_MDEV_PLAIN
			 "/create", m->name);
	if (ret)
		return ret;
	pin_devices |= 1U << nr;
	snprintf(path, sizeof(path), "/sys/bus/mdev/devices/%s/iommu_group",
		 m->name);
	ret = link_base(path, base, sizeof(base));
	m->group = atoi(base);

	return ret;
}

/* Nobody has one of them open any more */
static inline void pin_devices_end(void)
{
	struct mdev m;
	unsigned int nr;

	for (nr = 0; pin_devices >> nr; nr++) {
		snprintf(m.name, sizeof(m.name),
			 "76676400-0000-4000-8000-%012x", nr);
		if (pin_devices & 1U << nr)
			mdev_remove(&m);
	}
}

#endif /* VFIO_UNMAP_GLUE_H */
