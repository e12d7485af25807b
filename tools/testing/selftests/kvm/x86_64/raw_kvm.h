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
 * An exception in the guest has no handler and ends in KVM_EXIT_SHUTDOWN, unless
 * raw_set_tables() has given it some.
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
#define RAW_SCRATCH		0x6000	/* for the test, up to RAW_TABLES */
#define RAW_TABLES		0xb000	/* of raw_set_tables() */
#define RAW_PAGE_TABLES		0xc000	/* three pages of them */
#define RAW_MEM_SIZE		0x10000

/* Port and value of the guest's "ready", unlikely to be anything else. */
#define RAW_READY_PORT		0x99

/* What the guest can be asked for. */
#define RAW_NOP			0
#define RAW_WRMSR		1	/* ecx = number, edx:eax = value */
#define RAW_RDMSR		2	/* ecx = number, the value in edx:eax */
#define RAW_HYPERCALL		3	/* calls RAW_HYPERCALL_PAGE */
#define RAW_SPIN		4	/* goes round ecx times */
#define RAW_WAIT		5	/* counts in ebx until userspace clears ecx */
#define RAW_STI_WRMSR		6	/* RAW_WRMSR right behind an STI */

/* Offsets are known to the guest code below. */
struct raw_mailbox {
	uint32_t op;
	uint32_t eax;
	uint32_t ebx;
	uint32_t ecx;
	uint32_t edx;
	uint32_t esi;
	uint32_t edi;
	uint32_t fault;		/* vector of the exception that was raised */
};

struct raw_vm {
	int kvm;
	int vm;
	int vcpu;
	struct kvm_run *run;
	uint8_t *mem;
	int no_syndbg;			/* its CPUID does not offer it */
};

#define RAW_CPUID_FEATURES	0x80000001
#define RAW_FEATURE_LM		0x20000000

/* Hyper-V leaves that make KVM emulate what the tests use. */
#define RAW_CPUID_HV_MAX	0x40000000
#define RAW_CPUID_HV_INTERFACE	0x40000001
#define RAW_CPUID_HV_SYNDBG	0x40000082
#define RAW_HV_SIGNATURE	0x31237648	/* "Hv#1" */
#define RAW_HV_SYNDBG_ALLOWED	0x2

/* Hyper-V registers of both tests. */
#define RAW_HV_MSR_GUEST_OS_ID	0x40000000

extern const uint8_t raw_guest_start[], raw_guest_end[];
extern const uint8_t raw_guest_ud[], raw_guest_gp[];
extern const uint8_t raw_guest64_start[], raw_guest64_end[];
extern const uint8_t raw_guest64_ud[], raw_guest64_gp[];

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
"	cmp	$5, %edi\n"
"	je	7f\n"
"	cmp	$6, %edi\n"
"	je	8f\n"
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
"7:	incl	8(%ebp)\n"
"	pause\n"
"	cmpl	$0, 12(%ebp)\n"
"	jne	7b\n"
"	jmp	1b\n"
"8:	sti\n"
"	wrmsr\n"
"	cli\n"
"	jmp	1b\n"
"raw_guest_ud:\n"
"	mov	$6, %eax\n"
"	jmp	9f\n"
"raw_guest_gp:\n"
"	mov	$13, %eax\n"
"9:	mov	$0x4000, %esp\n"		/* RAW_STACK_TOP */
"	mov	$0x2000, %ebp\n"
"	mov	%eax, 28(%ebp)\n"
"	jmp	1b\n"
"raw_guest_end:\n"

