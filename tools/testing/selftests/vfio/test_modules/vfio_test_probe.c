// SPDX-License-Identifier: GPL-2.0-only
/*
 * Calls vfio_group_domain() for tests, on the group of any device
 *
 * Each open file of /dev/vfio-test-probe holds one group at most.  What it
 * calls runs on that reference alone and takes no lock of its own, so that a
 * call which crashes leaves nothing behind that closing the file does not
 * undo.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/device.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/iommu.h>
#include <linux/mdev.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/slab.h>
#include <linux/timex.h>
#include <linux/uaccess.h>
#include <linux/vfio.h>

#include "vfio_test_iommu.h"
#include "vfio_test_uapi.h"

#define VTP_MAX_CALLS	1000000

/**
 * struct vtp_file - an open file
 * @dev: device whose group is held, or NULL
 * @group: the group
 *
 * A test sets both once and then uses them from any thread.
 */
struct vtp_file {
	struct device *dev;
	struct vfio_group *group;
};

static atomic_t vtp_entered;
static atomic_t vtp_left;

static long vtp_hold(struct vtp_file *f, void __user *arg)
{
	struct vfio_test_hold hold;
	struct vfio_group *group;
	struct bus_type *bus;
	struct device *dev;

	if (f->group)
		return -EBUSY;
	if (copy_from_user(&hold, arg, sizeof(hold)))
		return -EFAULT;
	if (strnlen(hold.name, sizeof(hold.name)) == sizeof(hold.name))
		return -EINVAL;

	switch (hold.bus) {
	case VFIO_TEST_BUS_MDEV:
		bus = &mdev_bus_type;
		break;
	case VFIO_TEST_BUS_PCI:
		bus = &pci_bus_type;
		break;
	default:
		return -EINVAL;
	}

	dev = bus_find_device_by_name(bus, NULL, hold.name);
	if (!dev)
		return -ENODEV;

	group = vfio_group_get_external_user_from_dev(dev);
	if (IS_ERR(group)) {
		put_device(dev);
		return PTR_ERR(group);
	}

	f->dev = dev;
	f->group = group;

	return 0;
}

static long vtp_release_group(struct vtp_file *f)
{
	struct vfio_group *group = f->group;

	if (!group)
		return -EINVAL;

	f->group = NULL;
	vfio_group_put_external_user(group);
	put_device(f->dev);
	f->dev = NULL;

	return 0;
}

static long vtp_domain(struct vfio_group *group, struct device *dev,
		       void __user *arg)
{
	struct vfio_test_domain answer = {};
	struct iommu_domain *domain;

	atomic_inc(&vtp_entered);
	domain = vfio_group_domain(group);
	atomic_inc(&vtp_left);
	answer.is_same = domain == vfio_group_iommu_domain(group);

	if (IS_ERR(domain)) {
		answer.error = PTR_ERR(domain);
	} else if (!domain) {
		answer.is_null = 1;
	} else {
		answer.domain = vfio_test_iommu_domain_number(domain);
		answer.is_attached = dev &&
				     domain == iommu_get_domain_for_dev(dev);
	}

	return copy_to_user(arg, &answer, sizeof(answer)) ? -EFAULT : 0;
}

static long vtp_lookup(struct vtp_file *f, void __user *arg)
{
	struct vfio_test_lookup lookup;
	struct iommu_domain *domain;

	if (copy_from_user(&lookup, arg, sizeof(lookup)))
		return -EFAULT;

	domain = vfio_group_domain(f->group);
	if (IS_ERR(domain))
		return PTR_ERR(domain);
	if (!domain)
		return -EBADFD;

	lookup.phys = iommu_iova_to_phys(domain, lookup.iova);

	return copy_to_user(arg, &lookup, sizeof(lookup)) ? -EFAULT : 0;
}

static long vtp_phys(void __user *arg)
{
	struct vfio_test_phys phys;
	struct page *page;
	int ret;

	if (copy_from_user(&phys, arg, sizeof(phys)))
		return -EFAULT;

	ret = get_user_pages_fast(phys.vaddr, 1, FOLL_WRITE, &page);
	if (ret < 0)
		return ret;
	if (!ret)
		return -EFAULT;

	phys.phys = page_to_phys(page) + offset_in_page(phys.vaddr);
	put_page(page);

	return copy_to_user(arg, &phys, sizeof(phys)) ? -EFAULT : 0;
}

static long vtp_calls(void __user *arg)
{
	struct vfio_test_calls calls;

	calls.left = atomic_read(&vtp_left);
	/* In this order, a call that is under way is never counted as left */
	smp_rmb();
	calls.entered = atomic_read(&vtp_entered);

	return copy_to_user(arg, &calls, sizeof(calls)) ? -EFAULT : 0;
}

static u64 vtp_time_calls(struct vfio_group *group, unsigned int calls)
{
	struct iommu_domain *domain = NULL;
	u64 start = get_cycles();

	while (calls--) {
		if (group)
			domain = vfio_group_domain(group);
		/* Keeps the empty loop, and each call, from being dropped */
		OPTIMIZER_HIDE_VAR(domain);
	}

	return get_cycles() - start;
}

