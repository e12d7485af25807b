/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What mscratch has of its host: the mediated device that stands for it, and the
 * guest's memory
 */
#ifndef _SAMPLES_VFIO_MDEV_MSCRATCH_HOST_H
#define _SAMPLES_VFIO_MDEV_MSCRATCH_HOST_H

#include <linux/err.h>
#include <linux/iommu.h>
#include <linux/kernel.h>
#include <linux/mdev.h>
#include <linux/mm.h>
#include <linux/notifier.h>
#include <linux/vfio.h>

/* Most pages that are pinned at once */
#define MSCRATCH_HOST_PAGES	16

/**
 * struct mscratch_host - what a device is to the host
 * @mdev: what the mdev core knows it as
 * @unmapped: to be called when memory of the guest is being unmapped
 * @group: the VFIO group, while the device is open
 * @notifier: is told what is unmapped, while the device is open
 */
struct mscratch_host {
	struct mdev_device *mdev;
	void (*unmapped)(struct mscratch_host *host);
	struct vfio_group *group;
	struct notifier_block notifier;
};

static inline struct device *mscratch_host_dev(struct mscratch_host *host)
{
	return mdev_dev(host->mdev);
}

static inline int mscratch_host_unmap(struct notifier_block *nb,
				      unsigned long action, void *data)
{
	struct mscratch_host *host =
		container_of(nb, struct mscratch_host, notifier);

	if (action == VFIO_IOMMU_NOTIFY_DMA_UNMAP)
		host->unmapped(host);

	return NOTIFY_OK;
}

/* What the device needs of the container it is in */
static inline int mscratch_host_open(struct mscratch_host *host)
{
	unsigned long events = VFIO_IOMMU_NOTIFY_DMA_UNMAP;
	struct device *dev = mscratch_host_dev(host);
	int ret;

	host->group = vfio_group_get_external_user_from_dev(dev);
	if (IS_ERR(host->group))
		return PTR_ERR(host->group);

	/* Pages can only be pinned by those who let themselves be told */
	host->notifier.notifier_call = mscratch_host_unmap;
	ret = vfio_register_notifier(dev, VFIO_IOMMU_NOTIFY, &events,
				     &host->notifier);
	if (ret)
		vfio_group_put_external_user(host->group);

	return ret;
}

static inline void mscratch_host_close(struct mscratch_host *host)
{
	vfio_unregister_notifier(mscratch_host_dev(host), VFIO_IOMMU_NOTIFY,
				 &host->notifier);
	vfio_group_put_external_user(host->group);
}

static inline void mscratch_host_pfns(u64 iova, int npage, unsigned long *pfns)
{
	int i;

	for (i = 0; i < npage; i++)
		pfns[i] = (iova >> PAGE_SHIFT) + i;
}

static inline void mscratch_host_unpin(struct mscratch_host *host, u64 iova,
				       int npage)
{
	unsigned long user[MSCRATCH_HOST_PAGES];

	mscratch_host_pfns(iova, npage, user);
	vfio_unpin_pages(mscratch_host_dev(host), user, npage);
}

/* Pin @npage pages of the guest from @iova on, all of them or none. */
static inline int mscratch_host_pin(struct mscratch_host *host, u64 iova,
				    int npage, int prot, struct page **pages)
{
	unsigned long user[MSCRATCH_HOST_PAGES], phys[MSCRATCH_HOST_PAGES];
	int i, ret;

	mscratch_host_pfns(iova, npage, user);
	ret = vfio_pin_pages(mscratch_host_dev(host), user, npage, prot, phys);
	if (ret < 0)
		return ret;

	/* What the guest calls memory may be another device's */
	for (i = 0; i < ret && pfn_valid(phys[i]); i++)
		pages[i] = pfn_to_page(phys[i]);
	if (i == npage)
		return 0;
	if (ret)
		mscratch_host_unpin(host, iova, ret);

	return -EFAULT;
}

static inline int mscratch_host_rw(struct mscratch_host *host, u64 iova,
				   void *data, size_t len, bool write)
{
	return vfio_dma_rw(host->group, iova, data, len, write);
}

#endif /* _SAMPLES_VFIO_MDEV_MSCRATCH_HOST_H */
