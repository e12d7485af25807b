// SPDX-License-Identifier: GPL-2.0-only
/*
 * mscratch: a mediated PCI device that can be migrated
 *
 * It has scratch memory, an engine that copies between the scratch memory and
 * the guest's, and an interrupt.  There is no hardware behind it.  It is the
 * example for drivers that use the VFIO migration library: for that,
 * read from mscratch_stop() to mscratch_migration_ops.
 *
 * See Documentation/driver-api/vfio-migration-region.rst, and mscratch.h for
 * what a program sees.  How VFIO calls a device, and lets it at the guest's memory,
 * is in mscratch_mdev.h and mscratch_host.h.
 */

#include <linux/bitmap.h>
#include <linux/device.h>
#include <linux/err.h>
#include <linux/eventfd.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/idr.h>
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/lockdep.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci_ids.h>
#include <linux/pci_regs.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/signal.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/sysfs.h>
#include <linux/uaccess.h>
#include <linux/vfio.h>
#include <linux/vfio_migration.h>
#include <linux/vfio_migration_compat.h>
#include <linux/vmalloc.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "mscratch.h"
#include "mscratch_host.h"

/* Each region has its own 1 TiB of the device's file */
#define MSCRATCH_INDEX_SHIFT	40
#define MSCRATCH_OFFSET_MASK	GENMASK_ULL(MSCRATCH_INDEX_SHIFT - 1, 0)
#define MSCRATCH_OFFSET(index)	((u64)(index) << MSCRATCH_INDEX_SHIFT)

/*
 * The file is an anonymous one in many kernels, and all of these have their
 * mappings in one place.  Those of the scratch memory of a device are at an
 * offset there that is its own, behind what a user can name.
 */
#define MSCRATCH_MAPS		BIT(20)
#define MSCRATCH_MAX_ID		(MSCRATCH_MAPS - 1)

#define MSCRATCH_CONFIG_SIZE	PCI_CFG_SPACE_SIZE
#define MSCRATCH_MSI_CAP	0x40

/* How much the engine copies at once, unless pages are pinned */
#define MSCRATCH_DMA_CHUNK	SZ_64K

/*
 * For how many jiffies it keeps away from memory that is being unmapped: type1
 * gives up when it finds pages pinned ten times, and that of many kernels does
 * so with a BUG()
 */
#define MSCRATCH_UNMAP_HOLD	(HZ / 2)

static bool migration = true;
module_param(migration, bool, 0644);
MODULE_PARM_DESC(migration, "new devices can be migrated (default: yes)");

static unsigned int window;
module_param(window, uint, 0644);
MODULE_PARM_DESC(window, "bytes of the migration region's window, 0 for the library's default");

static bool mmap = true;
module_param(mmap, bool, 0644);
MODULE_PARM_DESC(mmap, "offer the migration region's data for mmap (default: yes)");

static unsigned int max_mbytes = 1024;
module_param(max_mbytes, uint, 0444);
MODULE_PARM_DESC(max_mbytes, "scratch memory of all devices in MiB (default: 1024)");

struct mscratch_type {
	const char *name;
	size_t size;
};

static const struct mscratch_type mscratch_types[] = {
	{ "64k", SZ_64K },
	{ "1m", SZ_1M },
	{ "64m", SZ_64M },
};

/**
 * enum mscratch_activity - what the device does by itself
 * @MSCRATCH_STOPPED: nothing, and it starts nothing
 * @MSCRATCH_QUIET: nothing, a DMA that is started waits
 * @MSCRATCH_RUNNING: DMA
 */
enum mscratch_activity {
	MSCRATCH_STOPPED,
	MSCRATCH_QUIET,
	MSCRATCH_RUNNING,
};

/**
 * struct mscratch_dma - the registers of the DMA engine
 * @iova: DMA_IOVA
 * @offset: DMA_OFFSET
 * @length: DMA_LENGTH
 * @count: DMA_COUNT
 * @control: DMA_CONTROL
 * @status: DMA_STATUS
 * @error: DMA_ERROR
 */
struct mscratch_dma {
	u64 iova;
	u64 offset;
	u64 length;
	u64 count;
	u32 control;
	u32 status;
	u32 error;
};

/* The same in the stream, behind the scratch memory */
struct mscratch_saved {
	__le64 iova;
	__le64 offset;
	__le64 length;
	__le64 count;
	__le32 control;
	__le32 status;
	__le32 error;
	__le32 reserved;
};

/**
 * struct mscratch - a device
 * @host: what it is to the host
 * @type: of what type it is
 * @migration: its migration, or NULL
 * @scratch: the scratch memory
 * @pages: its size in pages
 * @dirty: pages of it that are to be sent
 * @id: number of the device, for its mappings
 * @mapping: where userspace's mappings of @scratch are found, once there is one
 * @map_lock: guards @mapped
 * @mapped: pages that userspace can write without being seen, by a mapping;
 *	those that it can are dirty as well while the device runs
 * @open_lock: guards @opens
 * @opens: open file descriptors
 * @regs_lock: guards @config, @dma, @activity, @waits, @busy, @regs_dirty
 * @config: configuration space
 * @dma: registers
 * @activity: what it does by itself
 * @waits: a DMA was started that begins when the device runs
 * @busy: one is under way
 * @regs_dirty: @dma is to be sent
 * @section: where the registers are in what migrates
 * @dma_work: does the DMA with @job
 * @job: the registers when it was started; belongs to @dma_work while BUSY
 * @idle: for those who wait until a DMA has ended
 * @cancel: DMA has to end at once
 * @worker_lock: guards @worker
 * @worker: the thread that does @dma_work, while it does
 * @pin_lock: held while pages of the guest are pinned; guards what follows
 * @hold_until: in jiffies, no pages are pinned before
 * @hold: @hold_until is in force
 * @irq_lock: guards @msi
 * @msi: what the interrupt signals, or NULL
 */
struct mscratch {
	struct mscratch_host host;
	const struct mscratch_type *type;
	struct vfio_migration *migration;
	void *scratch;
	unsigned int pages;
	unsigned long *dirty;

