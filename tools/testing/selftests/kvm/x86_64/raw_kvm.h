/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A VM with one vCPU on the bare /dev/kvm ioctls, for tests that must also be
 * built for 32-bit userspace, where the kvm selftest library does not exist.
 *
 * The guest is a few bytes of flat 32-bit protected mode code in one page.  It
 * carries out one request after the other from a mailbox in its memory, and
 * makes KVM exit to userspace with KVM_EXIT_IO when it is ready for the next:
 *
 *	raw_request(vm, ...);
 *	while (raw_run(vm) == KVM_EXIT_...)	exits that the request causes
 *		...;
 *	raw_is_ready(vm)			the request is done
 *
 * An exception in the guest has no handler and ends in KVM_EXIT_SHUTDOWN.
 */
#ifndef SELFTEST_KVM_RAW_KVM_H
#define SELFTEST_KVM_RAW_KVM_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/kvm.h>

#include "../../kselftest.h"

#ifndef ARRAY_SIZE
#define ARRAY_SIZE(array)	(sizeof(array) / sizeof((array)[0]))
#endif

/* Guest physical memory, all of it in one slot. */
#define RAW_CODE		0x1000
#define RAW_MAILBOX		0x2000
#define RAW_STACK_TOP		0x4000
#define RAW_HYPERCALL_PAGE	0x5000
#define RAW_SCRATCH		0x6000	/* for the test, up to RAW_MEM_SIZE */
#define RAW_MEM_SIZE		0x10000

/* Port and value of the guest's "ready", unlikely to be anything else. */
#define RAW_READY_PORT		0x99

/* What the guest can be asked for. */
#define RAW_NOP			0
#define RAW_WRMSR		1	/* ecx = number, edx:eax = value */
#define RAW_RDMSR		2	/* ecx = number, the value in edx:eax */
#define RAW_HYPERCALL		3	/* calls RAW_HYPERCALL_PAGE */
#define RAW_SPIN		4	/* goes round ecx times */

/* Offsets are known to the guest code below. */
struct raw_mailbox {
	uint32_t op;
	uint32_t eax;
	uint32_t ebx;
	uint32_t ecx;
	uint32_t edx;
	uint32_t esi;
	uint32_t edi;
};

struct raw_vm {
	int kvm;
	int vm;
	int vcpu;
	struct kvm_run *run;
	uint8_t *mem;
};

/* Hyper-V leaves that make KVM emulate what the tests use. */
#define RAW_CPUID_HV_MAX	0x40000000
#define RAW_CPUID_HV_INTERFACE	0x40000001
#define RAW_CPUID_HV_SYNDBG	0x40000082
#define RAW_HV_SIGNATURE	0x31237648	/* "Hv#1" */
#define RAW_HV_SYNDBG_ALLOWED	0x2

/* Hyper-V registers of both tests. */
#define RAW_HV_MSR_GUEST_OS_ID	0x40000000

extern const uint8_t raw_guest_start[], raw_guest_end[];

asm(".pushsection .rodata\n"
"	.code32\n"
"raw_guest_start:\n"
"	mov	$0x2000, %ebp\n"		/* RAW_MAILBOX */
"1:	out	%al, $0x99\n"			/* RAW_READY_PORT */
"	mov	0(%ebp), %edi\n"
"	mov	4(%ebp), %eax\n"
"	mov	8(%ebp), %ebx\n"
"	mov	12(%ebp), %ecx\n"
"	mov	16(%ebp), %edx\n"
"	mov	20(%ebp), %esi\n"
"	cmp	$1, %edi\n"
"	je	2f\n"
"	cmp	$2, %edi\n"
"	je	3f\n"
"	cmp	$3, %edi\n"
"	je	4f\n"
"	cmp	$4, %edi\n"
"	je	5f\n"
"	jmp	1b\n"
"2:	wrmsr\n"
"	jmp	1b\n"
"3:	rdmsr\n"
"	jmp	6f\n"
"4:	mov	24(%ebp), %edi\n"
"	mov	$0x5000, %ebp\n"		/* RAW_HYPERCALL_PAGE */
"	call	*%ebp\n"
"	mov	$0x2000, %ebp\n"
"	jmp	6f\n"
"5:	pause\n"
"	dec	%ecx\n"
"	jnz	5b\n"
"	jmp	1b\n"
"6:	mov	%eax, 4(%ebp)\n"
"	mov	%edx, 16(%ebp)\n"
"	jmp	1b\n"
"raw_guest_end:\n"
#ifdef __x86_64__
"	.code64\n"
#endif
"	.popsection\n");