/* The same in long mode: hypercalls have other registers there. */
"	.code64\n"
"raw_guest64_start:\n"
"	mov	$0x2000, %ebp\n"
"1:	out	%al, $0x99\n"
"	mov	0(%rbp), %edi\n"
"	mov	4(%rbp), %eax\n"
"	mov	8(%rbp), %ebx\n"
"	mov	12(%rbp), %ecx\n"
"	mov	16(%rbp), %edx\n"
"	mov	20(%rbp), %esi\n"
"	cmp	$1, %edi\n"
"	je	2f\n"
"	cmp	$2, %edi\n"
"	je	3f\n"
"	cmp	$3, %edi\n"
"	je	4f\n"
"	jmp	1b\n"
"2:	wrmsr\n"
"	jmp	1b\n"
"3:	rdmsr\n"
"	jmp	6f\n"
"4:	mov	24(%rbp), %edi\n"
"	shl	$32, %rdx\n"
"	or	%rax, %rdx\n"
"	shl	$32, %rbx\n"
"	or	%rcx, %rbx\n"
"	shl	$32, %rdi\n"
"	or	%rsi, %rdi\n"
"	mov	%rdx, %rcx\n"		/* input */
"	mov	%rbx, %rdx\n"		/* first parameter */
"	mov	%rdi, %r8\n"		/* second parameter */
"	mov	$0x5000, %eax\n"
"	call	*%rax\n"
"	mov	%rax, %rdx\n"
"	shr	$32, %rdx\n"
"6:	mov	%eax, 4(%rbp)\n"
"	mov	%edx, 16(%rbp)\n"
"	jmp	1b\n"
"raw_guest64_ud:\n"
"	mov	$6, %eax\n"
"	jmp	9f\n"
"raw_guest64_gp:\n"
"	mov	$13, %eax\n"
"9:	mov	$0x4000, %esp\n"
"	mov	$0x2000, %ebp\n"
"	mov	%eax, 28(%rbp)\n"
"	jmp	1b\n"
"raw_guest64_end:\n"
#ifndef __x86_64__
"	.code32\n"
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
	box->fault = 0;
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

/* @syndbg is what the synthetic debugger's leaf says in EAX. */
static inline void raw_set_cpuid(struct raw_vm *vm, uint32_t syndbg)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 leaves[4];
	} cpuid = { .head.nent = 4 };

	cpuid.leaves[0].function = RAW_CPUID_HV_MAX;
	cpuid.leaves[0].eax = RAW_CPUID_HV_SYNDBG;
	cpuid.leaves[1].function = RAW_CPUID_HV_INTERFACE;
	cpuid.leaves[1].eax = RAW_HV_SIGNATURE;
	cpuid.leaves[2].function = RAW_CPUID_HV_SYNDBG;
	cpuid.leaves[2].eax = syndbg;
	/* Later kernels let no other guest have long mode. */
	cpuid.leaves[3].function = RAW_CPUID_FEATURES;
	cpuid.leaves[3].edx = RAW_FEATURE_LM;
	raw_ioctl(vm->vcpu, KVM_SET_CPUID2, &cpuid, "KVM_SET_CPUID2");
}

#define RAW_KERNEL_CS			0x08
#define RAW_KERNEL_DS			0x10
#define RAW_USER_CS			0x18
#define RAW_USER_DS			0x20
#define RAW_TR				0x28

/* Code and data segments for all of memory from @base on, at level @cpl. */
static inline void raw_set_segments(struct kvm_sregs *sregs, uint32_t base,
				    int cpl, int long_mode)
{
	struct kvm_segment seg = {
		.base = base, .limit = 0xffffffff, .present = 1, .type = 11,
		.selector = (cpl ? RAW_USER_CS : RAW_KERNEL_CS) | cpl,
		.dpl = cpl, .db = !long_mode, .l = long_mode, .s = 1, .g = 1,
	};

	sregs->cs = seg;
	seg.type = 3;
	seg.selector = (cpl ? RAW_USER_DS : RAW_KERNEL_DS) | cpl;
	seg.db = 1;
	seg.l = 0;
	sregs->ds = seg;
	sregs->es = seg;
	sregs->fs = seg;
	sregs->gs = seg;
	sregs->ss = seg;
}

