// SPDX-License-Identifier: GPL-2.0-only
/*
 * Stands in for the ultravisor, which no emulator has.
 *
 * From below, the calls that KVM makes to the ultravisor end here: a kprobe
 * takes them before the instruction that would trap.  The content of pages
 * that become secure is kept and given back, and any call can be told to fail.
 *
 * From above, /dev/uv-stand-in gives hypercalls to KVM's own dispatcher for a
 * vCPU, with or without the S bit, as the ultravisor reflects them.  Such a
 * vCPU cannot be run: KVM would return to it through the ultravisor.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/ioport.h>
#include <linux/kprobes.h>
#include <linux/kvm_host.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/spinlock.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <asm/code-patching.h>
#include <asm/kvm_book3s.h>
#include <asm/kvm_ppc.h>
#include <asm/ultravisor-api.h>

#include "uv_stand_in.h"

struct uv_slot {
	u64 lpid;
	u64 id;
};

/* What the ultravisor knows; uv_lock is for all of it. */
static DEFINE_RAW_SPINLOCK(uv_lock);
static struct uv_slot uv_slots[UV_STAND_IN_SLOTS];
static unsigned int uv_nslots;
static u8 *uv_memory;
static struct uv_stand_in_fail uv_fail;
static struct uv_stand_in_stats uv_count;
static bool uv_pin;
static struct page *uv_pinned[UV_STAND_IN_PAGES];
static unsigned int uv_npinned;

/* The fault between BEGIN and END; fault_lock is for it. */
static DEFINE_MUTEX(fault_lock);
static struct {
	struct page *page;
	unsigned long address;
	pte_t pte;
} uv_fault;

static int (*do_hcall)(struct kvm_vcpu *vcpu);
static struct module *kvm_hv;

static u8 *uv_page(u64 gpa)
{
	u64 gfn = gpa >> PAGE_SHIFT;

	return gfn < UV_STAND_IN_PAGES ? uv_memory + (gfn << PAGE_SHIFT) : NULL;
}

static int uv_find_slot(u64 lpid, u64 id)
{
	unsigned int i;

	for (i = 0; i < uv_nslots; i++)
		if (uv_slots[i].lpid == lpid && uv_slots[i].id == id)
			return i;
	return -1;
}

static long uv_register(u64 lpid, u64 id)
{
	if (uv_nslots == UV_STAND_IN_SLOTS || uv_find_slot(lpid, id) >= 0)
		return U_P5;
	uv_slots[uv_nslots].lpid = lpid;
	uv_slots[uv_nslots].id = id;
	uv_nslots++;
	uv_count.registered++;
	return U_SUCCESS;
}

static long uv_unregister(u64 lpid, u64 id)
{
	int i = uv_find_slot(lpid, id);

	if (i < 0) {
		uv_count.stray++;
		return U_P2;
	}
	uv_slots[i] = uv_slots[--uv_nslots];
	uv_count.unregistered++;
	return U_SUCCESS;
}

static void uv_terminate(u64 lpid)
{
	unsigned int i = 0;

	while (i < uv_nslots)
		if (uv_slots[i].lpid == lpid)
			uv_slots[i] = uv_slots[--uv_nslots];
		else
			i++;
	uv_count.terminates++;
}

