// SPDX-License-Identifier: GPL-2.0-only
/*
 * A bus with software IOMMUs, for tests of VFIO only
 *
 * There is no hardware: a device on the bus vfio_test is a name, and its DMA
 * is vfio_test_iommu_dma(), which walks the domain that the device is
 * attached to as an IOMMU would do.  VFIO cannot tell it from a real one, so
 * a test can run the whole path of a mediated device that owns a PASID.
 *
 * Several IOMMUs (units) translate the bus, and like real ones they do not
 * share a domain.  That is how one container gets several domains.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/completion.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/idr.h>
#include <linux/iommu.h>
#include <linux/list.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/notifier.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>
#include <linux/wait.h>
#include <linux/xarray.h>

#include "vfio_test_iommu.h"
#include "vfio_test_uapi.h"

/* A PASID has 20 bits; 0 stands for none */
#define VT_PASID_MIN		1
#define VT_PASID_MAX		((1 << 20) - 1)

/* What an IOMMU with four levels of page tables translates */
#define VT_APERTURE_BITS	48

/**
 * struct vt_domain - one address space
 * @domain: what the IOMMU core and VFIO see
 * @number: for tests to tell domains apart, never used twice
 * @unit: the IOMMU that translates it, -1 while it is attached to nothing
 * @users: attachments of any kind
 * @pasid: tag of the DMA that it translates, 0 while it is not attached
 * @lock: guards @pages against DMA in flight
 * @pages: page frame and permissions by page number of the IOVA
 *
 * vt_lock guards what has no other guard.
 */
struct vt_domain {
	struct iommu_domain domain;
	u32 number;
	int unit;
	unsigned int users;
	int pasid;
	struct mutex lock;	/* guards pages */
	struct xarray pages;
};

/**
 * struct vt_aux - a domain attached to a device by PASID
 * @node: in the list of the device
 * @domain: the domain
 * @users: mediated devices of one container on one parent share it
 */
struct vt_aux {
	struct list_head node;
	struct vt_domain *domain;
	unsigned int users;
};

/**
 * struct vt_dev - a device on the bus
 * @dev: the device
 * @id: number in its name
 * @unit: IOMMU that translates it
 * @can_aux: it can tag its DMA with a PASID
 * @aux_enabled: its driver switched that on
 * @aux: what translates its DMA, as struct vt_aux
 */
struct vt_dev {
	struct device dev;
	u32 id;
	unsigned int unit;
	bool can_aux;
	bool aux_enabled;
	struct list_head aux;
};

struct vt_unit {
	struct iommu_device iommu;
};

struct vt_fault {
	unsigned int skip;
	int error;
};

static struct vt_unit vt_units[VFIO_TEST_IOMMU_UNITS];

/* Attachments, PASIDs and counters.  Taken under the locks of VFIO. */
static DEFINE_MUTEX(vt_lock);
static DEFINE_IDA(vt_pasids);
static DEFINE_XARRAY_ALLOC(vt_devs);
static struct vfio_test_stats vt_stats;
static u32 vt_last_number;

static DEFINE_SPINLOCK(vt_fault_lock);
static struct vt_fault vt_faults[VFIO_TEST_FAULTS];

/* The map operation that a test wants to hold in the middle */
enum vt_hold { VT_FREE, VT_ARMED, VT_HELD };
static enum vt_hold vt_hold;
static DECLARE_WAIT_QUEUE_HEAD(vt_hold_wait);

static struct vt_domain *to_vt_domain(struct iommu_domain *domain)
{
	return container_of(domain, struct vt_domain, domain);
}

static struct vt_dev *to_vt_dev(struct device *dev)
{
	return container_of(dev, struct vt_dev, dev);
}

static int vt_fault(enum vfio_test_fault fault)
{
	struct vt_fault *f = &vt_faults[fault];
	int error = 0;

	spin_lock(&vt_fault_lock);
	if (f->error) {
		if (f->skip) {
			f->skip--;
		} else {
			error = -f->error;
			f->error = 0;
		}
	}
	spin_unlock(&vt_fault_lock);

	return error;
}