	int id;
	struct address_space *mapping;
	struct mutex map_lock;	/* guards mapped */
	unsigned long *mapped;

	struct mutex open_lock;	/* guards opens */
	unsigned int opens;

	struct mutex regs_lock;	/* guards what follows */
	u8 config[MSCRATCH_CONFIG_SIZE];
	struct mscratch_dma dma;
	enum mscratch_activity activity;
	bool waits;
	bool busy;
	bool regs_dirty;

	struct vfio_migration_section section;

	struct work_struct dma_work;
	struct mscratch_dma job;
	wait_queue_head_t idle;
	bool cancel;
	spinlock_t worker_lock;	/* guards worker */
	struct task_struct *worker;

	struct mutex pin_lock;	/* held while pages are pinned */
	unsigned long hold_until;
	bool hold;

	struct mutex irq_lock;	/* guards msi */
	struct eventfd_ctx *msi;
};

static DEFINE_IDA(mscratch_ids);

/* For DMA.  In sysfs, as no control group is charged for what is done there. */
static struct workqueue_struct *mscratch_workqueue;

/* Scratch memory that all devices may still take */
static DEFINE_MUTEX(mscratch_memory_lock);
static u64 mscratch_memory_left;

/*
 * The DMA engine
 */

static void mscratch_mark_dirty(struct mscratch *ms, u64 offset, u64 len)
{
	unsigned long page;

	/* The data before the bits, see mscratch_next() */
	smp_mb__before_atomic();
	for (page = offset >> PAGE_SHIFT; page <= (offset + len - 1) >> PAGE_SHIFT;
	     page++)
		set_bit(page, ms->dirty);
}

static void mscratch_interrupt(struct mscratch *ms)
{
	mutex_lock(&ms->irq_lock);
	if (ms->msi)
		vfm_eventfd_signal(ms->msi);
	mutex_unlock(&ms->irq_lock);
}

/* Copy between the scratch memory and pages of the guest that are pinned. */
static int mscratch_copy_pages(struct page **pages, int npage,
			       unsigned int in_page, u8 *scratch, size_t len,
			       bool to_guest)
{
	int i;

	for (i = 0; i < npage; i++) {
		size_t n = min_t(size_t, len, PAGE_SIZE - in_page);
		u8 *guest;

		/* What the guest calls memory may be another device's */
		if (PageReserved(pages[i]) && !is_zero_pfn(page_to_pfn(pages[i])))
			return -EFAULT;

		guest = vfm_kmap(pages[i]);
		if (to_guest)
			memcpy(guest + in_page, scratch, n);
		else
			memcpy(scratch, guest + in_page, n);
		vfm_kunmap(pages[i], guest);
		scratch += n;
		len -= n;
		in_page = 0;
	}

	return 0;
}

/*
 * One step of DMA by pinned pages.  Pinning tells type1 that the pages are
 * dirty.  Returns the number of bytes, 0 to be called again, or an error.
 */
static ssize_t mscratch_dma_pin(struct mscratch *ms, u64 iova, u64 offset,
				u64 length, bool to_guest)
{
	struct page *pages[MSCRATCH_HOST_PAGES];
	unsigned int in_page = offset_in_page(iova);
	size_t len = min_t(u64, length, MSCRATCH_HOST_PAGES * PAGE_SIZE - in_page);
	int npage = DIV_ROUND_UP(in_page + len, PAGE_SIZE);
	int ret;

	mutex_lock(&ms->pin_lock);
	if (ms->hold && time_before(jiffies, ms->hold_until)) {
		mutex_unlock(&ms->pin_lock);
		schedule_timeout_uninterruptible(1);
		return 0;
	}
	ms->hold = false;

	ret = mscratch_host_pin(&ms->host, iova, npage,
				to_guest ? IOMMU_WRITE : IOMMU_READ, pages);
	if (!ret) {
		ret = mscratch_copy_pages(pages, npage, in_page,
					  ms->scratch + offset, len, to_guest);
		mscratch_host_unpin(&ms->host, iova, npage);
	}
	mutex_unlock(&ms->pin_lock);

	return ret ?: len;
}

/* One step of DMA by vfio_dma_rw(), which tells type1 what is dirty. */
static ssize_t mscratch_dma_rw(struct mscratch *ms, u64 iova, u64 offset,
			       u64 length, bool to_guest)
{
	size_t len = min_t(u64, length, MSCRATCH_DMA_CHUNK);
	int ret;

	ret = mscratch_host_rw(&ms->host, iova, ms->scratch + offset, len, to_guest);

	return ret ?: len;
}

static int mscratch_dma(struct mscratch *ms, const struct mscratch_dma *job)
{
	bool to_guest = job->control & MSCRATCH_DMA_TO_GUEST;
	u64 size = ms->type->size;
	u64 done = 0;

	if (!job->length || job->offset > size ||
	    job->length > size - job->offset ||
	    job->iova + job->length - 1 < job->iova)
		return -EINVAL;

	while (done < job->length) {
		u64 left = job->length - done;
		ssize_t n;

		if (READ_ONCE(ms->cancel))
			return -ECANCELED;
		/* Whoever takes it away wants no DMA from then on */
		if (!(READ_ONCE(ms->config[PCI_COMMAND]) & PCI_COMMAND_MASTER))
			return -EACCES;

		if (job->control & MSCRATCH_DMA_RW)
			n = mscratch_dma_rw(ms, job->iova + done,
					    job->offset + done, left, to_guest);
		else
			n = mscratch_dma_pin(ms, job->iova + done,
					     job->offset + done, left, to_guest);
		/* After the copy.  When it fails, some of it may be there */
		if (n && !to_guest)
			mscratch_mark_dirty(ms, job->offset + done,
					    n < 0 ? left : n);
		if (n < 0)
			return n;
		done += n;
		cond_resched();
	}

	return 0;
}

static void mscratch_set_worker(struct mscratch *ms, struct task_struct *worker)
{
	spin_lock(&ms->worker_lock);
	ms->worker = worker;
	spin_unlock(&ms->worker_lock);
}

/*
 * The guest's memory may be a page that does not come, because a program keeps
 * it back with userfaultfd for one.  Nobody can kill a thread of the kernel that
 * waits for it, so there is a signal for the end of the DMA.
 */
