// SPDX-License-Identifier: GPL-2.0-only
/*
 * A driver for the VFIO migration library that does what it is told: each of
 * its callbacks can fail at each call, and it can be made with each parameter
 * that is wrong.  There is no VFIO device behind it, see the header.
 */

#include <linux/atomic.h>
#include <linux/bitmap.h>
#include <linux/device.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/limits.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/vfio.h>
#include <linux/vfio_migration.h>
#include <linux/vmalloc.h>
#include <linux/wait.h>

#include "vfio_test_migration.h"

/* What a bit of the dirty bitmap stands for */
#define BLOCK	512

/**
 * struct test_device - a device
 * @m: its migration, NULL before it is made
 * @dev: what names it
 * @config: how it was made
 * @ops: the callbacks that it has
 * @section: its section
 * @state: the state
 * @dirty: blocks of it that are to be sent
 * @blocks: how many blocks there are
 * @wait: for a callback that is held, and for the page that is mapped
 * @waiters: who wait for the page
 * @given: it is there
 * @lost: how often it is to be gone before it is used
 * @lock: guards what follows, and @dirty
 * @faults: what each callback does
 * @made: what was called
 * @saving: between save_begin() and save_end()
 */
struct test_device {
	struct vfio_migration *m;
	struct device *dev;
	struct vfio_test_migration config;
	struct vfio_migration_driver_ops ops;
	struct vfio_migration_section section;
	u8 *state;
	unsigned long *dirty;
	unsigned int blocks;

	wait_queue_head_t wait;
	atomic_t waiters;
	bool given;
	atomic_t lost;
	spinlock_t lock;	/* guards what follows */
	struct vfio_test_failure faults[TEST_CALLBACKS];
	struct vfio_test_calls_made made;
	bool saving;
};

/* A callback was called: is it to fail? */
static int test_called(struct test_device *t, unsigned int callback)
{
	struct vfio_test_failure *fault = &t->faults[callback];
	bool reset;
	int ret = 0;

	spin_lock(&t->lock);
	t->made.calls[callback]++;
	reset = fault->reset;
	if (fault->after)
		fault->after--;
	else
		ret = fault->error;
	if (reset)
		fault->reset = 0;
	spin_unlock(&t->lock);
	/* The library's lock is held, which this must not wait for */
	if (reset)
		vfio_migration_reset_done(t->m);
	if (wait_event_killable(t->wait, !READ_ONCE(fault->hold)))
		return -EINTR;

	return ret;
}

/* The callback came although the device is, or is not, what it should be */
static void test_expect(struct test_device *t, bool right)
{
	if (!right)
		t->made.wrong++;
}

static int test_stop(void *data)
{
	struct test_device *t = data;
	int ret = test_called(t, TEST_STOP);

	if (!ret)
		t->made.running = false;

	return ret;
}

static int test_quiesce(void *data)
{
	struct test_device *t = data;
	int ret = test_called(t, TEST_QUIESCE);

	if (!ret)
		t->made.running = true;

	return ret;
}

static int test_start(void *data)
{
	struct test_device *t = data;
	int ret = test_called(t, TEST_START);

	if (!ret)
		t->made.running = true;

	return ret;
}

static int test_save_begin(void *data)
{
	struct test_device *t = data;
	int ret = test_called(t, TEST_SAVE_BEGIN);

	test_expect(t, !t->saving);
	if (ret)
		return ret;
	t->saving = true;
	spin_lock(&t->lock);
	bitmap_fill(t->dirty, t->blocks);
	spin_unlock(&t->lock);

	return 0;
}

static void test_save_end(void *data)
{
	struct test_device *t = data;

	test_called(t, TEST_SAVE_END);
	test_expect(t, t->saving);
	t->saving = false;
}

/* While the device runs, all but the section */
static unsigned int test_blocks(const struct test_device *t, bool running)
{
	return running ? t->config.section_pos / BLOCK : t->blocks;
}