/*
 * Domains
 */

static bool vt_capable(enum iommu_cap cap)
{
	/* type1 refuses an IOMMU that does not isolate interrupts */
	return cap == IOMMU_CAP_CACHE_COHERENCY || cap == IOMMU_CAP_INTR_REMAP;
}

static struct iommu_domain *vt_domain_alloc(unsigned int type)
{
	struct vt_domain *d;

	/* The default domain of a device; without DMA API it needs no other */
	if (type != IOMMU_DOMAIN_UNMANAGED && type != IOMMU_DOMAIN_IDENTITY)
		return NULL;

	if (type == IOMMU_DOMAIN_UNMANAGED && vt_fault(VFIO_TEST_FAULT_ALLOC))
		return NULL;

	d = kzalloc(sizeof(*d), GFP_KERNEL);
	if (!d)
		return NULL;

	d->unit = -1;
	mutex_init(&d->lock);
	xa_init(&d->pages);
	d->domain.geometry.aperture_end = (1ULL << VT_APERTURE_BITS) - 1;
	d->domain.geometry.force_aperture = true;

	mutex_lock(&vt_lock);
	d->number = ++vt_last_number;
	if (type == IOMMU_DOMAIN_UNMANAGED)
		vt_stats.domains++;
	mutex_unlock(&vt_lock);

	return &d->domain;
}

static void vt_domain_free(struct iommu_domain *domain)
{
	struct vt_domain *d = to_vt_domain(domain);
	unsigned long left = 0, index;
	void *entry;

	xa_for_each(&d->pages, index, entry)
		left++;

	mutex_lock(&vt_lock);
	WARN_ON(d->users);
	/* type1 leaves it to this to unmap all, unless it was the last domain */
	vt_stats.pages -= left;
	if (domain->type == IOMMU_DOMAIN_UNMANAGED)
		vt_stats.domains--;
	mutex_unlock(&vt_lock);

	xa_destroy(&d->pages);
	kfree(d);
}

/**
 * vfio_test_iommu_domain_number - Tell domains apart without their address
 * @domain: any iommu_domain
 *
 * Return: the number of @domain, 0 if it is not one of the software IOMMU's.
 */
u32 vfio_test_iommu_domain_number(struct iommu_domain *domain)
{
	if (domain->ops != vfio_test_bus_type.iommu_ops)
		return 0;

	return to_vt_domain(domain)->number;
}
EXPORT_SYMBOL_GPL(vfio_test_iommu_domain_number);

static void vt_hold_point(void)
{
	spin_lock(&vt_fault_lock);
	if (vt_hold != VT_ARMED) {
		spin_unlock(&vt_fault_lock);
		return;
	}
	vt_hold = VT_HELD;
	spin_unlock(&vt_fault_lock);

	wake_up_all(&vt_hold_wait);
	wait_event(vt_hold_wait, READ_ONCE(vt_hold) == VT_FREE);
}

static int vt_map(struct iommu_domain *domain, unsigned long iova,
		  phys_addr_t paddr, size_t size, int prot, gfp_t gfp)
{
	struct vt_domain *d = to_vt_domain(domain);
	unsigned long first = iova >> PAGE_SHIFT;
	unsigned long n = size >> PAGE_SHIFT;
	unsigned long i;
	int ret;

	vt_hold_point();

	ret = vt_fault(VFIO_TEST_FAULT_MAP);
	if (ret)
		return ret;

	mutex_lock(&d->lock);
	for (i = 0; i < n; i++) {
		unsigned long pfn = PHYS_PFN(paddr) + i;
		unsigned long entry = pfn << 2;

		entry |= prot & (IOMMU_READ | IOMMU_WRITE);
		ret = xa_insert(&d->pages, first + i, xa_mk_value(entry), gfp);
		if (ret)
			break;
	}
	if (ret) {
		while (i--)
			xa_erase(&d->pages, first + i);
	}
	mutex_unlock(&d->lock);

	if (!ret) {
		mutex_lock(&vt_lock);
		vt_stats.pages += n;
		mutex_unlock(&vt_lock);
	}

	return ret;
}

