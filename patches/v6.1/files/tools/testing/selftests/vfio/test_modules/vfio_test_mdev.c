// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mediated devices that pin what they are told to, for tests of type1
 *
 * They are of one type, have no IOMMU, and can do nothing else.  Kernels that
 * have IOMMUs for mediated devices have more of them in a file of this name.
 */

#include <linux/device.h>
#include <linux/err.h>
#include <linux/iommu.h>
#include <linux/mdev.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/uaccess.h>
#include <linux/vfio.h>
#include <linux/wait.h>

#include "vfio_test_uapi.h"

/**
 * struct vtm_device - a mediated device
 * @vdev: what VFIO knows it as; it is the first, VFIO allocates the whole
 * @pin_lock: guards @pinned and @pin; taken while VFIO tells what is unmapped
 * @pinned: a page is pinned
 * @pin: which, and for how long
 * @hold: whoever tells what is unmapped waits
 * @wait: for that
 */
struct vtm_device {
	struct vfio_device vdev;

	struct mutex pin_lock;	/* guards pinned and pin */
	bool pinned;
	struct vfio_test_mdev_pin pin;
	bool hold;
	wait_queue_head_t wait;
};

static struct vtm_device *vtm_of(struct vfio_device *vdev)
{
	return container_of(vdev, struct vtm_device, vdev);
}

/*
 * A page of the user's, pinned for as long as a test wants, which is longer
 * than a driver may
 */

static int vtm_pin(struct vtm_device *vtm)
{
	int prot = IOMMU_READ | (vtm->pin.read_only ? 0 : IOMMU_WRITE);
	struct page *page;
	int ret;

	lockdep_assert_held(&vtm->pin_lock);

	ret = vfio_pin_pages(&vtm->vdev, vtm->pin.iova & PAGE_MASK, 1, prot,
			     &page);
	vtm->pinned = ret == 1;

	return vtm->pinned ? 0 : ret ?: -EFAULT;
}

static void vtm_unpin(struct vtm_device *vtm)
{
	lockdep_assert_held(&vtm->pin_lock);

	if (vtm->pinned)
		vfio_unpin_pages(&vtm->vdev, vtm->pin.iova & PAGE_MASK, 1);
	vtm->pinned = false;
}

/* Is it about the page?  The user is to see that the driver was told. */
static bool vtm_told(struct vtm_device *vtm, u64 iova, u64 length)
{
	bool told;

	mutex_lock(&vtm->pin_lock);
	told = vtm->pinned && vtm->pin.iova >= iova &&
	       vtm->pin.iova - iova < length;
	if (told)
		vtm->pin.told++;
	mutex_unlock(&vtm->pin_lock);

	return told;
}

static void vtm_unmap(struct vfio_device *vdev, u64 iova, u64 length)
{
	struct vtm_device *vtm = vtm_of(vdev);

	if (!vtm_told(vtm, iova, length))
		return;
	wait_event_killable(vtm->wait, !READ_ONCE(vtm->hold));
	mutex_lock(&vtm->pin_lock);
	vtm_unpin(vtm);
	if (vtm->pin.keep) {
		vtm->pin.keep--;
		vtm_pin(vtm);
	}
	mutex_unlock(&vtm->pin_lock);
}

static void vtm_hold(struct vtm_device *vtm, bool hold)
{
	WRITE_ONCE(vtm->hold, hold);
	wake_up_all(&vtm->wait);
}

/* With the last file descriptor */
static void vtm_close(struct vfio_device *vdev)
{
	struct vtm_device *vtm = vtm_of(vdev);

	vtm_hold(vtm, false);
	mutex_lock(&vtm->pin_lock);
	vtm_unpin(vtm);
	mutex_unlock(&vtm->pin_lock);
}

static long vtm_device_info(void __user *arg)
{
	unsigned long minsz = offsetofend(struct vfio_device_info, num_irqs);
	struct vfio_device_info info;

	if (copy_from_user(&info, arg, minsz))
		return -EFAULT;
	if (info.argsz < minsz)
		return -EINVAL;

	info.flags = 0;
	info.num_regions = 0;
	info.num_irqs = 0;

	return copy_to_user(arg, &info, minsz) ? -EFAULT : 0;
}

static long vtm_test_pin(struct vtm_device *vtm, void __user *arg)
{
	struct vfio_test_mdev_pin pin;
	int ret = 0;

	if (copy_from_user(&pin, arg, sizeof(pin)))
		return -EFAULT;

	mutex_lock(&vtm->pin_lock);
	vtm_unpin(vtm);
	vtm->pin = pin;
	vtm->pin.told = 0;
	if (pin.iova != ~0ULL)
		ret = vtm_pin(vtm);
	mutex_unlock(&vtm->pin_lock);

	return ret;
}

static long vtm_test_pinned(struct vtm_device *vtm, void __user *arg)
{
	struct vfio_test_mdev_pin pin;

	mutex_lock(&vtm->pin_lock);
	pin = vtm->pin;
	if (!vtm->pinned)
		pin.iova = ~0ULL;
	mutex_unlock(&vtm->pin_lock);

	return copy_to_user(arg, &pin, sizeof(pin)) ? -EFAULT : 0;
}