static int test_next(void *data, bool running, u64 *pos, u64 *len)
{
	struct test_device *t = data;
	unsigned int blocks = test_blocks(t, running), first, end;
	int ret = test_called(t, TEST_NEXT);

	test_expect(t, t->saving);
	test_expect(t, running == t->made.running);
	if (ret)
		return ret;

	spin_lock(&t->lock);
	first = find_first_bit(t->dirty, blocks);
	end = find_next_zero_bit(t->dirty, blocks, first);
	bitmap_clear(t->dirty, first, end - first);
	spin_unlock(&t->lock);
	*pos = (u64)first * BLOCK;
	*len = min((u64)end * BLOCK, t->config.state_size) - *pos;

	return first < blocks;
}

static int test_pending(void *data, bool running, u64 *bytes)
{
	struct test_device *t = data;
	int ret = test_called(t, TEST_PENDING);

	if (ret)
		return ret;
	spin_lock(&t->lock);
	*bytes = (u64)bitmap_weight(t->dirty, test_blocks(t, running)) * BLOCK;
	spin_unlock(&t->lock);

	return 0;
}

/* How much of the section is asked for */
static void test_section(struct test_device *t, u64 pos, size_t len)
{
	u64 at = t->config.section_pos;

	if (at && pos + len > at && pos < at + t->config.section_len)
		t->made.smallest = min_t(u32, t->made.smallest,
					 pos == at ? len : 0);
}

static int test_save(void *data, u64 pos, void *buf, size_t len)
{
	struct test_device *t = data;
	int ret = test_called(t, TEST_SAVE);

	test_expect(t, pos >= t->config.memory_size);
	test_expect(t, len && pos + len <= t->config.state_size);
	if (ret)
		return ret;
	test_section(t, pos, len);
	memcpy(buf, t->state + pos, len);

	return 0;
}

static int test_load_begin(void *data, u32 version, u64 size)
{
	struct test_device *t = data;
	int ret = test_called(t, TEST_LOAD_BEGIN);

	t->made.version = version;
	t->made.size = size;
	test_expect(t, !t->made.running);
	if (ret)
		return ret;

	return version < t->config.oldest || version > t->config.version ?
	       -EINVAL : 0;
}

static int test_load(void *data, u64 pos, const void *buf, size_t len)
{
	struct test_device *t = data;
	int ret = test_called(t, TEST_LOAD);

	test_expect(t, pos >= t->config.memory_size);
	test_expect(t, len && pos + len <= t->config.state_size);
	test_expect(t, !t->made.running);
	if (ret)
		return ret;
	test_section(t, pos, len);
	memcpy(t->state + pos, buf, len);

	return 0;
}

static int test_loaded(void *data)
{
	struct test_device *t = data;

	test_expect(t, !t->made.running);

	return test_called(t, TEST_LOADED);
}

static void test_reset(void *data)
{
	struct test_device *t = data;

	test_called(t, TEST_RESET);
	memset(t->state, 0, t->config.state_size);
	t->made.running = true;
}

static void test_spoil(struct test_device *t,
		       struct vfio_migration_params *params)
{
	static struct vfio_migration_section sections[2];