static size_t vt_unmap(struct iommu_domain *domain, unsigned long iova,
		       size_t size, struct iommu_iotlb_gather *gather)
{
	struct vt_domain *d = to_vt_domain(domain);
	unsigned long first = iova >> PAGE_SHIFT;
	unsigned long n = size >> PAGE_SHIFT;
	unsigned long i;

	/* The lock is the IOTLB flush: no DMA is in flight when it is ours */
	mutex_lock(&d->lock);
	for (i = 0; i < n; i++) {
		if (!xa_erase(&d->pages, first + i))
			break;
	}
	mutex_unlock(&d->lock);

	mutex_lock(&vt_lock);
	vt_stats.pages -= i;
	mutex_unlock(&vt_lock);

	return i << PAGE_SHIFT;
}

static phys_addr_t vt_iova_to_phys(struct iommu_domain *domain, dma_addr_t iova)
{
	struct vt_domain *d = to_vt_domain(domain);
	void *entry;

	if (domain->type == IOMMU_DOMAIN_IDENTITY)
		return iova;

	entry = xa_load(&d->pages, iova >> PAGE_SHIFT);
	if (!entry)
		return 0;

	return PFN_PHYS(xa_to_value(entry) >> 2) | offset_in_page(iova);
}

/*
 * Attachments.  A domain is bound to the unit of the first device that it is
 * attached to, and is free again after the last one.
 */

static int vt_bind_unit(struct vt_domain *d, struct vt_dev *vdev)
{
	lockdep_assert_held(&vt_lock);

	if (d->users && d->unit != vdev->unit)
		return -EINVAL;

	d->unit = vdev->unit;
	d->users++;

	return 0;
}

static void vt_unbind_unit(struct vt_domain *d)
{
	lockdep_assert_held(&vt_lock);

	if (!--d->users)
		d->unit = -1;
}

static int vt_attach_dev(struct iommu_domain *domain, struct device *dev)
{
	/*
	 * Only the default domain of the device, which sends no DMA without a
	 * PASID anyway.
	 */
	return domain->type == IOMMU_DOMAIN_IDENTITY ? 0 : -EINVAL;
}

static struct vt_aux *vt_find_aux(struct vt_dev *vdev, struct vt_domain *d)
{
	struct vt_aux *aux;

	lockdep_assert_held(&vt_lock);

	list_for_each_entry(aux, &vdev->aux, node) {
		if (aux->domain == d)
			return aux;
	}

	return NULL;
}

static int vt_aux_attach_dev(struct iommu_domain *domain, struct device *dev)
{
	struct vt_domain *d = to_vt_domain(domain);
	struct vt_dev *vdev = to_vt_dev(dev);
	struct vt_aux *aux;
	int ret;

	ret = vt_fault(VFIO_TEST_FAULT_AUX_ATTACH);
	if (ret)
		return ret;

	mutex_lock(&vt_lock);
	ret = -ENODEV;
	if (!vdev->aux_enabled)
		goto out_unlock;

	ret = vt_bind_unit(d, vdev);
	if (ret)
		goto out_unlock;

	aux = vt_find_aux(vdev, d);
	if (aux) {
		aux->users++;
		goto out_unlock;
	}

	ret = -ENOMEM;
	aux = kzalloc(sizeof(*aux), GFP_KERNEL);
	if (!aux)
		goto out_unbind;

	if (!d->pasid) {
		ret = ida_alloc_range(&vt_pasids, VT_PASID_MIN, VT_PASID_MAX,
				      GFP_KERNEL);
		if (ret < 0)
			goto out_free;
		d->pasid = ret;
		vt_stats.pasids++;
	}

	aux->domain = d;
	aux->users = 1;
	list_add_tail(&aux->node, &vdev->aux);
	vt_stats.aux_attached++;
	mutex_unlock(&vt_lock);

	return 0;

out_free:
	kfree(aux);
out_unbind:
	vt_unbind_unit(d);
out_unlock:
	mutex_unlock(&vt_lock);

	return ret;
}

