// SPDX-License-Identifier: GPL-2.0
/*
 * KVM_HC_MAP_GPA_RANGE: how the hypercall of a guest reaches userspace and the
 * answer the guest. A 64-bit guest, and a 32-bit one of raw_kvm.h.
 *
 * Numbers are written out here.
 */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "test_util.h"
#include "kvm_glue.h"
#include "kvm_util_glue.h"
#include "raw_kvm.h"

#define VCPU_ID		0

#define CAP		201
#define CAP_ENFORCE	190
#define FEATURES	0x40000001
#define FEATURE_MAP	0x10000
#define HC_POLL		1
#define HC_MAP		12
#define ENOSYS_		(-1000L)
#define EINVAL_		(-22L)
#define EPERM_		(-1L)

/* What the guest calls with, and what it got. Shared with it. */
static struct {
	uint64_t nr, arg[3], ret;
	bool intel;
} call;

static void guest_code(void)
{
	for (;;) {
		if (call.intel)
			asm volatile("vmcall" : "=a"(call.ret)
				     : "a"(call.nr), "b"(call.arg[0]),
				       "c"(call.arg[1]), "d"(call.arg[2])
				     : "memory");
		else
			asm volatile("vmmcall" : "=a"(call.ret)
				     : "a"(call.nr), "b"(call.arg[0]),
				       "c"(call.arg[1]), "d"(call.arg[2])
				     : "memory");
		GUEST_SYNC(0);
	}
}

static struct kvm_vm *vm;
static struct kvm_run *run;

static void request(uint64_t nr, uint64_t a0, uint64_t a1, uint64_t a2)
{
	call.nr = nr;
	call.arg[0] = a0;
	call.arg[1] = a1;
	call.arg[2] = a2;
	call.ret = 0x5a5a5a5a5a5a5a5a;
	sync_global_to_guest(vm, call);
	/* Nothing of an earlier exit may look like this one's. */
	memset(&run->hypercall, 0xff, sizeof(run->hypercall));
	run->exit_reason = 0;
}

static bool enable(struct kvm_vm *of, uint64_t mask)
{
	struct kvm_enable_cap cap = { .cap = CAP, .args = { mask } };

	return !ioctl(vm_get_fd(of), KVM_ENABLE_CAP, &cap);
}

/* The guest's call ends without an exit, with this result. */
static bool returns(long wanted)
{
	if (_vcpu_run(vm, VCPU_ID) || run->exit_reason != KVM_EXIT_IO) {
		ksft_print_msg("exit reason %u\n", run->exit_reason);
		/* Let the guest come to its end, or nothing else is tested. */
		if (run->exit_reason == KVM_EXIT_HYPERCALL)
			_vcpu_run(vm, VCPU_ID);
		return false;
	}
	sync_global_from_guest(vm, call);
	if (call.ret != (uint64_t)wanted)
		ksft_print_msg("expected %ld, the guest got %ld\n", wanted,
			       (long)call.ret);
	return call.ret == (uint64_t)wanted;
}

/* It exits, with all that was passed. */
static bool exits(void)
{
	if (_vcpu_run(vm, VCPU_ID) || run->exit_reason != KVM_EXIT_HYPERCALL) {
		ksft_print_msg("exit reason %u\n", run->exit_reason);
		return false;
	}
	return run->hypercall.nr == call.nr &&
	       run->hypercall.args[0] == call.arg[0] &&
	       run->hypercall.args[1] == call.arg[1] &&
	       run->hypercall.args[2] == call.arg[2];
}

static bool refused(uint64_t a0, uint64_t a1, uint64_t a2)
{
	request(HC_MAP, a0, a1, a2);
	if (returns(EINVAL_))
		return true;
	ksft_print_msg("of %#lx, %#lx, %#lx\n", a0, a1, a2);
	return false;
}

static bool taken(uint64_t a0, uint64_t a1, uint64_t a2)
{
	request(HC_MAP, a0, a1, a2);
	if (!exits()) {
		ksft_print_msg("for %#lx, %#lx, %#lx\n", a0, a1, a2);
		return false;
	}
	run->hypercall.ret = 0;
	return returns(0);
}