static long uv_call(struct pt_regs *regs)
{
	u64 nr = regs->gpr[3], lpid = regs->gpr[4];
	struct page *page;
	u8 *p;

	if (uv_fail.count && uv_fail.nr == nr) {
		if (!uv_fail.pass) {
			uv_fail.count--;
			return uv_fail.result;
		}
		uv_fail.pass--;
	}

	switch (nr) {
	case UV_REGISTER_MEM_SLOT:
		return uv_register(lpid, regs->gpr[8]);
	case UV_UNREGISTER_MEM_SLOT:
		return uv_unregister(lpid, regs->gpr[5]);
	case UV_PAGE_IN:
		p = uv_page(regs->gpr[6]);
		if (p)
			memcpy(p, __va(regs->gpr[5]), PAGE_SIZE);
		page = pfn_to_page(regs->gpr[5] >> PAGE_SHIFT);
		if (uv_pin && uv_npinned < UV_STAND_IN_PAGES) {
			get_page(page);
			uv_pinned[uv_npinned++] = page;
		}
		uv_count.page_ins++;
		return U_SUCCESS;
	case UV_PAGE_OUT:
		p = uv_page(regs->gpr[6]);
		if (p)
			memcpy(__va(regs->gpr[5]), p, PAGE_SIZE);
		uv_count.page_outs++;
		return U_SUCCESS;
	case UV_PAGE_INVAL:
		uv_count.invals++;
		return U_SUCCESS;
	case UV_SVM_TERMINATE:
		uv_terminate(lpid);
		return U_SUCCESS;
	default:
		return U_FUNCTION;
	}
}

static int __kprobes uv_call_taken(struct kprobe *probe, struct pt_regs *regs)
{
	unsigned long flags;

	raw_spin_lock_irqsave(&uv_lock, flags);
	regs->gpr[3] = uv_call(regs);
	raw_spin_unlock_irqrestore(&uv_lock, flags);
	regs->nip = regs->link;
	/* The function itself is not run. */
	return 1;
}

/* A probe that has this is not optimized, which would lose the new nip. */
static void uv_call_post(struct kprobe *probe, struct pt_regs *regs,
			 unsigned long flags)
{
}

static struct kprobe uv_probe = {
	.symbol_name = "ucall_norets",
	.pre_handler = uv_call_taken,
	.post_handler = uv_call_post,
};

/* The vCPU behind a file descriptor of this process.  Put the file after use. */
static struct kvm_vcpu *vcpu_of(int fd, struct file **file)
{
	struct kvm_vcpu *vcpu;

	*file = fget(fd);
	if (!*file)
		return ERR_PTR(-EBADF);
	if (strncmp((*file)->f_path.dentry->d_iname, "kvm-vcpu", 8)) {
		fput(*file);
		return ERR_PTR(-EINVAL);
	}
	vcpu = (*file)->private_data;
	if (vcpu->kvm->mm != current->mm) {
		fput(*file);
		return ERR_PTR(-EIO);
	}
	return vcpu;
}

static long stand_in_hcall(struct uv_stand_in_hcall __user *arg)
{
	struct uv_stand_in_hcall h;
	struct kvm_vcpu *vcpu;
	struct file *file;
	u64 srr1;
	int i;

	if (copy_from_user(&h, arg, sizeof(h)))
		return -EFAULT;
	vcpu = vcpu_of(h.vcpu_fd, &file);
	if (IS_ERR(vcpu))
		return PTR_ERR(vcpu);

	mutex_lock(&vcpu->mutex);
	kvmppc_set_gpr(vcpu, 3, h.nr);
	for (i = 0; i < ARRAY_SIZE(h.args); i++)
		kvmppc_set_gpr(vcpu, 4 + i, h.args[i]);
	srr1 = kvmppc_get_srr1(vcpu);
	kvmppc_set_srr1(vcpu, h.secure ? srr1 | MSR_S : srr1 & ~MSR_S);
	do_hcall(vcpu);
	h.ret = kvmppc_get_gpr(vcpu, 3);
	kvmppc_set_srr1(vcpu, srr1);
	mutex_unlock(&vcpu->mutex);
	fput(file);

	return copy_to_user(arg, &h, sizeof(h)) ? -EFAULT : 0;
}

static long stand_in_fail(struct uv_stand_in_fail __user *arg)
{
	struct uv_stand_in_fail fail;
	unsigned long flags;

	if (copy_from_user(&fail, arg, sizeof(fail)))
		return -EFAULT;
	raw_spin_lock_irqsave(&uv_lock, flags);
	uv_fail = fail;
	raw_spin_unlock_irqrestore(&uv_lock, flags);
	return 0;
}

