// SPDX-License-Identifier: GPL-2.0-only
/*
 * KVM_CAP_PPC_SECURE_GUEST as userspace and the guest see it: on a machine
 * without secure memory, with a size of it that cannot be had, when getting it
 * fails, and with it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../kselftest.h"
#include "secure_guest_glue.h"
#include "secure_guest_lib.h"

/* The whole address space, which the machine's memory is in */
#define TOO_MUCH	0x8000000000000UL
#define MANY		64

static const struct {
	const char *name;
	uint64_t nr[3];
} orders[] = {
	{ "start, done, abort", { H_SVM_INIT_START, H_SVM_INIT_DONE, H_SVM_INIT_ABORT } },
	{ "start, abort, done", { H_SVM_INIT_START, H_SVM_INIT_ABORT, H_SVM_INIT_DONE } },
	{ "done, start, abort", { H_SVM_INIT_DONE, H_SVM_INIT_START, H_SVM_INIT_ABORT } },
	{ "done, abort, start", { H_SVM_INIT_DONE, H_SVM_INIT_ABORT, H_SVM_INIT_START } },
	{ "abort, start, done", { H_SVM_INIT_ABORT, H_SVM_INIT_START, H_SVM_INIT_DONE } },
	{ "abort, done, start", { H_SVM_INIT_ABORT, H_SVM_INIT_DONE, H_SVM_INIT_START } },
};

static int check(int fd)
{
	int rc = ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_PPC_SECURE_GUEST);

	return rc < 0 ? -errno : rc;
}

static void result(bool good, const char *where, const char *what)
{
	ksft_test_result(good, "%s: %s\n", where, what);
}

/*
 * A guest cannot set the S bit, so each of its hypercalls is refused, whatever
 * came before it.
 */
static void guest_orders(const char *where, bool enable)
{
	char name[128];
	struct vm vm;
	unsigned int i;

	vm_create(&vm, 4);
	if (enable && enable_secure(&vm))
		ksft_print_msg("enabling: %s\n", strerror(errno));
	for (i = 0; i < ARRAY_SIZE(orders); i++) {
		int64_t ret[3] = {};
		bool good;
		int j;

		good = guest_hcalls(&vm, orders[i].nr, ret);
		for (j = 0; good && j < 3; j++)
			good = expect("r3", ret[j], H_UNSUPPORTED);
		snprintf(name, sizeof(name), "%sguest: %s",
			 enable ? "enabled, " : "", orders[i].name);
		result(good, where, name);
	}
	vm_destroy(&vm);
}

/* Nothing of kvm-hv is left behind kvm's back that these would run into. */
static bool ask_without_kvm_hv(void)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		bool good = expect("capability", check(dev_kvm()), 0);

		good &= expect("KVM_CREATE_VM of type 0", vm_try(0), -1) &&
			expect("errno", errno, EINVAL);
		good &= expect("KVM_CREATE_VM of type HV",
			       vm_try(KVM_VM_PPC_HV), -1) &&
			expect("errno", errno, EINVAL);
		/* Where the kernel lists its caches, kvm-hv's for page tables */
		good &= expect("caches left",
			       !access("/sys/kernel/slab/kvm-pte", F_OK), 0);
		fflush(stdout);
		_exit(!good);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return false;
	if (WIFSIGNALED(status))
		ksft_print_msg("killed by signal %d\n", WTERMSIG(status));
	return !status;
}

static void without_kvm_hv(void)
{
	unload_kvm_hv();
	result(ask_without_kvm_hv(), "without kvm-hv", "capability 0, no VM");
}

static void without_memory(void)
{
	const char *where = "without secure memory";
	struct vm vm;

	result(expect("loading kvm-hv", load_kvm_hv(0), 0), where,
	       "kvm-hv loads");
	result(expect("capability", check(dev_kvm()), 0), where,
	       "0 on /dev/kvm");
	vm_create(&vm, 4);
	result(expect("capability", check(vm.fd), 0), where, "0 on a VM");
	result(expect("errno", enable_secure(&vm), EINVAL), where,
	       "enabling is EINVAL");
	result(expect("capability", check(vm.fd), 0), where,
	       "0 on a VM after the attempt");
	vm_destroy(&vm);
	guest_orders(where, false);
}