static void mscratch_dma_work(struct work_struct *work)
{
	struct mscratch *ms = container_of(work, struct mscratch, dma_work);
	bool interrupt = ms->job.control & MSCRATCH_DMA_IRQ;
	int ret;

	allow_kernel_signal(SIGKILL);
	mscratch_set_worker(ms, current);
	ret = mscratch_dma(ms, &ms->job);
	mscratch_set_worker(ms, NULL);
	/* One that came too late is not for what this thread does next */
	disallow_signal(SIGKILL);

	/* Once it is not BUSY any more, the job may be the next one */
	mutex_lock(&ms->regs_lock);
	WRITE_ONCE(ms->busy, false);
	ms->dma.status = ret ? MSCRATCH_STATUS_ERROR : MSCRATCH_STATUS_DONE;
	ms->dma.error = -ret;
	if (!ret)
		ms->dma.count++;
	ms->regs_dirty = true;
	mutex_unlock(&ms->regs_lock);

	wake_up(&ms->idle);
	if (interrupt)
		mscratch_interrupt(ms);
}

/* With what the registers hold now */
static void mscratch_dma_begin(struct mscratch *ms)
{
	lockdep_assert_held(&ms->regs_lock);
	ms->waits = false;
	WRITE_ONCE(ms->busy, true);
	ms->job = ms->dma;
	queue_work(mscratch_workqueue, &ms->dma_work);
}

/*
 * type1 takes pages away from the guest, and insists that none of them is
 * pinned when this returns.  Pages are only pinned under the lock.  It looks
 * again afterwards, so give it the time to get to that.
 */
static void mscratch_unmapped(struct mscratch_host *host)
{
	struct mscratch *ms = container_of(host, struct mscratch, host);

	mutex_lock(&ms->pin_lock);
	ms->hold_until = jiffies + MSCRATCH_UNMAP_HOLD;
	ms->hold = true;
	mutex_unlock(&ms->pin_lock);
}

/*
 * Migration: the callbacks of the library
 *
 * The state is the scratch memory and the registers of the DMA engine.
 */

/* What it was before */
static enum mscratch_activity
mscratch_set_activity(struct mscratch *ms, enum mscratch_activity activity)
{
	enum mscratch_activity before;

	mutex_lock(&ms->regs_lock);
	before = ms->activity;
	ms->activity = activity;
	if (activity == MSCRATCH_RUNNING && ms->waits)
		mscratch_dma_begin(ms);
	mutex_unlock(&ms->regs_lock);

	return before;
}

/*
 * One that is under way is finished, which may need memory of the guest that
 * userspace keeps back: whoever waits for that can be killed, and then the device
 * goes on.
 */
static int mscratch_no_dma(struct mscratch *ms, enum mscratch_activity activity)
{
	enum mscratch_activity before = mscratch_set_activity(ms, activity);

	if (wait_event_killable(ms->idle, !READ_ONCE(ms->busy))) {
		mscratch_set_activity(ms, before);
		return -EINTR;
	}
	/* It has raised its interrupt as well */
	flush_work(&ms->dma_work);

	return 0;
}

/* No new DMA begins.  The registers go on working. */
static int mscratch_quiesce(void *data)
{
	return mscratch_no_dma(data, MSCRATCH_QUIET);
}

/* No new DMA is started. */
static int mscratch_stop(void *data)
{
	return mscratch_no_dma(data, MSCRATCH_STOPPED);
}

static int mscratch_start(void *data)
{
	mscratch_set_activity(data, MSCRATCH_RUNNING);

	return 0;
}

static int mscratch_save_begin(void *data)
{
	struct mscratch *ms = data;

	bitmap_fill(ms->dirty, ms->pages);
	mutex_lock(&ms->regs_lock);
	ms->regs_dirty = true;
	mutex_unlock(&ms->regs_lock);

	return 0;
}

/*
 * These pages are about to be sent.  While the device runs, those that userspace
 * has mapped are taken out of its page tables: it can write them again, but not
 * without being seen.  When it is stopped, nobody writes.
 */
static void mscratch_take_pages(struct mscratch *ms, bool running,
				unsigned int first, unsigned int end)
{
	bool mapped = false;
	unsigned int page;

	/* Whoever maps one for writing meanwhile has marked it before or does later */
	mutex_lock(&ms->map_lock);
	for (page = first; page < end; page++) {
		clear_bit(page, ms->dirty);
		if (running && test_and_clear_bit(page, ms->mapped))
			mapped = true;
	}
	mutex_unlock(&ms->map_lock);
	if (mapped)
		unmap_mapping_range(READ_ONCE(ms->mapping),
				    MSCRATCH_OFFSET(MSCRATCH_MAPS + ms->id) +
				    ((u64)first << PAGE_SHIFT),
				    (u64)(end - first) << PAGE_SHIFT, 1);
	/* The bits before the data, which is copied after this */
	smp_mb();
}

static int mscratch_next(void *data, bool running, u64 *pos, u64 *len)
{
	struct mscratch *ms = data;
	unsigned int first, end;
	bool regs;

	first = find_first_bit(ms->dirty, ms->pages);
	if (first < ms->pages) {
		end = find_next_zero_bit(ms->dirty, ms->pages, first);
		mscratch_take_pages(ms, running, first, end);
		*pos = (u64)first << PAGE_SHIFT;
		*len = (u64)(end - first) << PAGE_SHIFT;
		return 1;
	}
	if (running)
		return 0;

	mutex_lock(&ms->regs_lock);
	regs = ms->regs_dirty;
	ms->regs_dirty = false;
	mutex_unlock(&ms->regs_lock);
	*pos = ms->type->size;
	*len = sizeof(struct mscratch_saved);

	return regs;
}

static int mscratch_pending(void *data, bool running, u64 *bytes)
{
	struct mscratch *ms = data;
	u64 pending = (u64)bitmap_weight(ms->dirty, ms->pages) << PAGE_SHIFT;

	if (!running) {
		mutex_lock(&ms->regs_lock);
		if (ms->regs_dirty)
			pending += sizeof(struct mscratch_saved);
		mutex_unlock(&ms->regs_lock);
	}
	*bytes = pending;

	return 0;
}