static void unpin(void)
{
	struct page *page;

	for (;;) {
		raw_spin_lock_irq(&uv_lock);
		uv_pin = false;
		page = uv_npinned ? uv_pinned[--uv_npinned] : NULL;
		raw_spin_unlock_irq(&uv_lock);
		if (!page)
			return;
		put_page(page);
	}
}

static long stand_in_pin(__u32 __user *arg)
{
	__u32 on;

	if (get_user(on, arg))
		return -EFAULT;
	unpin();
	raw_spin_lock_irq(&uv_lock);
	uv_pin = on;
	raw_spin_unlock_irq(&uv_lock);
	return 0;
}

/* Secure memory is device memory of kvm-hv's, with a reference of its own. */
static int count_pages(struct resource *res, void *data)
{
	struct uv_stand_in_stats *stats = data;
	unsigned long pfn;
	struct page *page;

	for (pfn = PHYS_PFN(res->start); pfn <= PHYS_PFN(res->end); pfn++) {
		page = pfn_to_page(pfn);
		stats->device_pages++;
		stats->used_pages += page_count(page) > 1;
		stats->locked_pages += PageLocked(page);
	}
	return 0;
}

static long stand_in_stats(struct uv_stand_in_stats __user *arg)
{
	struct uv_stand_in_stats stats;
	struct kvm_vcpu *vcpu;
	struct list_head *pos;
	struct file *file;
	int fd;

	if (get_user(fd, &arg->vcpu_fd))
		return -EFAULT;
	vcpu = vcpu_of(fd, &file);
	if (IS_ERR(vcpu))
		return PTR_ERR(vcpu);

	raw_spin_lock_irq(&uv_lock);
	stats = uv_count;
	stats.uv_slots = uv_nslots;
	raw_spin_unlock_irq(&uv_lock);
	stats.vcpu_fd = fd;

	stats.secure_guest = vcpu->kvm->arch.secure_guest;
	mutex_lock(&vcpu->kvm->arch.uvmem_lock);
	list_for_each(pos, &vcpu->kvm->arch.uvmem_pfns)
		stats.kvm_slots++;
	mutex_unlock(&vcpu->kvm->arch.uvmem_lock);
	walk_iomem_res_desc(IORES_DESC_DEVICE_PRIVATE_MEMORY, IORESOURCE_MEM,
			    0, -1, &stats, count_pages);
	fput(file);

	return copy_to_user(arg, &stats, sizeof(stats)) ? -EFAULT : 0;
}

/* The entry of this process' page table for @address; NULL if there is none. */
static pte_t *find_pte(unsigned long address, pmd_t **pmd)
{
	pgd_t *pgd = pgd_offset(current->mm, address);
	p4d_t *p4d = p4d_offset(pgd, address);
	pud_t *pud;

	if (p4d_none(*p4d))
		return NULL;
	pud = pud_offset(p4d, address);
	if (pud_none(*pud) || pud_is_leaf(*pud))
		return NULL;
	*pmd = pmd_offset(pud, address);
	if (pmd_none(**pmd) || pmd_is_leaf(**pmd))
		return NULL;
	return pte_offset_kernel(*pmd, address);
}

static long stand_in_fault_begin(__u64 __user *arg)
{
	swp_entry_t entry;
	__u64 address;
	pte_t *ptep;
	pmd_t *pmd;
	long rc = -ENOENT;

	if (get_user(address, arg))
		return -EFAULT;
	if (!access_ok((void __user *)address, 1))
		return -EFAULT;

	mutex_lock(&fault_lock);
	uv_fault.page = NULL;
	mmap_read_lock(current->mm);
	ptep = find_pte(address & PAGE_MASK, &pmd);
	if (!ptep)
		goto out;
	uv_fault.pte = READ_ONCE(*ptep);
	if (!is_swap_pte(uv_fault.pte))
		goto out;
	entry = pte_to_swp_entry(uv_fault.pte);
	if (!is_device_private_entry(entry))
		goto out;
	uv_fault.page = device_private_entry_to_page(entry);
	uv_fault.address = address & PAGE_MASK;
	rc = 0;
out:
	mmap_read_unlock(current->mm);
	mutex_unlock(&fault_lock);
	return rc;
}