static void with_too_much_memory(void)
{
	const char *where = "size that cannot be had";
	struct vm vm;
	int rc;

	rc = load_kvm_hv(TOO_MUCH);
	result(expect("loading kvm-hv", rc, ERANGE), where,
	       "kvm-hv does not load");
	result(ask_without_kvm_hv(), where, "capability 0, no VM");
	rc = load_kvm_hv(TOO_MUCH);
	result(expect("loading kvm-hv", rc, ERANGE), where,
	       "kvm-hv does not load a second time");
	rc = load_kvm_hv(0);
	result(expect("loading kvm-hv", rc, 0), where,
	       "kvm-hv loads after that");
	if (!rc) {
		vm_create(&vm, 4);
		vm_destroy(&vm);
	}
	result(!rc, where, "a VM can be had after that");
}

/* How much memory was set aside to be secure */
static unsigned long set_aside(void)
{
	FILE *f = fopen("/proc/iomem", "r");
	unsigned long from, to, bytes = 0;
	char line[256];

	while (f && fgets(line, sizeof(line), f))
		if (strstr(line, "kvmppc_uvmem") &&
		    sscanf(line, "%lx-%lx", &from, &to) == 2)
			bytes += to - from + 1;
	if (f)
		fclose(f);
	return bytes;
}

/* A step of kvm-hv's fails, by the function that it calls for it. */
static void with_failure(const char *where, const char *options)
{
	int rc;

	rc = load_kvm_hv_with(options);
	result(expect("loading kvm-hv", rc, ENOMEM), where,
	       "kvm-hv does not load");
	result(ask_without_kvm_hv() & expect("bytes set aside", set_aside(), 0),
	       where, "nothing is left of it");
	rc = load_kvm_hv(SECURE_BYTES);
	result(expect("loading kvm-hv", rc, 0) &&
	       expect("capability", check(dev_kvm()), 1) &&
	       expect("bytes set aside", set_aside(), SECURE_BYTES), where,
	       "kvm-hv loads after that");
}

/* As firmware says it that is older, or says nothing */
static void with_old_firmware(void)
{
	const char *where = "older firmware";
	char options[64];

	snprintf(options, sizeof(options), "form=1 size=%lu", SECURE_BYTES);
	result(expect("loading kvm-hv", load_kvm_hv_with(options), 0) &&
	       expect("capability", check(dev_kvm()), 1) &&
	       expect("bytes set aside", set_aside(), 2 * SECURE_BYTES), where,
	       "two ranges count together");
	result(expect("loading kvm-hv", load_kvm_hv_with("form=2"), 0) &&
	       expect("capability", check(dev_kvm()), 0) &&
	       expect("bytes set aside", set_aside(), 0), where,
	       "0 on /dev/kvm when it names no range");
}

static void enable(const char *where)
{
	struct vm vm;

	vm_create(&vm, 4);
	result(expect("capability", check(vm.fd), 1), where,
	       "1 on a VM before enabling");
	result(expect("errno", enable_cap(vm.fd, KVM_CAP_PPC_SECURE_GUEST, 1, 0),
		      EINVAL), where, "flags 1 is EINVAL");
	result(expect("errno", enable_cap(vm.fd, KVM_CAP_PPC_SECURE_GUEST,
					  0x80000000, 0), EINVAL), where,
	       "flags 0x80000000 is EINVAL");
	result(expect("errno", enable_cap(vm.vcpu, KVM_CAP_PPC_SECURE_GUEST,
					  0, 0), EINVAL), where,
	       "enabling on a vCPU is EINVAL");
	result(expect("errno", enable_secure(&vm), 0), where,
	       "enabling succeeds when there is a vCPU");
	result(expect("capability", check(vm.fd), 1), where,
	       "1 on a VM after enabling");
	result(expect("errno", enable_secure(&vm), 0), where,
	       "enabling succeeds again");
	result(expect("errno", enable_cap(vm.fd, KVM_CAP_PPC_SECURE_GUEST, 0,
					  ~0ULL), 0), where,
	       "args are ignored");
	result(expect("errno", enable_cap(vm.fd, KVM_CAP_PPC_SECURE_GUEST, 1,
					  ~0ULL), EINVAL), where,
	       "flags 1 is EINVAL when it is enabled");
	result(expect("errno", ioctl(vm.fd, KVM_PPC_SVM_OFF) ? errno : 0, 0),
	       where, "KVM_PPC_SVM_OFF succeeds on a normal guest");
	vm_destroy(&vm);
}