static void vt_aux_detach_dev(struct iommu_domain *domain, struct device *dev)
{
	struct vt_domain *d = to_vt_domain(domain);
	struct vt_dev *vdev = to_vt_dev(dev);
	struct vt_aux *aux;

	mutex_lock(&vt_lock);
	aux = vt_find_aux(vdev, d);
	if (WARN_ON(!aux))
		goto out_unlock;

	if (!--aux->users) {
		list_del(&aux->node);
		kfree(aux);
		vt_stats.aux_attached--;
	}

	vt_unbind_unit(d);
	if (!d->users) {
		ida_free(&vt_pasids, d->pasid);
		d->pasid = 0;
		vt_stats.pasids--;
	}
out_unlock:
	mutex_unlock(&vt_lock);
}

static int vt_aux_get_pasid(struct iommu_domain *domain, struct device *dev)
{
	struct vt_domain *d = to_vt_domain(domain);
	int ret;

	ret = vt_fault(VFIO_TEST_FAULT_PASID);
	if (ret)
		return ret;

	mutex_lock(&vt_lock);
	ret = vt_find_aux(to_vt_dev(dev), d) ? d->pasid : -ENODEV;
	mutex_unlock(&vt_lock);

	return ret;
}

static bool vt_dev_has_feat(struct device *dev, enum iommu_dev_features feat)
{
	return feat == IOMMU_DEV_FEAT_AUX && to_vt_dev(dev)->can_aux;
}

static bool vt_dev_feat_enabled(struct device *dev,
				enum iommu_dev_features feat)
{
	return feat == IOMMU_DEV_FEAT_AUX && to_vt_dev(dev)->aux_enabled;
}

static int vt_dev_enable_feat(struct device *dev, enum iommu_dev_features feat)
{
	if (!vt_dev_has_feat(dev, feat))
		return -ENODEV;

	mutex_lock(&vt_lock);
	to_vt_dev(dev)->aux_enabled = true;
	mutex_unlock(&vt_lock);

	return 0;
}

static int vt_dev_disable_feat(struct device *dev, enum iommu_dev_features feat)
{
	struct vt_dev *vdev = to_vt_dev(dev);
	int ret = 0;

	if (!vt_dev_has_feat(dev, feat))
		return -ENODEV;

	mutex_lock(&vt_lock);
	if (list_empty(&vdev->aux))
		vdev->aux_enabled = false;
	else
		ret = -EBUSY;
	mutex_unlock(&vt_lock);

	return ret;
}

/*
 * Devices
 */

static struct iommu_device *vt_probe_device(struct device *dev)
{
	return &vt_units[to_vt_dev(dev)->unit].iommu;
}

static void vt_release_device(struct device *dev)
{
	struct vt_dev *vdev = to_vt_dev(dev);

	mutex_lock(&vt_lock);
	WARN_ON(!list_empty(&vdev->aux));
	mutex_unlock(&vt_lock);
}

static int vt_def_domain_type(struct device *dev)
{
	return IOMMU_DOMAIN_IDENTITY;
}

static const struct iommu_ops vt_iommu_ops = {
	.capable		= vt_capable,
	.domain_alloc		= vt_domain_alloc,
	.domain_free		= vt_domain_free,
	.attach_dev		= vt_attach_dev,
	.map			= vt_map,
	.unmap			= vt_unmap,
	.iova_to_phys		= vt_iova_to_phys,
	.probe_device		= vt_probe_device,
	.release_device		= vt_release_device,
	.device_group		= generic_device_group,
	.dev_has_feat		= vt_dev_has_feat,
	.dev_feat_enabled	= vt_dev_feat_enabled,
	.dev_enable_feat	= vt_dev_enable_feat,
	.dev_disable_feat	= vt_dev_disable_feat,
	.aux_attach_dev		= vt_aux_attach_dev,
	.aux_detach_dev		= vt_aux_detach_dev,
	.aux_get_pasid		= vt_aux_get_pasid,
	.def_domain_type	= vt_def_domain_type,
	.pgsize_bitmap		= PAGE_SIZE,
	.owner			= THIS_MODULE,
};