/* The registers, always whole: the scratch memory is the library's business. */
static int mscratch_save(void *data, u64 pos, void *buf, size_t len)
{
	struct mscratch *ms = data;
	struct mscratch_saved *saved = buf;

	mutex_lock(&ms->regs_lock);
	saved->iova = cpu_to_le64(ms->dma.iova);
	saved->offset = cpu_to_le64(ms->dma.offset);
	saved->length = cpu_to_le64(ms->dma.length);
	saved->count = cpu_to_le64(ms->dma.count);
	saved->control = cpu_to_le32(ms->dma.control |
				     (ms->waits ? MSCRATCH_DMA_START : 0));
	saved->status = cpu_to_le32(ms->dma.status);
	saved->error = cpu_to_le32(ms->dma.error);
	saved->reserved = 0;
	mutex_unlock(&ms->regs_lock);

	return 0;
}

/*
 * Any program can write a stream whose checksum is right.  The registers of the
 * next DMA may hold anything, as they are checked when it is started.  A DMA is
 * under way only if it waits to begin.
 */
static int mscratch_load(void *data, u64 pos, const void *buf, size_t len)
{
	struct mscratch *ms = data;
	const struct mscratch_saved *loaded = buf;
	u32 control = le32_to_cpu(loaded->control);
	u32 status = le32_to_cpu(loaded->status);
	bool waits = control & MSCRATCH_DMA_START;
	bool busy = status == MSCRATCH_STATUS_BUSY;

	if ((control & ~MSCRATCH_DMA_CONTROL_MASK) ||
	    status > MSCRATCH_STATUS_ERROR || waits != busy || loaded->reserved)
		return -EINVAL;

	mutex_lock(&ms->regs_lock);
	ms->dma.iova = le64_to_cpu(loaded->iova);
	ms->dma.offset = le64_to_cpu(loaded->offset);
	ms->dma.length = le64_to_cpu(loaded->length);
	ms->dma.count = le64_to_cpu(loaded->count);
	ms->dma.control = control & ~MSCRATCH_DMA_START;
	ms->dma.status = status;
	ms->waits = waits;
	ms->dma.error = le32_to_cpu(loaded->error);
	mutex_unlock(&ms->regs_lock);

	return 0;
}

/* One that is under way ends where it is, if what it waits for can be killed */
static void mscratch_cancel_dma(struct mscratch *ms)
{
	WRITE_ONCE(ms->cancel, true);
	spin_lock(&ms->worker_lock);
	if (ms->worker)
		send_sig(SIGKILL, ms->worker, 1);
	spin_unlock(&ms->worker_lock);
	flush_work(&ms->dma_work);
	WRITE_ONCE(ms->cancel, false);
}

/* As after power-on; interrupts stay with whoever set them up. */
static void mscratch_reset(void *data)
{
	static const u8 config[MSCRATCH_CONFIG_SIZE];
	struct mscratch *ms = data;
	u8 *c = ms->config;

	mscratch_set_activity(ms, MSCRATCH_STOPPED);
	mscratch_cancel_dma(ms);

	memset(ms->scratch, 0, ms->type->size);
	bitmap_fill(ms->dirty, ms->pages);

	mutex_lock(&ms->regs_lock);
	memcpy(c, config, sizeof(config));
	put_unaligned_le16(MSCRATCH_VENDOR_ID, c + PCI_VENDOR_ID);
	put_unaligned_le16(MSCRATCH_DEVICE_ID, c + PCI_DEVICE_ID);
	put_unaligned_le16(MSCRATCH_VENDOR_ID, c + PCI_SUBSYSTEM_VENDOR_ID);
	put_unaligned_le16(MSCRATCH_DEVICE_ID, c + PCI_SUBSYSTEM_ID);
	put_unaligned_le16(PCI_STATUS_CAP_LIST, c + PCI_STATUS);
	put_unaligned_le16(PCI_CLASS_OTHERS << 8, c + PCI_CLASS_DEVICE);
	put_unaligned_le32(PCI_BASE_ADDRESS_MEM_PREFETCH, c + PCI_BASE_ADDRESS_2);
	c[PCI_CAPABILITY_LIST] = MSCRATCH_MSI_CAP;
	c[MSCRATCH_MSI_CAP + PCI_CAP_LIST_ID] = PCI_CAP_ID_MSI;
	put_unaligned_le16(PCI_MSI_FLAGS_64BIT,
			   c + MSCRATCH_MSI_CAP + PCI_MSI_FLAGS);
	memset(&ms->dma, 0, sizeof(ms->dma));
	ms->waits = false;
	ms->regs_dirty = true;
	ms->activity = MSCRATCH_RUNNING;
	mutex_unlock(&ms->regs_lock);
}

static const struct vfio_migration_driver_ops mscratch_migration_ops = {
	.stop		= mscratch_stop,
	.quiesce	= mscratch_quiesce,
	.start		= mscratch_start,
	.save		= mscratch_save,
	.load		= mscratch_load,
	.save_begin	= mscratch_save_begin,
	.next		= mscratch_next,
	.pending	= mscratch_pending,
	.reset		= mscratch_reset,
};

/*
 * Regions
 */

/* Which bits of a byte of the configuration space can be written */
static u8 mscratch_config_mask(const struct mscratch *ms, unsigned int at)
{
	u32 bar = 0;

	switch (at) {
	case PCI_COMMAND:
		return PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	case PCI_COMMAND + 1:
		return PCI_COMMAND_INTX_DISABLE >> 8;
	case PCI_CACHE_LINE_SIZE:
	case PCI_LATENCY_TIMER:
	case PCI_INTERRUPT_LINE:
		return 0xff;
	case PCI_BASE_ADDRESS_0 ... PCI_BASE_ADDRESS_0 + 3:
		bar = ~(MSCRATCH_BAR0_SIZE - 1);
		return bar >> 8 * (at - PCI_BASE_ADDRESS_0);
	case PCI_BASE_ADDRESS_2 ... PCI_BASE_ADDRESS_2 + 3:
		bar = ~(ms->type->size - 1);
		return bar >> 8 * (at - PCI_BASE_ADDRESS_2);
	case MSCRATCH_MSI_CAP + PCI_MSI_FLAGS:
		return PCI_MSI_FLAGS_ENABLE;
	case MSCRATCH_MSI_CAP + PCI_MSI_ADDRESS_LO:
		return 0xfc;
	case MSCRATCH_MSI_CAP + PCI_MSI_ADDRESS_LO + 1 ...
	     MSCRATCH_MSI_CAP + PCI_MSI_DATA_64 + 1:
		return 0xff;
	default:
		return 0;
	}
}

