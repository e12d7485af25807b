// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a host and its userspace may do to a secure guest at any time, with a
 * stand-in for the ultravisor: whose memory is given out, what another thread
 * does meanwhile, memory that moves, goes or is swapped out, and what is left
 * when a step of KVM's own fails.
 *
 * Races are not waited for: the stand-in holds one side where the other can
 * come in between.
 *
 * No case comes to these paths of KVM's:
 *
 *  - H_SVM_PAGE_IN that shares a page and is killed while the host unmaps the
 *    page again and again: who is killed sees no answer, and the next try
 *    finds the page;
 *  - H_SVM_INIT_DONE for a memslot that no pages are tracked of: none can come
 *    or go since the start without being taken in or forgotten.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../kselftest.h"
#include "secure_guest_glue.h"
#include "secure_guest_uv.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT		21
#endif

#define ALWAYS			0x7fffffff

/* The same VM by another vCPU, for a second thread */
static struct vm second_vcpu(struct vm *vm)
{
	struct vm second = *vm;

	second.vcpu = ioctl(vm->fd, KVM_CREATE_VCPU, 1);
	if (second.vcpu < 0)
		ksft_print_msg("KVM_CREATE_VCPU: %s\n", strerror(errno));
	return second;
}

static int64_t call_start(void *vm)
{
	return start(vm);
}

static int64_t call_done(void *vm)
{
	return done(vm);
}

static int64_t call_abort(void *vm)
{
	return guest_abort(vm);
}

static int64_t call_svm_off(void *vm)
{
	return svm_off(vm);
}

static int64_t call_page_in(void *vm)
{
	return page_in(vm, 0);
}

static int64_t call_share(void *vm)
{
	return share(vm, 0);
}

/* 0 if the guest goes on, or errno */
static int64_t touch(struct vm *vm, uint64_t gpa)
{
	struct uv_stand_in_gfn g = { .vcpu_fd = vm->vcpu, .gpa = gpa };
	int rc = ioctl(uv, UV_STAND_IN_TOUCH, &g);

	return rc < 0 ? errno : rc;
}

static int64_t call_touch(void *vm)
{
	return touch(vm, 0);
}

/* Slot 2, or slot 1 away */
static int64_t call_add_slot(void *vm)
{
	return vm_set_slot(vm, 2, 0, GPA3, NULL, 2) ? errno : 0;
}

static int64_t call_delete_slot(void *vm)
{
	return vm_set_slot(vm, 1, 0, GPA2, NULL, 0) ? errno : 0;
}

/* Hold who takes a mutex next. With lockdep the function has another name. */
static void hold_at_mutex(void)
{
	if (!point("mutex_lock", UV_STAND_IN_HOLD, 0, 1, 0) &&
	    !point("mutex_lock_nested", UV_STAND_IN_HOLD, 0, 1, 0))
		ksft_print_msg("no mutex_lock\n");
}

static bool memory_svm_off(void)
{
	struct vm vm;
	char *mem2 = create_secure(&vm);
	bool good;

	scribble();
	good = expect("KVM_PPC_SVM_OFF", svm_off(&vm), 0) & in_use(&vm, 0, 0) &
	       is_zero(vm.mem, PAGES) & is_zero(mem2, PAGES2);
	destroy(&vm, mem2);
	return good;
}

static bool memory_abort(void)
{
	struct vm vm;
	char *mem2 = create_started(&vm);
	bool good = true;
	int i;

	for (i = 0; i < PAGES; i++)
		good &= expect("in", page_in(&vm, i * PAGE_BYTES), H_SUCCESS);
	scribble();
	good &= expect("H_SVM_INIT_ABORT", init_abort(&vm), H_PARAMETER) &
		in_use(&vm, 0, 0) & is_zero(vm.mem, PAGES) &
		holds(mem2, 0, PAGES2, SEED2);
	destroy(&vm, mem2);
	return good;
}

static bool memory_share(void)
{
	struct vm vm;
	char *mem2 = create_secure(&vm);
	bool good;

	scribble();
	fail(UV_PAGE_IN, 0, 1);
	good = expect("share", share(&vm, 0), H_PARAMETER) &
	       in_use(&vm, 2, PAGES + PAGES2 - 1) & is_zero(vm.mem, 1);
	destroy(&vm, mem2);
	return good;
}

static bool memory_slot(void)
{
	struct vm vm;
	char *mem2 = create_secure(&vm);
	bool good;

	scribble();
	vm_slot(&vm, 1, GPA2, 0);
	good = in_use(&vm, 1, PAGES) & is_zero(mem2, PAGES2);
	destroy(&vm, mem2);
	return good;
}

static void test_memory(void)
{
	in_child("memory: what KVM_PPC_SVM_OFF gives back is not stale",
		 memory_svm_off);
	in_child("memory: what the ultravisor gives up is not stale",
		 memory_abort);
	in_child("memory: what is shared in vain is not stale", memory_share);
	in_child("memory: what a slot leaves is not stale", memory_slot);
}

/* H_SVM_INIT_ABORT by another vCPU, when @call has looked that it started */
static bool aborted_before(int64_t (*call)(void *vm))
{
	struct uv_stand_in_stats before;
	struct vm vm, second;
	struct helper h;
	char *mem2 = create_started(&vm);
	bool good;

	second = second_vcpu(&vm);
	before = stats(&vm);
	point("__srcu_read_lock", UV_STAND_IN_HOLD, 0, 1, 0);
	help(&h, call, &vm);
	wait_held();
	good = expect("H_SVM_INIT_ABORT", guest_abort(&second), H_PARAMETER);
	release();
	good &= join(&h) && expect("hypercall", h.ret, H_UNSUPPORTED) &
		in_use(&vm, 0, 0) & holds(vm.mem, 0, PAGES, SEED) &
		expect("calls for a VM that is not known",
		       stats(&vm).strangers - before.strangers, 0);
	close(second.vcpu);
	destroy(&vm, mem2);
	return good;
}

static bool race_page_in_abort(void)
{
	return aborted_before(call_page_in);
}

static bool race_share_abort(void)
{
	return aborted_before(call_share);
}

/*
 * KVM was to move page 0 by @call, which somebody held, and is about to try
 * again. Nobody holds it any more.
 */
static void hold_next_try(struct helper *h, struct vm *vm,
			  int64_t (*call)(void *vm))
{
	point("fixup_user_fault", UV_STAND_IN_HOLD_AFTER, 0, 1, 0);
	help(h, call, vm);
	wait_held();
	pin(0);
}

