// SPDX-License-Identifier: GPL-2.0-only
/* What the tests of KVM_CAP_PPC_SECURE_GUEST share */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "../../kselftest.h"
#include "secure_guest_lib.h"

/* A hypercall that KVM leaves to userspace */
#define H_EXIT			0xf001

/* 64 bit, machine checks, little endian */
#define GUEST_MSR		0x8000000000001001ULL

/*
 * In the guest, at address 0 in real mode: the hypercalls in r14 to r16, what
 * they return to r17 to r19.
 */
static const uint32_t guest_code[] = {
	0x7dc37378,	/* mr r3,r14 */
	0x44000022,	/* sc 1 */
	0x7c711b78,	/* mr r17,r3 */
	0x7de37b78,	/* mr r3,r15 */
	0x44000022,	/* sc 1 */
	0x7c721b78,	/* mr r18,r3 */
	0x7e038378,	/* mr r3,r16 */
	0x44000022,	/* sc 1 */
	0x7c731b78,	/* mr r19,r3 */
	0x3c600000,	/* lis r3,0 */
	0x6063f001,	/* ori r3,r3,61441 */
	0x44000022,	/* sc 1 */
	0x48000000,	/* b . */
};

bool expect(const char *what, long long seen, long long expected)
{
	if (seen == expected)
		return true;
	ksft_print_msg("%s: expected %lld, seen %lld\n", what, expected, seen);
	return false;
}

static void give_up(const char *what)
{
	ksft_print_msg("%s: %s\n", what, strerror(errno));
	ksft_exit_fail();
}

/*
 * Our own modules are beside this program or where SECURE_GUEST_MODULES says;
 * so are kvm and kvm-hv in the lab, and anywhere else modprobe knows them.
 */
static int open_module(const char *name)
{
	const char *env = getenv("SECURE_GUEST_MODULES");
	char path[4096], self[2048];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%s/%s.ko", env ? env : "/lab/modules",
		 name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0)
		return fd;
	n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n < 0)
		return -1;
	self[n] = '\0';
	*strrchr(self, '/') = '\0';
	snprintf(path, sizeof(path), "%s/test_modules/%s.ko", self, name);
	return open(path, O_RDONLY | O_CLOEXEC);
}

/* 0, or what it failed with */
static int load(const char *name, const char *options)
{
	char command[64];
	int fd, rc;

	fd = open_module(name);
	if (fd < 0 && !strncmp(name, "kvm", 3)) {
		snprintf(command, sizeof(command), "modprobe -q %s", name);
		return system(command) ? ENODEV : 0;
	}
	if (fd < 0)
		give_up(name);
	rc = syscall(SYS_finit_module, fd, options, 0) ? errno : 0;
	close(fd);
	return rc == EEXIST ? 0 : rc;
}

static void unload(const char *name)
{
	if (syscall(SYS_delete_module, name, O_NONBLOCK) && errno != ENOENT)
		give_up(name);
}

static int kvm_file = -1;

int dev_kvm(void)
{
	if (kvm_file < 0)
		kvm_file = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm_file < 0)
		give_up("/dev/kvm");
	return kvm_file;
}

void unload_stand_in(void)
{
	unload("uv_stand_in");
}

int try_unload_kvm_hv(void)
{
	return syscall(SYS_delete_module, "kvm_hv", O_NONBLOCK) ? errno : 0;
}

void unload_kvm_hv(void)
{
	int rc;

	unload("uv_stand_in");
	unload("kvm_hv");
	unload("secure_memory");
	rc = load("kvm", "");
	if (rc) {
		errno = rc;
		give_up("kvm");
	}
}

int load_kvm_hv_with(const char *options)
{
	int rc;

	unload_kvm_hv();
	rc = load("secure_memory", options);
	if (rc) {
		errno = rc;
		give_up("secure_memory");
	}
	return load("kvm-hv", "");
}

int load_kvm_hv(unsigned long secure_bytes)
{
	char option[64];

	if (secure_bytes) {
		snprintf(option, sizeof(option), "size=%lu", secure_bytes);
		return load_kvm_hv_with(option);
	}
	unload_kvm_hv();
	return load("kvm-hv", "");
}