static int mscratch_config(struct mscratch *ms, u64 pos, char __user *buf,
			   size_t count, bool write)
{
	u8 bytes[MSCRATCH_CONFIG_SIZE];
	size_t i;

	if (pos >= sizeof(bytes) || count > sizeof(bytes) - pos)
		return -EINVAL;
	if (write && copy_from_user(bytes, buf, count))
		return -EFAULT;

	mutex_lock(&ms->regs_lock);
	for (i = 0; write && i < count; i++) {
		u8 mask = mscratch_config_mask(ms, pos + i);

		ms->config[pos + i] = (ms->config[pos + i] & ~mask) |
				      (bytes[i] & mask);
	}
	memcpy(bytes, ms->config + pos, count);
	mutex_unlock(&ms->regs_lock);

	return !write && copy_to_user(buf, bytes, count) ? -EFAULT : 0;
}

static u64 mscratch_read_reg(struct mscratch *ms, u64 reg)
{
	const struct mscratch_dma *dma = &ms->dma;

	switch (reg) {
	case MSCRATCH_REG_MAGIC:
		return MSCRATCH_MAGIC | (u64)MSCRATCH_VERSION << 32;
	case MSCRATCH_REG_SIZE:
		return ms->type->size;
	case MSCRATCH_REG_DMA_IOVA:
		return dma->iova;
	case MSCRATCH_REG_DMA_OFFSET:
		return dma->offset;
	case MSCRATCH_REG_DMA_LENGTH:
		return dma->length;
	case MSCRATCH_REG_DMA_CONTROL:
		return dma->control | (u64)dma->status << 32;
	case MSCRATCH_REG_DMA_COUNT:
		return dma->count;
	case MSCRATCH_REG_DMA_ERROR:
		return dma->error;
	default:
		return 0;
	}
}

static void mscratch_write_control(struct mscratch *ms, u32 value)
{
	struct mscratch_dma *dma = &ms->dma;

	dma->control = value & MSCRATCH_DMA_CONTROL_MASK & ~MSCRATCH_DMA_START;
	if (!(value & MSCRATCH_DMA_START) ||
	    ms->activity == MSCRATCH_STOPPED ||
	    dma->status == MSCRATCH_STATUS_BUSY)
		return;

	dma->status = MSCRATCH_STATUS_BUSY;
	dma->error = 0;
	ms->waits = ms->activity == MSCRATCH_QUIET;
	if (!ms->waits)
		mscratch_dma_begin(ms);
}

/* The bits of @mask, of the 64 at @reg */
static void mscratch_write_reg(struct mscratch *ms, u64 reg, u64 value,
			       u64 mask)
{
	u64 *to;

	switch (reg) {
	case MSCRATCH_REG_DMA_IOVA:
		to = &ms->dma.iova;
		break;
	case MSCRATCH_REG_DMA_OFFSET:
		to = &ms->dma.offset;
		break;
	case MSCRATCH_REG_DMA_LENGTH:
		to = &ms->dma.length;
		break;
	case MSCRATCH_REG_DMA_CONTROL:
		if (mask & U32_MAX)
			mscratch_write_control(ms, value);
		return;
	default:
		return;
	}
	*to = (*to & ~mask) | (value & mask);
}

static int mscratch_registers(struct mscratch *ms, u64 pos, char __user *buf,
			      size_t count, bool write)
{
	u64 reg = ALIGN_DOWN(pos, sizeof(u64)), mask = U64_MAX;
	unsigned int shift = 8 * (pos - reg);
	__le32 low;
	__le64 all;

	if (pos >= MSCRATCH_BAR0_SIZE ||
	    (count != sizeof(low) && count != sizeof(all)) ||
	    !IS_ALIGNED(pos, count))
		return -EINVAL;
	/* Two registers of 32 bits side by side */
	if (count == sizeof(all) &&
	    (reg == MSCRATCH_REG_MAGIC || reg == MSCRATCH_REG_DMA_CONTROL ||
	     reg == MSCRATCH_REG_DMA_ERROR))
		return -EINVAL;

	if (write) {
		if (copy_from_user(count == sizeof(all) ? (void *)&all :
				   (void *)&low, buf, count))
			return -EFAULT;
		if (count == sizeof(low)) {
			all = cpu_to_le64((u64)le32_to_cpu(low) << shift);
			mask = (u64)U32_MAX << shift;
		}
		mutex_lock(&ms->regs_lock);
		mscratch_write_reg(ms, reg, le64_to_cpu(all), mask);
		ms->regs_dirty = true;
		mutex_unlock(&ms->regs_lock);
		return 0;
	}

	mutex_lock(&ms->regs_lock);
	all = cpu_to_le64(mscratch_read_reg(ms, reg) >> shift);
	mutex_unlock(&ms->regs_lock);

	/* Little endian: the low half comes first */
	return copy_to_user(buf, &all, count) ? -EFAULT : 0;
}

static int mscratch_memory(struct mscratch *ms, u64 pos, char __user *buf,
			   size_t count, bool write)
{
	size_t size = ms->type->size;
	int ret = 0;

	if (pos >= size || count > size - pos)
		return -EINVAL;
	if (!write)
		return copy_to_user(buf, ms->scratch + pos, count) ? -EFAULT : 0;

	if (copy_from_user(ms->scratch + pos, buf, count))
		ret = -EFAULT;
	/* Also if it failed, as some of it may have been written */
	mscratch_mark_dirty(ms, pos, count);

	return ret;
}

