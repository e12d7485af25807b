// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mediated devices that own a PASID, for tests of VFIO and as an example
 *
 * The driver binds to the devices of the software IOMMU in vfio_test_iommu.c
 * and offers two types of mediated device on each:
 *
 * iommu: the mediated device has an IOMMU device, its parent, which can tag
 *	  its DMA with PASIDs.  VFIO attaches the domain of the container to
 *	  the parent as an auxiliary domain.  The driver must find out which
 *	  PASID that is, so that the device can use it.
 * plain: the mediated device has no IOMMU device, so no domain translates
 *	  it.  A real driver isolates such a device with means of its own.
 *
 * For a driver author, vtm_take_domain() and vtm_put_domain() are the parts
 * to read.  See also Documentation/driver-api/vfio-mediated-device.rst.
 */

#include <linux/device.h>
#include <linux/err.h>
#include <linux/iommu.h>
#include <linux/mdev.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/notifier.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/vfio.h>
#include <linux/wait.h>

#include "vfio_test_iommu.h"
#include "vfio_test_uapi.h"

/**
 * struct vtm_device - a mediated device
 * @mdev: what the mdev core knows it as
 * @has_iommu: it is of the type with an IOMMU device
 * @lock: guards all below
 * @opens: open file descriptors
 * @group: reference to its VFIO group, held while @opens is not 0
 * @domain: address space of its DMA, valid while @group is held, or NULL
 * @pasid: tag of its DMA, 0 without @domain
 * @error: what vfio_group_domain() answered
 * @notified: @unmap_nb is registered
 * @unmap_nb: is told what is unmapped
 * @pin_lock: guards @pinned and @pin; taken while VFIO tells what is unmapped
 * @pinned: a page is pinned
 * @pin: which, and for how long
 * @hold: whoever tells what is unmapped waits
 * @wait: for that
 */
struct vtm_device {
	struct mdev_device *mdev;
	bool has_iommu;

	struct mutex lock;	/* guards all below */
	unsigned int opens;
	struct vfio_group *group;
	struct iommu_domain *domain;
	int pasid;
	int error;

	bool notified;
	struct notifier_block unmap_nb;
	struct mutex pin_lock;	/* guards pinned and pin */
	bool pinned;
	struct vfio_test_mdev_pin pin;
	bool hold;
	wait_queue_head_t wait;
};

/*
 * Find the address space of the device and the PASID that stands for it.
 *
 * The reference to the group comes first, for it is what keeps the group in
 * its container, and so the domain alive.  It is kept as long as the device
 * may use the PASID: were it dropped earlier, VFIO could detach the domain
 * and the IOMMU could give the PASID to somebody else.
 */
static int vtm_take_domain(struct vtm_device *vtm)
{
	struct device *parent = mdev_parent_dev(vtm->mdev);
	struct iommu_domain *domain;
	struct vfio_group *group;
	int pasid = 0;
	int ret;

	group = vfio_group_get_external_user_from_dev(mdev_dev(vtm->mdev));
	if (IS_ERR(group))
		return PTR_ERR(group);

	domain = vfio_group_domain(group);
	vtm->error = PTR_ERR_OR_ZERO(domain);
	if (IS_ERR(domain)) {
		ret = PTR_ERR(domain);

		/* That is the rule for the type that has no IOMMU device */
		if (ret != -ENODEV || vtm->has_iommu)
			goto out_put;
		domain = NULL;
	}

	if (domain) {
		/* int, as an unsigned PASID would hide the error */
		pasid = iommu_aux_get_pasid(domain, parent);
		if (pasid < 0) {
			ret = pasid;
			goto out_put;
		}
	}

	/* This is where a real driver writes the PASID to its hardware. */
	vtm->group = group;
	vtm->domain = domain;
	vtm->pasid = pasid;

	return 0;

out_put:
	vfio_group_put_external_user(group);

	return ret;
}

/*
 * The other way round: first make sure that the device sends no more DMA with
 * the PASID, then forget PASID and domain, and let the group go last.
 */
static void vtm_put_domain(struct vtm_device *vtm)
{
	struct vfio_group *group = vtm->group;

	/*
	 * A real driver stops its hardware here and waits for DMA in flight.
	 * The DMA of this one is done under the lock that the caller holds.
	 */
	vtm->pasid = 0;
	vtm->domain = NULL;
	vtm->group = NULL;

	vfio_group_put_external_user(group);
}

