// SPDX-License-Identifier: GPL-2.0-only
/*
 * KVM's side of a guest that becomes secure, with a stand-in for the
 * ultravisor: the transition in each order and with each refusal, pages that
 * go in and out, and what is left when a call of KVM's to the ultravisor
 * fails.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "../../kselftest.h"
#include "secure_guest_uv.h"

#define ROUNDS			2000

/*
 * A guest that was refused is a normal guest to every other hypercall, until
 * the ultravisor aborts, which is what it does with a guest it cannot secure.
 */
static void test_refused(const char *why, struct vm *vm, int64_t answer)
{
	bool good = expect("H_SVM_INIT_START", start(vm), answer);

	ksft_test_result(good, "%s: start says no\n", why);
	good = expect("H_SVM_PAGE_IN", page_in(vm, 0), H_UNSUPPORTED) &
	       expect("sharing", share(vm, 0), H_UNSUPPORTED) &
	       expect("H_SVM_PAGE_OUT", page_out(vm, 0), H_UNSUPPORTED) &
	       expect("H_SVM_INIT_DONE", done(vm), H_UNSUPPORTED);
	ksft_test_result(good, "%s: guest does not look started\n", why);
	ksft_test_result(in_use(vm, 0, 0), "%s: nothing is kept for it\n", why);
	good = expect("H_SVM_INIT_ABORT", init_abort(vm), H_PARAMETER) &
	       expect("secure_guest", stats(vm).secure_guest, 0) &
	       expect("H_SVM_INIT_ABORT again", init_abort(vm), H_UNSUPPORTED);
	ksft_test_result(good, "%s: abort makes it a normal guest\n", why);
	good = expect("H_SVM_INIT_START", start(vm), answer) &
	       expect("a slot after that", !vm_slot(vm, 2, GPA3, 2), 0) &
	       in_use(vm, 0, 0) &
	       expect("KVM_PPC_SVM_OFF", svm_off(vm), 0) &
	       expect("secure_guest", stats(vm).secure_guest, 0);
	ksft_test_result(good, "%s: KVM_PPC_SVM_OFF makes it a normal guest\n",
			 why);
}

static void test_refusals(void)
{
	struct kvm_ppc_mmuv3_cfg hash = {};
	struct vm vm;
	bool good;

	create(&vm, false);
	test_refused("not enabled", &vm, H_AUTHORITY);
	good = expect("enabling", enable_secure(&vm), 0) &
	       expect("H_SVM_INIT_START", start(&vm), H_SUCCESS) &
	       expect("H_SVM_INIT_ABORT", init_abort(&vm), H_PARAMETER);
	ksft_test_result(good, "not enabled: start succeeds once it is\n");
	destroy(&vm, NULL);

	create(&vm, true);
	if (ioctl(vm.fd, KVM_PPC_CONFIGURE_V3_MMU, &hash))
		ksft_print_msg("hash guest: %s\n", strerror(errno));
	test_refused("hash guest", &vm, H_UNSUPPORTED);
	destroy(&vm, NULL);
}

static void test_no_memory(void)
{
	struct vm vm;

	if (load_kvm_hv(0))
		ksft_exit_fail();
	uv = load_stand_in();
	create(&vm, false);
	test_refused("no secure memory", &vm, H_UNSUPPORTED);
	destroy(&vm, NULL);
	close(uv);
}