/* H_SVM_INIT_ABORT by another vCPU then */
static bool race_retry_abort(void)
{
	struct uv_stand_in_stats before;
	struct vm vm, second;
	struct helper h;
	char *mem2 = create_started(&vm);
	bool good;

	second = second_vcpu(&vm);
	before = stats(&vm);
	pin(1);
	hold_next_try(&h, &vm, call_page_in);
	good = expect("H_SVM_INIT_ABORT", guest_abort(&second), H_PARAMETER);
	release();
	good &= join(&h) && expect("page-in", h.ret, H_PARAMETER) &
		in_use(&vm, 0, 0) & holds(vm.mem, 0, PAGES, SEED) &
		expect("calls for a VM that is not known",
		       stats(&vm).strangers - before.strangers, 0);
	close(second.vcpu);
	destroy(&vm, mem2);
	return good;
}

/* The page goes in by another vCPU then. */
static bool race_retry_page_in(void)
{
	struct vm vm, second;
	struct helper h;
	char *mem2 = create_started(&vm);
	bool good;

	second = second_vcpu(&vm);
	pin(1);
	hold_next_try(&h, &vm, call_page_in);
	good = expect("page-in of the other", page_in(&second, 0), H_SUCCESS);
	release();
	good &= join(&h) && expect("page-in", h.ret, H_PARAMETER) &
		in_use(&vm, 2, 1);
	close(second.vcpu);
	destroy(&vm, mem2);
	return good;
}

static bool race_retry_done(void)
{
	struct vm vm, second;
	struct helper h;
	char *mem2 = create_started(&vm);
	bool good;

	second = second_vcpu(&vm);
	pin(1);
	good = expect("page-in", page_in(&vm, 0), H_PARAMETER);
	hold_next_try(&h, &vm, call_done);
	good &= expect("page-in of the other", page_in(&second, 0), H_SUCCESS);
	release();
	good &= join(&h) && expect("H_SVM_INIT_DONE", h.ret, H_SUCCESS) &
		in_use(&vm, 2, PAGES + PAGES2);
	close(second.vcpu);
	destroy(&vm, mem2);
	return good;
}

/* A slot has been installed and KVM does not know yet that it shall register. */
static bool race_start_add(void)
{
	struct uv_stand_in_stats before;
	struct helper adds, starts;
	struct vm vm;
	bool good;

	create(&vm, true);
	before = stats(&vm);
	point("synchronize_srcu_expedited", UV_STAND_IN_HOLD_AFTER, 0, 1, 0);
	help(&adds, call_add_slot, &vm);
	wait_held();
	help(&starts, call_start, &vm);
	is_blocked(&starts);
	release();
	good = join(&adds) && join(&starts) &&
	       expect("slot", adds.ret, 0) &
	       expect("H_SVM_INIT_START", starts.ret, H_SUCCESS) &
	       in_use(&vm, 2, 0) &
	       expect("slots registered twice",
		      stats(&vm).again - before.again, 0);
	destroy(&vm, NULL);
	return good;
}

/* The start has looked which slots there are, and has not said that it is one. */
static bool race_add_start(void)
{
	struct helper adds, starts;
	struct vm vm;
	bool good;

	create(&vm, true);
	hold_call(UV_REGISTER_MEM_SLOT);
	help(&starts, call_start, &vm);
	wait_held();
	help(&adds, call_add_slot, &vm);
	is_blocked(&adds);
	release();
	good = join(&adds) && join(&starts) &&
	       expect("slot", adds.ret, 0) &
	       expect("H_SVM_INIT_START", starts.ret, H_SUCCESS) &
	       in_use(&vm, 2, 2);
	destroy(&vm, NULL);
	return good;
}

/* A slot is marked as going. */
static bool race_start_delete(void)
{
	struct helper deletes, starts;
	struct vm vm;
	char *mem2;
	bool good;

	create(&vm, true);
	mem2 = vm_slot(&vm, 1, GPA2, PAGES2);
	point("synchronize_srcu_expedited", UV_STAND_IN_HOLD_AFTER, 0, 1, 0);
	help(&deletes, call_delete_slot, &vm);
	wait_held();
	help(&starts, call_start, &vm);
	is_blocked(&starts);
	release();
	good = join(&deletes) && join(&starts) &&
	       expect("slot", deletes.ret, 0) &
	       expect("H_SVM_INIT_START", starts.ret, H_SUCCESS) &
	       in_use(&vm, 1, 0);
	destroy(&vm, mem2);
	return good;
}

/* @call ends what a slot is just registered for. */
static bool ends_while_adding(int64_t (*call)(void *vm), int64_t answer)
{
	struct uv_stand_in_stats before;
	struct helper adds, ends;
	struct vm vm;
	char *mem2 = create_started(&vm);
	bool good;

	before = stats(&vm);
	hold_call(UV_REGISTER_MEM_SLOT);
	help(&adds, call_add_slot, &vm);
	wait_held();
	help(&ends, call, &vm);
	is_blocked(&ends);
	release();
	good = join(&adds) && join(&ends) &&
	       expect("end", ends.ret, answer) & in_use(&vm, 0, 0) &
	       expect("VMs of the ultravisor", stats(&vm).svms, 0) &
	       expect("calls for a VM that is not known",
		      stats(&vm).strangers - before.strangers, 0);
	destroy(&vm, mem2);
	return good;
}

static bool race_abort_add(void)
{
	return ends_while_adding(call_abort, H_PARAMETER);
}

static bool race_off_add(void)
{
	return ends_while_adding(call_svm_off, 0);
}

/* Everything has moved, and KVM is about to say that it is done. */
static bool race_done_abort(void)
{
	struct helper dones, aborts;
	struct vm vm, second;
	char *mem2 = create_started(&vm);
	bool good;

	second = second_vcpu(&vm);
	point("up_read", UV_STAND_IN_HOLD_AFTER, 1, 1, 0);
	help(&dones, call_done, &vm);
	wait_held();
	help(&aborts, call_abort, &second);
	is_blocked(&aborts);
	release();
	good = join(&dones) && join(&aborts) &&
	       expect("H_SVM_INIT_DONE", dones.ret, H_SUCCESS) &
	       expect("H_SVM_INIT_ABORT", aborts.ret, H_STATE) &
	       expect("secure_guest", stats(&vm).secure_guest, 3) &
	       in_use(&vm, 2, PAGES + PAGES2);
	close(second.vcpu);
	destroy(&vm, mem2);
	return good;
}