static void types(const char *where)
{
	static const struct {
		const char *name;
		unsigned long type;
	} known[] = {
		{ "default type", 0 },
		{ "type HV", KVM_VM_PPC_HV },
	};
	struct kvm_ppc_mmuv3_cfg hash = {};
	char name[64];
	unsigned int i;
	int fd;

	for (i = 0; i < ARRAY_SIZE(known); i++) {
		bool good;

		fd = vm_try(known[i].type);
		good = expect("capability", check(fd), 1) &&
		       expect("errno", enable_cap(fd, KVM_CAP_PPC_SECURE_GUEST,
						  0, 0), 0);
		snprintf(name, sizeof(name), "%s, before there is a vCPU",
			 known[i].name);
		result(good, where, name);
		close(fd);
	}

	/* A radix host cannot run guests in problem state at all. */
	fd = vm_try(KVM_VM_PPC_PR);
	result(expect("KVM_CREATE_VM", fd, -1) && expect("errno", errno, EINVAL),
	       where, "type PR is EINVAL");
	fd = vm_try(3);
	result(expect("KVM_CREATE_VM", fd, -1) && expect("errno", errno, EINVAL),
	       where, "unknown type is EINVAL");

	/* The refusal of these comes from H_SVM_INIT_START. */
	fd = vm_try(KVM_VM_PPC_HV);
	if (ioctl(fd, KVM_PPC_CONFIGURE_V3_MMU, &hash))
		ksft_test_result_skip("%s: hash guest: no such guest here: %s\n",
				      where, strerror(errno));
	else
		result(expect("capability", check(fd), 1) &&
		       expect("errno", enable_cap(fd, KVM_CAP_PPC_SECURE_GUEST,
						  0, 0), 0),
		       where, "hash guest");
	close(fd);
}

static void many(const char *where)
{
	int fd[MANY], i, enabled = 0, seen = 0;

	for (i = 0; i < MANY; i++)
		fd[i] = vm_try(0);
	for (i = 0; i < MANY; i++)
		if (fd[i] >= 0 &&
		    !enable_cap(fd[i], KVM_CAP_PPC_SECURE_GUEST, 0, 0))
			enabled++;
	for (i = 0; i < MANY; i++) {
		seen += check(fd[i]) == 1;
		close(fd[i]);
	}
	result(expect("VMs enabled", enabled, MANY) &&
	       expect("VMs with capability 1", seen, MANY), where,
	       "VMs in number");
}

static void with_memory(void)
{
	const char *where = "with secure memory";
	bool good;
	int rc;

	rc = load_kvm_hv(SECURE_BYTES);
	result(expect("loading kvm-hv", rc, 0), where, "kvm-hv loads");
	result(expect("capability", check(dev_kvm()), 1), where,
	       "1 on /dev/kvm");
	guest_orders(where, false);
	enable(where);
	guest_orders(where, true);
	types(where);
	many(where);

	/* What is in the kernel is what was announced, each time. */
	good = expect("loading kvm-hv", load_kvm_hv(0), 0) &&
	       expect("capability", check(dev_kvm()), 0) &&
	       expect("loading kvm-hv", load_kvm_hv(SECURE_BYTES), 0) &&
	       expect("capability", check(dev_kvm()), 1);
	result(good, where, "follows the device tree when kvm-hv is reloaded");
}

int main(void)
{
	ksft_print_header();
	ksft_set_plan(56);
	setbuf(stdout, NULL);

	without_kvm_hv();
	without_memory();
	with_too_much_memory();
	with_failure("no device memory", "fail=memremap_pages result=-12");
	with_failure("no memory for the map of it",
		     "fail=" BITMAP_ALLOC " result=0");
	with_old_firmware();
	with_memory();

	ksft_print_cnts();
	return ksft_get_fail_cnt() ? KSFT_FAIL : KSFT_PASS;
}