struct bus_type vfio_test_bus_type = {
	.name = VFIO_TEST_BUS_NAME,
};
EXPORT_SYMBOL_GPL(vfio_test_bus_type);

static void vt_dev_release(struct device *dev)
{
	mutex_lock(&vt_lock);
	vt_stats.devices--;
	mutex_unlock(&vt_lock);

	kfree(to_vt_dev(dev));
}

static struct vt_domain *vt_find_domain(struct vt_dev *vdev, u32 pasid)
{
	struct vt_aux *aux;

	lockdep_assert_held(&vt_lock);

	list_for_each_entry(aux, &vdev->aux, node) {
		if (aux->domain->pasid == pasid)
			return aux->domain;
	}

	return NULL;
}

static int vt_dma_page(struct vt_domain *d, dma_addr_t iova, void *data,
		       size_t size, bool write)
{
	void *entry = xa_load(&d->pages, iova >> PAGE_SHIFT);
	unsigned long value;
	void *page;

	if (!entry)
		return -EFAULT;

	value = xa_to_value(entry);
	if (!(value & (write ? IOMMU_WRITE : IOMMU_READ)))
		return -EFAULT;
	if (!pfn_valid(value >> 2))
		return -EFAULT;

	page = kmap(pfn_to_page(value >> 2));
	if (write)
		memcpy(page + offset_in_page(iova), data, size);
	else
		memcpy(data, page + offset_in_page(iova), size);
	kunmap(pfn_to_page(value >> 2));

	return 0;
}

/**
 * vfio_test_iommu_dma - What a device on the bus does to access memory
 * @dev: the device
 * @pasid: tag of the access
 * @iova: address of the access
 * @data: what the device sends or receives
 * @size: bytes
 * @write: true if the device writes to memory
 *
 * Context: Process context.  Sleeps.
 * Return: 0, or -EFAULT where an IOMMU would report a fault: @pasid has no
 * address space on @dev, or @iova is not mapped or not for this access.
 */
int vfio_test_iommu_dma(struct device *dev, int pasid, dma_addr_t iova,
			void *data, size_t size, bool write)
{
	struct vt_domain *d;
	int ret = 0;

	/* vt_lock keeps the domain from being freed under the access */
	mutex_lock(&vt_lock);
	d = vt_find_domain(to_vt_dev(dev), pasid);
	if (!d) {
		mutex_unlock(&vt_lock);
		return -EFAULT;
	}

	mutex_lock(&d->lock);
	while (size && !ret) {
		size_t part = min_t(size_t, size,
				    PAGE_SIZE - offset_in_page(iova));

		ret = vt_dma_page(d, iova, data, part, write);
		iova += part;
		data += part;
		size -= part;
	}
	mutex_unlock(&d->lock);
	mutex_unlock(&vt_lock);

	return ret;
}
EXPORT_SYMBOL_GPL(vfio_test_iommu_dma);

/*
 * What tests ask for
 */

static int vt_add_dev(struct vfio_test_add_dev __user *arg)
{
	struct vfio_test_add_dev add;
	struct vt_dev *vdev;
	int ret;

	if (copy_from_user(&add, arg, sizeof(add)))
		return -EFAULT;
	if (add.unit >= VFIO_TEST_IOMMU_UNITS || add.flags & ~VFIO_TEST_DEV_AUX)
		return -EINVAL;

	vdev = kzalloc(sizeof(*vdev), GFP_KERNEL);
	if (!vdev)
		return -ENOMEM;

	/* Reserved, and visible to VFIO_TEST_DEL_DEV only once it is there */
	ret = xa_alloc(&vt_devs, &vdev->id, NULL, xa_limit_31b, GFP_KERNEL);
	if (ret) {
		kfree(vdev);
		return ret;
	}

	mutex_lock(&vt_lock);
	vt_stats.devices++;
	mutex_unlock(&vt_lock);

	vdev->unit = add.unit;
	vdev->can_aux = add.flags & VFIO_TEST_DEV_AUX;
	INIT_LIST_HEAD(&vdev->aux);
	vdev->dev.bus = &vfio_test_bus_type;
	vdev->dev.release = vt_dev_release;
	device_initialize(&vdev->dev);

	ret = dev_set_name(&vdev->dev, "vtest%u", vdev->id);
	if (!ret)
		ret = device_add(&vdev->dev);
	if (ret)
		goto out_put;

	add.id = vdev->id;
	if (copy_to_user(arg, &add, sizeof(add))) {
		ret = -EFAULT;
		goto out_del;
	}
	xa_store(&vt_devs, vdev->id, vdev, GFP_KERNEL);

	return 0;

out_del:
	device_del(&vdev->dev);
out_put:
	xa_erase(&vt_devs, vdev->id);
	put_device(&vdev->dev);

	return ret;
}