	switch (t->config.wrong) {
	case TEST_NO_OPS:
		params->ops = NULL;
		break;
	case TEST_NO_STOP:
		t->ops.stop = NULL;
		break;
	case TEST_NO_START:
		t->ops.start = NULL;
		break;
	case TEST_NO_RESET:
		t->ops.reset = NULL;
		break;
	case TEST_SAVE_ALONE:
		t->ops.load = NULL;
		break;
	case TEST_LOAD_ALONE:
		t->ops.save = NULL;
		break;
	case TEST_NEXT_ALONE:
		t->ops.pending = NULL;
		break;
	case TEST_PENDING_ALONE:
		t->ops.next = NULL;
		break;
	case TEST_BEGIN_WITHOUT_NEXT:
		t->ops.next = NULL;
		t->ops.pending = NULL;
		break;
	case TEST_NO_CALLBACK_FOR_THE_REST:
		t->ops.save = NULL;
		t->ops.load = NULL;
		break;
	case TEST_NO_TYPE:
		params->type = NULL;
		break;
	case TEST_EMPTY_TYPE:
		params->type = "";
		break;
	case TEST_LONG_TYPE:
		params->type = "a name that has 32 characters...";
		break;
	case TEST_NO_STATE:
		params->state_size = 0;
		break;
	case TEST_HUGE_STATE:
		params->state_size = S64_MAX;
		break;
	case TEST_MEMORY_BEYOND_THE_STATE:
		params->memory_size = ALIGN(params->state_size + 1, PAGE_SIZE);
		break;
	case TEST_MEMORY_NOT_IN_PAGES:
		params->memory_size--;
		break;
	case TEST_MEMORY_MISSING:
		params->memory = NULL;
		break;
	case TEST_MEMORY_SIZE_MISSING:
		params->memory_size = 0;
		break;
	case TEST_MEMORY_NOT_FROM_VMALLOC:
		params->memory = t;
		break;
	case TEST_OFFSET_NOT_A_PAGE:
		params->offset = 1;
		break;
	case TEST_OFFSET_TOO_HIGH:
		params->offset = ALIGN_DOWN(S64_MAX, PAGE_SIZE);
		break;
	case TEST_WINDOW_TOO_BIG:
		params->window = VFIO_MIGRATION_MAX_WINDOW + 1;
		break;
	case TEST_SECTION_IN_MEMORY:
		t->section.pos = params->memory_size - 1;
		break;
	case TEST_SECTION_BEYOND_THE_STATE:
		t->section.len = params->state_size - t->section.pos + 1;
		break;
	case TEST_SECTION_EMPTY:
		t->section.len = 0;
		break;
	case TEST_SECTIONS_OUT_OF_ORDER:
		sections[0] = t->section;
		sections[1] = t->section;
		params->sections = sections;
		params->nr_sections = 2;
		break;
	case TEST_SECTIONS_TOO_BIG:
		t->section.pos = params->memory_size;
		t->section.len = VFIO_MIGRATION_MAX_SECTIONS + 1;
		params->state_size = params->memory_size + SZ_1M;
		break;
	case TEST_SECTIONS_MISSING:
		params->sections = NULL;
		break;
	}
}

static int test_create(struct test_device *t, const void __user *arg)
{
	struct vfio_migration_params params = {
		.ops	= &t->ops,
		.data	= t,
		.type	= "vfio-test",
	};
	struct vfio_test_migration *c = &t->config;
	struct vfio_migration *m;
	int ret;

	if (t->m)
		return -EBUSY;
	if (copy_from_user(c, arg, sizeof(*c)))
		return -EFAULT;
	if (!c->state_size || c->state_size > SZ_16M ||
	    c->memory_size > c->state_size || c->wrong >= TEST_WRONG)
		return -EDOM;

	t->ops = (struct vfio_migration_driver_ops) {
		.stop		= test_stop,
		.quiesce	= c->quiesce ? test_quiesce : NULL,
		.start		= test_start,
		.save_begin	= c->next ? test_save_begin : NULL,
		.save_end	= c->next ? test_save_end : NULL,
		.next		= c->next ? test_next : NULL,
		.pending	= c->next ? test_pending : NULL,
		.save		= test_save,
		.load_begin	= c->oldest ? test_load_begin : NULL,
		.load		= test_load,
		.loaded		= test_loaded,
		.reset		= test_reset,
	};
	if (c->memory_size == c->state_size) {
		t->ops.save = NULL;
		t->ops.load = NULL;
	}
	t->blocks = DIV_ROUND_UP(c->state_size, BLOCK);
	/* A test makes it fail */
	t->state = __vmalloc(ALIGN(c->state_size, PAGE_SIZE),
			     GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN);
	t->dirty = bitmap_zalloc(t->blocks, GFP_KERNEL);
	ret = -ENOMEM;
	if (!t->state || !t->dirty)
		goto err;
	t->section.pos = c->section_pos;
	t->section.len = c->section_len;
	params.sections = c->section_pos ? &t->section : NULL;
	params.nr_sections = !!c->section_pos;
	params.version = c->version;
	params.state_size = c->state_size;
	params.memory = c->memory_size ? t->state : NULL;
	params.memory_size = c->memory_size;
	params.partial = c->partial;
	params.window = c->window;
	params.mmap = c->mmap;
	test_spoil(t, &params);

	m = vfio_migration_create(c->wrong == TEST_NO_DEVICE ? NULL : t->dev,
				  &params);
	ret = PTR_ERR(m);
	if (IS_ERR(m))
		goto err;
	ret = vfio_migration_open(m);
	if (ret) {
		vfio_migration_destroy(m);
		goto err;
	}
	t->made.running = true;
	t->made.smallest = U32_MAX;
	t->m = m;

	return 0;
err:
	bitmap_free(t->dirty);
	vfree(t->state);
	t->dirty = NULL;
	t->state = NULL;

	return ret;
}