/* The host's page goes when KVM has looked it up, and a new one comes. */
static bool meanwhile_gone(struct vm *vm, int64_t (*call)(void *vm))
{
	struct helper h;
	bool good;

	point(LOOK_UP_GFN, UV_STAND_IN_HOLD_AFTER, 0, 1, 0);
	help(&h, call, vm);
	wait_held();
	madvise(vm->mem, PAGE_BYTES, MADV_DONTNEED);
	/* As long as the call is held, so is the old page: this is another. */
	*(uint64_t *)vm->mem = 1;
	release();
	good = join(&h) && expect("call", h.ret, 0);
	/* A fault may have been put off. */
	while (gfn(vm, 0).state == UV_STAND_IN_SHARED_INV && good)
		good = expect("touch", call_touch(vm), 0);
	*(uint64_t *)vm->mem = 0x5a5aULL;
	return good &
	       expect("state", gfn(vm, 0).state, UV_STAND_IN_SHARED) &
	       expect("what the guest sees", gfn(vm, 0).word, 0x5a5a);
}

static bool race_share_unmap(void)
{
	struct vm vm;
	char *mem2 = create_started(&vm);
	bool good = meanwhile_gone(&vm, call_share);

	destroy(&vm, mem2);
	return good;
}

static bool race_touch_unmap(void)
{
	struct vm vm;
	char *mem2 = create_secure(&vm);
	bool good;

	good = expect("share", share(&vm, 0), H_SUCCESS);
	madvise(vm.mem, PAGE_BYTES, MADV_DONTNEED);
	good &= expect("state", gfn(&vm, 0).state, UV_STAND_IN_SHARED_INV) &&
		meanwhile_gone(&vm, call_touch);
	destroy(&vm, mem2);
	return good;
}

static int64_t call_read(void *mem)
{
	return is_sigbus(mem);
}

static void unmap_run(struct vm *vm)
{
	munmap(vm->run, ioctl(dev_kvm(), KVM_GET_VCPU_MMAP_SIZE, 0));
}

static int64_t call_close(void *vm)
{
	unmap_run(vm);
	close(((struct vm *)vm)->vcpu);
	close(((struct vm *)vm)->fd);
	return 0;
}

static bool go;

/* The files alone, when told to: a fault that is held keeps the memory map. */
static int64_t call_close_later(void *vm)
{
	while (!__atomic_load_n(&go, __ATOMIC_SEQ_CST))
		sched_yield();
	close(((struct vm *)vm)->vcpu);
	close(((struct vm *)vm)->fd);
	return 0;
}

/* A fault has found the VM, and goes on when that is being closed. */
static bool race_fault_close(void)
{
	struct helper reads, closes;
	struct vm vm, other;
	char *mem2 = create_secure(&vm);
	bool good;

	vm_create(&other, 1);
	unmap_run(&vm);
	help(&closes, call_close_later, &vm);
	hold_at_mutex();
	help(&reads, call_read, vm.mem);
	wait_held();
	__atomic_store_n(&go, true, __ATOMIC_SEQ_CST);
	good = expect("its end waits", is_blocked(&closes), true);
	release();
	good &= join(&closes) && join(&reads) &&
		expect("SIGBUS", reads.ret, true) &
		expect("VMs of the ultravisor", stats(&other).svms, 0);
	munmap(vm.mem, vm.size);
	munmap(mem2, PAGES2 * PAGE_BYTES);
	good &= in_use(&other, 0, 0);
	destroy(&other, NULL);
	return good;
}

static void test_races(void)
{
	in_child("race: page-in that an abort has overtaken",
		 race_page_in_abort);
	in_child("race: share that an abort has overtaken", race_share_abort);
	in_child("race: page-in that an abort overtakes before its next try",
		 race_retry_abort);
	in_child("race: page-in that another overtakes before its next try",
		 race_retry_page_in);
	in_child("race: done that a page-in overtakes before its next try",
		 race_retry_done);
	in_child("race: start while a slot comes", race_start_add);
	in_child("race: slot that comes while it starts", race_add_start);
	in_child("race: start while a slot goes", race_start_delete);
	in_child("race: abort while a slot comes", race_abort_add);
	in_child("race: KVM_PPC_SVM_OFF while a slot comes", race_off_add);
	in_child("race: abort while done comes to its end", race_done_abort);
	in_child("race: share of a page that the host unmaps",
		 race_share_unmap);
	in_child("race: fault of the guest on a page that the host unmaps",
		 race_touch_unmap);
	in_child("race: VM is closed, and its end waits for a fault",
		 race_fault_close);
}

static bool twice_done(void)
{
	struct vm vm;
	char *mem2 = create_secure(&vm);
	bool good;

	good = expect("H_SVM_INIT_DONE", done(&vm), H_STATE) &
	       expect("secure_guest", stats(&vm).secure_guest, 3) &
	       in_use(&vm, 2, PAGES + PAGES2);
	destroy(&vm, mem2);
	return good;
}

/* To ask whether it could be is not to allow it. */
static bool asking(void)
{
	struct vm vm;
	bool good;

	create(&vm, false);
	good = expect("KVM_CHECK_EXTENSION on a VM",
		      ioctl(vm.fd, KVM_CHECK_EXTENSION,
			    KVM_CAP_PPC_SECURE_GUEST), 1) &
	       expect("KVM_CHECK_EXTENSION",
		      ioctl(dev_kvm(), KVM_CHECK_EXTENSION,
			    KVM_CAP_PPC_SECURE_GUEST), 1) &
	       expect("H_SVM_INIT_START", start(&vm), H_AUTHORITY);
	destroy(&vm, NULL);
	return good;
}

/* Before and after H_SVM_INIT_DONE */
static bool invalidated(bool secure)
{
	struct uv_stand_in_stats before;
	struct vm vm;
	char *mem2 = secure ? create_secure(&vm) : create_started(&vm);
	bool good;

	good = expect("share", share(&vm, 0), H_SUCCESS);
	vm.mem[0] = 1;
	before = stats(&vm);
	madvise(vm.mem, PAGE_BYTES, MADV_DONTNEED);
	good &= expect("UV_PAGE_INVAL of a shared page",
		       stats(&vm).invals - before.invals, 1) &
		expect("state", gfn(&vm, 0).state, UV_STAND_IN_SHARED_INV);
	destroy(&vm, mem2);
	return good;
}

static bool invalidated_started(void)
{
	return invalidated(false);
}