/*
 * A page of the user's, pinned for as long as a test wants, which is longer
 * than a driver may
 */

static int vtm_pin(struct vtm_device *vtm)
{
	unsigned long pfn = vtm->pin.iova >> PAGE_SHIFT, phys;
	int prot = IOMMU_READ | (vtm->pin.read_only ? 0 : IOMMU_WRITE);
	int ret;

	lockdep_assert_held(&vtm->pin_lock);

	ret = vfio_pin_pages(mdev_dev(vtm->mdev), &pfn, 1, prot, &phys);
	vtm->pinned = ret == 1;

	return vtm->pinned ? 0 : ret ?: -EFAULT;
}

static void vtm_unpin(struct vtm_device *vtm)
{
	unsigned long pfn = vtm->pin.iova >> PAGE_SHIFT;

	lockdep_assert_held(&vtm->pin_lock);

	if (vtm->pinned)
		vfio_unpin_pages(mdev_dev(vtm->mdev), &pfn, 1);
	vtm->pinned = false;
}

/* Is it about the page?  The user is to see that the driver was told. */
static bool vtm_told(struct vtm_device *vtm, u64 iova, u64 size)
{
	bool told;

	mutex_lock(&vtm->pin_lock);
	told = vtm->pinned && vtm->pin.iova >= iova &&
	       vtm->pin.iova - iova < size;
	if (told)
		vtm->pin.told++;
	mutex_unlock(&vtm->pin_lock);

	return told;
}

static int vtm_unmap(struct notifier_block *nb, unsigned long action,
		     void *data)
{
	struct vtm_device *vtm = container_of(nb, struct vtm_device, unmap_nb);
	struct vfio_iommu_type1_dma_unmap *unmap = data;

	if (action != VFIO_IOMMU_NOTIFY_DMA_UNMAP ||
	    !vtm_told(vtm, unmap->iova, unmap->size))
		return NOTIFY_OK;

	wait_event_killable(vtm->wait, !READ_ONCE(vtm->hold));
	mutex_lock(&vtm->pin_lock);
	vtm_unpin(vtm);
	if (vtm->pin.keep) {
		vtm->pin.keep--;
		vtm_pin(vtm);
	}
	mutex_unlock(&vtm->pin_lock);

	return NOTIFY_OK;
}

static void vtm_hold(struct vtm_device *vtm, bool hold)
{
	WRITE_ONCE(vtm->hold, hold);
	wake_up_all(&vtm->wait);
}

static void vtm_let_go(struct vtm_device *vtm)
{
	vtm_hold(vtm, false);
	mutex_lock(&vtm->pin_lock);
	vtm_unpin(vtm);
	mutex_unlock(&vtm->pin_lock);
	if (vtm->notified)
		vfio_unregister_notifier(mdev_dev(vtm->mdev), VFIO_IOMMU_NOTIFY,
					 &vtm->unmap_nb);
	vtm->notified = false;
}

/*
 * VFIO calls this for each file descriptor of the device.  The group cannot
 * leave its container before the last one is closed, so what the first open
 * finds holds for the others.
 */
static int vtm_open(struct mdev_device *mdev)
{
	struct vtm_device *vtm = mdev_get_drvdata(mdev);
	int ret = 0;

	mutex_lock(&vtm->lock);
	if (!vtm->opens)
		ret = vtm_take_domain(vtm);
	if (!ret)
		vtm->opens++;
	mutex_unlock(&vtm->lock);

	return ret;
}

static void vtm_release(struct mdev_device *mdev)
{
	struct vtm_device *vtm = mdev_get_drvdata(mdev);

	mutex_lock(&vtm->lock);
	if (!--vtm->opens) {
		vtm_let_go(vtm);
		vtm_put_domain(vtm);
	}
	mutex_unlock(&vtm->lock);
}

static long vtm_device_info(unsigned long arg)
{
	struct vfio_device_info info;
	unsigned long minsz = offsetofend(struct vfio_device_info, num_irqs);

	if (copy_from_user(&info, (void __user *)arg, minsz))
		return -EFAULT;
	if (info.argsz < minsz)
		return -EINVAL;

	info.flags = 0;
	info.num_regions = 0;
	info.num_irqs = 0;

	return copy_to_user((void __user *)arg, &info, minsz) ? -EFAULT : 0;
}