static inline struct raw_mailbox *raw_mailbox(struct raw_vm *vm)
{
	return (struct raw_mailbox *)(vm->mem + RAW_MAILBOX);
}

static inline uint64_t raw_edx_eax(struct raw_vm *vm)
{
	struct raw_mailbox *box = raw_mailbox(vm);

	return (uint64_t)box->edx << 32 | box->eax;
}

/* ioctl for set-up steps, where a failure leaves nothing to test. */
static inline int raw_ioctl(int fd, unsigned long nr, void *arg,
			    const char *name)
{
	int ret = ioctl(fd, nr, arg);

	if (ret < 0)
		ksft_exit_fail_msg("%s: %s\n", name, strerror(errno));
	return ret;
}

/**
 * raw_run - enter the guest once
 * @vm: the VM
 *
 * Return: the exit reason, or a negative errno of KVM_RUN.
 */
static inline int raw_run(struct raw_vm *vm)
{
	if (ioctl(vm->vcpu, KVM_RUN, 0) < 0)
		return -errno;
	return vm->run->exit_reason;
}

/* True when the guest has finished what it was asked for. */
static inline int raw_is_ready(struct raw_vm *vm)
{
	return vm->run->exit_reason == KVM_EXIT_IO &&
	       vm->run->io.direction == KVM_EXIT_IO_OUT &&
	       vm->run->io.port == RAW_READY_PORT;
}

/* Say what an exit was that should not have happened, and give up. */
static inline void raw_unexpected(struct raw_vm *vm, int reason,
				  const char *what)
{
	struct kvm_regs regs = { 0 };

	ioctl(vm->vcpu, KVM_GET_REGS, &regs);
	ksft_exit_fail_msg("%s: KVM_RUN gave %d (exit reason %u), rip 0x%llx\n",
			   what, reason, vm->run->exit_reason,
			   (unsigned long long)regs.rip);
}

static inline void raw_request(struct raw_vm *vm, uint32_t op, uint32_t ecx,
			       uint64_t edx_eax)
{
	struct raw_mailbox *box = raw_mailbox(vm);

	box->op = op;
	box->ecx = ecx;
	box->eax = (uint32_t)edx_eax;
	box->edx = (uint32_t)(edx_eax >> 32);
}

/* A request that must come to its end without any other exit. */
static inline void raw_do(struct raw_vm *vm, uint32_t op, uint32_t ecx,
			  uint64_t edx_eax, const char *what)
{
	int reason;

	raw_request(vm, op, ecx, edx_eax);
	reason = raw_run(vm);
	if (reason != KVM_EXIT_IO || !raw_is_ready(vm))
		raw_unexpected(vm, reason, what);
}

static inline void raw_guest_wrmsr(struct raw_vm *vm, uint32_t msr,
				   uint64_t value, const char *what)
{
	raw_do(vm, RAW_WRMSR, msr, value, what);
}

static inline uint64_t raw_guest_rdmsr(struct raw_vm *vm, uint32_t msr,
				       const char *what)
{
	raw_do(vm, RAW_RDMSR, msr, 0, what);
	return raw_edx_eax(vm);
}

struct raw_one_msr {
	struct kvm_msrs head;
	struct kvm_msr_entry entry;
};

/* A register as userspace sets it, which never makes KVM exit. */
static inline void raw_host_wrmsr(struct raw_vm *vm, uint32_t msr,
				  uint64_t value, const char *what)
{
	struct raw_one_msr m = {
		.head.nmsrs = 1,
		.entry = { .index = msr, .data = value },
	};

	if (raw_ioctl(vm->vcpu, KVM_SET_MSRS, &m, what) != 1)
		ksft_exit_fail_msg("%s: KVM_SET_MSRS refuses 0x%x\n", what, msr);
}

static inline uint64_t raw_host_rdmsr(struct raw_vm *vm, uint32_t msr,
				      const char *what)
{
	struct raw_one_msr m = {
		.head.nmsrs = 1,
		.entry = { .index = msr },
	};

	if (raw_ioctl(vm->vcpu, KVM_GET_MSRS, &m, what) != 1)
		ksft_exit_fail_msg("%s: KVM_GET_MSRS refuses 0x%x\n", what, msr);
	return m.entry.data;
}

static inline int raw_has_cap(struct raw_vm *vm, long cap)
{
	return ioctl(vm->kvm, KVM_CHECK_EXTENSION, cap) > 0;
}

static inline void raw_enable_vcpu_cap(struct raw_vm *vm, uint32_t cap,
				       const char *what)
{
	struct kvm_enable_cap enable = { .cap = cap };

	raw_ioctl(vm->vcpu, KVM_ENABLE_CAP, &enable, what);
}

