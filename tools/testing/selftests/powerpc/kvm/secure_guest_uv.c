// SPDX-License-Identifier: GPL-2.0-only
/* What the tests share that come with a stand-in for the ultravisor */

#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../kselftest.h"
#include "secure_guest_uv.h"

int uv = -1;

int64_t hcall(struct vm *vm, unsigned int who, uint64_t nr, uint64_t a,
	      uint64_t b, uint64_t c)
{
	struct uv_stand_in_hcall h = {
		.vcpu_fd = vm->vcpu,
		.who = who,
		.nr = nr,
		.args = { a, b, c },
	};

	if (ioctl(uv, UV_STAND_IN_HCALL, &h)) {
		ksft_print_msg("hypercall %#llx: %s\n",
			       (unsigned long long)nr, strerror(errno));
		return 1;
	}
	return h.ret;
}

int64_t start(struct vm *vm)
{
	return hcall(vm, UV_STAND_IN_UV, H_SVM_INIT_START, 0, 0, 0);
}

int64_t done(struct vm *vm)
{
	return hcall(vm, UV_STAND_IN_UV, H_SVM_INIT_DONE, 0, 0, 0);
}

int64_t guest_abort(struct vm *vm)
{
	return hcall(vm, UV_STAND_IN_GUEST, H_SVM_INIT_ABORT, 0, 0, 0);
}

int64_t init_abort(struct vm *vm)
{
	return hcall(vm, UV_STAND_IN_GIVES_UP, H_SVM_INIT_ABORT, 0, 0, 0);
}

int64_t page_in(struct vm *vm, uint64_t gpa)
{
	return hcall(vm, UV_STAND_IN_UV, H_SVM_PAGE_IN, gpa, 0, PAGE_SHIFT);
}

int64_t page_out(struct vm *vm, uint64_t gpa)
{
	return hcall(vm, UV_STAND_IN_UV, H_SVM_PAGE_OUT, gpa, 0, PAGE_SHIFT);
}

int64_t share(struct vm *vm, uint64_t gpa)
{
	return hcall(vm, UV_STAND_IN_UV, H_SVM_PAGE_IN, gpa, H_PAGE_IN_SHARED,
		     PAGE_SHIFT);
}

int svm_off(struct vm *vm)
{
	return ioctl(vm->fd, KVM_PPC_SVM_OFF) ? errno : 0;
}

void fail(uint64_t nr, unsigned int pass, unsigned int count)
{
	struct uv_stand_in_fail f = {
		.nr = nr,
		.pass = pass,
		.count = count,
		.result = U_PERMISSION,
	};

	ioctl(uv, UV_STAND_IN_FAIL, &f);
}

void pin(uint32_t on)
{
	ioctl(uv, UV_STAND_IN_PIN, &on);
}

static bool set_point(const char *symbol, unsigned int action,
		      unsigned int pass, unsigned int count, uint64_t nr,
		      int64_t result)
{
	struct uv_stand_in_point p = {
		.action = action,
		.pass = pass,
		.count = count,
		.nr = nr,
		.result = result,
	};

	strncpy(p.symbol, symbol, sizeof(p.symbol) - 1);
	return !ioctl(uv, UV_STAND_IN_POINT, &p);
}

bool point(const char *symbol, unsigned int action, unsigned int pass,
	   unsigned int count, int64_t result)
{
	return set_point(symbol, action, pass, count, 0, result);
}

void hold_call(uint64_t nr)
{
	set_point("ucall_norets", UV_STAND_IN_HOLD, 0, 1, nr, 0);
}

void wait_held(void)
{
	ioctl(uv, UV_STAND_IN_HELD);
}

void release(void)
{
	ioctl(uv, UV_STAND_IN_RELEASE);
}

struct uv_stand_in_stats stats(struct vm *vm)
{
	struct uv_stand_in_stats s = { .vcpu_fd = vm->vcpu };

