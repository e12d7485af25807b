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

/* Memory slots that the stand-in can have registered at a time. */
#define UV_STAND_IN_SLOTS	64
/* Guest pages that it keeps the content of, from address 0. */
#define UV_STAND_IN_PAGES	64

/*
 * A hypercall of the guest behind @vcpu_fd, given to KVM's dispatcher as if
 * the ultravisor had reflected it.
 */
struct uv_stand_in_hcall {
	__s32 vcpu_fd;
	__u32 secure;		/* 1: the S bit is set in the guest's MSR */
	__u64 nr;
	__u64 args[3];
	__s64 ret;		/* out: what the guest finds in r3 */
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

/* The state of things, the calls since the module was loaded. */
struct uv_stand_in_stats {
	__s32 vcpu_fd;		/* in: whose VM */
	__u32 secure_guest;	/* kvm->arch.secure_guest */
	__u32 kvm_slots;	/* slots that KVM tracks pages of */
	__u32 uv_slots;		/* slots registered with the stand-in */
	__u32 device_pages;	/* secure memory that there is */
	__u32 used_pages;	/* of it: not free */
	__u32 locked_pages;	/* of it: locked */
	__u32 pad;
	__u64 registered;	/* calls of UV_REGISTER_MEM_SLOT that succeeded */
	__u64 unregistered;	/* UV_UNREGISTER_MEM_SLOT of a registered slot */
	__u64 stray;		/* UV_UNREGISTER_MEM_SLOT of any other */
	__u64 page_ins;		/* that succeeded */
	__u64 page_outs;	/* that succeeded */
	__u64 invals;
	__u64 terminates;
};

#define UV_STAND_IN_STATS	_IOWR(UV_STAND_IN_MAGIC, 0x03, struct uv_stand_in_stats)

/*
 * A fault on a secure page, in two halves: BEGIN is what the fault handler
 * does up to the call of the owner's migrate_to_ram(), END is that call.  In
 * between can happen what another thread would do there.  END answers with
 * the VM_FAULT_ code.
 */
#define UV_STAND_IN_FAULT_BEGIN	_IOW(UV_STAND_IN_MAGIC, 0x04, __u64)
#define UV_STAND_IN_FAULT_END	_IO(UV_STAND_IN_MAGIC, 0x05)

#endif /* UV_STAND_IN_H */