static void test_order(void)
{
	static const uint64_t calls[] = {
		H_SVM_INIT_START, H_SVM_INIT_DONE, H_SVM_PAGE_IN, H_SVM_PAGE_OUT,
	};
	struct vm vm;
	bool good;
	char *mem2;
	unsigned int i;

	create(&vm, true);
	good = expect("H_SVM_INIT_DONE", done(&vm), H_UNSUPPORTED) &
	       expect("H_SVM_INIT_ABORT", init_abort(&vm), H_UNSUPPORTED) &
	       expect("H_SVM_PAGE_IN", page_in(&vm, 0), H_UNSUPPORTED) &
	       expect("H_SVM_PAGE_OUT", page_out(&vm, 0), H_UNSUPPORTED);
	ksft_test_result(good, "order: nothing before start\n");
	destroy(&vm, NULL);

	mem2 = create_started(&vm);
	ksft_test_result(in_use(&vm, 2, 0), "order: start registers each slot\n");
	good = true;
	for (i = 0; i < ARRAY_SIZE(calls); i++)
		good &= expect("hypercall without the S bit",
			       hcall(&vm, UV_STAND_IN_GUEST, calls[i], 0, 0,
				     PAGE_SHIFT),
			       H_UNSUPPORTED);
	ksft_test_result(good & in_use(&vm, 2, 0),
			 "order: without the S bit nothing after start\n");
	good = expect("H_SVM_INIT_START", start(&vm), H_STATE) & in_use(&vm, 2, 0);
	ksft_test_result(good, "order: a second start is refused\n");
	good = expect("H_SVM_INIT_DONE", done(&vm), H_SUCCESS) &
	       expect("secure_guest", stats(&vm).secure_guest, 3) &
	       in_use(&vm, 2, PAGES + PAGES2);
	ksft_test_result(good, "order: done moves every page\n");
	good = expect("H_SVM_INIT_ABORT", init_abort(&vm), H_STATE) &
	       in_use(&vm, 2, PAGES + PAGES2);
	ksft_test_result(good, "order: no abort after done\n");
	good = expect("H_SVM_INIT_START", start(&vm), H_STATE) &
	       expect("secure_guest", stats(&vm).secure_guest, 3) &
	       in_use(&vm, 2, PAGES + PAGES2);
	ksft_test_result(good, "order: no start after done\n");
	good = expect("KVM_PPC_SVM_OFF", svm_off(&vm), 0) &
	       in_use(&vm, 0, 0) &
	       expect("secure_guest", stats(&vm).secure_guest, 0);
	ksft_test_result(good, "order: KVM_PPC_SVM_OFF gives everything back\n");
	good = expect("H_SVM_INIT_START", start(&vm), H_SUCCESS) &
	       in_use(&vm, 2, 0);
	ksft_test_result(good, "order: start succeeds after KVM_PPC_SVM_OFF\n");
	destroy(&vm, mem2);
}

static void test_start_fails(void)
{
	struct uv_stand_in_stats before, after;
	unsigned int pass;
	struct vm vm;
	char *mem2;
	bool good;

	create(&vm, true);
	mem2 = vm_slot(&vm, 1, GPA2, PAGES2);
	vm_slot(&vm, 2, GPA3, 2);
	for (pass = 0; pass < 3; pass++) {
		before = stats(&vm);
		fail(UV_REGISTER_MEM_SLOT, pass, 1);
		good = expect("H_SVM_INIT_START", start(&vm), H_PARAMETER) &
		       in_use(&vm, 0, 0);
		after = stats(&vm);
		good &= expect("slots registered",
			       after.registered - before.registered, pass) &
			expect("of them unregistered",
			       after.unregistered - before.unregistered, pass) &
			expect("other slots unregistered",
			       after.stray - before.stray, 0) &
			expect("H_SVM_INIT_DONE", done(&vm), H_UNSUPPORTED) &
			expect("H_SVM_INIT_ABORT", init_abort(&vm), H_PARAMETER);
		ksft_test_result(good, "start fails at slot %u: the slots before it are let go\n",
				 pass);
	}
	good = expect("H_SVM_INIT_START", start(&vm), H_SUCCESS) &
	       in_use(&vm, 3, 0);
	ksft_test_result(good, "start fails: it can be made again\n");
	destroy(&vm, mem2);
}

