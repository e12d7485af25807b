/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Between the software IOMMU for tests and the drivers of its devices.
 */
#ifndef VFIO_TEST_IOMMU_H
#define VFIO_TEST_IOMMU_H

#include <linux/device.h>
#include <linux/types.h>

struct iommu_domain;

/* The bus whose devices the software IOMMU translates */
extern struct bus_type vfio_test_bus_type;

int vfio_test_iommu_dma(struct device *dev, int pasid, dma_addr_t iova,
			void *data, size_t size, bool write);
u32 vfio_test_iommu_domain_number(struct iommu_domain *domain);

#endif /* VFIO_TEST_IOMMU_H */
