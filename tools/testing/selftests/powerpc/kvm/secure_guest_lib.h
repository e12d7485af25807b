/* SPDX-License-Identifier: GPL-2.0-only */
/* What the tests of KVM_CAP_PPC_SECURE_GUEST share */
#ifndef SECURE_GUEST_LIB_H
#define SECURE_GUEST_LIB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <linux/kvm.h>

#define ARRAY_SIZE(a)		(sizeof(a) / sizeof((a)[0]))

/* The hypercalls and what they return, as the hypervisor's interface has it */
#define H_SVM_PAGE_IN		0xef00
#define H_SVM_PAGE_OUT		0xef04
#define H_SVM_INIT_START	0xef08
#define H_SVM_INIT_DONE		0xef0c
#define H_SVM_INIT_ABORT	0xef14
#define H_PAGE_IN_SHARED	1

#define H_SUCCESS		0
#define H_PARAMETER		(-4)
#define H_AUTHORITY		(-10)
#define H_P2			(-55)
#define H_P3			(-56)
#define H_UNSUPPORTED		(-67)
#define H_STATE			(-75)

#define PAGE_SHIFT		16
#define PAGE_BYTES		0x10000UL

/* Secure memory that there is unless a test asks for another size */
#define SECURE_BYTES		(16UL << 20)

/* A VM with a vCPU and a slot of memory at address 0 */
struct vm {
	int fd;
	int vcpu;
	struct kvm_run *run;
	char *mem;
	size_t size;
};

/*
 * What kvm-hv finds when it is loaded: 0 bytes for no secure memory. What is
 * loaded is unloaded first, so no VM may be left. Returns 0, or what loading
 * kvm-hv failed with; anything else that fails ends the test.
 */
int load_kvm_hv(unsigned long secure_bytes);
/* The same with other options of secure_memory. */
int load_kvm_hv_with(const char *options);
/* 0, or what unloading kvm-hv failed with, which the stand-in needs. */
int try_unload_kvm_hv(void);
void unload_stand_in(void);
/* Leaves kvm alone, without kvm-hv. */
void unload_kvm_hv(void);
/* The stand-in for the ultravisor, which needs kvm-hv. Its file, opened. */
int load_stand_in(void);

/* /dev/kvm, opened once */
int dev_kvm(void);
/* -1 and errno if there can be no VM of this type */
int vm_try(unsigned long type);
/* With @pages of memory; ends the test if it cannot be had. */
void vm_create(struct vm *vm, unsigned int pages);
void vm_destroy(struct vm *vm);
/*
 * A slot at @gpa with @pages of @mem, or of fresh memory; none deletes it. As
 * the ioctl returns.
 */
int vm_set_slot(struct vm *vm, unsigned int id, unsigned int flags,
		uint64_t gpa, void *mem, unsigned int pages);
/* The same with fresh memory, which it returns. It has to succeed. */
void *vm_slot(struct vm *vm, unsigned int id, uint64_t gpa, unsigned int pages);

int enable_cap(int fd, uint32_t cap, uint32_t flags, uint64_t arg);
int enable_secure(struct vm *vm);

/*
 * Run the guest: it makes three hypercalls, one after the other, and finds in
 * r3 what goes to @ret. False if it does not come to the end of them.
 */
bool guest_hcalls(struct vm *vm, const uint64_t nr[3], int64_t ret[3]);

/* One case that compares; says what was seen when it fails. */
bool expect(const char *what, long long seen, long long expected);

#endif /* SECURE_GUEST_LIB_H */