static bool invalidated_secure(void)
{
	return invalidated(true);
}

static bool logging(void)
{
	struct vm vm;
	char *mem2 = create_secure(&vm);
	bool good;

	good = expect("on", vm_set_slot(&vm, 0, KVM_MEM_LOG_DIRTY_PAGES, 0,
					vm.mem, PAGES), 0) &
	       in_use(&vm, 2, PAGES + PAGES2) &
	       expect("off", vm_set_slot(&vm, 0, 0, 0, vm.mem, PAGES), 0) &
	       in_use(&vm, 2, PAGES + PAGES2) &
	       holds_cipher(vm.mem, 0, 0, PAGES, SEED);
	destroy(&vm, mem2);
	return good;
}

static void test_states(void)
{
	in_child("state: done once", twice_done);
	in_child("state: asking changes nothing", asking);
	in_child("state: page shared before done is invalidated",
		 invalidated_started);
	in_child("state: page shared after done is invalidated",
		 invalidated_secure);
	in_child("state: dirty logging leaves secure pages alone", logging);
}

static bool slot_not_registered(void)
{
	struct vm vm;
	char *mem2 = create_started(&vm), *mem3;
	bool good;

	mem3 = mmap(NULL, 2 * PAGE_BYTES, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	fail(UV_REGISTER_MEM_SLOT, 0, 1);
	good = expect("slot is refused",
		      vm_set_slot(&vm, 2, 0, GPA3, mem3, 2) ? errno : 0,
		      EINVAL) &
	       in_use(&vm, 2, 0) &
	       expect("page-in", page_in(&vm, GPA3), H_PARAMETER) &
	       expect("slot", vm_set_slot(&vm, 2, 0, GPA3, mem3, 2), 0) &
	       in_use(&vm, 3, 2);
	destroy(&vm, mem2);
	munmap(mem3, 2 * PAGE_BYTES);
	return good;
}

static bool slot_too_large(void)
{
	struct vm vm;
	char *mem2 = create_secure(&vm), *mem3;
	unsigned int pages = SECURE_BYTES / PAGE_BYTES;
	bool good;

	mem3 = mmap(NULL, pages * PAGE_BYTES, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	good = expect("slot is refused",
		      vm_set_slot(&vm, 2, 0, GPA3, mem3, pages) ? errno : 0,
		      ENOMEM) &
	       in_use(&vm, 2, PAGES + PAGES2) &
	       expect("smaller slot", vm_set_slot(&vm, 2, 0, GPA3, mem3, 4), 0) &
	       in_use(&vm, 3, PAGES + PAGES2 + 4);
	destroy(&vm, mem2);
	munmap(mem3, pages * PAGE_BYTES);
	return good;
}

static bool slot_moved(void)
{
	struct vm vm;
	char *mem2 = create_started(&vm);
	bool good;

	good = expect("in", page_in(&vm, GPA2), H_SUCCESS) &
	       expect("move", vm_set_slot(&vm, 1, 0, GPA3, mem2, PAGES2), 0) &
	       in_use(&vm, 2, PAGES2) &
	       expect("page-in", page_in(&vm, GPA2), H_PARAMETER) &
	       expect("page-out", page_out(&vm, GPA3), H_SUCCESS) &
	       in_use(&vm, 2, PAGES2 - 1) &
	       expect("page-in", page_in(&vm, GPA3), H_SUCCESS) &
	       in_use(&vm, 2, PAGES2);
	destroy(&vm, mem2);
	return good;
}

/* Memory is not mapped where it was, or not any more. */
static bool moved_swapped(void)
{
	struct vm vm;
	char *mem2 = create_secure(&vm), *page1 = vm.mem + PAGE_BYTES;
	char *aside = mmap(NULL, PAGE_BYTES, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	const int flags = MREMAP_MAYMOVE | MREMAP_FIXED;
	bool good;

	mremap(vm.mem, PAGE_BYTES, PAGE_BYTES, flags, aside);
	mremap(page1, PAGE_BYTES, PAGE_BYTES, flags, vm.mem);
	mremap(aside, PAGE_BYTES, PAGE_BYTES, flags, page1);
	good = expect("page-out", page_out(&vm, 0), H_PARAMETER) &
	       in_use(&vm, 2, PAGES + PAGES2) &
	       expect("page 1 at address 0", *(uint32_t *)vm.mem,
		      (uint32_t)((SEED + 0x10000) ^ UV_STAND_IN_KEY(PAGE_BYTES))) &
	       expect("page 0 at address 1", *(uint32_t *)page1,
		      (uint32_t)(SEED ^ UV_STAND_IN_KEY(0))) &
	       in_use(&vm, 2, PAGES + PAGES2 - 2);
	destroy(&vm, mem2);
	return good;
}

/* There is memory again at the guest's address, and its page is elsewhere. */
static char *move_page(struct vm *vm)
{
	char *moved = mmap(NULL, PAGE_BYTES, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	mremap(vm->mem, PAGE_BYTES, PAGE_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED,
	       moved);
	mmap(vm->mem, PAGE_BYTES, PROT_READ | PROT_WRITE,
	     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	return moved;
}

static bool moved_share(void)
{
	struct vm vm;
	char *mem2 = create_secure(&vm);
	char *moved = move_page(&vm);
	struct helper h;
	bool good;

	help(&h, call_share, &vm);
	good = join(&h) && expect("share", h.ret, H_PARAMETER) &
	       in_use(&vm, 2, PAGES + PAGES2) &
	       holds_cipher(moved, 0, 0, 1, SEED) &
	       in_use(&vm, 2, PAGES + PAGES2 - 1);
	/* What KVM has a reference left to cannot become secure. */
	good &= expect("slot", vm_set_slot(&vm, 2, 0, GPA3, vm.mem, 1), 0) &
		in_use(&vm, 3, PAGES + PAGES2);
	destroy(&vm, mem2);
	return good;
}

/* What is at the address is nobody's business: the guest has its page. */
static bool moved_touch(void)
{
	struct vm vm;
	char *mem2 = create_secure(&vm);
	char *moved = move_page(&vm);
	bool good;

	good = expect("the ultravisor is watched",
		      point("ucall_norets", UV_STAND_IN_SEE, 0, ALWAYS, 0),
		      true) &
	       expect("fault", touch(&vm, 0), 0) &
	       expect("calls to the ultravisor", stats(&vm).seen, 0) &
	       holds_cipher(moved, 0, 0, 1, SEED) &
	       expect("slot", vm_set_slot(&vm, 2, 0, GPA3, vm.mem, 1), 0) &
	       in_use(&vm, 3, PAGES + PAGES2);
	destroy(&vm, mem2);
	return good;
}

/* Where KVM lets others run in the middle of a slot */
static bool long_way(void)
{
	struct vm vm;
	bool good;
	char *mem2;

	create(&vm, true);
	mem2 = vm_slot(&vm, 1, 4094 * PAGE_BYTES, PAGES2);
	good = expect("H_SVM_INIT_START", start(&vm), H_SUCCESS) &
	       expect("H_SVM_INIT_DONE", done(&vm), H_SUCCESS) &
	       in_use(&vm, 2, PAGES + PAGES2);
	destroy(&vm, mem2);
	return good;
}

static bool hole(void)
{
	struct vm vm;
	char *mem2 = create_secure(&vm);
	bool good;

	munmap(vm.mem + 2 * PAGE_BYTES, 2 * PAGE_BYTES);
	good = in_use(&vm, 2, PAGES + PAGES2 - 2) &
	       expect("KVM_PPC_SVM_OFF", svm_off(&vm), 0) & in_use(&vm, 0, 0) &
	       expect("SIGBUS behind it", is_sigbus(vm.mem + 5 * PAGE_BYTES),
		      false);
	destroy(&vm, mem2);
	return good;
}

/* Memory of a slot in two areas, each with pages at its ends */
static bool two_areas(int64_t (*end)(void *vm), unsigned int slots,
		      unsigned int pages)
{
	struct vm vm;
	char *mem2 = create_secure(&vm);
	bool good;

	good = expect("MADV_DONTDUMP",
		      madvise(mem2, PAGES2 / 2 * PAGE_BYTES, MADV_DONTDUMP), 0) &&
	       expect("end", end(&vm), 0) && in_use(&vm, slots, pages) &&
	       is_zero(mem2, PAGES2);
	destroy(&vm, mem2);
	return good;
}

static bool two_areas_deleted(void)
{
	return two_areas(call_delete_slot, 1, PAGES);
}

static bool two_areas_off(void)
{
	return two_areas(call_svm_off, 0, 0);
}

/* The ultravisor is told of pages that there are. */
static bool touch_outside(void)
{
	struct vm vm;
	char *mem2 = create_secure(&vm);
	bool good;

	good = expect("share", share(&vm, 0), H_SUCCESS);
	madvise(vm.mem, PAGE_BYTES, MADV_DONTNEED);
	good &= expect("the ultravisor is watched",
		       point("ucall_norets", UV_STAND_IN_SEE, 0, ALWAYS, 0),
		       true) &
		expect("fault between the slots",
		       touch(&vm, GPA2 - PAGE_BYTES), EFAULT) &
		expect("fault behind them", touch(&vm, GPA3), EFAULT) &
		expect("calls to the ultravisor", stats(&vm).seen, 0) &
		expect("fault in a slot", touch(&vm, 0), 0) &
		expect("calls to the ultravisor", stats(&vm).seen, 1);
	destroy(&vm, mem2);
	return good;
}

/* A swap area on the disk in memory */
static bool swap_on(void)
{
	static char page[PAGE_BYTES];
	int fd = open("/dev/ram0", O_RDWR);
	bool good;

	if (fd < 0)
		return false;
	/* Version 1, and the number of the last page, behind the boot block */
	*(uint32_t *)(page + 1024) = 1;
	*(uint32_t *)(page + 1028) = 8 * 1024 * 1024 / PAGE_BYTES - 1;
	memcpy(page + PAGE_BYTES - 10, "SWAPSPACE2", 10);
	good = write(fd, page, PAGE_BYTES) == PAGE_BYTES && !fsync(fd);
	close(fd);
	return good && !swapon("/dev/ram0", 0);
}

/* A page that is about to be put on a list cannot be taken off that yet. */
static bool swap_out(char *mem, unsigned int pages)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	unsigned int i, out = 0, pass;
	uint64_t entry;

	for (pass = 0; pass < 100 && out < pages; pass++) {
		madvise(mem, pages * PAGE_BYTES, MADV_PAGEOUT);
		out = 0;
		for (i = 0; i < pages; i++)
			out += pread(fd, &entry, sizeof(entry),
				     ((uintptr_t)mem / PAGE_BYTES + i) *
				     sizeof(entry)) == sizeof(entry) &&
			       entry >> 62 & 1;
	}
	close(fd);
	return expect("pages swapped out", out, pages);
}

static bool swapped_out(void)
{
	struct vm vm;
	char *mem2;
	bool good;

	if (!swap_on()) {
		ksft_print_msg("no swap: %s\n", strerror(errno));
		return false;
	}
	mem2 = create_started(&vm);
	good = swap_out(vm.mem, PAGES) & swap_out(mem2, PAGES2) &
	       expect("page-in", page_in(&vm, 0), H_SUCCESS) & in_use(&vm, 2, 1) &
	       expect("H_SVM_INIT_DONE", done(&vm), H_SUCCESS) &
	       in_use(&vm, 2, PAGES + PAGES2) &
	       holds_cipher(vm.mem, 0, 0, 1, SEED);
	destroy(&vm, mem2);
	swapoff("/dev/ram0");
	return good;
}

static void test_layout(void)
{
	in_child("slot: one that the ultravisor refuses is refused",
		 slot_not_registered);
	in_child("slot: one that does not fit is refused", slot_too_large);
	in_child("slot: one that moves is registered anew", slot_moved);
	in_child("address: two pages have changed places", moved_swapped);
	in_child("address: share of a page that is elsewhere", moved_share);
	in_child("address: fault of the guest on a page that is elsewhere",
		 moved_touch);
	in_child("address: pages behind a hole come back", hole);
	in_child("address: pages of two areas come back when the slot goes",
		 two_areas_deleted);
	in_child("address: pages of two areas come back by KVM_PPC_SVM_OFF",
		 two_areas_off);
	in_child("address: fault of the guest outside of its slots",
		 touch_outside);
	in_child("address: pages that are swapped out go in", swapped_out);
}

/* Somebody holds the page when it is looked at, and not the next time. */
static bool passing(bool unshare)
{
	struct vm vm;
	char *mem2 = create_secure(&vm);
	bool good;

	if (unshare)
		good = expect("share", share(&vm, 0), H_SUCCESS);
	else
		good = expect("page-out", page_out(&vm, 0), H_SUCCESS);
	pin(1);
	point("migrate_vma_setup", UV_STAND_IN_UNPIN, 1, 1, 0);
	good &= expect("page-in", page_in(&vm, 0), H_SUCCESS) &
		in_use(&vm, 2, PAGES + PAGES2);
	pin(0);
	good &= expect("page-out", page_out(&vm, 0), H_SUCCESS) &
		in_use(&vm, 2, PAGES + PAGES2 - 1);
	if (!unshare)
		good &= holds_cipher(vm.mem, 0, 0, 1, SEED);
	destroy(&vm, mem2);
	return good;
}

static bool passing_page_in(void)
{
	return passing(false);
}

static bool passing_unshare(void)
{
	return passing(true);
}

/* Somebody does not let go of the page: it is where it was, for both. */
static bool lasting(void)
{
	struct vm vm;
	char *mem2 = create_secure(&vm);
	bool good;

	good = expect("page-out", page_out(&vm, 0), H_SUCCESS);
	pin(1);
	good &= expect("page-in", page_in(&vm, 0), H_PARAMETER) &
		in_use(&vm, 2, PAGES + PAGES2 - 1) &
		expect("state", gfn(&vm, 0).state, UV_STAND_IN_PAGED_OUT) &
		holds_cipher(vm.mem, 0, 0, 1, SEED);
	pin(0);
	good &= expect("page-in", page_in(&vm, 0), H_SUCCESS) &
		in_use(&vm, 2, PAGES + PAGES2) &
		holds_cipher(vm.mem, 0, 0, 1, SEED);
	destroy(&vm, mem2);
	return good;
}

static bool pin_secure(char *mem)
{
	uint64_t address = (uintptr_t)mem;

	return expect("a secure page", ioctl(uv, UV_STAND_IN_PIN_SECURE, &address), 0);
}

/* So do those who wait for a secure page to be moved. */
static bool passing_page_out(void)
{
	struct vm vm;
	char *mem2 = create_secure(&vm);
	bool good;

	good = pin_secure(vm.mem);
	point("migrate_vma_setup", UV_STAND_IN_UNPIN, 1, 1, 0);
	good &= expect("page-out", page_out(&vm, 0), H_SUCCESS) &
		in_use(&vm, 2, PAGES + PAGES2 - 1) &
		holds_cipher(vm.mem, 0, 0, 1, SEED);
	destroy(&vm, mem2);
	return good;
}

static bool lasting_page_out(void)
{
	struct vm vm;
	char *mem2 = create_secure(&vm);
	bool good;

	good = pin_secure(vm.mem);
	good &= expect("page-out", page_out(&vm, 0), H_PARAMETER) &
		in_use(&vm, 2, PAGES + PAGES2) &
		expect("state", gfn(&vm, 0).state, UV_STAND_IN_SECURE) &
		expect("what the guest sees", (uint32_t)gfn(&vm, 0).word, SEED);
	pin(0);
	good &= expect("SIGBUS", is_sigbus(vm.mem), false) &
		in_use(&vm, 2, PAGES + PAGES2 - 1) &
		holds_cipher(vm.mem, 0, 0, 1, SEED);
	destroy(&vm, mem2);
	return good;
}

/* A share that fails before anything was moved changes nothing. */
static bool share_fails(void)
{
	struct vm vm;
	char *mem2 = create_secure(&vm);
	bool good;

	point(LOOK_UP_GFN, UV_STAND_IN_RETURN, 0, 1, LOOK_UP_GFN_FAILED);
	good = expect("share", share(&vm, 0), H_PARAMETER) &
	       in_use(&vm, 2, PAGES + PAGES2) &
	       expect("page-out", page_out(&vm, 0), H_SUCCESS) &
	       holds_cipher(vm.mem, 0, 0, 1, SEED);
	destroy(&vm, mem2);
	return good;
}

static void test_references(void)
{
	in_child("reference: page-in is tried again", passing_page_in);
	in_child("reference: page that is no more shared is tried again",
		 passing_unshare);
	in_child("reference: page-in that fails is undone", lasting);
	in_child("reference: page-out is tried again", passing_page_out);
	in_child("reference: page-out that fails is undone", lasting_page_out);
	in_child("share fails: the page keeps its content", share_fails);
}

/* Is the memory there such that KSM may merge it? */
static int mergeable(const void *address)
{
	FILE *f = fopen("/proc/self/smaps", "r");
	unsigned long from, to;
	bool here = false;
	char line[512];
	int is = -1;

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			here = (uintptr_t)address >= from &&
			       (uintptr_t)address < to;
		else if (here && !strncmp(line, "VmFlags:", 8))
			is = !!strstr(line, " mg");
	}
	if (f)
		fclose(f);
	return is;
}

/* Memory of slot 1 is and memory of slot 0 is not, when it starts and after. */
static bool ksm(int64_t (*end)(void *vm), bool starts)
{
	struct vm vm;
	bool good;
	char *mem2;

	create(&vm, true);
	mem2 = vm_slot(&vm, 1, GPA2, PAGES2);
	good = expect("MADV_MERGEABLE", madvise(mem2, PAGES2 * PAGE_BYTES,
						MADV_MERGEABLE), 0) &
	       expect("slot 1 before", mergeable(mem2), 1);
	if (!starts)
		fail(UV_REGISTER_MEM_SLOT, 1, 1);
	good &= expect("H_SVM_INIT_START", start(&vm),
		       starts ? H_SUCCESS : H_PARAMETER);
	if (starts)
		good &= expect("slot 1 when secure", mergeable(mem2), 0);
	if (end)
		good &= expect("end", end(&vm), end == call_abort ?
						H_PARAMETER : 0);
	good &= expect("slot 0", mergeable(vm.mem), 0) &
		expect("slot 1", mergeable(mem2), 1);
	if (end == call_close)
		return good;
	destroy(&vm, mem2);
	return good;
}

static bool ksm_refused(void)
{
	return ksm(NULL, false);
}

static bool ksm_abort(void)
{
	return ksm(call_abort, true);
}

static bool ksm_off(void)
{
	return ksm(call_svm_off, true);
}

static bool ksm_deleted(void)
{
	return ksm(call_delete_slot, true);
}

static bool ksm_closed(void)
{
	return ksm(call_close, true);
}

/* A secure VM with mergeable memory; who has that is gone before the VM. */
static bool outlived(int owner[2])
{
	struct vm vm;
	char *mem2;
	bool good;
	char c;

	create(&vm, true);
	mem2 = vm_slot(&vm, 1, GPA2, PAGES2);
	good = expect("MADV_MERGEABLE", madvise(mem2, PAGES2 * PAGE_BYTES,
						MADV_MERGEABLE), 0) &
	       expect("H_SVM_INIT_START", start(&vm), H_SUCCESS) &
	       expect("H_SVM_INIT_DONE", done(&vm), H_SUCCESS) &
	       in_use(&vm, 2, PAGES + PAGES2);
	if (!fork()) {
		close(owner[1]);
		good = !read(owner[0], &c, 1);
		call_close(&vm);
		_exit(!good);
	}
	return good;
}

static bool ksm_outlived(void)
{
	int owner[2], end[2], status = -1;
	struct vm other;
	bool good;
	char c;

	vm_create(&other, 1);
	if (pipe(owner) || pipe(end))
		return false;
	if (!fork())
		_exit(!outlived(owner));
	close(owner[0]);
	close(owner[1]);
	close(end[1]);
	good = expect("the end of all", read(end[0], &c, 1), 0) &
	       expect("status", wait(&status) > 0 ? status : -1, 0) &
	       expect("VMs of the ultravisor", stats(&other).svms, 0) &
	       in_use(&other, 0, 0);
	close(end[0]);
	destroy(&other, NULL);
	return good;
}

/* Half of slot 1 is, from page @first on: the other half does not become so. */
static bool ksm_half(unsigned int first)
{
	const size_t half = PAGES2 / 2;
	struct vm vm;
	bool good;
	char *mem2, *is, *is_not;

	create(&vm, true);
	mem2 = vm_slot(&vm, 1, GPA2, PAGES2);
	is = mem2 + first * PAGE_BYTES;
	is_not = mem2 + (half - first) * PAGE_BYTES;
	good = expect("MADV_MERGEABLE",
		      madvise(is, half * PAGE_BYTES, MADV_MERGEABLE), 0) &
	       expect("one half before", mergeable(is), 1) &
	       expect("the other before", mergeable(is_not), 0) &
	       expect("H_SVM_INIT_START", start(&vm), H_SUCCESS) &
	       expect("one half when secure", mergeable(is), 0) &
	       expect("the other when secure", mergeable(is_not), 0) &
	       expect("H_SVM_INIT_ABORT", guest_abort(&vm), H_PARAMETER) &
	       expect("the other", mergeable(is_not), 0);
	destroy(&vm, mem2);
	return good;
}

static bool ksm_first_half(void)
{
	return ksm_half(0);
}

static bool ksm_last_half(void)
{
	return ksm_half(PAGES2 / 2);
}

static void test_ksm(void)
{
	in_child("KSM: as before when start fails", ksm_refused);
	in_child("KSM: as before after abort", ksm_abort);
	in_child("KSM: as before after KVM_PPC_SVM_OFF", ksm_off);
	in_child("KSM: as before when the slot goes", ksm_deleted);
	in_child("KSM: as before when the VM goes", ksm_closed);
	in_child("KSM: the VM goes after its memory", ksm_outlived);
	in_child("KSM: no more than before if the first half could be merged",
		 ksm_first_half);
	in_child("KSM: no more than before if the last half could be merged",
		 ksm_last_half);
}

/* What KVM does with a slot, page by page, leaves time for others. */
static bool large(unsigned int pages, int64_t (*end)(void *vm),
		  const char *function, unsigned long least)
{
	struct vm vm, other;
	bool good;
	char *mem;

	vm_create(&other, 1);
	create(&vm, true);
	mem = mmap(NULL, pages * PAGE_BYTES, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	good = expect("mmap", mem != MAP_FAILED, true) &&
	       expect("slot", vm_set_slot(&vm, 1, 0, 1UL << 32, mem, pages), 0) &&
	       expect("H_SVM_INIT_START", start(&vm), H_SUCCESS);
	good = good && expect(function, point(function, UV_STAND_IN_SEE, 0,
					      ALWAYS, 0), true) &&
	       expect("end", end(&vm), 0);
	if (good && stats(&other).seen < least) {
		ksft_print_msg("%llu calls of %s()\n",
			       (unsigned long long)stats(&other).seen, function);
		good = false;
	}
	if (end != call_close)
		vm_destroy(&vm);
	destroy(&other, NULL);
	munmap(mem, pages * PAGE_BYTES);
	return good;
}

static bool large_closed(void)
{
	return large(1 << 20, call_close, "__cond_resched_lock", 100);
}

static bool large_off(void)
{
	return large(1 << 12, call_svm_off, COND_RESCHED, 1 << 12);
}

static void test_large(void)
{
	in_child("large slot: all of it becomes secure on the way", long_way);
	in_child("large slot: others run while it is forgotten", large_closed);
	if (COND_RESCHED)
		in_child("large slot: others run while its pages are dropped",
			 large_off);
}

static int64_t call_page_out(void *vm)
{
	return page_out(vm, 0);
}

static int64_t call_fault(void *arg)
{
	struct vm *vm = arg;

	return is_sigbus(vm->mem);
}

/* A step of KVM's, by the function that it calls for it, or by its absence */
struct step {
	const char *name;
	const char *symbol;
	const char *other;	/* as it is called in another configuration */
	int64_t result;
	uint64_t uv_call;
};

#define NO_MEMORY_AREA	{ "no memory area", FIND_VMA, NULL, 0, 0 }
#define NO_MIGRATION	{ "no migration", "migrate_vma_setup", NULL, -EBUSY, 0 }
#define NO_SMALL_MEMORY	{ "no memory", SMALL_ALLOC, SMALL_ALLOC_OTHER, 0, 0 }
#define NO_PAGE		{ "no page", PAGE_ALLOC, NULL, 0, 0 }

static const struct step in_steps[] = {
	NO_MEMORY_AREA, NO_MIGRATION, NO_SMALL_MEMORY,
	{ "ultravisor", NULL, NULL, 0, UV_PAGE_IN },
};

static const struct step out_steps[] = {
	NO_MEMORY_AREA, NO_MIGRATION, NO_PAGE,
	{ "ultravisor", NULL, NULL, 0, UV_PAGE_OUT },
};

static const struct step fault_steps[] = {
	NO_MIGRATION, NO_PAGE,
	{ "ultravisor", NULL, NULL, 0, UV_PAGE_OUT },
};

static const struct step share_steps[] = {
	{ "no page", LOOK_UP_GFN, NULL, LOOK_UP_GFN_FAILED, 0 },
	{ "ultravisor", NULL, NULL, 0, UV_PAGE_IN },
};

static const struct step done_steps[] = {
	NO_MEMORY_AREA, NO_MIGRATION, NO_SMALL_MEMORY,
};

static const struct step start_steps[] = {
	NO_MEMORY_AREA, NO_SMALL_MEMORY,
	{ "KSM", "ksm_madvise", NULL, -ENOMEM, 0 },
	{ "no large memory", LARGE_ALLOC, NULL, 0, 0 },
	{ "ultravisor", NULL, NULL, 0, UV_REGISTER_MEM_SLOT },
};

/* A call, what it answers when a step fails, and what has to be done before */
struct call {
	const char *name;
	int64_t (*call)(void *vm);
	int64_t fails;
	char *(*create)(struct vm *vm);
	uint64_t in;		/* 1: the page has to be in secure memory */
	const struct step *steps;
	unsigned int nsteps;
};

static char *create_two(struct vm *vm)
{
	create(vm, true);
	return vm_slot(vm, 1, GPA2, PAGES2);
}

static const struct call calls[] = {
	{ "start", call_start, H_PARAMETER, create_two, 0,
	  start_steps, ARRAY_SIZE(start_steps) },
	{ "page-in", call_page_in, H_PARAMETER, create_started, 0,
	  in_steps, ARRAY_SIZE(in_steps) },
	{ "page-out", call_page_out, H_PARAMETER, create_started, 1,
	  out_steps, ARRAY_SIZE(out_steps) },
	{ "fault", call_fault, true, create_started, 1,
	  fault_steps, ARRAY_SIZE(fault_steps) },
	{ "share", call_share, H_PARAMETER, create_started, 0,
	  share_steps, ARRAY_SIZE(share_steps) },
	{ "share of a secure page", call_share, H_PARAMETER, create_started, 1,
	  share_steps, ARRAY_SIZE(share_steps) },
	{ "done", call_done, H_STATE, create_started, 0,
	  done_steps, ARRAY_SIZE(done_steps) },
};

#define FAILURES		48

static unsigned long free_pages(void)
{
	struct sysinfo info;

	sysinfo(&info);
	return info.freeram * info.mem_unit / PAGE_BYTES;
}

/*
 * Fail at that step many times; then nothing is missing or locked, and the
 * call can be made, which takes each lock and needs a page without references
 * that are not accounted for. A slot comes only if nobody reads the list.
 */
static bool step_fails(const struct call *c, const struct step *s)
{
	unsigned long before, after;
	struct vm vm;
	char *mem2 = c->create(&vm);
	const char *symbol = s->symbol;
	bool good = true;
	unsigned int i, used;

	if (symbol && !point(symbol, UV_STAND_IN_SEE, 0, 1, 0))
		symbol = s->other;
	if (c->in)
		page_in(&vm, 0);
	used = stats(&vm).used_pages;
	before = free_pages();
	for (i = 0; i < FAILURES; i++) {
		if (c->in && !stats(&vm).used_pages)
			page_in(&vm, 0);
		if (s->uv_call)
			fail(s->uv_call, 0, 1);
		else
			good &= expect(symbol, point(symbol, UV_STAND_IN_RETURN,
						     0, ALWAYS, s->result), true);
		good &= expect("it fails", c->call(&vm), c->fails);
		point("", 0, 0, 0, 0);
		fail(0, 0, 0);
		if (c->call == call_start)
			guest_abort(&vm);
		if (!good)
			break;
	}
	after = free_pages();
	if (after + FAILURES / 2 < before)
		good &= expect("free pages", after, before);
	good &= expect("locked pages", stats(&vm).locked_pages, 0);
	/* What was moved before it failed stays so. */
	if (c->call != call_share)
		good &= expect("used pages", stats(&vm).used_pages, used);
	if (c->in && !stats(&vm).used_pages)
		page_in(&vm, 0);
	good &= expect("it can be made", c->call(&vm), 0);
	/* A shared page that KVM has a reference left to stays outside. */
	if (c->call == call_share)
		good &= expect("page-in", page_in(&vm, 0), H_SUCCESS);
	good &= expect("slot", vm_set_slot(&vm, 1, 0, GPA2, NULL, 0), 0);
	destroy(&vm, mem2);
	return good;
}

static const struct call *the_call;
static const struct step *the_step;

static bool the_step_fails(void)
{
	return step_fails(the_call, the_step);
}

static void test_steps(void)
{
	char name[128];
	unsigned int i;

	for (the_call = calls; the_call < calls + ARRAY_SIZE(calls); the_call++)
		for (i = 0; i < the_call->nsteps; i++) {
			the_step = &the_call->steps[i];
			snprintf(name, sizeof(name), "%s fails, %s: all is given back",
				 the_call->name, the_step->name);
			in_child(name, the_step_fails);
		}
}

static int64_t call_unload(void *unused)
{
	return try_unload_kvm_hv();
}

/* Secure pages that outlive their VM keep the module that has to free them. */
static void test_unload(void)
{
	struct helper h;
	struct vm vm;
	char *mem2;
	bool good;

	mem2 = create_secure(&vm);
	call_close(&vm);
	close(uv);
	unload_stand_in();
	help(&h, call_unload, NULL);
	good = expect("it waits", is_blocked(&h), false) &&
	       join(&h) && expect("unloading", h.ret, EAGAIN) &
	       expect("SIGBUS", is_sigbus(vm.mem), true);
	munmap(vm.mem, vm.size);
	munmap(mem2, PAGES2 * PAGE_BYTES);
	good = good && expect("unloading", try_unload_kvm_hv(), 0);
	ksft_test_result(good, "kvm-hv: it is not unloaded under a secure page\n");
}

static unsigned int count_steps(void)
{
	unsigned int i, n = 0;

	for (i = 0; i < ARRAY_SIZE(calls); i++)
		n += calls[i].nsteps;
	return n;
}

int main(void)
{
	ksft_print_header();
	ksft_set_plan(51 + !!COND_RESCHED + count_steps());
	setbuf(stdout, NULL);

	if (load_kvm_hv(SECURE_BYTES)) {
		ksft_print_msg("kvm-hv does not load with secure memory\n");
		ksft_exit_fail();
	}
	uv = load_stand_in();
	test_memory();
	test_races();
	test_states();
	test_layout();
	test_references();
	test_ksm();
	test_large();
	test_steps();
	test_unload();

	ksft_print_cnts();
	return ksft_get_fail_cnt() ? KSFT_FAIL : KSFT_PASS;
}