/* A VM of its own, of whose vCPU CPUID says what it may call */
static void create_enforced(uint32_t also)
{
	struct kvm_enable_cap enforce = { .cap = CAP_ENFORCE, .args = { 1 } };
	const struct kvm_cpuid2 *supported = kvm_get_supported_cpuid();
	size_t size = sizeof(*supported) +
		      supported->nent * sizeof(supported->entries[0]);
	struct kvm_cpuid2 *cpuid = malloc(size);
	struct kvm_cpuid_entry2 *features = NULL;
	unsigned int i;

	TEST_ASSERT(cpuid, "no memory");
	memcpy(cpuid, supported, size);
	for (i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function == FEATURES)
			features = &cpuid->entries[i];
	TEST_ASSERT(features && !(features->eax & FEATURE_MAP),
		    "CPUID has no features of KVM, or this one by default");
	features->eax |= also;

	vm = vm_create_default(VCPU_ID, 0, guest_code);
	vcpu_set_cpuid(vm, VCPU_ID, cpuid);
	free(cpuid);
	run = vcpu_state(vm, VCPU_ID);
	enable(vm, 1 << HC_MAP);
	vcpu_enable_cap(vm, VCPU_ID, &enforce);
}

static void test_enforced(void)
{
	create_enforced(0);
	request(HC_MAP, 0x1000, 1, 0);
	ksft_test_result(returns(ENOSYS_),
			 "CPUID enforced: unknown if CPUID does not have it\n");
	kvm_vm_free(vm);

	create_enforced(FEATURE_MAP);
	request(HC_MAP, 0x1000, 1, 0);
	ksft_test_result(exits() && returns(0),
			 "CPUID enforced: exits if CPUID has it\n");
	kvm_vm_free(vm);
}

#define CASES_64	27