static void test_slots(void)
{
	struct vm vm;
	char *mem2, *mem3;
	bool good;

	mem2 = create_started(&vm);
	mem3 = vm_slot(&vm, 2, GPA3, 2);
	good = in_use(&vm, 3, 2);
	vm_slot(&vm, 2, GPA3, 0);
	good &= in_use(&vm, 2, 0);
	ksft_test_result(good, "slots: one that comes and goes after start\n");
	munmap(mem3, 2 * PAGE_BYTES);
	good = expect("H_SVM_INIT_ABORT", init_abort(&vm), H_PARAMETER) &
	       in_use(&vm, 0, 0);
	ksft_test_result(good, "slots: abort lets go of them\n");
	good = expect("H_SVM_INIT_START", start(&vm), H_SUCCESS) &
	       in_use(&vm, 2, 0);
	ksft_test_result(good, "slots: start takes each once after abort\n");
	destroy(&vm, mem2);
}

static int64_t page_call(struct vm *vm, uint64_t nr, uint64_t flags,
			 uint64_t shift)
{
	return hcall(vm, UV_STAND_IN_UV, nr, 0, flags, shift);
}

static void test_pages(void)
{
	struct uv_stand_in_stats before;
	struct vm vm;
	char *mem2;
	bool good;
	int i;

	mem2 = create_started(&vm);
	good = expect("shift 12", page_call(&vm, H_SVM_PAGE_IN, 0, 12), H_P3) &
	       expect("flags 2", page_call(&vm, H_SVM_PAGE_IN, 2, PAGE_SHIFT), H_P2) &
	       expect("address without a slot", page_in(&vm, 20 * PAGE_BYTES), H_PARAMETER) &
	       expect("out, shift 12", page_call(&vm, H_SVM_PAGE_OUT, 0, 12), H_P3) &
	       expect("out, flags 1", page_call(&vm, H_SVM_PAGE_OUT, 1, PAGE_SHIFT), H_P2) &
	       expect("out, no slot", page_out(&vm, 20 * PAGE_BYTES), H_PARAMETER) &
	       in_use(&vm, 2, 0);
	ksft_test_result(good, "pages: bad arguments are refused\n");

	good = true;
	before = stats(&vm);
	for (i = 0; i < PAGES; i++)
		good &= expect("H_SVM_PAGE_IN", page_in(&vm, i * PAGE_BYTES), H_SUCCESS);
	good &= in_use(&vm, 2, PAGES) &
		expect("UV_PAGE_IN", stats(&vm).page_ins - before.page_ins, PAGES) &
		expect("in again", page_in(&vm, 0), H_PARAMETER);
	ksft_test_result(good, "pages: in\n");
	good = true;
	for (i = 0; i < PAGES; i++)
		good &= expect("H_SVM_PAGE_OUT", page_out(&vm, i * PAGE_BYTES), H_SUCCESS);
	good &= in_use(&vm, 2, 0) &
		expect("UV_PAGE_OUT", stats(&vm).page_outs - before.page_outs, PAGES) &
		expect("out again", page_out(&vm, 0), H_SUCCESS) &
		holds_cipher(vm.mem, 0, 0, PAGES, SEED);
	ksft_test_result(good, "pages: out, as ciphertext\n");

	for (i = 0; i < PAGES2; i++)
		page_in(&vm, GPA2 + i * PAGE_BYTES);
	good = in_use(&vm, 2, PAGES2) &
	       holds_cipher(mem2, GPA2, 0, PAGES2, SEED2) & in_use(&vm, 2, 0);
	ksft_test_result(good, "pages: out when the host reads them\n");
	destroy(&vm, mem2);

	mem2 = create_started(&vm);
	good = expect("in", page_in(&vm, 0), H_SUCCESS) &
	       expect("share", share(&vm, 0), H_SUCCESS) & in_use(&vm, 2, 0);
	good &= expect("share a normal page", share(&vm, PAGE_BYTES), H_SUCCESS) &
		expect("in", page_in(&vm, 2 * PAGE_BYTES), H_SUCCESS) &
		expect("done", done(&vm), H_SUCCESS) &
		in_use(&vm, 2, PAGES + PAGES2 - 2);
	ksft_test_result(good, "pages: shared ones stay outside\n");
	destroy(&vm, mem2);
}