static long vtm_test_info(struct vtm_device *vtm, unsigned long arg)
{
	struct vfio_test_mdev_info info = {};

	mutex_lock(&vtm->lock);
	info.error = vtm->error;
	info.pasid = vtm->pasid;
	if (vtm->domain)
		info.domain = vfio_test_iommu_domain_number(vtm->domain);
	info.opens = vtm->opens;
	mutex_unlock(&vtm->lock);

	return copy_to_user((void __user *)arg, &info, sizeof(info)) ?
		-EFAULT : 0;
}

/* As the device */
static int vtm_dma(struct vtm_device *vtm, struct vfio_test_mdev_dma *dma)
{
	int ret = -ENODEV;

	mutex_lock(&vtm->lock);
	if (vtm->domain)
		ret = vfio_test_iommu_dma(mdev_parent_dev(vtm->mdev),
					  vtm->pasid, dma->iova, dma->data,
					  dma->size, dma->write);
	mutex_unlock(&vtm->lock);

	return ret;
}

/*
 * As its driver.  The group stays as long as the caller's descriptor does, and a
 * page that does not come is to keep nobody else.
 */
static int vtm_rw(struct vtm_device *vtm, struct vfio_test_mdev_dma *dma)
{
	return vfio_dma_rw(vtm->group, dma->iova, dma->data, dma->size,
			   dma->write);
}

static long vtm_test_dma(struct vtm_device *vtm, unsigned long arg, bool rw)
{
	struct vfio_test_mdev_dma dma;
	int ret;

	if (copy_from_user(&dma, (void __user *)arg, sizeof(dma)))
		return -EFAULT;
	if (!dma.size || dma.size > sizeof(dma.data))
		return -EINVAL;

	ret = rw ? vtm_rw(vtm, &dma) : vtm_dma(vtm, &dma);
	if (ret)
		return ret;

	return copy_to_user((void __user *)arg, &dma, sizeof(dma)) ?
		-EFAULT : 0;
}

static long vtm_test_pin(struct vtm_device *vtm, unsigned long arg)
{
	unsigned long events = VFIO_IOMMU_NOTIFY_DMA_UNMAP;
	struct vfio_test_mdev_pin pin;
	int ret = 0;

	if (copy_from_user(&pin, (void __user *)arg, sizeof(pin)))
		return -EFAULT;

	mutex_lock(&vtm->lock);
	if (!vtm->notified) {
		vtm->unmap_nb.notifier_call = vtm_unmap;
		ret = vfio_register_notifier(mdev_dev(vtm->mdev),
					     VFIO_IOMMU_NOTIFY, &events,
					     &vtm->unmap_nb);
		vtm->notified = !ret;
	}
	if (!ret) {
		mutex_lock(&vtm->pin_lock);
		vtm_unpin(vtm);
		vtm->pin = pin;
		vtm->pin.told = 0;
		if (pin.iova != ~0ULL)
			ret = vtm_pin(vtm);
		mutex_unlock(&vtm->pin_lock);
	}
	mutex_unlock(&vtm->lock);

	return ret;
}

static long vtm_test_pinned(struct vtm_device *vtm, unsigned long arg)
{
	struct vfio_test_mdev_pin pin;

	mutex_lock(&vtm->pin_lock);
	pin = vtm->pin;
	if (!vtm->pinned)
		pin.iova = ~0ULL;
	mutex_unlock(&vtm->pin_lock);

	return copy_to_user((void __user *)arg, &pin, sizeof(pin)) ?
		-EFAULT : 0;
}

static long vtm_ioctl(struct mdev_device *mdev, unsigned int cmd,
		      unsigned long arg)
{
	struct vtm_device *vtm = mdev_get_drvdata(mdev);

	switch (cmd) {
	case VFIO_DEVICE_GET_INFO:
		return vtm_device_info(arg);
	case VFIO_TEST_MDEV_INFO:
		return vtm_test_info(vtm, arg);
	case VFIO_TEST_MDEV_DMA:
	case VFIO_TEST_MDEV_RW:
		return vtm_test_dma(vtm, arg, cmd == VFIO_TEST_MDEV_RW);
	case VFIO_TEST_MDEV_PIN:
		return vtm_test_pin(vtm, arg);
	case VFIO_TEST_MDEV_PINNED:
		return vtm_test_pinned(vtm, arg);
	case VFIO_TEST_MDEV_HOLD:
		vtm_hold(vtm, arg);
		return 0;
	default:
		return -ENOTTY;
	}
}