static void test_64bit(void)
{
	struct kvm_sregs sregs, other;
	struct kvm_regs before, regs;
	struct kvm_vm *second;
	unsigned int size;
	bool good;

	vm = vm_create_default(VCPU_ID, 0, guest_code);
	vcpu_set_cpuid(vm, VCPU_ID, kvm_get_supported_cpuid());
	run = vcpu_state(vm, VCPU_ID);
	call.intel = is_intel_cpu();

	ksft_test_result(kvm_check_cap(CAP) == 1 << HC_MAP &&
			 ioctl(vm_get_fd(vm), KVM_CHECK_EXTENSION, CAP) ==
			 1 << HC_MAP,
			 "capability: the mask of this hypercall\n");
	request(HC_MAP, 0x1000, 1, 0);
	ksft_test_result(returns(ENOSYS_), "not enabled: unknown to the guest\n");
	request(HC_MAP, 1, 0, ~0ULL);
	ksft_test_result(returns(ENOSYS_),
			 "not enabled: arguments are not looked at\n");
	ksft_test_result(!enable(vm, 1 << HC_MAP | 1 << HC_POLL) &&
			 errno == EINVAL && !enable(vm, 1ULL << 63) &&
			 !enable(vm, 1ULL << 44) && !enable(vm, 1),
			 "mask: other hypercalls are refused\n");
	request(HC_MAP, 0x1000, 1, 0);
	ksft_test_result(returns(ENOSYS_), "mask refused: nothing is enabled\n");
	ksft_test_result(enable(vm, 1 << HC_MAP), "mask: taken\n");

	second = vm_create_default(VCPU_ID, 0, guest_code);
	vcpu_set_cpuid(second, VCPU_ID, kvm_get_supported_cpuid());
	{
		struct kvm_vm *first = vm;

		vm = second;
		run = vcpu_state(vm, VCPU_ID);
		request(HC_MAP, 0x1000, 1, 0);
		ksft_test_result(returns(ENOSYS_),
				 "mask: another VM is not concerned\n");
		vm = first;
		run = vcpu_state(vm, VCPU_ID);
		kvm_vm_free(second);
	}

	request(HC_MAP, 0x123456789000, 0x234, 0x10);
	good = exits();
	ksft_test_result(good, "exit: number and arguments\n");
	ksft_test_result(good && run->hypercall.longmode == 1,
			 "exit: longmode of a 64-bit guest is 1\n");
	ksft_test_result(good && !run->hypercall.ret &&
			 !run->hypercall.args[3] && !run->hypercall.args[4] &&
			 !run->hypercall.args[5] && !HYPERCALL_PAD(run),
			 "exit: all else is 0\n");
	ksft_test_result(good && returns(0),
			 "answer: success if userspace leaves it alone\n");
	request(HC_MAP, 0x1000, 1, 0);
	good = exits();
	run->hypercall.ret = 0x123456789abcdef0;
	ksft_test_result(good && returns(0x123456789abcdef0),
			 "answer: all 64 bits\n");

	ksft_test_result(refused(1, 1, 0) && refused(0xfff, 1, 0) &&
			 refused(0x10800, 1, 0), "refused: unaligned\n");
	ksft_test_result(refused(0x1000, 0, 0) && refused(0, 0, 0x10),
			 "refused: empty\n");
	ksft_test_result(refused(~0xfffULL, 2, 0) &&
			 refused(0x1000, 1ULL << 52, 0) &&
			 refused(0, (1ULL << 52) + 1, 0) &&
			 refused(0x1000, ~0ULL, 0) &&
			 refused(1ULL << 63, 1ULL << 63, 0),
			 "refused: behind the end of the address space\n");
	ksft_test_result(taken(~0xfffULL, 1, 0) && taken(0, 1ULL << 52, 0) &&
			 taken(1ULL << 63, 1ULL << 51, 0x10),
			 "taken: up to the end of the address space\n");
	for (size = MAP_GPA_PAGE_SIZES, good = true; size <= 0xf; size++)
		good &= refused(0x1000, 1, size) &&
			refused(0x1000, 1, size | 0x10);
	ksft_test_result(good && refused(0x1000, 1, 0x20) &&
			 refused(0x1000, 1, 1ULL << 32) &&
			 refused(0x1000, 1, 1ULL << 63),
			 "refused: reserved attributes\n");
	ksft_test_result(taken(0x1000, 1, 0) && taken(0x1000, 1, 1) &&
			 taken(0x1000, 1, 2) && taken(0x1000, 1, 0x10) &&
			 taken(0x1000, 1, 0x11) && taken(0x1000, 1, 0x12),
			 "taken: three sizes, both states\n");
	request(HC_POLL, 0x1000, 1, 0);
	ksft_test_result(returns(0), "other hypercalls: handled by KVM\n");

	request(HC_MAP, 0x1000, 1, 0);
	good = exits();
	vcpu_regs_get(vm, VCPU_ID, &before);
	run->hypercall.ret = 77;
	/* That is KVM_RUN with immediate_exit. */
	vcpu_run_complete_io(vm, VCPU_ID);
	vcpu_regs_get(vm, VCPU_ID, &regs);
	ksft_test_result(good && regs.rax == 77 && regs.rip == before.rip + 3,
			 "immediate_exit: the hypercall is completed\n");
	ksft_test_result(returns(77), "immediate_exit: and the guest goes on\n");

	/* As after a reset, of which the hypercall must not take anything back */
	request(HC_MAP, 0x1000, 1, 0);
	good = exits();
	vcpu_regs_get(vm, VCPU_ID, &regs);
	regs.rip += 3;
	regs.rax = 0x1234;
	vcpu_regs_set(vm, VCPU_ID, &regs);
	run->hypercall.ret = 77;
	vcpu_run_complete_io(vm, VCPU_ID);
	vcpu_regs_get(vm, VCPU_ID, &before);
	ksft_test_result(good && before.rip == regs.rip &&
			 before.rax == 0x1234 && returns(0x1234),
			 "put elsewhere: it goes on from there\n");

	/* Compatibility mode, until it is completed */
	request(HC_MAP, 0x1000, 1, 0);
	good = exits();
	vcpu_sregs_get(vm, VCPU_ID, &sregs);
	other = sregs;
	other.cs.l = 0;
	other.cs.db = 1;
	vcpu_sregs_set(vm, VCPU_ID, &other);
	run->hypercall.ret = -5;
	vcpu_run_complete_io(vm, VCPU_ID);
	vcpu_sregs_set(vm, VCPU_ID, &sregs);
	ksft_test_result(good && returns(-5),
			 "mode: as it was when the guest called\n");

	/* The same instruction once more, as code of 32 bits has it */
	request(HC_MAP, 0x1000, 1, 0);
	good = exits();
	vcpu_regs_get(vm, VCPU_ID, &before);
	vcpu_run_complete_io(vm, VCPU_ID);
	before.rbx |= 0x7700000000;
	vcpu_regs_set(vm, VCPU_ID, &before);
	vcpu_sregs_set(vm, VCPU_ID, &other);
	good = good && exits() && !run->hypercall.longmode;
	run->hypercall.ret = 0x7700000005;
	vcpu_run_complete_io(vm, VCPU_ID);
	vcpu_sregs_set(vm, VCPU_ID, &sregs);
	ksft_test_result(good && returns(5),
			 "compatibility mode: a call of 32 bits\n");

	request(HC_MAP, 0x1000, 1, 0);
	ksft_test_result(enable(vm, 0) && returns(ENOSYS_),
			 "mask 0: unknown to the guest again\n");
	kvm_vm_free(vm);
	test_enforced();
}

#define CASES_32	6