static void test_page_in_fails(void)
{
	struct vm vm;
	char *mem2;
	bool good;
	int i;

	mem2 = create_started(&vm);
	fail(UV_PAGE_IN, 0, 1);
	good = expect("H_SVM_PAGE_IN", page_in(&vm, 0), H_PARAMETER) &
	       in_use(&vm, 2, 0);
	ksft_test_result(good, "page-in fails: no page stays locked or in use\n");
	if (!good) {
		/* With a GFN that has a page and no page, sharing has no end. */
		ksft_test_result_fail("page-in fails: it can be made again\n");
		ksft_test_result_fail("page-in fails: often, and secure memory is not used up\n");
		ksft_test_result_fail("page-in fails: a shared page stays shared\n");
		destroy(&vm, mem2);
		return;
	}
	good = expect("H_SVM_PAGE_IN", page_in(&vm, 0), H_SUCCESS) &
	       in_use(&vm, 2, 1) & holds_cipher(vm.mem, 0, 0, 1, SEED) &
	       in_use(&vm, 2, 0);
	ksft_test_result(good, "page-in fails: it can be made again\n");

	fail(UV_PAGE_IN, 0, 1000);
	good = true;
	for (i = 0; i < 300; i++)
		good &= page_in(&vm, PAGE_BYTES) == H_PARAMETER;
	fail(0, 0, 0);
	good &= expect("H_SVM_PAGE_IN", page_in(&vm, PAGE_BYTES), H_SUCCESS);
	ksft_test_result(good, "page-in fails: often, and secure memory is not used up\n");
	page_out(&vm, PAGE_BYTES);

	good = expect("share", share(&vm, 0), H_SUCCESS);
	fail(UV_PAGE_IN, 0, 1);
	good &= expect("H_SVM_PAGE_IN", page_in(&vm, 0), H_PARAMETER) &
		expect("H_SVM_INIT_DONE", done(&vm), H_SUCCESS) &
		in_use(&vm, 2, PAGES + PAGES2 - 2);
	ksft_test_result(good, "page-in fails: a shared page stays shared\n");
	destroy(&vm, mem2);
}

static void test_page_pinned(void)
{
	struct vm vm;
	char *mem2;
	bool good;

	mem2 = create_started(&vm);
	pin(1);
	good = expect("H_SVM_PAGE_IN", page_in(&vm, 0), H_PARAMETER) &
	       in_use(&vm, 2, 0) & holds(vm.mem, 0, 1, SEED);
	ksft_test_result(good, "page is held by another: page-in says that it failed\n");
	pin(0);
	good = expect("H_SVM_PAGE_IN", page_in(&vm, 0), H_SUCCESS) &
	       in_use(&vm, 2, 1);
	ksft_test_result(good, "page is held by another: page-in can be made again\n");
	page_out(&vm, 0);
	pin(1);
	page_in(&vm, PAGE_BYTES);
	pin(0);
	good = expect("H_SVM_INIT_DONE", done(&vm), H_SUCCESS) &
	       in_use(&vm, 2, PAGES + PAGES2 - 1);
	ksft_test_result(good, "page is held by another: done moves it\n");
	destroy(&vm, mem2);
}

static void test_page_out_fails(void)
{
	struct vm vm;
	char *mem2;
	bool good;

	mem2 = create_started(&vm);
	page_in(&vm, 0);
	fail(UV_PAGE_OUT, 0, 1);
	good = expect("H_SVM_PAGE_OUT", page_out(&vm, 0), H_PARAMETER) &
	       in_use(&vm, 2, 1);
	ksft_test_result(good, "page-out fails: the page stays secure\n");
	fail(UV_PAGE_OUT, 0, 1);
	good = expect("SIGBUS", is_sigbus(vm.mem), true) & in_use(&vm, 2, 1);
	ksft_test_result(good, "page-out fails: SIGBUS for the host that reads\n");
	good = expect("H_SVM_PAGE_OUT", page_out(&vm, 0), H_SUCCESS) &
	       in_use(&vm, 2, 0) & holds_cipher(vm.mem, 0, 0, 1, SEED);
	ksft_test_result(good, "page-out fails: it can be made again\n");
	destroy(&vm, mem2);
}