	if (ioctl(uv, UV_STAND_IN_STATS, &s)) {
		ksft_print_msg("UV_STAND_IN_STATS: %s\n", strerror(errno));
		ksft_exit_fail();
	}
	return s;
}

struct uv_stand_in_gfn gfn(struct vm *vm, uint64_t gpa)
{
	struct uv_stand_in_gfn g = { .vcpu_fd = vm->vcpu, .gpa = gpa };

	if (ioctl(uv, UV_STAND_IN_GFN, &g)) {
		ksft_print_msg("UV_STAND_IN_GFN: %s\n", strerror(errno));
		ksft_exit_fail();
	}
	return g;
}

void scribble(void)
{
	cpu_set_t one;

	/* What was freed last is kept for the processor that did. */
	CPU_ZERO(&one);
	CPU_SET(0, &one);
	sched_setaffinity(0, sizeof(one), &one);
	if (ioctl(uv, UV_STAND_IN_SCRIBBLE))
		ksft_print_msg("UV_STAND_IN_SCRIBBLE: %s\n", strerror(errno));
}

bool in_use(struct vm *vm, unsigned int slots, unsigned int pages)
{
	struct uv_stand_in_stats s = stats(vm);

	return expect("slots that KVM tracks", s.kvm_slots, slots) &
	       expect("slots of the ultravisor", s.uv_slots, slots) &
	       expect("pages of secure memory in use", s.used_pages, pages) &
	       expect("locked pages of secure memory", s.locked_pages, 0);
}

void fill(char *mem, unsigned int pages, unsigned int seed)
{
	unsigned int i, j;

	for (i = 0; i < pages; i++)
		for (j = 0; j < PAGE_BYTES; j += 64)
			*(unsigned int *)(mem + i * PAGE_BYTES + j) =
				seed + (i << 16) + j;
}

static bool compare(const char *mem, unsigned int first, unsigned int pages,
		    unsigned int seed, uint64_t gpa, bool cipher)
{
	unsigned int i, j, seen, key;

	for (i = first; i < first + pages; i++) {
		key = cipher ? UV_STAND_IN_KEY(gpa + i * PAGE_BYTES) : 0;
		for (j = 0; j < PAGE_BYTES; j += 64) {
			seen = *(const unsigned int *)(mem + i * PAGE_BYTES + j);
			if (expect(cipher ? "ciphertext of a page" :
				   "content of a page", seen,
				   (seed + (i << 16) + j) ^ key))
				continue;
			ksft_print_msg("page %u, byte %u\n", i, j);
			return false;
		}
	}
	return true;
}

bool holds(const char *mem, unsigned int first, unsigned int pages,
	   unsigned int seed)
{
	return compare(mem, first, pages, seed, 0, false);
}

bool holds_cipher(const char *mem, uint64_t gpa, unsigned int first,
		  unsigned int pages, unsigned int seed)
{
	return compare(mem, first, pages, seed, gpa, true);
}

bool is_zero(const char *mem, unsigned int pages)
{
	size_t i, n = 0;

	for (i = 0; i < pages * PAGE_BYTES; i++)
		n += !!mem[i];
	return expect("bytes that are not 0", n, 0);
}

void create(struct vm *vm, bool enable)
{
	vm_create(vm, PAGES);
	if (enable && enable_secure(vm))
		ksft_print_msg("the capability cannot be enabled\n");
	fill(vm->mem, PAGES, SEED);
}

char *create_started(struct vm *vm)
{
	char *mem2;
	int64_t rc;

	create(vm, true);
	mem2 = vm_slot(vm, 1, GPA2, PAGES2);
	fill(mem2, PAGES2, SEED2);
	rc = start(vm);
	if (rc)
		ksft_print_msg("H_SVM_INIT_START gives %lld\n", (long long)rc);
	return mem2;
}

