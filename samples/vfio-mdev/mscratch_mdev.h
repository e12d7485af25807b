/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How mscratch is registered with mdev, which makes the devices, and with VFIO,
 * which calls them for what userspace does.  A part of mscratch.c.
 */
#ifndef _SAMPLES_VFIO_MDEV_MSCRATCH_MDEV_H
#define _SAMPLES_VFIO_MDEV_MSCRATCH_MDEV_H

#include <linux/vfio_migration_core.h>

/* In the order of mscratch_types; mdev keeps their state in here */
static struct mdev_type mscratch_mdev_types[] = {
	{ .sysfs_name = "64k", .pretty_name = "mscratch-64k" },
	{ .sysfs_name = "1m", .pretty_name = "mscratch-1m" },
	{ .sysfs_name = "64m", .pretty_name = "mscratch-64m" },
};

static struct mdev_type *mscratch_mdev_type_list[] = {
	&mscratch_mdev_types[0],
	&mscratch_mdev_types[1],
	&mscratch_mdev_types[2],
};

static const struct mscratch_type *mscratch_find_type(struct mdev_type *type)
{
	BUILD_BUG_ON(ARRAY_SIZE(mscratch_mdev_types) !=
		     ARRAY_SIZE(mscratch_types));

	return &mscratch_types[type - mscratch_mdev_types];
}

static struct mscratch *mscratch_of(struct vfio_device *vdev)
{
	return container_of(vdev, struct mscratch, host.vdev);
}

static ssize_t mscratch_vfio_read(struct vfio_device *vdev, char __user *buf,
				  size_t count, loff_t *ppos)
{
	return mscratch_access(mscratch_of(vdev), buf, count, ppos, false);
}

static ssize_t mscratch_vfio_write(struct vfio_device *vdev,
				   const char __user *buf, size_t count,
				   loff_t *ppos)
{
	return mscratch_access(mscratch_of(vdev), (char __user *)buf, count,
			       ppos, true);
}

static long mscratch_vfio_ioctl(struct vfio_device *vdev, unsigned int cmd,
				unsigned long arg)
{
	return mscratch_ioctl(mscratch_of(vdev), cmd, arg);
}

/* Where VFIO does the rest of VFIO_DEVICE_GET_REGION_INFO */
static int __maybe_unused
mscratch_vfio_region_caps(struct vfio_device *vdev,
			  struct vfio_region_info *info,
			  struct vfio_info_cap *caps)
{
	struct mscratch *ms = mscratch_of(vdev);

	if (info->index == MSCRATCH_MIGRATION_REGION && ms->migration)
		return vfio_migration_region_info_caps(ms->migration, info,
						       caps);

	return mscratch_region(ms, info);
}

static int mscratch_vfio_mmap(struct vfio_device *vdev,
			      struct vm_area_struct *vma)
{
	return mscratch_mmap(mscratch_of(vdev), vma);
}

/* These two with the first and the last file descriptor */
static int mscratch_vfio_open(struct vfio_device *vdev)
{
	return mscratch_open(mscratch_of(vdev));
}

static void mscratch_vfio_close(struct vfio_device *vdev)
{
	mscratch_release(mscratch_of(vdev));
}

static void mscratch_vfio_unmap(struct vfio_device *vdev, u64 iova, u64 length)
{
	struct mscratch *ms = mscratch_of(vdev);

	ms->host.unmapped(&ms->host);
}

static int mscratch_vfio_feature(struct vfio_device *vdev, u32 flags,
				 void __user *arg, size_t argsz)
{
	struct mscratch *ms = mscratch_of(vdev);

	if (!ms->migration)
		return -ENOTTY;

	return vfio_migration_device_feature(ms->migration, flags, arg, argsz);
}

static int mscratch_vfio_init(struct vfio_device *vdev)
{
	struct mdev_device *mdev = to_mdev_device(vdev->dev);
	struct mscratch *ms = mscratch_of(vdev);
	int ret;

	ret = mscratch_setup(ms, mscratch_find_type(mdev->type));
	if (ret)
		return ret;
	if (ms->migration)
		vfio_migration_attach(ms->migration, vdev);

	return 0;
}

static void mscratch_vfio_release(struct vfio_device *vdev)
{
	mscratch_teardown(mscratch_of(vdev));
	vfm_free_device(vdev);
}

static const struct vfio_device_ops mscratch_vfio_ops = {
	.name		= "vfio-mscratch",
	.init		= mscratch_vfio_init,
	.release	= mscratch_vfio_release,
	.open_device	= mscratch_vfio_open,
	.close_device	= mscratch_vfio_close,
	.read		= mscratch_vfio_read,
	.write		= mscratch_vfio_write,
	.ioctl		= mscratch_vfio_ioctl,
	.mmap		= mscratch_vfio_mmap,
	.dma_unmap	= mscratch_vfio_unmap,
	.device_feature	= mscratch_vfio_feature,
	VFM_REGION_INFO_CAPS_OP(mscratch_vfio_region_caps)
	VFM_IOMMUFD_OPS
};

static int mscratch_mdev_probe(struct mdev_device *mdev)
{
	struct mscratch *ms;
	int ret;

	ms = vfio_alloc_device(mscratch, host.vdev, &mdev->dev,
			       &mscratch_vfio_ops);
	if (IS_ERR(ms))
		return PTR_ERR(ms);

	ret = vfio_register_emulated_iommu_dev(&ms->host.vdev);
	if (ret) {
		vfio_put_device(&ms->host.vdev);
		return ret;
	}
	dev_set_drvdata(&mdev->dev, ms);

	return 0;
}

static void mscratch_mdev_remove(struct mdev_device *mdev)
{
	struct mscratch *ms = dev_get_drvdata(&mdev->dev);

	/* Waits until the last file descriptor is closed */
	vfio_unregister_group_dev(&ms->host.vdev);
	vfio_put_device(&ms->host.vdev);
}

static unsigned int mscratch_mdev_available(struct mdev_type *type)
{
	return mscratch_available(mscratch_find_type(type));
}

static ssize_t mscratch_mdev_describe(struct mdev_type *type, char *buf)
{
	return mscratch_describe(mscratch_find_type(type), buf);
}

static struct mdev_driver mscratch_mdev_driver = {
	.device_api		= VFIO_DEVICE_API_PCI_STRING,
	.probe			= mscratch_mdev_probe,
	.remove			= mscratch_mdev_remove,
	.get_available		= mscratch_mdev_available,
	.show_description	= mscratch_mdev_describe,
	.driver			= {
		.name		= "mscratch",
		.owner		= THIS_MODULE,
		.mod_name	= KBUILD_MODNAME,
	},
};

static struct mdev_parent mscratch_mdev_parent;

static int mscratch_mdev_register(struct device *parent)
{
	int ret;

	ret = mdev_register_driver(&mscratch_mdev_driver);
	if (ret)
		return ret;
	ret = mdev_register_parent(&mscratch_mdev_parent, parent,
				   &mscratch_mdev_driver,
				   mscratch_mdev_type_list,
				   ARRAY_SIZE(mscratch_mdev_type_list));
	if (ret)
		mdev_unregister_driver(&mscratch_mdev_driver);

	return ret;
}

static void mscratch_mdev_unregister(struct device *parent)
{
	mdev_unregister_parent(&mscratch_mdev_parent);
	mdev_unregister_driver(&mscratch_mdev_driver);
}

#endif /* _SAMPLES_VFIO_MDEV_MSCRATCH_MDEV_H */
