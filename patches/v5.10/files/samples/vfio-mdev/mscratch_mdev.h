/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How mscratch is registered with mdev, which calls it for all that userspace
 * does.  A part of mscratch.c.
 */
#ifndef _SAMPLES_VFIO_MDEV_MSCRATCH_MDEV_H
#define _SAMPLES_VFIO_MDEV_MSCRATCH_MDEV_H

static ssize_t mscratch_mdev_read(struct mdev_device *mdev, char __user *buf,
				  size_t count, loff_t *ppos)
{
	return mscratch_access(mdev_get_drvdata(mdev), buf, count, ppos, false);
}

static ssize_t mscratch_mdev_write(struct mdev_device *mdev,
				   const char __user *buf, size_t count,
				   loff_t *ppos)
{
	return mscratch_access(mdev_get_drvdata(mdev), (char __user *)buf, count,
			       ppos, true);
}

static int mscratch_mdev_mmap(struct mdev_device *mdev,
			      struct vm_area_struct *vma)
{
	return mscratch_mmap(mdev_get_drvdata(mdev), vma);
}

static long mscratch_mdev_ioctl(struct mdev_device *mdev, unsigned int cmd,
				unsigned long arg)
{
	return mscratch_ioctl(mdev_get_drvdata(mdev), cmd, arg);
}

/* These two for each file descriptor */
static int mscratch_mdev_open(struct mdev_device *mdev)
{
	return mscratch_open(mdev_get_drvdata(mdev));
}

static void mscratch_mdev_release(struct mdev_device *mdev)
{
	mscratch_release(mdev_get_drvdata(mdev));
}

static const struct mscratch_type *mscratch_find_type(struct kobject *kobj)
{
	const char *name = strrchr(kobject_name(kobj), '-');
	size_t i;

	for (i = 0; name && i < ARRAY_SIZE(mscratch_types); i++)
		if (!strcmp(name + 1, mscratch_types[i].name))
			return &mscratch_types[i];

	return NULL;
}

static int mscratch_mdev_create(struct kobject *kobj, struct mdev_device *mdev)
{
	const struct mscratch_type *type = mscratch_find_type(kobj);
	struct mscratch *ms;
	int ret;

	if (!type)
		return -EINVAL;
	ms = kzalloc(sizeof(*ms), GFP_KERNEL);
	if (!ms)
		return -ENOMEM;

	ms->host.mdev = mdev;
	ret = mscratch_setup(ms, type);
	if (ret) {
		kfree(ms);
		return ret;
	}
	mdev_set_drvdata(mdev, ms);

	return 0;
}

static int mscratch_mdev_remove(struct mdev_device *mdev)
{
	struct mscratch *ms = mdev_get_drvdata(mdev);

	/* VFIO has waited until the last file descriptor was closed */
	mscratch_teardown(ms);
	kfree(ms);

	return 0;
}

static ssize_t name_show(struct kobject *kobj, struct device *dev, char *buf)
{
	return sysfs_emit(buf, "%s\n", kobject_name(kobj));
}
static MDEV_TYPE_ATTR_RO(name);

static ssize_t description_show(struct kobject *kobj, struct device *dev,
				char *buf)
{
	const struct mscratch_type *type = mscratch_find_type(kobj);

	return type ? mscratch_describe(type, buf) : -ENODEV;
}
static MDEV_TYPE_ATTR_RO(description);

static ssize_t device_api_show(struct kobject *kobj, struct device *dev,
			       char *buf)
{
	return sysfs_emit(buf, "%s\n", VFIO_DEVICE_API_PCI_STRING);
}
static MDEV_TYPE_ATTR_RO(device_api);

static ssize_t available_instances_show(struct kobject *kobj,
					struct device *dev, char *buf)
{
	const struct mscratch_type *type = mscratch_find_type(kobj);

	return sysfs_emit(buf, "%u\n", type ? mscratch_available(type) : 0);
}
static MDEV_TYPE_ATTR_RO(available_instances);

static struct attribute *mscratch_type_attrs[] = {
	&mdev_type_attr_name.attr,
	&mdev_type_attr_description.attr,
	&mdev_type_attr_device_api.attr,
	&mdev_type_attr_available_instances.attr,
	NULL
};

static struct attribute_group mscratch_type_64k = {
	.name = "64k",
	.attrs = mscratch_type_attrs,
};

static struct attribute_group mscratch_type_1m = {
	.name = "1m",
	.attrs = mscratch_type_attrs,
};

static struct attribute_group mscratch_type_64m = {
	.name = "64m",
	.attrs = mscratch_type_attrs,
};

static struct attribute_group *mscratch_type_groups[] = {
	&mscratch_type_64k,
	&mscratch_type_1m,
	&mscratch_type_64m,
	NULL
};

static const struct mdev_parent_ops mscratch_parent_ops = {
	.owner			= THIS_MODULE,
	.supported_type_groups	= mscratch_type_groups,
	.create			= mscratch_mdev_create,
	.remove			= mscratch_mdev_remove,
	.open			= mscratch_mdev_open,
	.release		= mscratch_mdev_release,
	.read			= mscratch_mdev_read,
	.write			= mscratch_mdev_write,
	.ioctl			= mscratch_mdev_ioctl,
	.mmap			= mscratch_mdev_mmap,
};

static int mscratch_mdev_register(struct device *parent)
{
	return mdev_register_device(parent, &mscratch_parent_ops);
}

static void mscratch_mdev_unregister(struct device *parent)
{
	mdev_unregister_device(parent);
}

#endif /* _SAMPLES_VFIO_MDEV_MSCRATCH_MDEV_H */