static void raw_call(struct raw_vm *raw, uint32_t nr, uint32_t a0, uint32_t a1,
		     uint32_t a2)
{
	struct raw_mailbox *box = raw_mailbox(raw);

	raw_request(raw, RAW_HYPERCALL, a1, 0);
	box->eax = nr;
	box->ebx = a0;
	box->edx = a2;
	memset(&raw->run->hypercall, 0xff, sizeof(raw->run->hypercall));
}

static bool raw_returns(struct raw_vm *raw, long wanted)
{
	int reason = raw_run(raw);

	if (reason != KVM_EXIT_IO || !raw_is_ready(raw)) {
		ksft_print_msg("exit reason %d\n", reason);
		return false;
	}
	if (raw_mailbox(raw)->eax != (uint32_t)wanted)
		ksft_print_msg("expected %ld, the guest got %d\n", wanted,
			       (int)raw_mailbox(raw)->eax);
	return raw_mailbox(raw)->eax == (uint32_t)wanted;
}

static void test_32bit(void)
{
	struct kvm_enable_cap cap = { .cap = CAP, .args = { 1 << HC_MAP } };
	uint8_t insn[] = { 0x0f, 0x01, 0xd9, 0xc3 };
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	struct raw_vm raw = { 0 };
	bool good;

	/* vmmcall, or vmcall, and ret */
	if (is_intel_cpu())
		insn[2] = 0xc1;
	raw_open(&raw);
	raw_create(&raw);
	raw_ioctl(raw.vm, KVM_ENABLE_CAP, &cap, "KVM_CAP_EXIT_HYPERCALL");
	memcpy(raw.mem + RAW_HYPERCALL_PAGE, insn, sizeof(insn));

	raw_call(&raw, HC_MAP, 0xfffff000, 0x80000000, 0x11);
	good = raw_run(&raw) == KVM_EXIT_HYPERCALL;
	ksft_test_result(good && raw.run->hypercall.nr == HC_MAP &&
			 raw.run->hypercall.args[0] == 0xfffff000 &&
			 raw.run->hypercall.args[1] == 0x80000000 &&
			 raw.run->hypercall.args[2] == 0x11,
			 "32-bit guest: arguments of 32 bits\n");
	ksft_test_result(good && !raw.run->hypercall.longmode,
			 "32-bit guest: longmode is 0\n");
	raw.run->hypercall.ret = 0x7700000005;
	raw.run->immediate_exit = 1;
	raw_run(&raw);
	raw.run->immediate_exit = 0;
	raw_ioctl(raw.vcpu, KVM_GET_REGS, &regs, "KVM_GET_REGS");
	ksft_test_result(good && regs.rax == 5 && raw_returns(&raw, 5),
			 "32-bit guest: an answer of 32 bits\n");
	raw_call(&raw, HC_MAP, 0x1000, 1, 0x1000);
	ksft_test_result(raw_returns(&raw, EINVAL_),
			 "32-bit guest: reserved attributes refused\n");

	/* Flat mode needs nothing else for CPL 3 but leave to use ports. */
	raw_ioctl(raw.vcpu, KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");
	sregs.cs.dpl = 3;
	sregs.cs.selector |= 3;
	sregs.ss.dpl = 3;
	sregs.ss.selector |= 3;
	raw_ioctl(raw.vcpu, KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");
	raw_ioctl(raw.vcpu, KVM_GET_REGS, &regs, "KVM_GET_REGS");
	regs.rflags |= 3 << 12;
	raw_ioctl(raw.vcpu, KVM_SET_REGS, &regs, "KVM_SET_REGS");
	raw_call(&raw, HC_MAP, 0x1000, 1, 0);
	ksft_test_result(raw_returns(&raw, EPERM_), "CPL 3: refused\n");
	sregs.cs.dpl = 0;
	sregs.cs.selector &= ~3;
	sregs.ss.dpl = 0;
	sregs.ss.selector &= ~3;
	raw_ioctl(raw.vcpu, KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");

	/* From now on its calls are Hyper-V's, and this one is none of them. */
	raw_host_wrmsr(&raw, RAW_HV_MSR_GUEST_OS_ID, 1, "HV_X64_MSR_GUEST_OS_ID");
	raw_call(&raw, HC_MAP, 0x1000, 1, 0);
	ksft_test_result(raw_run(&raw) == KVM_EXIT_IO && raw_is_ready(&raw),
			 "Hyper-V guest: does not exit\n");
}

int main(void)
{
	ksft_print_header();
	ksft_set_plan(CASES_64 + CASES_32);
	test_64bit();
	test_32bit();
	raw_finish(CASES_64 + CASES_32);
}