static ssize_t mscratch_access(struct mscratch *ms, char __user *buf,
			       size_t count, loff_t *ppos, bool write)
{
	u64 pos = *ppos & MSCRATCH_OFFSET_MASK;
	int ret;

	if (*ppos < 0)
		return -EINVAL;
	if (!count)
		return 0;

	switch (*ppos >> MSCRATCH_INDEX_SHIFT) {
	case VFIO_PCI_CONFIG_REGION_INDEX:
		ret = mscratch_config(ms, pos, buf, count, write);
		break;
	case VFIO_PCI_BAR0_REGION_INDEX:
		ret = mscratch_registers(ms, pos, buf, count, write);
		break;
	case VFIO_PCI_BAR2_REGION_INDEX:
		ret = mscratch_memory(ms, pos, buf, count, write);
		break;
	case MSCRATCH_MIGRATION_REGION:
		if (!ms->migration)
			return -EINVAL;
		if (write)
			return vfio_migration_region_write(ms->migration, buf, count,
							   ppos);
		return vfio_migration_region_read(ms->migration, buf, count, ppos);
	default:
		return -EINVAL;
	}
	if (ret)
		return ret;
	*ppos += count;

	return count;
}

/* From now on userspace writes this page without being seen. */
static void mscratch_mark_mapped(struct mscratch *ms, u64 pos)
{
	lockdep_assert_held(&ms->map_lock);
	set_bit(pos >> PAGE_SHIFT, ms->mapped);
	set_bit(pos >> PAGE_SHIFT, ms->dirty);
}

/*
 * Marked and mapped under one lock: between the two, the marks could be taken
 * off and the page tables cleared.
 */
static vm_fault_t mscratch_fault(struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;
	struct mscratch *ms = vma->vm_private_data;
	u64 pos = ((u64)vmf->pgoff << PAGE_SHIFT) & MSCRATCH_OFFSET_MASK;
	pgprot_t prot = vma->vm_page_prot;
	vm_fault_t ret;

	if (pos >= ms->type->size)
		return VM_FAULT_SIGBUS;

	mutex_lock(&ms->map_lock);
	if (vmf->flags & FAULT_FLAG_WRITE) {
		mscratch_mark_mapped(ms, pos);
		prot = vfm_vma_page_prot(vma);
	}
	ret = vmf_insert_pfn_prot(vma, vmf->address,
				  vmalloc_to_pfn(ms->scratch + pos), prot);
	mutex_unlock(&ms->map_lock);

	return ret;
}

/* It was read before.  If it is unmapped meanwhile, there is another fault. */
static vm_fault_t mscratch_pfn_mkwrite(struct vm_fault *vmf)
{
	struct mscratch *ms = vmf->vma->vm_private_data;
	u64 pos = ((u64)vmf->pgoff << PAGE_SHIFT) & MSCRATCH_OFFSET_MASK;

	mutex_lock(&ms->map_lock);
	mscratch_mark_mapped(ms, pos);
	mutex_unlock(&ms->map_lock);

	return 0;
}

static const struct vm_operations_struct mscratch_vm_ops = {
	.fault		= mscratch_fault,
	.pfn_mkwrite	= mscratch_pfn_mkwrite,
};

static int mscratch_mmap(struct mscratch *ms, struct vm_area_struct *vma)
{
	u64 size = vma->vm_end - vma->vm_start;
	u64 pos = (u64)vma->vm_pgoff << PAGE_SHIFT;
	u64 index = pos >> MSCRATCH_INDEX_SHIFT;

	if (index == MSCRATCH_MIGRATION_REGION && ms->migration)
		return vfio_migration_region_mmap(ms->migration, vma);

	pos &= MSCRATCH_OFFSET_MASK;
	if (index != VFIO_PCI_BAR2_REGION_INDEX ||
	    !(vma->vm_flags & VM_SHARED) || pos >= ms->type->size ||
	    size > ms->type->size - pos)
		return -EINVAL;

	/*
	 * Nobody is to keep these pages beyond the mapping: the next user has
	 * the same.  get_user_pages_fast() goes by the page tables alone.
	 */
	vfm_vm_flags_set(vma, VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP);
	vma->vm_ops = &mscratch_vm_ops;
	vma->vm_private_data = ms;
	vma->vm_pgoff = (MSCRATCH_OFFSET(MSCRATCH_MAPS + ms->id) + pos) >>
			PAGE_SHIFT;
	WRITE_ONCE(ms->mapping, vfm_vma_mapping(vma));

	return 0;
}

/*
 * ioctls
 */

static int mscratch_device_info(struct mscratch *ms, void __user *arg)
{
	size_t minsz = offsetofend(struct vfio_device_info, num_irqs);
	struct vfio_device_info info;

	if (copy_from_user(&info, arg, minsz))
		return -EFAULT;
	if (info.argsz < minsz)
		return -EINVAL;

	info.flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET;
	info.num_regions = ms->migration ? MSCRATCH_NUM_REGIONS : VFIO_PCI_NUM_REGIONS;
	info.num_irqs = VFIO_PCI_MSIX_IRQ_INDEX + 1;

	return copy_to_user(arg, &info, minsz) ? -EFAULT : 0;
}

/* One of PCI's, which have no capabilities */
static int mscratch_region(struct mscratch *ms, struct vfio_region_info *info)
{
	u32 rw = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;

	info->flags = 0;
	info->cap_offset = 0;
	info->size = 0;
	switch (info->index) {
	case VFIO_PCI_CONFIG_REGION_INDEX:
		info->flags = rw;
		info->size = MSCRATCH_CONFIG_SIZE;
		break;
	case VFIO_PCI_BAR0_REGION_INDEX:
		info->flags = rw;
		info->size = MSCRATCH_BAR0_SIZE;
		break;
	case VFIO_PCI_BAR2_REGION_INDEX:
		info->flags = rw | VFIO_REGION_INFO_FLAG_MMAP;
		info->size = ms->type->size;
		break;
	case VFIO_PCI_BAR1_REGION_INDEX:
	case VFIO_PCI_BAR3_REGION_INDEX ... VFIO_PCI_ROM_REGION_INDEX:
	case VFIO_PCI_VGA_REGION_INDEX:
		break;
	default:
		return -EINVAL;
	}
	info->offset = MSCRATCH_OFFSET(info->index);

	return 0;
}