char *create_secure(struct vm *vm)
{
	char *mem2 = create_started(vm);
	bool good = true;
	int i;

	for (i = 0; i < PAGES; i++)
		good &= !page_in(vm, i * PAGE_BYTES);
	for (i = 0; i < PAGES2; i++)
		good &= !page_in(vm, GPA2 + i * PAGE_BYTES);
	if (!good || done(vm))
		ksft_print_msg("the VM does not become secure\n");
	return mem2;
}

void destroy(struct vm *vm, char *mem2)
{
	fail(0, 0, 0);
	point("", 0, 0, 0, 0);
	pin(0);
	vm_destroy(vm);
	if (mem2)
		munmap(mem2, PAGES2 * PAGE_BYTES);
}

static sigjmp_buf on_sigbus;
static bool caught;

static void got_signal(int sig)
{
	caught = sig == SIGBUS;
	siglongjmp(on_sigbus, 1);
}

bool is_sigbus(const char *p)
{
	struct sigaction action = { .sa_handler = got_signal };

	caught = false;
	sigaction(SIGBUS, &action, NULL);
	sigaction(SIGALRM, &action, NULL);
	alarm(5);
	if (!sigsetjmp(on_sigbus, 1))
		__atomic_load_n(p, __ATOMIC_SEQ_CST);
	alarm(0);
	signal(SIGBUS, SIG_DFL);
	return caught;
}

/* False if no child ends in this time. */
static bool wait_child(pid_t pid, int *status, time_t seconds)
{
	struct timespec time = { .tv_sec = seconds };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	while (waitpid(pid, status, WNOHANG) != pid)
		if (sigtimedwait(&set, NULL, &time) < 0)
			return waitpid(pid, status, WNOHANG) == pid;
	return true;
}

bool run_child(bool (*test)(void))
{
	int status = -1;
	sigset_t set;
	pid_t pid;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	pid = fork();
	if (!pid)
		_exit(!test());
	/* Whatever hangs is not waited for by the cases that follow. */
	if (pid > 0 && !wait_child(pid, &status, 20)) {
		ksft_print_msg("it does not come to its end\n");
		release();
		kill(pid, SIGKILL);
		wait_child(pid, &status, 5);
		status = -1;
	} else if (WIFSIGNALED(status)) {
		ksft_print_msg("killed by signal %d\n", WTERMSIG(status));
	}
	fail(0, 0, 0);
	point("", 0, 0, 0, 0);
	pin(0);
	return !status;
}

static void *helper_main(void *arg)
{
	struct helper *h = arg;

	__atomic_store_n(&h->tid, syscall(SYS_gettid), __ATOMIC_SEQ_CST);
	h->ret = h->call(h->arg);
	__atomic_store_n(&h->ended, true, __ATOMIC_SEQ_CST);
	return NULL;
}

void help(struct helper *h, int64_t (*call)(void *arg), void *arg)
{
	*h = (struct helper){ .call = call, .arg = arg };
	if (pthread_create(&h->thread, NULL, helper_main, h)) {
		ksft_print_msg("no thread\n");
		ksft_exit_fail();
	}
}

static char state_of(int tid)
{
	char path[64], line[128], *p;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	f = fopen(path, "r");
	if (!f)
		return 'X';
	p = fgets(line, sizeof(line), f);
	fclose(f);
	p = p ? strrchr(line, ')') : NULL;
	return p ? p[2] : 'X';
}

bool is_blocked(struct helper *h)
{
	unsigned int seen = 0;
	int tid;

	/* It may sleep a little on its way. */
	while (!__atomic_load_n(&h->ended, __ATOMIC_SEQ_CST)) {
		tid = __atomic_load_n(&h->tid, __ATOMIC_SEQ_CST);
		seen = tid && state_of(tid) == 'D' ? seen + 1 : 0;
		if (seen == 200)
			return true;
		sched_yield();
	}
	return false;
}

bool join(struct helper *h)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 10;
	if (!pthread_timedjoin_np(h->thread, NULL, &until))
		return true;
	ksft_print_msg("a thread does not come to its end\n");
	return false;
}