static void test_done_fails(void)
{
	unsigned int there;
	struct vm vm;
	bool good;

	/* One page more than there is secure memory, and one less for abort */
	vm_create(&vm, SECURE_BYTES / PAGE_BYTES + 1);
	enable_secure(&vm);
	there = stats(&vm).device_pages;
	good = expect("pages of secure memory", there, SECURE_BYTES / PAGE_BYTES) &
	       expect("H_SVM_INIT_START", start(&vm), H_SUCCESS) &
	       expect("H_SVM_INIT_DONE", done(&vm), H_STATE) &
	       expect("secure_guest", stats(&vm).secure_guest, 1) &
	       in_use(&vm, 1, there);
	ksft_test_result(good, "done fails: too little secure memory\n");
	good = expect("H_SVM_INIT_ABORT", init_abort(&vm), H_PARAMETER) &
	       in_use(&vm, 0, 0);
	ksft_test_result(good, "done fails: abort gives all of it back\n");
	destroy(&vm, NULL);
}

static void test_abort(void)
{
	struct uv_stand_in_stats before;
	struct vm vm;
	char *mem2;
	bool good;
	int i;

	mem2 = create_started(&vm);
	for (i = 0; i < PAGES; i++)
		page_in(&vm, i * PAGE_BYTES);
	before = stats(&vm);
	good = in_use(&vm, 2, PAGES) &
	       expect("H_SVM_INIT_ABORT", guest_abort(&vm), H_PARAMETER) &
	       in_use(&vm, 0, 0) &
	       holds_cipher(vm.mem, 0, 0, PAGES, SEED) &
	       holds(mem2, 0, PAGES2, SEED2) &
	       expect("UV_SVM_TERMINATE",
		      stats(&vm).terminates - before.terminates, 1);
	ksft_test_result(good, "abort: the guest has its memory back, as ciphertext\n");

	/* A page that does not come back is lost, and reading it no hang. */
	start(&vm);
	page_in(&vm, 0);
	page_in(&vm, PAGE_BYTES);
	fail(UV_PAGE_OUT, 0, 1);
	good = expect("H_SVM_INIT_ABORT", guest_abort(&vm), H_PARAMETER) &
	       in_use(&vm, 0, 1) &
	       expect("SIGBUS in page 0", is_sigbus(vm.mem), true) &
	       expect("SIGBUS in page 1", is_sigbus(vm.mem + PAGE_BYTES), false);
	madvise(vm.mem, PAGE_BYTES, MADV_DONTNEED);
	good &= in_use(&vm, 0, 0);
	ksft_test_result(good, "abort: a page that does not come back is lost\n");
	destroy(&vm, mem2);
}

static void test_svm_off(void)
{
	struct uv_stand_in_stats before;
	struct vm vm;
	char *mem2;
	bool good;

	mem2 = create_started(&vm);
	done(&vm);
	fail(UV_SVM_TERMINATE, 0, 1);
	good = expect("KVM_PPC_SVM_OFF", svm_off(&vm), EINVAL) &
	       expect("secure_guest", stats(&vm).secure_guest, 3);
	ksft_test_result(good, "KVM_PPC_SVM_OFF: EINVAL when the ultravisor refuses\n");
	before = stats(&vm);
	good = expect("KVM_PPC_SVM_OFF", svm_off(&vm), 0) &
	       expect("secure_guest", stats(&vm).secure_guest, 0) &
	       in_use(&vm, 0, 0) &
	       expect("UV_PAGE_OUT", stats(&vm).page_outs - before.page_outs, 0);
	ksft_test_result(good, "KVM_PPC_SVM_OFF: it can be made again\n");
	destroy(&vm, mem2);
}

static bool fault_begin(char *p)
{
	uint64_t address = (uintptr_t)p;

	return expect("a fault on a secure page",
		      ioctl(uv, UV_STAND_IN_FAULT_BEGIN, &address), 0);
}

static bool fault_end(void)
{
	return expect("end of the fault", ioctl(uv, UV_STAND_IN_FAULT_END), 0);
}