static int mscratch_region_info(struct mscratch *ms, void __user *arg)
{
	size_t minsz = offsetofend(struct vfio_region_info, offset);
	struct vfio_region_info info;
	int ret;

	if (copy_from_user(&info, arg, minsz))
		return -EFAULT;
	if (info.argsz < minsz)
		return -EINVAL;
	if (info.index == MSCRATCH_MIGRATION_REGION && ms->migration)
		return vfio_migration_region_info(ms->migration, arg);

	ret = mscratch_region(ms, &info);
	if (ret)
		return ret;

	return copy_to_user(arg, &info, minsz) ? -EFAULT : 0;
}

static int mscratch_irq_info(void __user *arg)
{
	size_t minsz = offsetofend(struct vfio_irq_info, count);
	struct vfio_irq_info info;

	if (copy_from_user(&info, arg, minsz))
		return -EFAULT;
	if (info.argsz < minsz || info.index > VFIO_PCI_MSIX_IRQ_INDEX)
		return -EINVAL;

	info.flags = 0;
	info.count = 0;
	if (info.index == VFIO_PCI_MSI_IRQ_INDEX) {
		info.flags = VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE;
		info.count = 1;
	}

	return copy_to_user(arg, &info, minsz) ? -EFAULT : 0;
}

static void mscratch_set_msi(struct mscratch *ms, struct eventfd_ctx *msi)
{
	mutex_lock(&ms->irq_lock);
	swap(ms->msi, msi);
	mutex_unlock(&ms->irq_lock);
	if (msi)
		eventfd_ctx_put(msi);
}

static int mscratch_set_irqs(struct mscratch *ms, void __user *arg)
{
	size_t minsz = offsetofend(struct vfio_irq_set, count);
	struct eventfd_ctx *msi = NULL;
	struct vfio_irq_set set;
	size_t size = 0;
	u8 fire = 1;
	s32 fd;
	int ret;

	if (copy_from_user(&set, arg, minsz))
		return -EFAULT;
	ret = vfio_set_irqs_validate_and_prepare(&set, set.index ==
						 VFIO_PCI_MSI_IRQ_INDEX,
						 VFIO_PCI_MSIX_IRQ_INDEX + 1,
						 &size);
	if (ret)
		return ret;
	if ((set.flags & VFIO_IRQ_SET_ACTION_TYPE_MASK) !=
	    VFIO_IRQ_SET_ACTION_TRIGGER)
		return -ENOTTY;

	switch (set.flags & VFIO_IRQ_SET_DATA_TYPE_MASK) {
	case VFIO_IRQ_SET_DATA_NONE:
		if (!set.count)
			mscratch_set_msi(ms, NULL);
		else
			mscratch_interrupt(ms);
		return 0;
	case VFIO_IRQ_SET_DATA_BOOL:
		if (size && copy_from_user(&fire, arg + minsz, sizeof(fire)))
			return -EFAULT;
		if (size && fire)
			mscratch_interrupt(ms);
		return 0;
	case VFIO_IRQ_SET_DATA_EVENTFD:
		if (!size)
			return -EINVAL;
		if (copy_from_user(&fd, arg + minsz, sizeof(fd)))
			return -EFAULT;
		if (fd >= 0) {
			msi = eventfd_ctx_fdget(fd);
			if (IS_ERR(msi))
				return PTR_ERR(msi);
		} else if (fd != -1) {
			return -EINVAL;
		}
		mscratch_set_msi(ms, msi);
		return 0;
	default:
		return -EINVAL;
	}
}

/* Where the core of VFIO takes care of one itself, it does not come here */
static long mscratch_ioctl(struct mscratch *ms, unsigned int cmd,
			   unsigned long arg)
{
	void __user *user = (void __user *)arg;

	switch (cmd) {
	case VFIO_DEVICE_GET_INFO:
		return mscratch_device_info(ms, user);
	case VFIO_DEVICE_GET_REGION_INFO:
		return mscratch_region_info(ms, user);
	case VFIO_DEVICE_GET_IRQ_INFO:
		return mscratch_irq_info(user);
	case VFIO_DEVICE_SET_IRQS:
		return mscratch_set_irqs(ms, user);
	case VFIO_DEVICE_FEATURE:
		if (!ms->migration)
			return -ENOTTY;
		return vfio_migration_feature(ms->migration, user);
	case VFIO_DEVICE_RESET:
		if (ms->migration)
			return vfio_migration_reset(ms->migration);
		if (mutex_lock_killable(&ms->open_lock))
			return -EINTR;
		mscratch_reset(ms);
		mutex_unlock(&ms->open_lock);
		return 0;
	default:
		return -ENOTTY;
	}
}

/*
 * Open and close
 */

static void mscratch_last_close(struct mscratch *ms)
{
	/* All DMA has ended with the reset */
	mscratch_host_close(&ms->host);
	mscratch_set_msi(ms, NULL);
	bitmap_zero(ms->mapped, ms->pages);
}

static int mscratch_open(struct mscratch *ms)
{
	int ret = 0;

	/* mdev has no reference to this module, and would wait at its end */
	if (!try_module_get(THIS_MODULE))
		return -ENODEV;

	if (mutex_lock_killable(&ms->open_lock)) {
		module_put(THIS_MODULE);
		return -EINTR;
	}
	if (ms->migration)
		ret = vfio_migration_open(ms->migration);
	if (ret)
		goto out;
	if (!ms->opens)
		ret = mscratch_host_open(&ms->host);
	if (ret) {
		if (ms->migration)
			vfio_migration_release(ms->migration);
		goto out;
	}
	ms->opens++;
out:
	mutex_unlock(&ms->open_lock);
	if (ret)
		module_put(THIS_MODULE);

	return ret;
}

