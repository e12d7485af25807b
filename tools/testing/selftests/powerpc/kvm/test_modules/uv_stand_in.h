/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * What /dev/uv-stand-in offers to the tests of KVM_CAP_PPC_SECURE_GUEST.  It
 * is no ABI: both sides are built from this file and loaded together.
 */
#ifndef UV_STAND_IN_H
#define UV_STAND_IN_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define UV_STAND_IN_MAGIC	0xf8

/* Numbers of memory slots, from 0 on, that a VM can register. */
#define UV_STAND_IN_SLOTS	64

/* Each 8 bytes of a page at @gpa that is paged out are XORed with this. */
#define UV_STAND_IN_KEY(gpa)	(0x9e3779b97f4a7c15ULL * (((gpa) >> 16) + 1))

/* What KVM's own memory was filled with by UV_STAND_IN_SCRIBBLE */
#define UV_STAND_IN_STALE	0x57

/* Who makes a hypercall */
#define UV_STAND_IN_GUEST	0	/* the guest: the S bit is clear */
#define UV_STAND_IN_UV		1	/* the ultravisor: it is set */
#define UV_STAND_IN_GIVES_UP	2	/* the ultravisor, clear: H_SVM_INIT_ABORT */

/*
 * A hypercall for the VM of @vcpu_fd, given to KVM's dispatcher.  Made by the
 * ultravisor, it comes with what the ultravisor does before and after: a VM is
 * known from H_SVM_INIT_START on, is secure from H_SVM_INIT_DONE on, sharing
 * and unsharing a page is finished.
 */
struct uv_stand_in_hcall {
	__s32 vcpu_fd;
	__u32 who;
	__u64 nr;
	__u64 args[3];
	__s64 ret;		/* out: what is found in r3 */
};

#define UV_STAND_IN_HCALL	_IOWR(UV_STAND_IN_MAGIC, 0x00, struct uv_stand_in_hcall)

/*
 * From now on, let @pass ultravisor calls of number @nr through and answer the
 * @count that follow with @result.  A @count of 0 ends it.
 */
struct uv_stand_in_fail {
	__u64 nr;
	__u32 pass;
	__u32 count;
	__s64 result;
};

#define UV_STAND_IN_FAIL	_IOW(UV_STAND_IN_MAGIC, 0x01, struct uv_stand_in_fail)

/*
 * Hold a reference on the normal page of each UV_PAGE_IN from now on (1), as
 * whoever does I/O on that page would, or let go of all of them (0).
 */
#define UV_STAND_IN_PIN		_IOW(UV_STAND_IN_MAGIC, 0x02, __u32)

/* Hold a reference on the secure page that this process has at an address. */
#define UV_STAND_IN_PIN_SECURE	_IOW(UV_STAND_IN_MAGIC, 0x0c, __u64)

/* The state of things, the calls since the module was loaded. */
struct uv_stand_in_stats {
	__s32 vcpu_fd;		/* in: whose VM */
	__u32 secure_guest;	/* kvm->arch.secure_guest */
	__u32 kvm_slots;	/* slots that KVM tracks pages of */
	__u32 uv_slots;		/* slots that the ultravisor has for this VM */
	__u32 svms;		/* VMs that the ultravisor knows */
	__u32 device_pages;	/* secure memory that there is */
	__u32 used_pages;	/* of it: not free */
	__u32 locked_pages;	/* of it: locked */
	__u64 registered;	/* UV_REGISTER_MEM_SLOT that succeeded */
	__u64 again;		/* of them: for a slot that was registered */
	__u64 unregistered;	/* UV_UNREGISTER_MEM_SLOT of a registered slot */
	__u64 stray;		/* UV_UNREGISTER_MEM_SLOT of any other */
	__u64 page_ins;		/* that succeeded */
	__u64 page_outs;	/* that succeeded */
	__u64 invals;		/* UV_PAGE_INVAL of a shared page */
	__u64 terminates;
	__u64 strangers;	/* calls for a VM that is not known */
	__u64 seen;		/* calls at the point of UV_STAND_IN_POINT */
};

#define UV_STAND_IN_STATS	_IOWR(UV_STAND_IN_MAGIC, 0x03, struct uv_stand_in_stats)

/*
 * A fault on a secure page, in two halves: BEGIN is what the fault handler
 * does up to the call of the owner's migrate_to_ram(), END is that call, with
 * what this kernel's handler keeps others out with before.  In between can
 * happen what another thread would do there.  END answers with the VM_FAULT_
 * code.
 */
#define UV_STAND_IN_FAULT_BEGIN	_IOW(UV_STAND_IN_MAGIC, 0x04, __u64)
#define UV_STAND_IN_FAULT_END	_IO(UV_STAND_IN_MAGIC, 0x05)

/*
 * From now on, let @pass calls of the function @symbol by kvm and kvm-hv through
 * and do this with the @count that follow.  A @count of 0 ends it.  For HOLD, the
 * function is one that may sleep, and the thread that asks for it is not held;
 * ucall_norets is the ultravisor itself.
 */
#define UV_STAND_IN_SEE		0	/* count them in uv_stand_in_stats */
#define UV_STAND_IN_RETURN	1	/* @result, and do not call it */
#define UV_STAND_IN_UNPIN	2	/* as UV_STAND_IN_PIN does with 0 */
#define UV_STAND_IN_HOLD	3	/* the caller until RELEASE, before it */
#define UV_STAND_IN_HOLD_AFTER	4	/* or when it has returned */

struct uv_stand_in_point {
	char symbol[32];
	__u32 action;
	__u32 pass;
	__u32 count;
	__u32 pad;
	__u64 nr;		/* of a call to the ultravisor, 0 for all */
	__s64 result;
};

#define UV_STAND_IN_POINT	_IOW(UV_STAND_IN_MAGIC, 0x06, struct uv_stand_in_point)
/* Wait until a caller is held, and let it go on. */
#define UV_STAND_IN_HELD	_IO(UV_STAND_IN_MAGIC, 0x07)
#define UV_STAND_IN_RELEASE	_IO(UV_STAND_IN_MAGIC, 0x08)

/* What the ultravisor knows of a page of a VM */
#define UV_STAND_IN_SECURE	0
#define UV_STAND_IN_PAGED_OUT	1
#define UV_STAND_IN_SHARING	2
#define UV_STAND_IN_HV_SHARED	3
#define UV_STAND_IN_SHARED	4
#define UV_STAND_IN_SHARED_INV	5
#define UV_STAND_IN_UNSHARING	6
#define UV_STAND_IN_UNSHARED	7

/* The page at @gpa, with what its first 8 bytes are to the guest. */
struct uv_stand_in_gfn {
	__s32 vcpu_fd;
	__u32 state;
	__u64 gpa;
	__u64 word;
};

#define UV_STAND_IN_GFN		_IOWR(UV_STAND_IN_MAGIC, 0x09, struct uv_stand_in_gfn)

/*
 * The guest touches the page at @gpa, which is shared and was invalidated: the
 * ultravisor leaves the fault to KVM.  The answer is KVM's RESUME_ code.
 */
#define UV_STAND_IN_TOUCH	_IOW(UV_STAND_IN_MAGIC, 0x0a, struct uv_stand_in_gfn)

/* Leave in the allocator, for who comes next, pages of UV_STAND_IN_STALE. */
#define UV_STAND_IN_SCRIBBLE	_IO(UV_STAND_IN_MAGIC, 0x0b)

#endif /* UV_STAND_IN_H */