static int vt_del_dev(u32 __user *arg)
{
	struct vt_dev *vdev;
	u32 id;

	if (get_user(id, arg))
		return -EFAULT;

	/* Out of reach at once, but the number stays taken until it is gone */
	mutex_lock(&vt_lock);
	vdev = xa_load(&vt_devs, id);
	if (vdev)
		xa_store(&vt_devs, id, NULL, GFP_KERNEL);
	mutex_unlock(&vt_lock);
	if (!vdev)
		return -ENODEV;

	device_unregister(&vdev->dev);
	xa_erase(&vt_devs, id);

	return 0;
}

static int vt_translate(struct vfio_test_translate __user *arg)
{
	struct vfio_test_translate t;
	struct vt_domain *d;
	struct vt_dev *vdev;

	if (copy_from_user(&t, arg, sizeof(t)))
		return -EFAULT;

	mutex_lock(&vt_lock);
	vdev = xa_load(&vt_devs, t.id);
	if (!vdev) {
		mutex_unlock(&vt_lock);
		return -ENODEV;
	}
	d = vt_find_domain(vdev, t.pasid);
	t.domain = d ? d->number : 0;
	t.phys = d ? vt_iova_to_phys(&d->domain, t.iova) : 0;
	mutex_unlock(&vt_lock);

	return copy_to_user(arg, &t, sizeof(t)) ? -EFAULT : 0;
}

static int vt_get_stats(struct vfio_test_stats __user *arg)
{
	struct vfio_test_stats stats;

	mutex_lock(&vt_lock);
	stats = vt_stats;
	mutex_unlock(&vt_lock);

	return copy_to_user(arg, &stats, sizeof(stats)) ? -EFAULT : 0;
}

static int vt_inject(struct vfio_test_inject __user *arg)
{
	struct vfio_test_inject inject;

	if (copy_from_user(&inject, arg, sizeof(inject)))
		return -EFAULT;
	if (inject.fault >= VFIO_TEST_FAULTS || inject.error > MAX_ERRNO)
		return -EINVAL;

	spin_lock(&vt_fault_lock);
	vt_faults[inject.fault].skip = inject.skip;
	vt_faults[inject.fault].error = inject.error;
	spin_unlock(&vt_fault_lock);

	return 0;
}

static void vt_set_hold(enum vt_hold hold)
{
	spin_lock(&vt_fault_lock);
	vt_hold = hold;
	spin_unlock(&vt_fault_lock);
	wake_up_all(&vt_hold_wait);
}

static long vt_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	void __user *uarg = (void __user *)arg;

	switch (cmd) {
	case VFIO_TEST_ADD_DEV:
		return vt_add_dev(uarg);
	case VFIO_TEST_DEL_DEV:
		return vt_del_dev(uarg);
	case VFIO_TEST_TRANSLATE:
		return vt_translate(uarg);
	case VFIO_TEST_STATS:
		return vt_get_stats(uarg);
	case VFIO_TEST_INJECT:
		return vt_inject(uarg);
	case VFIO_TEST_HOLD_MAP:
		vt_set_hold(VT_ARMED);
		return 0;
	case VFIO_TEST_WAIT_MAP:
		return wait_event_interruptible(vt_hold_wait,
						READ_ONCE(vt_hold) == VT_HELD);
	case VFIO_TEST_FREE_MAP:
		vt_set_hold(VT_FREE);
		return 0;
	default:
		return -ENOTTY;
	}
}