static long vtp_bench(struct vtp_file *f, void __user *arg)
{
	u64 best = U64_MAX, empty = U64_MAX;
	struct vfio_test_bench bench;
	u32 i;

	if (!f->group)
		return -EINVAL;
	if (copy_from_user(&bench, arg, sizeof(bench)))
		return -EFAULT;
	if (!bench.calls || !bench.rounds || bench.calls > VTP_MAX_CALLS ||
	    bench.rounds > VTP_MAX_CALLS)
		return -EINVAL;

	for (i = 0; i < bench.rounds; i++) {
		empty = min(empty, vtp_time_calls(NULL, bench.calls));
		best = min(best, vtp_time_calls(f->group, bench.calls));
		if (signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	bench.cycles = best > empty ? best - empty : 0;

	return copy_to_user(arg, &bench, sizeof(bench)) ? -EFAULT : 0;
}

static long vtp_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct vtp_file *f = file->private_data;
	void __user *uarg = (void __user *)arg;

	switch (cmd) {
	case VFIO_TEST_HOLD:
		return vtp_hold(f, uarg);
	case VFIO_TEST_RELEASE:
		return vtp_release_group(f);
	case VFIO_TEST_DOMAIN:
		if (!f->group)
			return -EINVAL;
		return vtp_domain(f->group, f->dev, uarg);
	case VFIO_TEST_DOMAIN_NULL:
		return vtp_domain(NULL, NULL, uarg);
	case VFIO_TEST_DOMAIN_ERROR:
		return vtp_domain(ERR_PTR(-ENXIO), NULL, uarg);
	case VFIO_TEST_LOOKUP:
		if (!f->group)
			return -EINVAL;
		return vtp_lookup(f, uarg);
	case VFIO_TEST_PHYS:
		return vtp_phys(uarg);
	case VFIO_TEST_CALLS:
		return vtp_calls(uarg);
	case VFIO_TEST_BENCH:
		return vtp_bench(f, uarg);
	default:
		return -ENOTTY;
	}
}

static int vtp_open(struct inode *inode, struct file *file)
{
	struct vtp_file *f;

	f = kzalloc(sizeof(*f), GFP_KERNEL);
	if (!f)
		return -ENOMEM;
	file->private_data = f;

	return 0;
}

static int vtp_release(struct inode *inode, struct file *file)
{
	struct vtp_file *f = file->private_data;

	vtp_release_group(f);
	kfree(f);

	return 0;
}

static const struct file_operations vtp_fops = {
	.owner		= THIS_MODULE,
	.open		= vtp_open,
	.release	= vtp_release,
	.unlocked_ioctl	= vtp_ioctl,
	.llseek		= noop_llseek,
};

static struct miscdevice vtp_misc = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "vfio-test-probe",
	.fops	= &vtp_fops,
	.mode	= 0600,
};

/*
 * A backend that does what every backend must, and nothing else
 */

static void *vtp_bare_open(unsigned long arg)
{
	void *data = kzalloc(1, GFP_KERNEL);

	return data ?: ERR_PTR(-ENOMEM);
}

static void vtp_bare_release(void *data)
{
	kfree(data);
}

static long vtp_bare_ioctl(void *data, unsigned int cmd, unsigned long arg)
{
	if (cmd == VFIO_CHECK_EXTENSION)
		return arg == VFIO_TEST_BARE_IOMMU;

	return -ENOTTY;
}

static int vtp_bare_attach(void *data, struct iommu_group *group)
{
	return 0;
}

static void vtp_bare_detach(void *data, struct iommu_group *group)
{
}

/* And one that has no domain for any group */

static long vtp_null_ioctl(void *data, unsigned int cmd, unsigned long arg)
{
	if (cmd == VFIO_CHECK_EXTENSION)
		return arg == VFIO_TEST_NULL_IOMMU;

	return -ENOTTY;
}

static struct iommu_domain *vtp_null_domain(void *data,
					    struct iommu_group *group)
{
	return NULL;
}

static const struct vfio_iommu_driver_ops vtp_bare_ops = {
	.name		= "vfio-test-bare",
	.owner		= THIS_MODULE,
	.open		= vtp_bare_open,
	.release	= vtp_bare_release,
	.ioctl		= vtp_bare_ioctl,
	.attach_group	= vtp_bare_attach,
	.detach_group	= vtp_bare_detach,
};

static const struct vfio_iommu_driver_ops vtp_null_ops = {
	.name		= "vfio-test-null",
	.owner		= THIS_MODULE,
	.open		= vtp_bare_open,
	.release	= vtp_bare_release,
	.ioctl		= vtp_null_ioctl,
	.attach_group	= vtp_bare_attach,
	.detach_group	= vtp_bare_detach,
	.group_domain	= vtp_null_domain,
};

static int __init vtp_init(void)
{
	int ret;

	ret = vfio_register_iommu_driver(&vtp_bare_ops);
	if (ret)
		return ret;

	ret = vfio_register_iommu_driver(&vtp_null_ops);
	if (ret)
		goto out_bare;

	ret = misc_register(&vtp_misc);
	if (ret)
		goto out_null;

	return 0;

out_null:
	vfio_unregister_iommu_driver(&vtp_null_ops);
out_bare:
	vfio_unregister_iommu_driver(&vtp_bare_ops);

	return ret;
}

static void __exit vtp_exit(void)
{
	misc_deregister(&vtp_misc);
	vfio_unregister_iommu_driver(&vtp_null_ops);
	vfio_unregister_iommu_driver(&vtp_bare_ops);
}

module_init(vtp_init);
module_exit(vtp_exit);

MODULE_LICENSE("GPL v2");
MODULE_DESCRIPTION("Calls vfio_group_domain(), for tests of VFIO only");