static void mscratch_release(struct mscratch *ms)
{
	mutex_lock(&ms->open_lock);
	/* The library resets the device with the last one */
	if (ms->migration)
		vfio_migration_release(ms->migration);
	else if (ms->opens == 1)
		mscratch_reset(ms);
	if (!--ms->opens)
		mscratch_last_close(ms);
	mutex_unlock(&ms->open_lock);
	/* The device is still there, and mscratch_exit() waits for it */
	module_put(THIS_MODULE);
}

/*
 * Creation and removal
 */

static bool mscratch_take_memory(size_t size)
{
	bool taken = false;

	mutex_lock(&mscratch_memory_lock);
	if (size <= mscratch_memory_left) {
		mscratch_memory_left -= size;
		taken = true;
	}
	mutex_unlock(&mscratch_memory_lock);

	return taken;
}

static void mscratch_give_memory(size_t size)
{
	mutex_lock(&mscratch_memory_lock);
	mscratch_memory_left += size;
	mutex_unlock(&mscratch_memory_lock);
}

static int mscratch_create_migration(struct mscratch *ms)
{
	struct vfio_migration_params params = {
		.ops		= &mscratch_migration_ops,
		.data		= ms,
		.type		= "mscratch",
		.version	= MSCRATCH_VERSION,
		.offset		= MSCRATCH_OFFSET(MSCRATCH_MIGRATION_REGION),
		.state_size	= ms->type->size + sizeof(struct mscratch_saved),
		.memory		= ms->scratch,
		.memory_size	= ms->type->size,
		.sections	= &ms->section,
		.nr_sections	= 1,
		.window		= READ_ONCE(window),
		.mmap		= READ_ONCE(mmap),
	};
	struct vfio_migration *m;

	ms->section.pos = ms->type->size;
	ms->section.len = sizeof(struct mscratch_saved);
	m = vfio_migration_create(mscratch_host_dev(&ms->host), &params);
	if (IS_ERR(m))
		return PTR_ERR(m);
	ms->migration = m;

	return 0;
}

static void mscratch_teardown(struct mscratch *ms)
{
	vfio_migration_destroy(ms->migration);
	ida_free(&mscratch_ids, ms->id);
	bitmap_free(ms->mapped);
	bitmap_free(ms->dirty);
	vfree(ms->scratch);
	mscratch_give_memory(ms->type->size);
	mutex_destroy(&ms->map_lock);
	mutex_destroy(&ms->irq_lock);
	mutex_destroy(&ms->pin_lock);
	mutex_destroy(&ms->regs_lock);
	mutex_destroy(&ms->open_lock);
}

/* @ms is zeroed, but for the host's part.  Nothing is left of one that fails. */
static int mscratch_setup(struct mscratch *ms, const struct mscratch_type *type)
{
	int ret = -ENOMEM;

	if (!mscratch_take_memory(type->size))
		return -ENOSPC;
	ms->id = ida_alloc_max(&mscratch_ids, MSCRATCH_MAX_ID, GFP_KERNEL);
	if (ms->id < 0) {
		mscratch_give_memory(type->size);
		return ms->id;
	}

	ms->host.unmapped = mscratch_unmapped;
	ms->type = type;
	ms->pages = type->size >> PAGE_SHIFT;
	mutex_init(&ms->map_lock);
	mutex_init(&ms->open_lock);
	mutex_init(&ms->regs_lock);
	mutex_init(&ms->pin_lock);
	mutex_init(&ms->irq_lock);
	INIT_WORK(&ms->dma_work, mscratch_dma_work);
	init_waitqueue_head(&ms->idle);
	spin_lock_init(&ms->worker_lock);
	ms->scratch = vmalloc_user(type->size);
	ms->dirty = bitmap_zalloc(ms->pages, GFP_KERNEL);
	ms->mapped = bitmap_zalloc(ms->pages, GFP_KERNEL);
	if (!ms->scratch || !ms->dirty || !ms->mapped)
		goto err;
	mscratch_reset(ms);

	if (READ_ONCE(migration)) {
		ret = mscratch_create_migration(ms);
		if (ret)
			goto err;
	}

	return 0;

err:
	mscratch_teardown(ms);

	return ret;
}

/* How many more of them there is memory for */
static unsigned int mscratch_available(const struct mscratch_type *type)
{
	u64 left;

	mutex_lock(&mscratch_memory_lock);
	left = mscratch_memory_left;
	mutex_unlock(&mscratch_memory_lock);

	return div_u64(left, type->size);
}

static ssize_t mscratch_describe(const struct mscratch_type *type, char *buf)
{
	return sysfs_emit(buf, "%zu KiB of scratch memory, with DMA\n",
			  type->size / SZ_1K);
}

#include "mscratch_mdev.h"

/* The parent is a device of a class of its own: the types get its name */
static struct class *mscratch_class;
static struct device *mscratch_parent;

static int __init mscratch_init(void)
{
	int ret;

	mscratch_memory_left = (u64)max_mbytes * SZ_1M;

	mscratch_workqueue = alloc_workqueue("mscratch", WQ_UNBOUND | WQ_SYSFS,
					     0);
	if (!mscratch_workqueue)
		return -ENOMEM;

	mscratch_class = vfm_class_create("mscratch");
	if (IS_ERR(mscratch_class)) {
		ret = PTR_ERR(mscratch_class);
		goto err_workqueue;
	}

	mscratch_parent = device_create(mscratch_class, NULL, 0, NULL,
					"mscratch");
	if (IS_ERR(mscratch_parent)) {
		ret = PTR_ERR(mscratch_parent);
		goto err_class;
	}

	ret = mscratch_mdev_register(mscratch_parent);
	if (ret)
		goto err_device;

	return 0;

err_device:
	device_unregister(mscratch_parent);
err_class:
	class_destroy(mscratch_class);
err_workqueue:
	destroy_workqueue(mscratch_workqueue);

	return ret;
}

static void __exit mscratch_exit(void)
{
	mscratch_mdev_unregister(mscratch_parent);
	device_unregister(mscratch_parent);
	class_destroy(mscratch_class);
	destroy_workqueue(mscratch_workqueue);
}

module_init(mscratch_init);
module_exit(mscratch_exit);

MODULE_LICENSE("GPL v2");
MODULE_DESCRIPTION("A mediated PCI device that can be migrated");