static int vtm_create(struct kobject *kobj, struct mdev_device *mdev)
{
	struct device *parent = mdev_parent_dev(mdev);
	struct vtm_device *vtm;
	bool has_iommu;
	int ret;

	/* Without the feature the domain would be attached to all of the parent */
	has_iommu = !strcmp(kobject_name(kobj), VFIO_TEST_MDEV_IOMMU);
	if (has_iommu && !iommu_dev_feature_enabled(parent, IOMMU_DEV_FEAT_AUX))
		return -EOPNOTSUPP;

	vtm = kzalloc(sizeof(*vtm), GFP_KERNEL);
	if (!vtm)
		return -ENOMEM;

	vtm->mdev = mdev;
	vtm->has_iommu = has_iommu;
	mutex_init(&vtm->lock);
	mutex_init(&vtm->pin_lock);
	init_waitqueue_head(&vtm->wait);

	/* Before this returns, as VFIO may look once the device is added */
	if (has_iommu) {
		ret = mdev_set_iommu_device(mdev_dev(mdev), parent);
		if (ret) {
			kfree(vtm);
			return ret;
		}
	}

	mdev_set_drvdata(mdev, vtm);

	return 0;
}

static int vtm_remove(struct mdev_device *mdev)
{
	/* VFIO has waited until the last file descriptor was closed */
	kfree(mdev_get_drvdata(mdev));

	return 0;
}

static ssize_t name_show(struct kobject *kobj, struct device *dev, char *buf)
{
	return sysfs_emit(buf, "%s\n", kobject_name(kobj));
}
static MDEV_TYPE_ATTR_RO(name);

static ssize_t device_api_show(struct kobject *kobj, struct device *dev,
			       char *buf)
{
	return sysfs_emit(buf, "vfio-test\n");
}
static MDEV_TYPE_ATTR_RO(device_api);

static ssize_t available_instances_show(struct kobject *kobj,
					struct device *dev, char *buf)
{
	/* As many as there is memory for */
	return sysfs_emit(buf, "%d\n", INT_MAX);
}
static MDEV_TYPE_ATTR_RO(available_instances);

static struct attribute *vtm_type_attrs[] = {
	&mdev_type_attr_name.attr,
	&mdev_type_attr_device_api.attr,
	&mdev_type_attr_available_instances.attr,
	NULL
};

static struct attribute_group vtm_type_iommu = {
	.name = "iommu",
	.attrs = vtm_type_attrs,
};

static struct attribute_group vtm_type_plain = {
	.name = "plain",
	.attrs = vtm_type_attrs,
};

static struct attribute_group *vtm_types[] = {
	&vtm_type_iommu,
	&vtm_type_plain,
	NULL
};

static const struct mdev_parent_ops vtm_parent_ops = {
	.owner			= THIS_MODULE,
	.supported_type_groups	= vtm_types,
	.create			= vtm_create,
	.remove			= vtm_remove,
	.open			= vtm_open,
	.release		= vtm_release,
	.ioctl			= vtm_ioctl,
};

static int vtm_probe(struct device *dev)
{
	int ret;

	/*
	 * The feature has to be on before a mediated device is created, as
	 * it decides how VFIO attaches the domain.
	 */
	if (iommu_dev_has_feature(dev, IOMMU_DEV_FEAT_AUX)) {
		ret = iommu_dev_enable_feature(dev, IOMMU_DEV_FEAT_AUX);
		if (ret)
			return ret;
	}

	ret = mdev_register_device(dev, &vtm_parent_ops);
	if (ret)
		iommu_dev_disable_feature(dev, IOMMU_DEV_FEAT_AUX);

	return ret;
}

static int vtm_unbind(struct device *dev)
{
	/* Removes the mediated devices, and waits until each is closed */
	mdev_unregister_device(dev);
	iommu_dev_disable_feature(dev, IOMMU_DEV_FEAT_AUX);

	return 0;
}

static struct device_driver vtm_driver = {
	.name	= VFIO_TEST_MDEV_DRIVER,
	.owner	= THIS_MODULE,
	.bus	= &vfio_test_bus_type,
	.probe	= vtm_probe,
	.remove	= vtm_unbind,
};

static int __init vtm_init(void)
{
	return driver_register(&vtm_driver);
}

static void __exit vtm_exit(void)
{
	driver_unregister(&vtm_driver);
}

module_init(vtm_init);
module_exit(vtm_exit);

MODULE_LICENSE("GPL v2");
MODULE_DESCRIPTION("Mediated devices with PASIDs, for tests of VFIO and as an example");
