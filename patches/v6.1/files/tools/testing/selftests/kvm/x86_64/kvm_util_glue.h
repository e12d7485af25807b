/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests here call of the kernel's own selftest library, where it has it
 * otherwise. Each kernel has a file of this name of its own.
 *
 * The tests name a vCPU by its VM and its number, and have one in each VM. Here it
 * is a structure, and has the CPUID that KVM supports from the start.
 */
#ifndef SELFTEST_KVM_UTIL_GLUE_H
#define SELFTEST_KVM_UTIL_GLUE_H

#include "kvm_util.h"
#include "processor.h"

static inline struct kvm_vcpu *glue_vcpu(struct kvm_vm *vm, unsigned int id)
{
	struct kvm_vcpu *vcpu = list_first_entry(&vm->vcpus, struct kvm_vcpu,
						 list);

	TEST_ASSERT(vcpu->id == id, "a VM has one vCPU, which is not %u", id);
	return vcpu;
}

static inline struct kvm_vm *vm_create_default(unsigned int id,
					       unsigned long extra_pages,
					       void *guest_code)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	vm = __vm_create_with_one_vcpu(&vcpu, extra_pages, guest_code);
	glue_vcpu(vm, id);
	return vm;
}

static inline struct kvm_run *vcpu_state(struct kvm_vm *vm, unsigned int id)
{
	return glue_vcpu(vm, id)->run;
}

static inline void glue_set_cpuid(struct kvm_vm *vm, unsigned int id,
				  const struct kvm_cpuid2 *cpuid)
{
	vcpu_init_cpuid(glue_vcpu(vm, id), cpuid);
}

static inline void glue_enable_cap(struct kvm_vm *vm, unsigned int id,
				   const struct kvm_enable_cap *cap)
{
	vcpu_enable_cap(glue_vcpu(vm, id), cap->cap, cap->args[0]);
}

static inline int vm_get_fd(struct kvm_vm *vm)
{
	return vm->fd;
}

/* All memory is in one slot. */
static inline vm_vaddr_t glue_vaddr_alloc(struct kvm_vm *vm, size_t size,
					  vm_vaddr_t least, unsigned int slot,
					  unsigned int table_slot)
{
	TEST_ASSERT(!slot && !table_slot, "there is no other slot");
	return vm_vaddr_alloc(vm, size, least);
}

#define vm_vaddr_alloc			glue_vaddr_alloc
#define vcpu_set_cpuid			glue_set_cpuid
#define vcpu_enable_cap			glue_enable_cap
#define _vcpu_run(vm, id)		_vcpu_run(glue_vcpu(vm, id))
#define vcpu_run_complete_io(vm, id)	vcpu_run_complete_io(glue_vcpu(vm, id))
#define vcpu_regs_get(vm, id, regs)	vcpu_regs_get(glue_vcpu(vm, id), regs)
#define vcpu_regs_set(vm, id, regs)	vcpu_regs_set(glue_vcpu(vm, id), regs)
#define vcpu_sregs_get(vm, id, regs)	vcpu_sregs_get(glue_vcpu(vm, id), regs)
#define vcpu_sregs_set(vm, id, regs)	vcpu_sregs_set(glue_vcpu(vm, id), regs)

#endif /* SELFTEST_KVM_UTIL_GLUE_H */