static bool fault_alone(void)
{
	struct vm vm;
	char *mem2 = create_secure(&vm);
	bool good;

	good = fault_begin(vm.mem) && fault_end() &&
	       in_use(&vm, 2, PAGES + PAGES2 - 1) &&
	       holds_cipher(vm.mem, 0, 0, 1, SEED);
	destroy(&vm, mem2);
	return good;
}

static bool fault_page_freed(void)
{
	struct vm vm;
	char *mem2 = create_secure(&vm);
	bool good;

	good = fault_begin(vm.mem) &&
	       expect("out", page_out(&vm, 0), H_SUCCESS) && fault_end() &&
	       in_use(&vm, 2, PAGES + PAGES2 - 1) &&
	       holds_cipher(vm.mem, 0, 0, 1, SEED);
	destroy(&vm, mem2);
	return good;
}

/* Somebody else got the page, and the address has another one by now. */
static bool fault_page_reused(void)
{
	struct vm vm;
	char *mem2 = create_secure(&vm);
	bool good;

	good = expect("out, page 1", page_out(&vm, PAGE_BYTES), H_SUCCESS) &&
	       fault_begin(vm.mem) &&
	       expect("out", page_out(&vm, 0), H_SUCCESS) &&
	       expect("in, page 1", page_in(&vm, PAGE_BYTES), H_SUCCESS) &&
	       expect("in, page 0", page_in(&vm, 0), H_SUCCESS) &&
	       fault_end() && in_use(&vm, 2, PAGES + PAGES2) &&
	       holds_cipher(vm.mem, 0, 0, 2, SEED) &&
	       in_use(&vm, 2, PAGES + PAGES2 - 2);
	destroy(&vm, mem2);
	return good;
}

struct traffic {
	struct vm *vm;
	bool end;
	bool good;
};

static void *read_all(void *arg)
{
	struct traffic *t = arg;

	while (!__atomic_load_n(&t->end, __ATOMIC_SEQ_CST))
		t->good &= holds_cipher(t->vm->mem, 0, 0, PAGES, SEED);
	return NULL;
}

static bool fault_traffic(void)
{
	pthread_t reader[2];
	struct traffic t[2];
	struct vm vm;
	char *mem2 = create_secure(&vm);
	bool good = true;
	unsigned int i, in = 0;

	for (i = 0; i < 2; i++) {
		t[i] = (struct traffic){ .vm = &vm, .good = true };
		pthread_create(&reader[i], NULL, read_all, &t[i]);
	}
	for (i = 0; i < ROUNDS; i++)
		in += page_in(&vm, (i % PAGES) * PAGE_BYTES) == H_SUCCESS;
	for (i = 0; i < 2; i++) {
		__atomic_store_n(&t[i].end, true, __ATOMIC_SEQ_CST);
		pthread_join(reader[i], NULL);
		good &= t[i].good;
	}
	good &= expect("pages went in", in > 0, true) &&
		holds_cipher(vm.mem, 0, 0, PAGES, SEED) &&
		in_use(&vm, 2, PAGES2);
	destroy(&vm, mem2);
	return good;
}

static void test_faults(void)
{
	in_child("fault: alone", fault_alone);
	in_child("fault: lost to another, the page is free", fault_page_freed);
	in_child("fault: lost to another, the page is somebody else's",
		 fault_page_reused);
	in_child("fault: two threads read while pages go in", fault_traffic);
}

/* The memory of a secure guest stays mapped when its VM is closed. */
static bool vm_gone(void)
{
	struct vm vm, other;
	char *mem2 = create_started(&vm);
	bool good;

	vm_create(&other, 1);
	good = expect("H_SVM_INIT_DONE", done(&vm), H_SUCCESS) &&
	       expect("used", stats(&other).used_pages, PAGES + PAGES2);
	munmap(vm.run, ioctl(dev_kvm(), KVM_GET_VCPU_MMAP_SIZE, 0));
	close(vm.vcpu);
	close(vm.fd);
	good = good && expect("VMs of the ultravisor", stats(&other).svms, 0) &&
	       expect("SIGBUS", is_sigbus(vm.mem), true) &&
	       expect("SIGBUS", is_sigbus(mem2 + PAGE_BYTES), true);
	munmap(vm.mem, vm.size);
	munmap(mem2, PAGES2 * PAGE_BYTES);
	good = good && expect("used", stats(&other).used_pages, 0);
	vm_destroy(&other);
	return good;
}

