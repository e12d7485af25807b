// SPDX-License-Identifier: GPL-2.0-only
/*
 * Migration for QEMU's edu device, which userspace has by vfio-pci
 *
 * The state is what can be read of the device, see docs/specs/edu.txt of QEMU:
 * the registers.  Of its own memory of 4 KiB the device says nothing except by
 * DMA, for which this driver has no address: the mappings of the IOMMU are
 * userspace's.  So that memory stays behind.
 */

#include <linux/build_bug.h>
#include <linux/err.h>
#include <linux/io.h>
#include <linux/iopoll.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/vfio.h>
#include <linux/vfio_migration.h>

#define EDU_LIVENESS		0x04
#define EDU_FACTORIAL		0x08
#define EDU_STATUS		0x20
#define EDU_STATUS_COMPUTING	0x01
#define EDU_STATUS_IRQ		0x80
#define EDU_IRQ_STATUS		0x24
#define EDU_IRQ_FACTORIAL	0x001
#define EDU_IRQ_RAISE		0x60
#define EDU_IRQ_ACKNOWLEDGE	0x64
#define EDU_DMA_SOURCE		0x80
#define EDU_DMA_DESTINATION	0x88
#define EDU_DMA_COUNT		0x90
#define EDU_DMA_COMMAND		0x98
#define EDU_DMA_RUN		0x1

/* The factorial of this, and of all above, is 0 in 32 bits */
#define EDU_FACTORIAL_0		34

/* A copy takes 100 ms.  This is for a device that is gone. */
#define EDU_POLL_US		1000
#define EDU_TIMEOUT_US		(20 * USEC_PER_SEC)

/* The state in the stream */
struct edu_state {
	__le32 liveness;
	__le32 factorial;
	__le32 status;
	__le32 irq_status;
	__le64 dma_source;
	__le64 dma_destination;
	__le64 dma_count;
};

static_assert(sizeof(struct edu_state) == 40);

/**
 * struct edu - a device that is open
 * @vdev: the device, as vfio-pci has it
 * @pdev: the same, as PCI has it
 * @bar: its registers
 * @m: its migration
 * @section: all of the state
 * @loaded: a state that has come
 */
struct edu {
	struct vfio_pci_device *vdev;
	struct pci_dev *pdev;
	void __iomem *bar;
	struct vfio_migration *m;
	struct vfio_migration_section section;
	struct edu_state loaded;
	atomic_t resets;	/* by PCI, so far */
};

static int open_error;
module_param(open_error, int, 0600);
MODULE_PARM_DESC(open_error, "what opening a device fails with, if not 0");

static bool mmap = true;
module_param(mmap, bool, 0600);
MODULE_PARM_DESC(mmap, "the region can be mapped");

static bool edu_busy(struct edu *edu)
{
	bool enabled = vfio_pci_memory_get(edu->vdev);
	bool busy;

	busy = (readl(edu->bar + EDU_STATUS) & EDU_STATUS_COMPUTING) ||
	       (readq(edu->bar + EDU_DMA_COMMAND) & EDU_DMA_RUN);
	vfio_pci_memory_put(edu->vdev, enabled);

	return busy;
}

/*
 * The device goes on with nothing that it was not told to, so that it has
 * stopped when what it does has ended.
 */
static int edu_stop(void *data)
{
	struct edu *edu = data;
	bool busy;

	return read_poll_timeout(edu_busy, busy, !busy, EDU_POLL_US,
				 EDU_TIMEOUT_US, false, edu) ?
	       VFIO_MIGRATION_LOST : 0;
}

static int edu_start(void *data)
{
	return 0;
}

/* A section comes whole, and there is no more than one */
static int edu_save(void *data, u64 pos, void *buf, size_t len)
{
	struct edu *edu = data;
	struct edu_state *state = buf;
	bool enabled = vfio_pci_memory_get(edu->vdev);

	state->liveness = cpu_to_le32(readl(edu->bar + EDU_LIVENESS));
	state->factorial = cpu_to_le32(readl(edu->bar + EDU_FACTORIAL));
	state->status = cpu_to_le32(readl(edu->bar + EDU_STATUS));
	state->irq_status = cpu_to_le32(readl(edu->bar + EDU_IRQ_STATUS));
	state->dma_source = cpu_to_le64(readq(edu->bar + EDU_DMA_SOURCE));
	state->dma_destination =
		cpu_to_le64(readq(edu->bar + EDU_DMA_DESTINATION));
	state->dma_count = cpu_to_le64(readq(edu->bar + EDU_DMA_COUNT));
	vfio_pci_memory_put(edu->vdev, enabled);

	return 0;
}

