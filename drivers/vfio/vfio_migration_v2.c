// SPDX-License-Identifier: GPL-2.0-only
/*
 * Migration of VFIO devices for vendor drivers: version 2 of the protocol
 *
 * Userspace changes the state by a device feature, and reads or writes the
 * stream at a file descriptor that it gets when a session begins.  The
 * descriptor may outlive the session, and the device: it has a reference and
 * the number of its session, and is good for nothing once that is not the
 * current one.
 */

#include <linux/anon_inodes.h>
#include <linux/bitops.h>
#include <linux/build_bug.h>
#include <linux/err.h>
#include <linux/fcntl.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/poll.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vfio.h>

#include "vfio_migration_priv.h"

/* What userspace was built against does not change */
static_assert(sizeof(struct vfio_device_feature_migration) == 8);
static_assert(sizeof(struct vfio_device_feature_mig_state) == 8);
static_assert(sizeof(struct vfio_device_feature_mig_data_size) == 8);
static_assert(sizeof(struct vfio_precopy_info) == 24);
static_assert(offsetof(struct vfio_precopy_info, dirty_bytes) == 16);
static_assert(VFM_ERROR == 0 && VFM_STOP == 1 && VFM_RUNNING == 2);
static_assert(VFM_STOP_COPY == 3 && VFM_RESUMING == 4);
static_assert(VFM_RUNNING_P2P == 5);
static_assert(VFM_PRE_COPY == 6 && VFM_PRE_COPY_P2P == 7);

/**
 * struct vfm_v2_file - what a descriptor of a stream stands for
 * @m: the migration of the device, referenced
 * @session: the session in which it can be used
 */
struct vfm_v2_file {
	struct vfio_migration *m;
	u64 session;
};

u64 vfm_v2_flags(const struct vfio_migration *m)
{
	const struct vfio_migration_driver_ops *ops = m->params.ops;
	u64 flags = VFIO_MIGRATION_STOP_COPY;

	if (ops->quiesce)
		flags |= VFIO_MIGRATION_P2P;
	if (ops->next)
		flags |= VFIO_MIGRATION_PRE_COPY;

	return flags;
}

/*
 * The stream
 */

/* The descriptor's session goes on, or it is too late for it */
static bool vfm_v2_current(const struct vfm_v2_file *file)
{
	const struct vfio_migration *m = file->m;

	return m->owner == VFM_V2 && m->session == file->session;
}

/* Bytes of the stream that userspace has */
static u64 vfm_v2_given(const struct vfm_save *save)
{
	return save->bytes - (save->chunk_size - save->chunk_read);
}

/* Bytes that are to be sent, whether they are in a chunk or not */
static int vfm_v2_pending(struct vfio_migration *m, bool running, u64 *bytes)
{
	const struct vfm_save *save = &m->save;
	int ret = vfm_save_pending(m, running, bytes);

	*bytes += save->chunk_size - save->chunk_read;

	return ret;
}

/*
 * From one chunk.  1 with the bytes that could be copied, which are none if
 * userspace's memory is not there, or 0 at the end of the stream.
 */
static int vfm_v2_read_chunk(struct vfio_migration *m, char __user *buf,
			     size_t *count)
{
	struct vfm_save *save = &m->save;
	int ret;

	if (!save->chunk_size) {
		ret = vfm_save_commit(m);
		if (ret)
			return ret;
	}
	if (!save->chunk_size)
		return m->state == VFM_STOP_COPY ? 0 : -ENOMSG;

	*count = min_t(u64, *count, save->chunk_size - save->chunk_read);
	*count = vfm_copy_to_user(buf, save->chunk + save->chunk_read, *count);
	/* What could not be copied is read the next time */
	save->chunk_read += *count;
	if (save->chunk_read == save->chunk_size)
		vfm_save_release(m);

	return 1;
}

static ssize_t vfm_v2_read(struct file *filp, char __user *buf, size_t count,
			   loff_t *ppos)
{
	struct vfm_v2_file *file = filp->private_data;
	struct vfio_migration *m = file->m;
	size_t done = 0, n;
	int ret = 0;

	while (done < count) {
		ret = vfm_lock(m);
		if (ret)
			break;
		n = count - done;
		ret = -ENODEV;
		if (vfm_v2_current(file))
			ret = vfm_v2_read_chunk(m, buf + done, &n);
		vfm_unlock(m);
		if (ret <= 0)
			break;
		/* It is written to, so no more than what is read next */
		if (!n && vfm_fault_in_writeable(buf + done, 1)) {
			ret = -EFAULT;
			break;
		}
		done += n;
	}

	return done ?: ret;
}