/* Skips the whole test where there is no KVM.  Call before any plan. */
static inline void raw_open(struct raw_vm *vm)
{
	vm->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (vm->kvm < 0) {
		ksft_exit_skip("cannot open /dev/kvm: %s\n", strerror(errno));
		exit(KSFT_SKIP);
	}
	if (ioctl(vm->kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
		ksft_exit_fail_msg("KVM_GET_API_VERSION is not %d\n",
				   KVM_API_VERSION);
}

static inline void raw_set_cpuid(struct raw_vm *vm)
{
	static const struct kvm_cpuid_entry2 leaves[] = {
		{ .function = RAW_CPUID_HV_MAX, .eax = RAW_CPUID_HV_SYNDBG },
		{ .function = RAW_CPUID_HV_INTERFACE, .eax = RAW_HV_SIGNATURE },
		{ .function = RAW_CPUID_HV_SYNDBG,
		  .eax = RAW_HV_SYNDBG_ALLOWED },
	};
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 leaves[3];
	} cpuid = { .head.nent = 3 };

	memcpy(cpuid.leaves, leaves, sizeof(leaves));
	raw_ioctl(vm->vcpu, KVM_SET_CPUID2, &cpuid, "KVM_SET_CPUID2");
}

static inline void raw_set_flat32(struct raw_vm *vm)
{
	struct kvm_segment seg = {
		.base = 0, .limit = 0xffffffff, .selector = 1 << 3,
		.present = 1, .type = 11, .dpl = 0, .db = 1, .s = 1, .g = 1,
	};
	struct kvm_regs regs = {
		.rip = RAW_CODE, .rsp = RAW_STACK_TOP, .rflags = 2,
	};
	struct kvm_sregs sregs;

	raw_ioctl(vm->vcpu, KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");
	sregs.cs = seg;
	seg.type = 3;
	seg.selector = 2 << 3;
	sregs.ds = seg;
	sregs.es = seg;
	sregs.fs = seg;
	sregs.gs = seg;
	sregs.ss = seg;
	sregs.cr0 |= 1;
	raw_ioctl(vm->vcpu, KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");
	raw_ioctl(vm->vcpu, KVM_SET_REGS, &regs, "KVM_SET_REGS");
}

/* After raw_open(): creates the VM and runs the guest to its first "ready". */
static inline void raw_create(struct raw_vm *vm)
{
	struct kvm_userspace_memory_region slot = {
		.guest_phys_addr = 0, .memory_size = RAW_MEM_SIZE,
	};
	int size;

	vm->vm = raw_ioctl(vm->kvm, KVM_CREATE_VM, NULL, "KVM_CREATE_VM");

	/*
	 * KVM on Intel wants three pages for a TSS where the processor cannot
	 * run real mode by itself; it must lie outside the memory slot.
	 */
	raw_ioctl(vm->vm, KVM_SET_TSS_ADDR, (void *)0xfffbd000UL,
		  "KVM_SET_TSS_ADDR");
	raw_ioctl(vm->vm, KVM_CREATE_IRQCHIP, NULL, "KVM_CREATE_IRQCHIP");

	vm->mem = mmap(NULL, RAW_MEM_SIZE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (vm->mem == MAP_FAILED)
		ksft_exit_fail_msg("mmap of guest memory: %s\n",
				   strerror(errno));
	memcpy(vm->mem + RAW_CODE, raw_guest_start,
	       raw_guest_end - raw_guest_start);
	slot.userspace_addr = (uintptr_t)vm->mem;
	raw_ioctl(vm->vm, KVM_SET_USER_MEMORY_REGION, &slot,
		  "KVM_SET_USER_MEMORY_REGION");

	vm->vcpu = raw_ioctl(vm->vm, KVM_CREATE_VCPU, NULL, "KVM_CREATE_VCPU");
	size = raw_ioctl(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, NULL,
			 "KVM_GET_VCPU_MMAP_SIZE");
	vm->run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED,
		       vm->vcpu, 0);
	if (vm->run == MAP_FAILED)
		ksft_exit_fail_msg("mmap of kvm_run: %s\n", strerror(errno));

	raw_set_cpuid(vm);
	raw_set_flat32(vm);
	raw_do(vm, RAW_NOP, 0, 0, "start of the guest");
}

/* The end of a test: cases that never ran are a failure, not a detail. */
static inline void raw_finish(unsigned int plan)
{
	if (ksft_test_num() != plan)
		ksft_exit_fail_msg("%u cases ran, %u were planned\n",
				   ksft_test_num(), plan);
	ksft_exit(!ksft_get_fail_cnt());
}

#endif /* SELFTEST_KVM_RAW_KVM_H */