static long stand_in_fault_end(void)
{
	struct vm_fault vmf = {};
	unsigned long address;
	long rc = -ENOENT;

	/* Nothing of ours is held in a call that may not come back. */
	mutex_lock(&fault_lock);
	vmf.page = uv_fault.page;
	vmf.orig_pte = uv_fault.pte;
	address = uv_fault.address;
	uv_fault.page = NULL;
	mutex_unlock(&fault_lock);
	if (!vmf.page)
		return rc;

	mmap_read_lock(current->mm);
	vmf.address = address;
	vmf.vma = find_vma_intersection(current->mm, address, address + 1);
	if (vmf.vma && find_pte(address, &vmf.pmd))
		rc = vmf.page->pgmap->ops->migrate_to_ram(&vmf);
	mmap_read_unlock(current->mm);
	return rc;
}

static long stand_in_ioctl(struct file *file, unsigned int cmd,
			   unsigned long arg)
{
	void __user *p = (void __user *)arg;

	switch (cmd) {
	case UV_STAND_IN_HCALL:
		return stand_in_hcall(p);
	case UV_STAND_IN_FAIL:
		return stand_in_fail(p);
	case UV_STAND_IN_PIN:
		return stand_in_pin(p);
	case UV_STAND_IN_STATS:
		return stand_in_stats(p);
	case UV_STAND_IN_FAULT_BEGIN:
		return stand_in_fault_begin(p);
	case UV_STAND_IN_FAULT_END:
		return stand_in_fault_end();
	default:
		return -ENOTTY;
	}
}

static const struct file_operations stand_in_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = stand_in_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice stand_in_dev = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "uv-stand-in",
	.fops = &stand_in_fops,
	.mode = 0600,
};

/*
 * The dispatcher is not exported.  A probe finds the entry for callers with
 * the same TOC; two instructions before it is the one for everybody else.
 */
static int find_dispatcher(void)
{
	struct kprobe probe = { .symbol_name = "kvmppc_pseries_do_hcall" };
	u32 *entry;
	int rc;

	rc = register_kprobe(&probe);
	if (rc)
		return rc;
	entry = (u32 *)probe.addr;
	unregister_kprobe(&probe);
	if ((entry[-2] & OP_RT_RA_MASK) != ADDIS_R2_R12 ||
	    (entry[-1] & OP_RT_RA_MASK) != ADDI_R2_R2)
		return -ENOEXEC;
	do_hcall = (void *)(entry - 2);
	return 0;
}

static int __init stand_in_init(void)
{
	int rc;

	/* Whoever is asked must not go away. */
	if (!kvmppc_hv_ops)
		return -ENODEV;
	kvm_hv = kvmppc_hv_ops->owner;
	if (!try_module_get(kvm_hv))
		return -ENODEV;
	rc = find_dispatcher();
	if (rc)
		goto put;
	uv_memory = vzalloc(UV_STAND_IN_PAGES << PAGE_SHIFT);
	if (!uv_memory) {
		rc = -ENOMEM;
		goto put;
	}
	rc = register_kprobe(&uv_probe);
	if (rc)
		goto free;
	rc = misc_register(&stand_in_dev);
	if (rc)
		goto unprobe;
	return 0;

unprobe:
	unregister_kprobe(&uv_probe);
free:
	vfree(uv_memory);
put:
	module_put(kvm_hv);
	return rc;
}

static void __exit stand_in_exit(void)
{
	misc_deregister(&stand_in_dev);
	unregister_kprobe(&uv_probe);
	unpin();
	vfree(uv_memory);
	module_put(kvm_hv);
}

module_init(stand_in_init);
module_exit(stand_in_exit);

MODULE_LICENSE("GPL v2");
MODULE_DESCRIPTION("A stand-in for the ultravisor, for the tests of KVM");