static int test_fault(struct test_device *t, const void __user *arg)
{
	struct vfio_test_failure fault;

	if (copy_from_user(&fault, arg, sizeof(fault)))
		return -EFAULT;
	if (fault.callback >= TEST_CALLBACKS || fault.error > 0 ||
	    fault.error < -MAX_ERRNO)
		return -EDOM;
	spin_lock(&t->lock);
	t->faults[fault.callback] = fault;
	spin_unlock(&t->lock);
	wake_up_all(&t->wait);

	return 0;
}

static int test_state(struct test_device *t, const void __user *arg)
{
	struct vfio_test_state state;
	void __user *buf;

	if (copy_from_user(&state, arg, sizeof(state)))
		return -EFAULT;
	if (!state.len || state.pos > t->config.state_size ||
	    state.len > t->config.state_size - state.pos)
		return -EDOM;
	buf = u64_to_user_ptr(state.buf);
	if (!state.write)
		return copy_to_user(buf, t->state + state.pos, state.len) ?
		       -EFAULT : 0;
	if (copy_from_user(t->state + state.pos, buf, state.len))
		return -EFAULT;
	spin_lock(&t->lock);
	bitmap_set(t->dirty, state.pos / BLOCK,
		   (state.pos + state.len - 1) / BLOCK - state.pos / BLOCK + 1);
	spin_unlock(&t->lock);

	return 0;
}

static long vfio_test_ioctl(struct file *filp, unsigned int cmd,
			    unsigned long arg)
{
	struct test_device *t = filp->private_data;
	void __user *user = (void __user *)arg;

	switch (cmd) {
	case VFIO_TEST_MIGRATION_CREATE:
		return test_create(t, user);
	case VFIO_TEST_MIGRATION_WAITERS:
		return atomic_read(&t->waiters);
	case VFIO_TEST_MIGRATION_GIVE:
		WRITE_ONCE(t->given, true);
		wake_up_all(&t->wait);
		return 0;
	case VFIO_TEST_MIGRATION_LOSE:
		return arg > INT_MAX ? -EDOM : atomic_xchg(&t->lost, arg);
	}
	if (!t->m)
		return -ENXIO;

	switch (cmd) {
	case VFIO_TEST_MIGRATION_FAULT:
		return test_fault(t, user);
	case VFIO_TEST_MIGRATION_CALLS:
		return copy_to_user(user, &t->made, sizeof(t->made)) ?
		       -EFAULT : 0;
	case VFIO_TEST_MIGRATION_STATE:
		return test_state(t, user);
	case VFIO_TEST_MIGRATION_RESET_DONE:
		vfio_migration_reset_done(t->m);
		return 0;
	case VFIO_TEST_MIGRATION_CLEAN:
		spin_lock(&t->lock);
		bitmap_zero(t->dirty, t->blocks);
		spin_unlock(&t->lock);
		return 0;
	case VFIO_DEVICE_GET_REGION_INFO:
		return vfio_migration_region_info(t->m, user);
	case VFIO_DEVICE_FEATURE:
		return vfio_migration_feature(t->m, user);
	case VFIO_DEVICE_RESET:
		return vfio_migration_reset(t->m);
	default:
		return -ENOTTY;
	}
}