/* As much as the window holds and could be copied */
static int vfm_v2_write_chunk(struct vfio_migration *m, const char __user *buf,
			      size_t *count)
{
	*count = vfm_copy_from_user(m->window, buf,
				    min_t(u64, *count, m->window_size));

	return *count ? vfm_load_commit(m, *count) : 0;
}

static ssize_t vfm_v2_write(struct file *filp, const char __user *buf,
			    size_t count, loff_t *ppos)
{
	struct vfm_v2_file *file = filp->private_data;
	struct vfio_migration *m = file->m;
	size_t done = 0, n;
	int ret = 0;

	while (done < count) {
		ret = vfm_lock(m);
		if (ret)
			break;
		n = count - done;
		ret = -ENODEV;
		if (vfm_v2_current(file))
			ret = vfm_v2_write_chunk(m, buf + done, &n);
		vfm_unlock(m);
		if (ret)
			break;
		if (!n && vfm_fault_in_readable(buf + done, count - done)) {
			ret = -EFAULT;
			break;
		}
		done += n;
	}

	return done ?: ret;
}

/*
 * Readable is what does not make a read wait for data: data, the end of the
 * stream, and a session that has ended.
 */
static __poll_t vfm_v2_poll(struct file *filp, poll_table *table)
{
	struct vfm_v2_file *file = filp->private_data;
	struct vfio_migration *m = file->m;
	__poll_t ready = EPOLLERR;
	u64 pending = 0;

	poll_wait(filp, &m->wait, table);
	if (vfm_lock(m))
		return ready;
	if (!vfm_v2_current(file))
		ready = EPOLLERR | EPOLLHUP | EPOLLIN | EPOLLRDNORM;
	else if (m->state == VFM_RESUMING)
		ready = EPOLLOUT | EPOLLWRNORM;
	else if (m->state == VFM_STOP_COPY ||
		 vfm_v2_pending(m, true, &pending) || pending)
		ready = EPOLLIN | EPOLLRDNORM;
	else
		ready = 0;
	vfm_unlock(m);

	return ready;
}

static long vfm_v2_precopy_info(struct vfm_v2_file *file, void __user *arg)
{
	size_t minsz = offsetofend(struct vfio_precopy_info, dirty_bytes);
	struct vfio_migration *m = file->m;
	struct vfio_precopy_info info;
	u64 given, pending = 0;
	long ret;

	if (copy_from_user(&info, arg, minsz))
		return -EFAULT;
	if (info.argsz < minsz)
		return -EINVAL;

	if (vfm_lock(m))
		return -EINTR;
	if (!vfm_v2_current(file)) {
		ret = -ENODEV;
	} else if (m->state == VFM_STOP_COPY) {
		ret = -EINVAL;
	} else {
		ret = vfm_v2_pending(m, true, &pending);
		given = vfm_v2_given(&m->save);
		info.flags = 0;
		info.initial_bytes = m->save.initial > given ?
				     min(m->save.initial - given, pending) : 0;
		info.dirty_bytes = pending - info.initial_bytes;
	}
	vfm_unlock(m);
	if (ret)
		return ret;

	return copy_to_user(arg, &info, minsz) ? -EFAULT : 0;
}

static long vfm_v2_ioctl(struct file *filp, unsigned int cmd, unsigned long arg)
{
	if (cmd != VFIO_MIG_GET_PRECOPY_INFO)
		return -ENOTTY;

	return vfm_v2_precopy_info(filp->private_data, (void __user *)arg);
}

static int vfm_v2_release(struct inode *inode, struct file *filp)
{
	struct vfm_v2_file *file = filp->private_data;

	vfm_put(file->m);
	kfree(file);

	return 0;
}

static const struct file_operations vfm_v2_save_fops = {
	.owner		= THIS_MODULE,
	.read		= vfm_v2_read,
	.poll		= vfm_v2_poll,
	.unlocked_ioctl	= vfm_v2_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
	.release	= vfm_v2_release,
};

static const struct file_operations vfm_v2_load_fops = {
	.owner		= THIS_MODULE,
	.write		= vfm_v2_write,
	.poll		= vfm_v2_poll,
	.release	= vfm_v2_release,
};