static inline void raw_set_flat32(struct raw_vm *vm, uint32_t base)
{
	struct kvm_regs regs = {
		.rip = RAW_CODE, .rsp = RAW_STACK_TOP, .rflags = 2,
	};
	struct kvm_sregs sregs;

	raw_ioctl(vm->vcpu, KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");
	raw_set_segments(&sregs, base, 0, 0);
	sregs.cr0 |= 1;
	raw_ioctl(vm->vcpu, KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");
	raw_ioctl(vm->vcpu, KVM_SET_REGS, &regs, "KVM_SET_REGS");
}

/* What the guest of @vm has as its memory, which it sees from @gpa on. */
static inline void raw_add_memory(struct raw_vm *vm, uint32_t slot, __u64 gpa)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot, .guest_phys_addr = gpa,
		.memory_size = RAW_MEM_SIZE,
	};

	vm->mem = mmap(NULL, RAW_MEM_SIZE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (vm->mem == MAP_FAILED)
		ksft_exit_fail_msg("mmap of guest memory: %s\n",
				   strerror(errno));
	memcpy(vm->mem + RAW_CODE, raw_guest_start,
	       raw_guest_end - raw_guest_start);
	region.userspace_addr = (uintptr_t)vm->mem;
	raw_ioctl(vm->vm, KVM_SET_USER_MEMORY_REGION, &region,
		  "KVM_SET_USER_MEMORY_REGION");
}

static inline int raw_run_size(struct raw_vm *vm)
{
	return raw_ioctl(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, NULL,
			 "KVM_GET_VCPU_MMAP_SIZE");
}

static inline void raw_add_vcpu(struct raw_vm *vm, unsigned long id,
				uint32_t base)
{
	vm->vcpu = raw_ioctl(vm->vm, KVM_CREATE_VCPU, (void *)id,
			     "KVM_CREATE_VCPU");
	vm->run = mmap(NULL, raw_run_size(vm), PROT_READ | PROT_WRITE,
		       MAP_SHARED, vm->vcpu, 0);
	if (vm->run == MAP_FAILED)
		ksft_exit_fail_msg("mmap of kvm_run: %s\n", strerror(errno));
	raw_set_cpuid(vm, vm->no_syndbg ? 0 : RAW_HV_SYNDBG_ALLOWED);
	raw_set_flat32(vm, base);
}

/* After raw_open(): a VM without a vCPU. */
static inline void raw_create_vm(struct raw_vm *vm, int irqchip)
{
	vm->vm = raw_ioctl(vm->kvm, KVM_CREATE_VM, NULL, "KVM_CREATE_VM");

	/*
	 * KVM on Intel wants three pages for a TSS where the processor cannot
	 * run real mode by itself; it must lie outside the memory slot.
	 */
	raw_ioctl(vm->vm, KVM_SET_TSS_ADDR, (void *)0xfffbd000UL,
		  "KVM_SET_TSS_ADDR");
	if (irqchip)
		raw_ioctl(vm->vm, KVM_CREATE_IRQCHIP, NULL,
			  "KVM_CREATE_IRQCHIP");
	raw_add_memory(vm, 0, 0);
}

/* Gives it its first vCPU, with the guest at its first "ready". */
static inline void raw_start(struct raw_vm *vm)
{
	raw_add_vcpu(vm, 0, 0);
	raw_do(vm, RAW_NOP, 0, 0, "start of the guest");
}

/* After raw_open(): creates the VM and runs the guest to its first "ready". */
static inline void raw_create(struct raw_vm *vm)
{
	raw_create_vm(vm, 1);
	raw_start(vm);
}

/*
 * A second vCPU of the VM of @first.  It has RAW_MEM_SIZE of memory of its own
 * behind that of @first, and segments that begin there: what the guest and
 * the mailbox's user name by RAW_... is its own.
 */
static inline void raw_create_second(struct raw_vm *vm,
				     const struct raw_vm *first)
{
	struct kvm_mp_state runnable = { .mp_state = KVM_MP_STATE_RUNNABLE };

	vm->kvm = first->kvm;
	vm->vm = first->vm;
	raw_add_memory(vm, 1, RAW_MEM_SIZE);
	raw_add_vcpu(vm, 1, RAW_MEM_SIZE);
	raw_ioctl(vm->vcpu, KVM_SET_MP_STATE, &runnable, "KVM_SET_MP_STATE");
	raw_do(vm, RAW_NOP, 0, 0, "start of the second vCPU");
}

static inline void raw_destroy_vcpu(struct raw_vm *vm)
{
	munmap(vm->run, raw_run_size(vm));
	close(vm->vcpu);
	munmap(vm->mem, RAW_MEM_SIZE);
}

static inline void raw_destroy(struct raw_vm *vm)
{
	raw_destroy_vcpu(vm);
	close(vm->vm);
}

/* Continue at level @cpl.  An exception leads back to level 0. */
static inline void raw_set_cpl(struct raw_vm *vm, int cpl)
{
	struct kvm_sregs sregs;

	raw_ioctl(vm->vcpu, KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");
	raw_set_segments(&sregs, 0, cpl, sregs.cs.l);
	raw_ioctl(vm->vcpu, KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");
}

static inline void raw_set_gate(struct raw_vm *vm, unsigned int vector,
				uint32_t handler, int long_mode)
{
	uint32_t gate[4] = {
		RAW_KERNEL_CS << 16 | (handler & 0xffff),
		(handler & 0xffff0000) | 0x8e00,
	};
	unsigned int size = long_mode ? 16 : 8;

	memcpy(vm->mem + RAW_TABLES + 0x100 + vector * size, gate, size);
}

/*
 * Give the guest of a vCPU that raw_create() made handlers for #UD and #GP: the
 * request that raised one is over, and the mailbox says which.  With
 * @long_mode, the guest runs 64-bit code from now on.
 */
static inline void raw_set_tables(struct raw_vm *vm, int long_mode)
{
	const __u64 code = long_mode ? 0x00af9b000000ffffULL :
				       0x00cf9b000000ffffULL;
	const __u64 dpl3 = 3ULL << 45;
	const __u64 gdt[] = {
		0, code, 0x00cf93000000ffffULL,
		code | dpl3, 0x00cf93000000ffffULL | dpl3,
	};
	const uint32_t tss = RAW_TABLES + 0x200;
	const uint32_t stack = RAW_STACK_TOP, stack_ss = RAW_KERNEL_DS;
	__u64 *table = (__u64 *)(vm->mem + RAW_PAGE_TABLES);
	struct kvm_sregs sregs;

	memcpy(vm->mem + RAW_TABLES, gdt, sizeof(gdt));
	memcpy(vm->mem + tss + 4, &stack, sizeof(stack));
	if (!long_mode)
		memcpy(vm->mem + tss + 8, &stack_ss, sizeof(stack_ss));
	if (long_mode) {
		memcpy(vm->mem + RAW_CODE, raw_guest64_start,
		       raw_guest64_end - raw_guest64_start);
		raw_set_gate(vm, 6, RAW_CODE + (raw_guest64_ud -
						raw_guest64_start), 1);
		raw_set_gate(vm, 13, RAW_CODE + (raw_guest64_gp -
						 raw_guest64_start), 1);
	} else {
		raw_set_gate(vm, 6, RAW_CODE + (raw_guest_ud -
						raw_guest_start), 0);
		raw_set_gate(vm, 13, RAW_CODE + (raw_guest_gp -
						 raw_guest_start), 0);
	}

	raw_ioctl(vm->vcpu, KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");
	sregs.gdt.base = RAW_TABLES;
	sregs.gdt.limit = 0x2f;
	sregs.idt.base = RAW_TABLES + 0x100;
	sregs.idt.limit = 0xff;
	sregs.tr = (struct kvm_segment) {
		.base = tss, .limit = 0x67, .selector = RAW_TR,
		.type = 11, .present = 1,
	};
	if (long_mode) {
		struct kvm_regs regs = {
			.rip = RAW_CODE, .rsp = RAW_STACK_TOP, .rflags = 2,
		};

		/* One page of 2 MiB, for level 3 as well. */
		table[0] = (RAW_PAGE_TABLES + 0x1000) | 7;
		table[512] = (RAW_PAGE_TABLES + 0x2000) | 7;
		table[1024] = 0x87;
		sregs.cr3 = RAW_PAGE_TABLES;
		sregs.cr4 |= 1 << 5;			/* PAE */
		sregs.efer |= 1 << 8 | 1 << 10;		/* LME, LMA */
		sregs.cr0 |= 1U << 31;			/* PG */
		raw_set_segments(&sregs, 0, 0, 1);
		raw_ioctl(vm->vcpu, KVM_SET_REGS, &regs, "KVM_SET_REGS");
	}
	raw_ioctl(vm->vcpu, KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");
	raw_do(vm, RAW_NOP, 0, 0, "guest with tables of its own");
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