static int edu_load(void *data, u64 pos, const void *buf, size_t len)
{
	struct edu *edu = data;

	memcpy(&edu->loaded, buf, sizeof(edu->loaded));

	return 0;
}

/* What the device has to be given to have this result, or -EINVAL */
static int edu_factorial_of(u32 result)
{
	u32 factorial = 1;
	unsigned int i;

	for (i = 1; i <= EDU_FACTORIAL_0; i++) {
		factorial *= i;
		if (factorial == result)
			return i;
	}

	return -EINVAL;
}

/* Wait for bits of a register, with the memory locked */
static int edu_wait(struct edu *edu, unsigned int reg, u32 mask, u32 value)
{
	u32 is;

	return readl_poll_timeout(edu->bar + reg, is, (is & mask) == value,
				  EDU_POLL_US, EDU_TIMEOUT_US);
}

/*
 * Have the device compute.  When that ends with an interrupt, it comes after
 * the status says that it has ended.
 */
static int edu_compute(struct edu *edu, u32 value, bool interrupt)
{
	int ret;

	writel(readl(edu->bar + EDU_IRQ_STATUS),
	       edu->bar + EDU_IRQ_ACKNOWLEDGE);
	writel(interrupt ? EDU_STATUS_IRQ : 0, edu->bar + EDU_STATUS);
	writel(value, edu->bar + EDU_FACTORIAL);
	ret = edu_wait(edu, EDU_STATUS, EDU_STATUS_COMPUTING, 0);
	if (!ret && interrupt)
		ret = edu_wait(edu, EDU_IRQ_STATUS, EDU_IRQ_FACTORIAL,
			       EDU_IRQ_FACTORIAL);
	if (ret)
		return ret;
	writel(readl(edu->bar + EDU_IRQ_STATUS),
	       edu->bar + EDU_IRQ_ACKNOWLEDGE);

	return 0;
}

/*
 * The result of a factorial can only be had by computing it.  The first time is
 * without an interrupt, so that the one of an earlier time, which is as late as
 * its own, is not taken for that of the second.
 */
static int edu_write(struct edu *edu, const struct edu_state *state, u32 value)
{
	bool interrupt = le32_to_cpu(state->status) & EDU_STATUS_IRQ;
	u32 irq_status = le32_to_cpu(state->irq_status);
	int ret;

	ret = edu_compute(edu, value, false);
	if (!ret && interrupt)
		ret = edu_compute(edu, value, true);
	if (ret)
		return ret;

	if (irq_status)
		writel(irq_status, edu->bar + EDU_IRQ_RAISE);
	/* It reads as the opposite of what was written */
	writel(~le32_to_cpu(state->liveness), edu->bar + EDU_LIVENESS);
	writeq(le64_to_cpu(state->dma_source), edu->bar + EDU_DMA_SOURCE);
	writeq(le64_to_cpu(state->dma_destination),
	       edu->bar + EDU_DMA_DESTINATION);
	writeq(le64_to_cpu(state->dma_count), edu->bar + EDU_DMA_COUNT);

	return 0;
}

/* Not if the device has been reset since there were @resets of them */
static int edu_put(struct edu *edu, const struct edu_state *state, int resets)
{
	int value = edu_factorial_of(le32_to_cpu(state->factorial));
	bool enabled;
	int ret;

	if (value < 0 || (le32_to_cpu(state->status) & ~EDU_STATUS_IRQ))
		return -EINVAL;

	enabled = vfio_pci_memory_get(edu->vdev);
	if (atomic_read(&edu->resets) != resets)
		ret = -EAGAIN;
	else
		ret = edu_write(edu, state, value) ? VFIO_MIGRATION_LOST : 0;
	vfio_pci_memory_put(edu->vdev, enabled);

	return ret;
}

static int edu_loaded(void *data)
{
	struct edu *edu = data;

	return edu_put(edu, &edu->loaded, atomic_read(&edu->resets));
}

/* A reset by PCI leaves the registers of this device as they are */
static void edu_reset(void *data)
{
	static const struct edu_state power_on;
	struct edu *edu = data;

	if (edu_stop(edu) ||
	    edu_put(edu, &power_on, atomic_read(&edu->resets)))
		pci_err(edu->pdev, "it does not answer any more\n");
}