/* A descriptor for the session that is about to begin */
static struct file *vfm_v2_open(struct vfio_migration *m, bool saving)
{
	struct vfm_v2_file *file = kzalloc(sizeof(*file), GFP_KERNEL);
	struct file *filp;

	if (!file)
		return ERR_PTR(-ENOMEM);
	filp = anon_inode_getfile("[vfio-migration]",
				  saving ? &vfm_v2_save_fops : &vfm_v2_load_fops,
				  file, saving ? O_RDONLY : O_WRONLY);
	if (IS_ERR(filp)) {
		kfree(file);
		return filp;
	}
	file->m = m;
	kref_get(&m->ref);
	stream_open(file_inode(filp), filp);

	return filp;
}

/*
 * The states
 */

/* Is it a state that this device has, and that a program may ask for? */
static bool vfm_v2_valid(const struct vfio_migration *m, u32 state)
{
	u64 flags = vfm_v2_flags(m);

	switch (state) {
	case VFM_STOP:
	case VFM_RUNNING:
	case VFM_STOP_COPY:
	case VFM_RESUMING:
		return true;
	case VFM_RUNNING_P2P:
		return flags & VFIO_MIGRATION_P2P;
	case VFM_PRE_COPY:
		return flags & VFIO_MIGRATION_PRE_COPY;
	case VFM_PRE_COPY_P2P:
		return (flags & VFIO_MIGRATION_P2P) &&
		       (flags & VFIO_MIGRATION_PRE_COPY);
	default:
		return false;
	}
}

/*
 * The next state on the way to another one:
 *
 *	STOP	 to RUNNING	 by RUNNING_P2P
 *	RUNNING	 to STOP	 by RUNNING_P2P
 *	any of them to PRE_COPY	 by RUNNING, to PRE_COPY_P2P by RUNNING_P2P
 *	any of them to STOP_COPY and RESUMING, by STOP
 *	PRE_COPY to STOP_COPY	 by PRE_COPY_P2P
 *	PRE_COPY to all others	 by RUNNING
 *	PRE_COPY_P2P to all others by RUNNING_P2P
 *	STOP_COPY and RESUMING to all others by STOP
 *
 * So a session begins with the last step if at all.  A device that has no P2P
 * states goes past them.  From STOP_COPY to PRE_COPY there is no way.
 */
static enum vfm_state vfm_v2_next(const struct vfio_migration *m,
				  enum vfm_state from, enum vfm_state to)
{
	bool p2p = vfm_v2_flags(m) & VFIO_MIGRATION_P2P;

	switch (from) {
	case VFM_STOP:
		if (to == VFM_STOP_COPY || to == VFM_RESUMING)
			return to;
		return p2p ? VFM_RUNNING_P2P : VFM_RUNNING;
	case VFM_RUNNING:
		if (to == VFM_PRE_COPY)
			return to;
		return p2p ? VFM_RUNNING_P2P : VFM_STOP;
	case VFM_RUNNING_P2P:
		if (to == VFM_RUNNING || to == VFM_PRE_COPY)
			return VFM_RUNNING;
		return to == VFM_PRE_COPY_P2P ? to : VFM_STOP;
	case VFM_PRE_COPY:
		if (to == VFM_PRE_COPY_P2P)
			return to;
		if (to == VFM_STOP_COPY)
			return p2p ? VFM_PRE_COPY_P2P : to;
		return VFM_RUNNING;
	case VFM_PRE_COPY_P2P:
		if (to == VFM_PRE_COPY || to == VFM_STOP_COPY)
			return to;
		return VFM_RUNNING_P2P;
	default:
		return VFM_STOP;
	}
}

static int vfm_v2_check(const struct vfio_migration *m, u32 wanted)
{
	if (!vfm_v2_valid(m, wanted) || m->state == VFM_ERROR)
		return -EINVAL;
	if (m->owner == VFM_V1)
		return -EBUSY;
	if (m->state == VFM_STOP_COPY &&
	    (wanted == VFM_PRE_COPY || wanted == VFM_PRE_COPY_P2P))
		return -EINVAL;

	return 0;
}

/* Does a way that leads there begin a session? */
static bool vfm_v2_begins(const struct vfio_migration *m, enum vfm_state wanted)
{
	if (vfm_is_saving(wanted))
		return !vfm_is_saving(m->state);

	return wanted == VFM_RESUMING && m->state != VFM_RESUMING;
}