int load_stand_in(void)
{
	int fd, rc;

	rc = load("uv_stand_in", "");
	if (rc) {
		errno = rc;
		give_up("uv_stand_in");
	}
	fd = open("/dev/uv-stand-in", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		give_up("/dev/uv-stand-in");
	return fd;
}

int vm_try(unsigned long type)
{
	return ioctl(dev_kvm(), KVM_CREATE_VM, type);
}

static void *map(unsigned int pages)
{
	void *mem = mmap(NULL, pages * PAGE_BYTES, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (mem == MAP_FAILED)
		give_up("memory of the guest");
	return mem;
}

int vm_set_slot(struct vm *vm, unsigned int id, unsigned int flags,
		uint64_t gpa, void *mem, unsigned int pages)
{
	struct kvm_userspace_memory_region region = {
		.slot = id,
		.flags = flags,
		.guest_phys_addr = gpa,
		.memory_size = pages * PAGE_BYTES,
	};

	if (pages && !mem)
		mem = map(pages);
	region.userspace_addr = (uintptr_t)mem;
	return ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region);
}

void *vm_slot(struct vm *vm, unsigned int id, uint64_t gpa, unsigned int pages)
{
	void *mem = pages ? map(pages) : NULL;

	if (vm_set_slot(vm, id, 0, gpa, mem, pages))
		give_up("KVM_SET_USER_MEMORY_REGION");
	return mem;
}

void vm_create(struct vm *vm, unsigned int pages)
{
	struct kvm_sregs sregs;
	/* SCV, TAR, EBB and DSCR */
	uint64_t fscr = 0x1184;
	struct kvm_one_reg reg = {
		.id = KVM_REG_PPC_FSCR,
		.addr = (uintptr_t)&fscr,
	};
	unsigned long pvr;
	int run_size;

	vm->fd = vm_try(0);
	if (vm->fd < 0)
		give_up("KVM_CREATE_VM");
	vm->size = pages * PAGE_BYTES;
	vm->mem = vm_slot(vm, 0, 0, pages);
	memcpy(vm->mem, guest_code, sizeof(guest_code));
	__builtin___clear_cache(vm->mem, vm->mem + PAGE_BYTES);

	vm->vcpu = ioctl(vm->fd, KVM_CREATE_VCPU, 0);
	if (vm->vcpu < 0)
		give_up("KVM_CREATE_VCPU");
	run_size = ioctl(dev_kvm(), KVM_GET_VCPU_MMAP_SIZE, 0);
	vm->run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED,
		       vm->vcpu, 0);
	if (vm->run == MAP_FAILED)
		give_up("the vCPU's shared page");
	/* KVM runs no guest of another processor, nor one without a number. */
	if (ioctl(vm->vcpu, KVM_GET_SREGS, &sregs))
		give_up("KVM_GET_SREGS");
	asm("mfspr %0,287" : "=r" (pvr));
	sregs.pvr = pvr;
	if (ioctl(vm->vcpu, KVM_SET_SREGS, &sregs))
		give_up("KVM_SET_SREGS");
	/*
	 * On the first POWER9s KVM leaves the guest's FSCR to whoever ran it,
	 * who cannot make a system call without that first bit.
	 */
	if (ioctl(vm->vcpu, KVM_SET_ONE_REG, &reg))
		give_up("KVM_REG_PPC_FSCR");
	if (enable_cap(vm->vcpu, KVM_CAP_PPC_PAPR, 0, 0))
		give_up("KVM_CAP_PPC_PAPR");
}

void vm_destroy(struct vm *vm)
{
	munmap(vm->run, ioctl(dev_kvm(), KVM_GET_VCPU_MMAP_SIZE, 0));
	close(vm->vcpu);
	close(vm->fd);
	munmap(vm->mem, vm->size);
}

int enable_cap(int fd, uint32_t cap, uint32_t flags, uint64_t arg)
{
	struct kvm_enable_cap args = {
		.cap = cap,
		.flags = flags,
		.args = { arg, arg, arg, arg },
	};

	return ioctl(fd, KVM_ENABLE_CAP, &args) ? errno : 0;
}

int enable_secure(struct vm *vm)
{
	return enable_cap(vm->fd, KVM_CAP_PPC_SECURE_GUEST, 0, 0);
}

bool guest_hcalls(struct vm *vm, const uint64_t nr[3], int64_t ret[3])
{
	struct kvm_regs regs;
	int i;

	if (ioctl(vm->vcpu, KVM_GET_REGS, &regs))
		give_up("KVM_GET_REGS");
	regs.pc = 0;
	regs.msr = GUEST_MSR;
	for (i = 0; i < 3; i++)
		regs.gpr[14 + i] = nr[i];
	if (ioctl(vm->vcpu, KVM_SET_REGS, &regs))
		give_up("KVM_SET_REGS");
	if (ioctl(vm->vcpu, KVM_RUN, 0) < 0) {
		ksft_print_msg("KVM_RUN: %s\n", strerror(errno));
		return false;
	}
	if (vm->run->exit_reason != KVM_EXIT_PAPR_HCALL ||
	    vm->run->papr_hcall.nr != H_EXIT) {
		ksft_print_msg("exit reason %u, hypercall %#llx\n",
			       vm->run->exit_reason,
			       (unsigned long long)vm->run->papr_hcall.nr);
		return false;
	}
	if (ioctl(vm->vcpu, KVM_GET_REGS, &regs))
		give_up("KVM_GET_REGS");
	for (i = 0; i < 3; i++)
		ret[i] = regs.gpr[17 + i];
	return true;
}