static const struct vfio_migration_driver_ops edu_migration_ops = {
	.stop	= edu_stop,
	.start	= edu_start,
	.save	= edu_save,
	.load	= edu_load,
	.loaded	= edu_loaded,
	.reset	= edu_reset,
};

static void *edu_open(struct vfio_pci_device *vdev, struct pci_dev *pdev,
		      struct vfio_region_info *info)
{
	struct vfio_migration_params params = {
		.ops		= &edu_migration_ops,
		.type		= "edu",
		.version	= 1,
		.offset		= info->offset,
		.state_size	= sizeof(struct edu_state),
		.nr_sections	= 1,
		.window		= PAGE_SIZE,
		.mmap		= mmap,
	};
	struct edu *edu;
	int ret;

	if (open_error < 0 && open_error >= -MAX_ERRNO)
		return ERR_PTR(open_error);

	edu = kzalloc(sizeof(*edu), GFP_KERNEL);
	if (!edu)
		return ERR_PTR(-ENOMEM);
	edu->vdev = vdev;
	edu->pdev = pdev;
	edu->section.len = sizeof(struct edu_state);
	edu->bar = pci_iomap(pdev, 0, 0);
	ret = -ENOMEM;
	if (!edu->bar)
		goto err_free;

	params.data = edu;
	params.sections = &edu->section;
	edu->m = vfio_migration_create(&pdev->dev, &params);
	ret = PTR_ERR(edu->m);
	if (IS_ERR(edu->m))
		goto err_unmap;
	ret = vfio_migration_open(edu->m);
	if (ret)
		goto err_destroy;

	info->size = vfio_migration_region_size(edu->m);
	info->flags = vfio_migration_region_flags(edu->m);

	return edu;

err_destroy:
	vfio_migration_destroy(edu->m);
err_unmap:
	pci_iounmap(pdev, edu->bar);
err_free:
	kfree(edu);

	return ERR_PTR(ret);
}

static void edu_release(void *data)
{
	struct edu *edu = data;

	vfio_migration_release(edu->m);
	vfio_migration_destroy(edu->m);
	pci_iounmap(edu->pdev, edu->bar);
	kfree(edu);
}

static ssize_t edu_rw(void *data, char __user *buf, size_t count, loff_t *ppos,
		      bool iswrite)
{
	struct edu *edu = data;

	if (iswrite)
		return vfio_migration_region_write(edu->m, buf, count, ppos);

	return vfio_migration_region_read(edu->m, buf, count, ppos);
}

static int edu_mmap(void *data, struct vm_area_struct *vma)
{
	struct edu *edu = data;

	return vfio_migration_region_mmap(edu->m, vma);
}

static int edu_add_capability(void *data, struct vfio_info_cap *caps)
{
	struct edu *edu = data;

	return vfio_migration_region_add_areas(edu->m, caps);
}

static long edu_feature(void *data, void __user *arg)
{
	struct edu *edu = data;

	return vfio_migration_feature(edu->m, arg);
}

static void edu_reset_done(void *data)
{
	struct edu *edu = data;

	atomic_inc(&edu->resets);
	vfio_migration_reset_done(edu->m);
}

static const struct pci_device_id edu_ids[] = {
	{ PCI_DEVICE(0x1234, 0x11e8) },
	{}
};

static struct vfio_pci_extension edu_extension = {
	.owner		= THIS_MODULE,
	.id_table	= edu_ids,
	.type		= VFIO_REGION_TYPE_MIGRATION,
	.subtype	= VFIO_REGION_SUBTYPE_MIGRATION,
	.open		= edu_open,
	.release	= edu_release,
	.rw		= edu_rw,
	.mmap		= edu_mmap,
	.add_capability	= edu_add_capability,
	.feature	= edu_feature,
	.reset_done	= edu_reset_done,
};

static int __init vfio_test_edu_init(void)
{
	vfio_pci_register_extension(&edu_extension);

	return 0;
}

static void __exit vfio_test_edu_exit(void)
{
	vfio_pci_unregister_extension(&edu_extension);
}

module_init(vfio_test_edu_init);
module_exit(vfio_test_edu_exit);

MODULE_LICENSE("GPL v2");
MODULE_DESCRIPTION("Migration for QEMU's edu device by vfio-pci");