/*
 * Go all the way, or as far as it goes.  If that begins a session, @filp is its
 * file; it is made before anything else is done.
 */
static int vfm_v2_set_state(struct vfio_migration *m, u32 wanted,
			    struct file **filp)
{
	struct vfm_v2_file *file;
	enum vfm_state next;
	int ret;

	ret = vfm_v2_check(m, wanted);
	if (ret)
		return ret;
	ret = wanted != m->state ? vfm_fault_v2_state(m, wanted) : 0;
	if (ret)
		return ret;

	if (vfm_v2_begins(m, wanted)) {
		*filp = vfm_v2_open(m, wanted != VFM_RESUMING);
		if (IS_ERR(*filp))
			return PTR_ERR(*filp);
	}

	while (m->state != wanted) {
		next = vfm_v2_next(m, m->state, wanted);
		ret = vfm_step(m, m->state, next);
		if (ret)
			return ret;
		vfm_enter(m, next, VFM_V2);
	}
	if (*filp) {
		file = (*filp)->private_data;
		file->session = m->session;
	}
	if (!*filp || wanted == VFM_RESUMING)
		return 0;

	return vfm_save_pending(m, vfm_running(m), &m->save.initial);
}

/* The file of the session that begins with it, if one does, or NULL */
struct file *vfm_v2_change(struct vfio_migration *m, u32 wanted)
{
	struct file *filp = NULL;
	int ret;

	if (vfm_lock(m))
		return ERR_PTR(-EINTR);
	ret = vfm_v2_set_state(m, wanted, &filp);
	vfm_unlock(m);
	if (!ret)
		return filp;
	if (!IS_ERR_OR_NULL(filp))
		fput(filp);

	return ERR_PTR(ret);
}

int vfm_v2_state(struct vfio_migration *m, enum vfm_state *state)
{
	if (vfm_lock(m))
		return -EINTR;
	*state = m->state;
	vfm_unlock(m);

	return 0;
}

/* How much would come if the device were stopped now */
int vfm_v2_stop_length(struct vfio_migration *m, u64 *bytes)
{
	int ret = 0;

	if (vfm_lock(m))
		return -EINTR;
	*bytes = sizeof(struct vfm_header) + m->params.state_size +
		 2 * sizeof(struct vfm_record);
	if (m->owner == VFM_V2 && vfm_is_saving(m->state))
		ret = vfm_v2_pending(m, false, bytes);
	vfm_unlock(m);

	return ret;
}

/*
 * The features
 */

/* 1 if there is something to do, 0 if it was only a question, or an error */
static int vfm_v2_feature(const struct vfio_device_feature *feature,
			  u32 supported, size_t size)
{
	u32 asked = feature->flags & (VFIO_DEVICE_FEATURE_GET |
				      VFIO_DEVICE_FEATURE_SET);

	if (asked & ~supported)
		return -EINVAL;
	if (feature->flags & VFIO_DEVICE_FEATURE_PROBE)
		return 0;
	if (!asked || feature->argsz - sizeof(*feature) < size)
		return -EINVAL;

	return 1;
}

static long vfm_v2_feature_migration(struct vfio_migration *m,
				     const struct vfio_device_feature *feature,
				     void __user *arg)
{
	struct vfio_device_feature_migration answer = {
		.flags = vfm_v2_flags(m),
	};
	int ret;

	ret = vfm_v2_feature(feature, VFIO_DEVICE_FEATURE_GET, sizeof(answer));
	if (ret <= 0)
		return ret;

	return copy_to_user(arg, &answer, sizeof(answer)) ? -EFAULT : 0;
}

static long vfm_v2_get_state(struct vfio_migration *m, void __user *arg)
{
	struct vfio_device_feature_mig_state answer = { .data_fd = -1 };
	enum vfm_state state;
	int ret;

	ret = vfm_v2_state(m, &state);
	if (ret)
		return ret;
	answer.device_state = state;

	return copy_to_user(arg, &answer, sizeof(answer)) ? -EFAULT : 0;
}

/*
 * The number of the descriptor is taken, and where it is to be put is looked
 * at, before the device does anything: what can fail is not left for later.
 */