/* So it is when a slot is deleted whose memory is elsewhere by then. */
static bool slot_gone(void)
{
	size_t size = PAGES2 * PAGE_BYTES;
	struct vm vm, other;
	char *mem2 = create_started(&vm);
	char *moved = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
			   -1, 0);
	bool good;

	vm_create(&other, 1);
	good = expect("H_SVM_INIT_DONE", done(&vm), H_SUCCESS) &&
	       expect("used", stats(&other).used_pages, PAGES + PAGES2) &&
	       expect("mremap", mremap(mem2, size, size,
				       MREMAP_MAYMOVE | MREMAP_FIXED, moved) ==
		      moved, true);
	vm_slot(&vm, 1, GPA2, 0);
	good = good && expect("slots of the ultravisor", stats(&vm).uv_slots, 1) &&
	       expect("SIGBUS", is_sigbus(moved), true) &&
	       expect("SIGBUS in the last page",
		      is_sigbus(moved + size - PAGE_BYTES), true);
	destroy(&vm, NULL);
	good = good && expect("SIGBUS", is_sigbus(moved + PAGE_BYTES), true);
	munmap(moved, size);
	good = good && expect("used", stats(&other).used_pages, 0);
	vm_destroy(&other);
	return good;
}

/* Areas of vmalloc, without those that are only not cleaned up yet */
static unsigned int count_areas(void)
{
	FILE *f = fopen("/proc/vmallocinfo", "r");
	unsigned int n = 0;
	char line[512];

	while (f && fgets(line, sizeof(line), f))
		n += !strstr(line, "unpurged");
	if (f)
		fclose(f);
	return n;
}

static void test_vm_gone(void)
{
	unsigned int before, after, i;
	struct vm vm;

	in_child("VM is gone: its pages are lost and can be unmapped", vm_gone);
	in_child("slot is gone: so are its pages that were moved away", slot_gone);

	/* What KVM tracks a slot's pages with is a vmalloc area each. */
	before = count_areas();
	for (i = 0; i < 32; i++)
		destroy(&vm, create_started(&vm));
	after = count_areas();
	if (after >= before + 32)
		ksft_print_msg("expected about %u vmalloc areas, seen %u\n",
			       before, after);
	ksft_test_result(before && after < before + 32,
			 "VM is gone: so is what it was tracked with\n");
}

static void print_answer(void)
{
	int64_t before, after;
	struct vm vm;

	create(&vm, false);
	before = start(&vm);
	init_abort(&vm);
	enable_secure(&vm);
	after = start(&vm);
	printf("# answer %s: %d with %u MiB of secure memory, start gives %lld, enabled %lld\n",
	       "ppc-secure-guest",
	       ioctl(vm.fd, KVM_CHECK_EXTENSION, KVM_CAP_PPC_SECURE_GUEST),
	       (unsigned int)(stats(&vm).device_pages * PAGE_BYTES >> 20),
	       (long long)before, (long long)after);
	destroy(&vm, NULL);
}

int main(void)
{
	ksft_print_header();
	ksft_set_plan(60);
	setbuf(stdout, NULL);

	test_no_memory();
	if (load_kvm_hv(SECURE_BYTES)) {
		ksft_print_msg("kvm-hv does not load with secure memory\n");
		ksft_exit_fail();
	}
	uv = load_stand_in();
	test_refusals();
	test_order();
	test_start_fails();
	test_slots();
	test_pages();
	test_page_in_fails();
	test_page_pinned();
	test_page_out_fails();
	test_done_fails();
	test_abort();
	test_svm_off();
	test_faults();
	test_vm_gone();
	print_answer();
	close(uv);

	ksft_print_cnts();
	return ksft_get_fail_cnt() ? KSFT_FAIL : KSFT_PASS;
}