static int vt_release(struct inode *inode, struct file *file)
{
	/* A test that dies must not leave VFIO stuck */
	vt_set_hold(VT_FREE);

	return 0;
}

static const struct file_operations vt_fops = {
	.owner		= THIS_MODULE,
	.release	= vt_release,
	.unlocked_ioctl	= vt_ioctl,
	.llseek		= noop_llseek,
};

static struct miscdevice vt_misc = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "vfio-test-iommu",
	.fops	= &vt_fops,
	.mode	= 0600,
};

/*
 * bus_set_iommu() registers a notifier that nothing takes back.  Ours has the
 * highest priority, so the other is the next one on the list, and can be
 * freed when the bus goes away.
 */
static int vt_bus_event(struct notifier_block *nb, unsigned long action,
			void *data)
{
	return NOTIFY_DONE;
}

static struct notifier_block vt_bus_nb = {
	.notifier_call	= vt_bus_event,
	.priority	= INT_MAX,
};

static void vt_unset_iommu(void)
{
	struct notifier_block *nb = rcu_access_pointer(vt_bus_nb.next);

	bus_set_iommu(&vfio_test_bus_type, NULL);
	bus_unregister_notifier(&vfio_test_bus_type, &vt_bus_nb);
	if (nb) {
		bus_unregister_notifier(&vfio_test_bus_type, nb);
		kfree(nb);
	}
}

static int vt_add_unit(struct vt_unit *unit, int nr)
{
	int ret;

	ret = iommu_device_sysfs_add(&unit->iommu, NULL, NULL,
				     "vfio-test-iommu%d", nr);
	if (ret)
		return ret;

	unit->iommu.ops = &vt_iommu_ops;
	ret = iommu_device_register(&unit->iommu);
	if (ret)
		iommu_device_sysfs_remove(&unit->iommu);

	return ret;
}

static void vt_del_unit(struct vt_unit *unit)
{
	iommu_device_unregister(&unit->iommu);
	iommu_device_sysfs_remove(&unit->iommu);
}

static int __init vt_init(void)
{
	int units, ret;

	ret = bus_register(&vfio_test_bus_type);
	if (ret)
		return ret;

	for (units = 0; units < VFIO_TEST_IOMMU_UNITS; units++) {
		ret = vt_add_unit(&vt_units[units], units);
		if (ret)
			goto out_units;
	}

	ret = bus_register_notifier(&vfio_test_bus_type, &vt_bus_nb);
	if (ret)
		goto out_units;

	ret = bus_set_iommu(&vfio_test_bus_type, &vt_iommu_ops);
	if (ret) {
		bus_unregister_notifier(&vfio_test_bus_type, &vt_bus_nb);
		goto out_units;
	}

	ret = misc_register(&vt_misc);
	if (ret)
		goto out_iommu;

	return 0;

out_iommu:
	vt_unset_iommu();
out_units:
	while (units--)
		vt_del_unit(&vt_units[units]);
	bus_unregister(&vfio_test_bus_type);

	return ret;
}

static void __exit vt_exit(void)
{
	int i;

	/*
	 * No device is left: each holds a reference to this module, which
	 * owns its IOMMU.
	 */
	misc_deregister(&vt_misc);
	vt_unset_iommu();
	for (i = 0; i < VFIO_TEST_IOMMU_UNITS; i++)
		vt_del_unit(&vt_units[i]);
	bus_unregister(&vfio_test_bus_type);
	ida_destroy(&vt_pasids);
	xa_destroy(&vt_devs);
}

module_init(vt_init);
module_exit(vt_exit);

MODULE_LICENSE("GPL v2");
MODULE_DESCRIPTION("Software IOMMU with PASIDs, for tests of VFIO only");