static long vfm_v2_change_state(struct vfio_migration *m, void __user *arg)
{
	struct vfio_device_feature_mig_state __user *user = arg;
	struct file *filp;
	u32 wanted;
	int fd;

	if (get_user(wanted, &user->device_state) ||
	    put_user(-1, &user->data_fd))
		return -EFAULT;
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		return fd;

	filp = vfm_v2_change(m, wanted);
	if (IS_ERR_OR_NULL(filp)) {
		put_unused_fd(fd);
		return PTR_ERR_OR_ZERO(filp);
	}
	if (put_user(fd, &user->data_fd)) {
		fput(filp);
		put_unused_fd(fd);
		return -EFAULT;
	}
	fd_install(fd, filp);

	return 0;
}

static long vfm_v2_feature_state(struct vfio_migration *m,
				 const struct vfio_device_feature *feature,
				 void __user *arg)
{
	int ret;

	ret = vfm_v2_feature(feature, VFIO_DEVICE_FEATURE_GET |
				      VFIO_DEVICE_FEATURE_SET,
			     sizeof(struct vfio_device_feature_mig_state));
	if (ret <= 0)
		return ret;
	if (feature->flags & VFIO_DEVICE_FEATURE_GET)
		return vfm_v2_get_state(m, arg);

	return vfm_v2_change_state(m, arg);
}

static long vfm_v2_feature_data_size(struct vfio_migration *m,
				     const struct vfio_device_feature *feature,
				     void __user *arg)
{
	struct vfio_device_feature_mig_data_size answer = {};
	u64 length;
	int ret;

	ret = vfm_v2_feature(feature, VFIO_DEVICE_FEATURE_GET, sizeof(answer));
	if (ret <= 0)
		return ret;

	ret = vfm_v2_stop_length(m, &length);
	if (ret)
		return ret;
	answer.stop_copy_length = length;

	return copy_to_user(arg, &answer, sizeof(answer)) ? -EFAULT : 0;
}

/* @arg is what follows @feature, in which the flags have been looked at */
long vfm_v2_answer(struct vfio_migration *m,
		   const struct vfio_device_feature *feature, void __user *arg)
{
	switch (feature->flags & VFIO_DEVICE_FEATURE_MASK) {
	case VFIO_DEVICE_FEATURE_MIGRATION:
		return vfm_v2_feature_migration(m, feature, arg);
	case VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE:
		return vfm_v2_feature_state(m, feature, arg);
	case VFIO_DEVICE_FEATURE_MIG_DATA_SIZE:
		return vfm_v2_feature_data_size(m, feature, arg);
	default:
		return -ENOTTY;
	}
}

/**
 * vfio_migration_feature() - Answer VFIO_DEVICE_FEATURE
 * @m: the migration of the device
 * @arg: userspace's struct vfio_device_feature
 *
 * To be called by the driver where the vfio core leaves that ioctl to it.  A
 * driver that has features of its own looks at them first, or goes by -ENOTTY.
 *
 * A way to another state that fails underway leaves the device in a state on
 * this way, or in the error state.
 *
 * Context: Process context.  Waits for other accesses, and for callbacks of the
 * driver.
 *
 * Return:
 * * 0
 * * -ENOTTY for a feature that is not about migration
 * * -EINVAL if userspace's argsz is too small, for flags that do not exist or
 *   do not go together, for a state that this device does not have or that
 *   cannot be reached, for a change of the error state, and for a stream that
 *   is wrong or did not come to its end
 * * -EBUSY while a program saves or loads by the migration region
 * * -EFAULT if @arg cannot be accessed
 * * -EMFILE, -ENFILE or -ENOMEM if there is no descriptor for the stream
 * * -EINTR if a fatal signal is pending
 * * what the driver's callback failed with
 */
long vfio_migration_feature(struct vfio_migration *m, void __user *arg)
{
	struct vfio_device_feature feature;
	u32 get_set = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET;

	if (copy_from_user(&feature, arg, sizeof(feature)))
		return -EFAULT;
	if (feature.argsz < sizeof(feature) ||
	    (feature.flags & ~(VFIO_DEVICE_FEATURE_MASK | get_set |
			       VFIO_DEVICE_FEATURE_PROBE)))
		return -EINVAL;
	if (!(feature.flags & VFIO_DEVICE_FEATURE_PROBE) &&
	    (feature.flags & get_set) == get_set)
		return -EINVAL;

	return vfm_v2_answer(m, &feature, arg + sizeof(feature));
}
EXPORT_SYMBOL_GPL(vfio_migration_feature);