/* A page that does not come is to keep nobody else */
static long vtm_test_rw(struct vtm_device *vtm, void __user *arg)
{
	struct vfio_test_mdev_dma dma;
	int ret;

	if (copy_from_user(&dma, arg, sizeof(dma)))
		return -EFAULT;
	if (!dma.size || dma.size > sizeof(dma.data))
		return -EINVAL;

	ret = vfio_dma_rw(&vtm->vdev, dma.iova, dma.data, dma.size, dma.write);
	if (ret)
		return ret;

	return copy_to_user(arg, &dma, sizeof(dma)) ? -EFAULT : 0;
}

static long vtm_ioctl(struct vfio_device *vdev, unsigned int cmd,
		      unsigned long arg)
{
	struct vtm_device *vtm = vtm_of(vdev);
	void __user *user = (void __user *)arg;

	switch (cmd) {
	case VFIO_DEVICE_GET_INFO:
		return vtm_device_info(user);
	case VFIO_TEST_MDEV_PIN:
		return vtm_test_pin(vtm, user);
	case VFIO_TEST_MDEV_PINNED:
		return vtm_test_pinned(vtm, user);
	case VFIO_TEST_MDEV_RW:
		return vtm_test_rw(vtm, user);
	case VFIO_TEST_MDEV_HOLD:
		vtm_hold(vtm, arg);
		return 0;
	default:
		return -ENOTTY;
	}
}

static int vtm_init_device(struct vfio_device *vdev)
{
	struct vtm_device *vtm = vtm_of(vdev);

	mutex_init(&vtm->pin_lock);
	init_waitqueue_head(&vtm->wait);

	return 0;
}

static void vtm_release_device(struct vfio_device *vdev)
{
	mutex_destroy(&vtm_of(vdev)->pin_lock);
	vfio_free_device(vdev);
}

static const struct vfio_device_ops vtm_ops = {
	.name		= VFIO_TEST_MDEV_DRIVER,
	.init		= vtm_init_device,
	.release	= vtm_release_device,
	.close_device	= vtm_close,
	.ioctl		= vtm_ioctl,
	.dma_unmap	= vtm_unmap,
};

static int vtm_probe(struct mdev_device *mdev)
{
	struct vtm_device *vtm;
	int ret;

	vtm = vfio_alloc_device(vtm_device, vdev, &mdev->dev, &vtm_ops);
	if (IS_ERR(vtm))
		return PTR_ERR(vtm);

	ret = vfio_register_emulated_iommu_dev(&vtm->vdev);
	if (ret) {
		vfio_put_device(&vtm->vdev);
		return ret;
	}
	dev_set_drvdata(&mdev->dev, vtm);

	return 0;
}

static void vtm_remove(struct mdev_device *mdev)
{
	struct vtm_device *vtm = dev_get_drvdata(&mdev->dev);

	vfio_unregister_group_dev(&vtm->vdev);
	vfio_put_device(&vtm->vdev);
}

/* As many as there is memory for */
static unsigned int vtm_available(struct mdev_type *type)
{
	return INT_MAX;
}

static struct mdev_driver vtm_driver = {
	.device_api	= "vfio-test",
	.probe		= vtm_probe,
	.remove		= vtm_remove,
	.get_available	= vtm_available,
	.driver		= {
		.name		= VFIO_TEST_MDEV_DRIVER,
		.owner		= THIS_MODULE,
		.mod_name	= KBUILD_MODNAME,
	},
};

static struct mdev_type vtm_type = {
	.sysfs_name	= "plain",
	.pretty_name	= VFIO_TEST_MDEV_PLAIN,
};

static struct mdev_type *vtm_types[] = { &vtm_type };

/* The parent is a device of a class of its own: the type gets its name */
static struct class *vtm_class;
static struct device *vtm_parent_dev;
static struct mdev_parent vtm_parent;

static int __init vtm_init(void)
{
	int ret;

	vtm_class = class_create(THIS_MODULE, VFIO_TEST_MDEV_DRIVER);
	if (IS_ERR(vtm_class))
		return PTR_ERR(vtm_class);

	vtm_parent_dev = device_create(vtm_class, NULL, 0, NULL,
				       VFIO_TEST_MDEV_DRIVER);
	if (IS_ERR(vtm_parent_dev)) {
		ret = PTR_ERR(vtm_parent_dev);
		goto err_class;
	}

	ret = mdev_register_driver(&vtm_driver);
	if (ret)
		goto err_device;
	ret = mdev_register_parent(&vtm_parent, vtm_parent_dev, &vtm_driver,
				   vtm_types, ARRAY_SIZE(vtm_types));
	if (ret)
		goto err_driver;

	return 0;

err_driver:
	mdev_unregister_driver(&vtm_driver);
err_device:
	device_unregister(vtm_parent_dev);
err_class:
	class_destroy(vtm_class);

	return ret;
}

static void __exit vtm_exit(void)
{
	/* Removes the mediated devices, and waits until each is closed */
	mdev_unregister_parent(&vtm_parent);
	mdev_unregister_driver(&vtm_driver);
	device_unregister(vtm_parent_dev);
	class_destroy(vtm_class);
}

module_init(vtm_init);
module_exit(vtm_exit);

MODULE_LICENSE("GPL v2");
MODULE_DESCRIPTION("Mediated devices that pin what they are told to, for tests of VFIO");
