/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What mscratch has of its host: the device that VFIO knows it as, and the
 * guest's memory
 */
#ifndef _SAMPLES_VFIO_MDEV_MSCRATCH_HOST_H
#define _SAMPLES_VFIO_MDEV_MSCRATCH_HOST_H

#include <linux/iommu.h>
#include <linux/mdev.h>
#include <linux/mm.h>
#include <linux/vfio.h>

/* Most pages that are pinned at once */
#define MSCRATCH_HOST_PAGES	16

/**
 * struct mscratch_host - what a device is to the host
 * @vdev: what VFIO knows it as; it is the first, VFIO allocates the whole
 * @unmapped: to be called when memory of the guest is being unmapped
 */
struct mscratch_host {
	struct vfio_device vdev;
	void (*unmapped)(struct mscratch_host *host);
};

static inline struct device *mscratch_host_dev(struct mscratch_host *host)
{
	return host->vdev.dev;
}

/* VFIO has what the device needs ready before it opens it */
static inline int mscratch_host_open(struct mscratch_host *host)
{
	return 0;
}

static inline void mscratch_host_close(struct mscratch_host *host)
{
}

static inline void mscratch_host_unpin(struct mscratch_host *host, u64 iova,
				       int npage)
{
	vfio_unpin_pages(&host->vdev, iova & PAGE_MASK, npage);
}

/* Pin @npage pages of the guest from @iova on, all of them or none. */
static inline int mscratch_host_pin(struct mscratch_host *host, u64 iova,
				    int npage, int prot, struct page **pages)
{
	int ret = vfio_pin_pages(&host->vdev, iova & PAGE_MASK, npage, prot,
				 pages);

	if (ret < 0)
		return ret;
	if (ret == npage)
		return 0;
	if (ret)
		mscratch_host_unpin(host, iova, ret);

	return -EFAULT;
}

static inline int mscratch_host_rw(struct mscratch_host *host, u64 iova,
				   void *data, size_t len, bool write)
{
	return vfio_dma_rw(&host->vdev, iova, data, len, write);
}

#endif /* _SAMPLES_VFIO_MDEV_MSCRATCH_HOST_H */