static ssize_t vfio_test_read(struct file *filp, char __user *buf, size_t count,
			      loff_t *ppos)
{
	struct test_device *t = filp->private_data;

	return t->m ? vfio_migration_region_read(t->m, buf, count, ppos) :
		      -ENXIO;
}

static ssize_t vfio_test_write(struct file *filp, const char __user *buf,
			       size_t count, loff_t *ppos)
{
	struct test_device *t = filp->private_data;

	return t->m ? vfio_migration_region_write(t->m, buf, count, ppos) :
		      -ENXIO;
}

/* As a file system of userspace's may do, or userfaultfd */
static vm_fault_t test_page_fault(struct vm_fault *vmf)
{
	struct test_device *t = vmf->vma->vm_private_data;
	int ret;

	if (atomic_dec_if_positive(&t->lost) >= 0)
		return VM_FAULT_NOPAGE;

	atomic_inc(&t->waiters);
	ret = wait_event_killable(t->wait, READ_ONCE(t->given));
	atomic_dec(&t->waiters);
	if (ret)
		return VM_FAULT_SIGBUS;
	vmf->page = alloc_page(GFP_KERNEL | __GFP_ZERO);

	return vmf->page ? 0 : VM_FAULT_OOM;
}

static const struct vm_operations_struct test_page_ops = {
	.fault	= test_page_fault,
};

static int vfio_test_mmap(struct file *filp, struct vm_area_struct *vma)
{
	struct test_device *t = filp->private_data;

	if (t->m)
		return vfio_migration_region_mmap(t->m, vma);
	vma->vm_ops = &test_page_ops;
	vma->vm_private_data = t;

	return 0;
}

static int vfio_test_open(struct inode *inode, struct file *filp)
{
	static atomic_t number = ATOMIC_INIT(0);
	struct test_device *t = kzalloc(sizeof(*t), GFP_KERNEL);
	char name[32];
	int ret;

	if (!t)
		return -ENOMEM;
	snprintf(name, sizeof(name), "vfio_test_migration.%d",
		 atomic_inc_return(&number));
	t->dev = root_device_register(name);
	if (IS_ERR(t->dev)) {
		ret = PTR_ERR(t->dev);
		kfree(t);
		return ret;
	}
	init_waitqueue_head(&t->wait);
	spin_lock_init(&t->lock);
	filp->private_data = t;

	return 0;
}

static int vfio_test_release(struct inode *inode, struct file *filp)
{
	struct test_device *t = filp->private_data;

	if (t->m) {
		vfio_migration_release(t->m);
		vfio_migration_destroy(t->m);
	}
	root_device_unregister(t->dev);
	bitmap_free(t->dirty);
	vfree(t->state);
	kfree(t);

	return 0;
}

static const struct file_operations vfio_test_fops = {
	.owner		= THIS_MODULE,
	.open		= vfio_test_open,
	.release	= vfio_test_release,
	.read		= vfio_test_read,
	.write		= vfio_test_write,
	.mmap		= vfio_test_mmap,
	.unlocked_ioctl	= vfio_test_ioctl,
	.llseek		= default_llseek,
};

static struct miscdevice vfio_test_misc = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "vfio_test_migration",
	.fops	= &vfio_test_fops,
};
module_misc_device(vfio_test_misc);

MODULE_LICENSE("GPL v2");
MODULE_DESCRIPTION("A programmable driver for the VFIO migration library");
