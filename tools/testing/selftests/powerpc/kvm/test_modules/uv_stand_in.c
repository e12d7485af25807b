// SPDX-License-Identifier: GPL-2.0-only
/*
 * Stands in for the ultravisor, which no emulator has.
 *
 * What can be observed of it from KVM's side follows the published ultravisor,
 * https://github.com/open-power/ultravisor as of 63669595c89f: in what state
 * of a VM and of a page a call is taken, what it answers otherwise, and whose
 * memory is written.  In particular
 *
 *  - a VM is known from its H_SVM_INIT_START until UV_SVM_TERMINATE, by lpid;
 *  - a slot that is registered is accepted again, and replaced; unregistering
 *    one of a VM that is not known takes the firmware down (counted here);
 *  - until the VM is secure, UV_PAGE_IN copies what it is given, afterwards it
 *    takes only pages that were paged out and have not been changed since;
 *  - UV_PAGE_OUT gives ciphertext, whether the VM is secure already or not, and
 *    nothing at all, with success, if the ultravisor has given the VM up;
 *  - what is shared is zeroed when KVM has said yes; a page-in that fails while
 *    a page is unshared is the end of the VM;
 *  - UV_PAGE_INVAL is for shared pages, which the guest can touch again when
 *    KVM has paged them in again.
 *
 * It has no cryptography: ciphertext is XORed with a key, and that a page was
 * changed is seen by a sum.
 *
 * From below, the calls that KVM makes to the ultravisor end here: a kprobe
 * puts a function of this module in the place of the one that would trap, in
 * the context of its caller; the trap itself is out of the way meanwhile.  In
 * the same way any function that kvm and kvm-hv call in another module or in the
 * kernel can be made to fail, or its caller be held there.
 *
 * From above, /dev/uv-stand-in gives hypercalls to KVM's own dispatcher for a
 * vCPU, with or without the S bit, as the ultravisor reflects them.  Such a
 * vCPU cannot be run: KVM would return to it through the ultravisor.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/ioport.h>
#include <linux/kprobes.h>
#include <linux/kvm_host.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <linux/wait.h>
#include <linux/xarray.h>
#include <asm/asm-prototypes.h>
#include <asm/cacheflush.h>
#include <asm/kvm_book3s.h>
#include <asm/kvm_ppc.h>
#include <asm/ppc-opcode.h>
#include <asm/ultravisor-api.h>

#include "kernel_glue.h"
#include "uv_stand_in.h"

/* What the firmware answers and the kernel has no name for */
#define U_RETRY			(-5)
#define U_STATE			(-75)

#define PINNED_PAGES		64
#define SCRIBBLED_PAGES		256

/* A page of a VM that something is known of; all others are secure. */
struct uv_gfn {
	unsigned int state;
	u64 *data;	/* what the secure page holds, NULL for zeroes */
	u64 sum;	/* of the ciphertext that was given out */
	u64 ra;		/* the normal page behind a shared one */
};

struct uv_svm {
	struct list_head list;
	u64 lpid;
	bool secure;
	bool aborted;
	u64 base[UV_STAND_IN_SLOTS];
	u64 size[UV_STAND_IN_SLOTS];	/* 0 for a slot that is not registered */
	struct xarray gfns;
};

/* What the ultravisor knows; uv_lock is for all of it, and for the pins. */
static DEFINE_SPINLOCK(uv_lock);
static LIST_HEAD(uv_svms);
static struct uv_stand_in_fail uv_fail;
static struct uv_stand_in_stats uv_count;
static bool uv_pin;
static struct page *uv_pinned[PINNED_PAGES];
static unsigned int uv_npinned;

typedef u64 (*function)(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f, u64 g, u64 h);

/* The point that is watched, and who is held there; point_lock is for both. */
static DEFINE_RAW_SPINLOCK(point_lock);
static struct uv_stand_in_point point;
static function point_entry;
static u64 point_seen;
static struct task_struct *point_owner;	/* to compare, not to follow */
static bool is_held;
static DECLARE_WAIT_QUEUE_HEAD(held_wait);
/* The probe behind it; probe_lock is for it. */
static DEFINE_MUTEX(probe_lock);
static struct kprobe point_probe;

/* The fault between BEGIN and END; fault_lock is for it. */
static DEFINE_MUTEX(fault_lock);
static struct {
	struct page *page;
	unsigned long address;
	pte_t pte;
} uv_fault;

/* The trap in ucall_norets(), where it can be written, and what it was */
static u32 *trap;
static u32 trap_insn;

static int (*do_hcall)(struct kvm_vcpu *vcpu);
static int (*send_page)(struct kvm *kvm, unsigned long gfn);
static struct module *kvm_hv;

static struct uv_svm *uv_find(u64 lpid)
{
	struct uv_svm *svm;

	list_for_each_entry(svm, &uv_svms, list)
		if (svm->lpid == lpid)
			return svm;
	return NULL;
}

static struct uv_gfn *uv_gfn(struct uv_svm *svm, u64 gpa)
{
	struct uv_gfn *g = xa_load(&svm->gfns, gpa >> PAGE_SHIFT);

	if (g)
		return g;
	g = kzalloc(sizeof(*g), GFP_ATOMIC);
	if (g && xa_err(xa_store(&svm->gfns, gpa >> PAGE_SHIFT, g, GFP_ATOMIC))) {
		kfree(g);
		g = NULL;
	}
	return g;
}

static void uv_drop_gfns(struct uv_svm *svm, u64 base, u64 size)
{
	struct uv_gfn *g;
	unsigned long i;

	xa_for_each(&svm->gfns, i, g) {
		if (i << PAGE_SHIFT < base || i << PAGE_SHIFT >= base + size)
			continue;
		xa_erase(&svm->gfns, i);
		free_page((unsigned long)g->data);
		kfree(g);
	}
}

static bool uv_in_slot(struct uv_svm *svm, u64 gpa)
{
	unsigned int i;

	for (i = 0; i < UV_STAND_IN_SLOTS; i++)
		if (gpa >= svm->base[i] && gpa < svm->base[i] + svm->size[i])
			return true;
	return false;
}

static long uv_register(struct uv_svm *svm, u64 base, u64 size, u64 id)
{
	unsigned int i;

	if (!svm || id >= UV_STAND_IN_SLOTS || !size)
		return U_PARAMETER;
	for (i = 0; i < UV_STAND_IN_SLOTS; i++)
		if (i != id && base < svm->base[i] + svm->size[i] &&
		    base + size > svm->base[i])
			return U_PARAMETER;
	uv_count.again += !!svm->size[id];
	svm->base[id] = base;
	svm->size[id] = size;
	uv_count.registered++;
	return U_SUCCESS;
}

static long uv_unregister(struct uv_svm *svm, u64 id)
{
	if (!svm || id >= UV_STAND_IN_SLOTS || !svm->size[id]) {
		uv_count.stray++;
		return U_SUCCESS;
	}
	uv_drop_gfns(svm, svm->base[id], svm->size[id]);
	svm->size[id] = 0;
	uv_count.unregistered++;
	return U_SUCCESS;
}

static void uv_forget(struct uv_svm *svm)
{
	uv_drop_gfns(svm, 0, ~0ULL);
	xa_destroy(&svm->gfns);
	list_del(&svm->list);
	kfree(svm);
}

static void uv_take_pin(u64 ra)
{
	if (uv_pin && uv_npinned < PINNED_PAGES) {
		uv_pinned[uv_npinned] = pfn_to_page(ra >> PAGE_SHIFT);
		get_page(uv_pinned[uv_npinned++]);
	}
}

static u64 uv_sum(const u64 *p)
{
	u64 sum = 1;
	unsigned int i;

	for (i = 0; i < PAGE_SIZE / sizeof(*p); i++)
		sum = sum * 31 + p[i];
	return sum;
}

static void uv_crypt(u64 *to, const u64 *from, u64 gpa)
{
	unsigned int i;

	for (i = 0; i < PAGE_SIZE / sizeof(*to); i++)
		to[i] = (from ? from[i] : 0) ^ UV_STAND_IN_KEY(gpa);
}

static long uv_move_in(struct uv_svm *svm, struct uv_gfn *g, u64 ra, u64 gpa)
{
	if (!g->data)
		g->data = (u64 *)__get_free_page(GFP_ATOMIC);
	if (!g->data)
		return U_P3;
	if (svm->secure) {
		if (uv_sum(__va(ra)) != g->sum)
			return U_P3;
		uv_crypt(g->data, __va(ra), gpa);
	} else {
		memcpy(g->data, __va(ra), PAGE_SIZE);
	}
	g->state = UV_STAND_IN_SECURE;
	return U_SUCCESS;
}

static long uv_page_in(struct uv_svm *svm, u64 ra, u64 gpa, u64 order)
{
	struct uv_gfn *g;
	long rc = U_SUCCESS;

	if (order != PAGE_SHIFT)
		return U_P5;
	if (!ra)
		return U_P2;
	if (!svm)
		return U_PARAMETER;
	if (svm->aborted)
		return U_STATE;
	if (!uv_in_slot(svm, gpa))
		return U_P3;
	g = uv_gfn(svm, gpa);
	if (!g)
		return U_P3;

	switch (g->state) {
	case UV_STAND_IN_SECURE:
	case UV_STAND_IN_UNSHARED:
		if (svm->secure)
			return U_P2;
		fallthrough;
	case UV_STAND_IN_PAGED_OUT:
		rc = uv_move_in(svm, g, ra, gpa);
		break;
	case UV_STAND_IN_SHARED:
	case UV_STAND_IN_SHARED_INV:
		g->state = UV_STAND_IN_SHARED;
		g->ra = ra;
		break;
	case UV_STAND_IN_SHARING:
	case UV_STAND_IN_HV_SHARED:
		g->state = UV_STAND_IN_HV_SHARED;
		g->ra = ra;
		break;
	case UV_STAND_IN_UNSHARING:
		break;
	}
	if (rc == U_SUCCESS) {
		uv_take_pin(ra);
		uv_count.page_ins++;
	}
	return rc;
}

static long uv_page_out(struct uv_svm *svm, u64 ra, u64 gpa, u64 order)
{
	struct uv_gfn *g;

	if (order != PAGE_SHIFT)
		return U_P5;
	if (!ra)
		return U_P2;
	if (!svm)
		return U_PARAMETER;
	if (!uv_in_slot(svm, gpa))
		return U_P3;
	g = uv_gfn(svm, gpa);
	if (!g)
		return U_P3;

	if (g->state == UV_STAND_IN_UNSHARED)
		return U_RETRY;
	if (g->state != UV_STAND_IN_SECURE)
		return U_PARAMETER;
	uv_count.page_outs++;
	if (svm->aborted)
		return U_SUCCESS;
	uv_crypt(__va(ra), g->data, gpa);
	g->sum = uv_sum(__va(ra));
	g->state = UV_STAND_IN_PAGED_OUT;
	return U_SUCCESS;
}

static long uv_page_inval(struct uv_svm *svm, u64 gpa, u64 order)
{
	struct uv_gfn *g;

	if (order != PAGE_SHIFT)
		return U_P3;
	if (!svm)
		return U_PARAMETER;
	if (svm->aborted)
		return U_STATE;
	if (!uv_in_slot(svm, gpa))
		return U_P3;
	g = xa_load(&svm->gfns, gpa >> PAGE_SHIFT);
	if (!g)
		return U_P2;

	switch (g->state) {
	case UV_STAND_IN_SHARED:
	case UV_STAND_IN_HV_SHARED:
		if (g->state == UV_STAND_IN_SHARED)
			g->state = UV_STAND_IN_SHARED_INV;
		g->ra = 0;
		uv_count.invals++;
		return U_SUCCESS;
	case UV_STAND_IN_SHARED_INV:
	case UV_STAND_IN_UNSHARING:
		return U_SUCCESS;
	default:
		return U_P2;
	}
}

static long uv_call(u64 nr, u64 lpid, u64 b, u64 c, u64 d, u64 e)
{
	struct uv_svm *svm = uv_find(lpid);

	if (uv_fail.count && uv_fail.nr == nr) {
		if (!uv_fail.pass) {
			uv_fail.count--;
			return uv_fail.result;
		}
		uv_fail.pass--;
	}

	uv_count.strangers += !svm;
	switch (nr) {
	case UV_REGISTER_MEM_SLOT:
		return uv_register(svm, b, c, e);
	case UV_UNREGISTER_MEM_SLOT:
		return uv_unregister(svm, b);
	case UV_PAGE_IN:
		return uv_page_in(svm, b, c, e);
	case UV_PAGE_OUT:
		return uv_page_out(svm, b, c, e);
	case UV_PAGE_INVAL:
		return uv_page_inval(svm, b, c);
	case UV_SVM_TERMINATE:
		if (svm)
			uv_forget(svm);
		uv_count.terminates++;
		return U_SUCCESS;
	default:
		return U_FUNCTION;
	}
}

/* In the place of ucall_norets() */
static u64 stand_in_ucall(u64 nr, u64 lpid, u64 b, u64 c, u64 d, u64 e, u64 f,
			  u64 g)
{
	long rc;

	spin_lock(&uv_lock);
	rc = uv_call(nr, lpid, b, c, d, e);
	spin_unlock(&uv_lock);
	return rc;
}

static void unpin(void)
{
	struct page *page;

	for (;;) {
		spin_lock(&uv_lock);
		page = uv_npinned ? uv_pinned[--uv_npinned] : NULL;
		spin_unlock(&uv_lock);
		if (!page)
			return;
		put_page(page);
	}
}

/* In the place of a function whose caller is to be held there */
static u64 stand_in_hold(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f, u64 g, u64 h)
{
	function entry = point_entry;
	u64 rc = 0;
	bool after = point.action == UV_STAND_IN_HOLD_AFTER;

	if (after)
		rc = entry(a, b, c, d, e, f, g, h);
	WRITE_ONCE(is_held, true);
	wake_up_all(&held_wait);
	/* A test that is killed shall end. */
	wait_event_killable(held_wait, !READ_ONCE(is_held));
	return after ? rc : entry(a, b, c, d, e, f, g, h);
}

static u64 stand_in_unpin(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f, u64 g, u64 h)
{
	spin_lock(&uv_lock);
	uv_pin = false;
	spin_unlock(&uv_lock);
	unpin();
	return point_entry(a, b, c, d, e, f, g, h);
}

/* Have @f run in the place of the function whose entry is probed. */
static int __kprobes divert(struct pt_regs *regs, function f)
{
	instruction_pointer_set(regs, (unsigned long)f);
	regs->gpr[12] = (unsigned long)f;
	return 1;
}

/*
 * The caller is a module: it came by a stub that saved its TOC, and takes it
 * back when it is returned to. What is done with a call that is not for the point
 * is up to @otherwise.
 */
static int __kprobes at_point(struct pt_regs *regs, function otherwise)
{
	unsigned int action = UV_STAND_IN_SEE;
	unsigned long flags;

	raw_spin_lock_irqsave(&point_lock, flags);
	if ((point.nr && point.nr != regs->gpr[3]) ||
	    (point.action >= UV_STAND_IN_HOLD && current == point_owner)) {
		/* Another call, or who will have to let the others go on */
	} else if (point.pass) {
		point.pass--;
	} else if (point.count) {
		point.count--;
		point_seen++;
		action = point.action;
	}
	raw_spin_unlock_irqrestore(&point_lock, flags);

	switch (action) {
	case UV_STAND_IN_RETURN:
		regs->gpr[3] = point.result;
		instruction_pointer_set(regs, regs->link);
		return 1;
	case UV_STAND_IN_UNPIN:
		return divert(regs, stand_in_unpin);
	case UV_STAND_IN_HOLD:
	case UV_STAND_IN_HOLD_AFTER:
		return divert(regs, stand_in_hold);
	default:
		return otherwise ? divert(regs, otherwise) : 0;
	}
}

static int __kprobes point_taken(struct kprobe *probe, struct pt_regs *regs)
{
	/* Of the modules that there are here, kvm and kvm-hv are the others. */
	if (regs->link < VMALLOC_START || regs->link >= VMALLOC_END ||
	    within_module_core(regs->link, THIS_MODULE))
		return 0;
	return at_point(regs, NULL);
}

static int __kprobes ucall_taken(struct kprobe *probe, struct pt_regs *regs)
{
	if (READ_ONCE(point_entry) == stand_in_ucall)
		return at_point(regs, stand_in_ucall);
	return divert(regs, stand_in_ucall);
}

/* A probe that has this is not optimized, which would lose the new nip. */
static void no_optimization(struct kprobe *probe, struct pt_regs *regs,
			    unsigned long flags)
{
}

static struct kprobe uv_probe = {
	.symbol_name = "ucall_norets",
	.pre_handler = ucall_taken,
	.post_handler = no_optimization,
};

static void write_trap(u32 insn)
{
	unsigned long address = (unsigned long)ucall_norets;

	WRITE_ONCE(*trap, insn);
	flush_icache_range(address, address + sizeof(insn));
}

/*
 * Not every kernel lets a trap be probed, which could not be stepped over. Nobody
 * but the stand-in would take it, so an instruction that does nothing has its
 * place. The kernel's text may be read-only where it is run.
 */
static int take_trap_away(void)
{
	struct page *page = virt_to_page(ucall_norets);
	void *mapped = vmap(&page, 1, VM_MAP, PAGE_KERNEL);

	if (!mapped)
		return -ENOMEM;
	trap = mapped + offset_in_page(ucall_norets);
	trap_insn = *trap;
	write_trap(PPC_RAW_NOP());
	return 0;
}

static void put_trap_back(void)
{
	write_trap(trap_insn);
	vunmap((void *)((unsigned long)trap & PAGE_MASK));
}

/*
 * A probe finds the entry for callers with the same TOC; if the function has a
 * TOC, two instructions before it is the one for everybody else.
 */
static void *find_entry(const char *symbol)
{
	struct kprobe probe = { .symbol_name = symbol };
	u32 *entry;
	int rc;

	rc = register_kprobe(&probe);
	if (rc)
		return ERR_PTR(rc);
	entry = (u32 *)probe.addr;
	unregister_kprobe(&probe);
	if ((entry[-2] & OP_RT_RA_MASK) == ADDIS_R2_R12 &&
	    (entry[-1] & OP_RT_RA_MASK) == ADDI_R2_R2)
		entry -= 2;
	return entry;
}

static void point_off(void)
{
	if (point_probe.pre_handler)
		unregister_kprobe(&point_probe);
	memset(&point_probe, 0, sizeof(point_probe));
	WRITE_ONCE(point_entry, NULL);
}

static long stand_in_point(struct uv_stand_in_point __user *arg)
{
	struct uv_stand_in_point p;
	void *entry;
	bool change;
	long rc = 0;

	if (copy_from_user(&p, arg, sizeof(p)))
		return -EFAULT;
	p.symbol[sizeof(p.symbol) - 1] = '\0';

	mutex_lock(&probe_lock);
	/* To take a probe out and put it in again takes its time. */
	change = p.count && strcmp(p.symbol, point.symbol);
	if (change)
		point_off();
	else
		strcpy(p.symbol, point.symbol);
	raw_spin_lock_irq(&point_lock);
	point = p;
	point_seen = 0;
	point_owner = current;
	raw_spin_unlock_irq(&point_lock);
	if (!change)
		goto out;

	/* There is a probe already that takes all calls to the ultravisor. */
	if (!strcmp(p.symbol, uv_probe.symbol_name)) {
		WRITE_ONCE(point_entry, stand_in_ucall);
		goto out;
	}
	entry = find_entry(point.symbol);
	if (IS_ERR(entry)) {
		rc = PTR_ERR(entry);
		goto no_point;
	}
	WRITE_ONCE(point_entry, entry);
	point_probe.symbol_name = point.symbol;
	point_probe.pre_handler = point_taken;
	point_probe.post_handler = no_optimization;
	rc = register_kprobe(&point_probe);
	if (!rc)
		goto out;
	point_probe.pre_handler = NULL;
	point_off();
no_point:
	point.symbol[0] = '\0';
out:
	mutex_unlock(&probe_lock);
	return rc;
}

static long stand_in_held(void)
{
	return wait_event_killable(held_wait, READ_ONCE(is_held));
}

static long stand_in_release(void)
{
	WRITE_ONCE(is_held, false);
	wake_up_all(&held_wait);
	return 0;
}

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

/* In r3 of @vcpu, whose mutex is held by the caller */
static s64 hcall(struct kvm_vcpu *vcpu, bool secure, u64 nr, const u64 *args)
{
	u64 srr1 = kvmppc_get_srr1(vcpu);
	int i;

	kvmppc_set_gpr(vcpu, 3, nr);
	for (i = 0; i < 3; i++)
		kvmppc_set_gpr(vcpu, 4 + i, args[i]);
	kvmppc_set_srr1(vcpu, secure ? srr1 | MSR_S : srr1 & ~MSR_S);
	do_hcall(vcpu);
	kvmppc_set_srr1(vcpu, srr1);
	return kvmppc_get_gpr(vcpu, 3);
}

/* The state of a page that the ultravisor is about to ask for; -1 for none */
static int state_of(u64 lpid, u64 gpa)
{
	struct uv_svm *svm;
	struct uv_gfn *g;
	int state = -1;

	spin_lock(&uv_lock);
	svm = uv_find(lpid);
	if (svm && !svm->aborted && uv_in_slot(svm, gpa)) {
		g = xa_load(&svm->gfns, gpa >> PAGE_SHIFT);
		state = g ? g->state : UV_STAND_IN_SECURE;
	}
	spin_unlock(&uv_lock);
	return state;
}

static void set_state(u64 lpid, u64 gpa, unsigned int state)
{
	struct uv_svm *svm;
	struct uv_gfn *g;

	spin_lock(&uv_lock);
	svm = uv_find(lpid);
	g = svm && uv_in_slot(svm, gpa) ? uv_gfn(svm, gpa) : NULL;
	if (g) {
		/* What is shared starts as zeroes. */
		if (state == UV_STAND_IN_SHARED && !g->ra)
			state = UV_STAND_IN_SHARED_INV;
		else if (state == UV_STAND_IN_SHARED)
			memset(__va(g->ra), 0, PAGE_SIZE);
		g->state = state;
	}
	spin_unlock(&uv_lock);
}

static void give_up(u64 lpid)
{
	struct uv_svm *svm;

	spin_lock(&uv_lock);
	svm = uv_find(lpid);
	if (svm)
		svm->aborted = true;
	spin_unlock(&uv_lock);
}

static s64 share(struct kvm_vcpu *vcpu, const u64 *args)
{
	u64 lpid = vcpu->kvm->arch.lpid, gpa = args[0] & PAGE_MASK;
	const u64 in[] = { gpa, 0, args[2] };
	int state = state_of(lpid, gpa);
	s64 rc;

	if (state == UV_STAND_IN_PAGED_OUT) {
		rc = hcall(vcpu, true, H_SVM_PAGE_IN, in);
		if (rc)
			return rc;
		state = state_of(lpid, gpa);
	}
	if (state == UV_STAND_IN_SECURE)
		set_state(lpid, gpa, UV_STAND_IN_SHARING);
	rc = hcall(vcpu, true, H_SVM_PAGE_IN, args);
	if (state != UV_STAND_IN_SECURE)
		return rc;
	if (!rc)
		set_state(lpid, gpa, UV_STAND_IN_SHARED);
	else
		set_state(lpid, gpa, UV_STAND_IN_SECURE);
	return rc;
}

static s64 unshare(struct kvm_vcpu *vcpu, const u64 *args)
{
	u64 lpid = vcpu->kvm->arch.lpid, gpa = args[0] & PAGE_MASK;
	s64 rc;

	set_state(lpid, gpa, UV_STAND_IN_UNSHARING);
	rc = hcall(vcpu, true, H_SVM_PAGE_IN, args);
	if (rc) {
		give_up(lpid);
		return rc;
	}
	set_state(lpid, gpa, UV_STAND_IN_UNSHARED);
	set_state(lpid, gpa, UV_STAND_IN_SECURE);
	return rc;
}

static s64 start(struct kvm_vcpu *vcpu, const u64 *args)
{
	u64 lpid = vcpu->kvm->arch.lpid;
	struct uv_svm *svm;
	bool is_new;
	s64 rc;

	/* The firmware answers to a second UV_ESM itself. */
	svm = kzalloc(sizeof(*svm), GFP_KERNEL);
	if (!svm)
		return -ENOMEM;
	svm->lpid = lpid;
	xa_init(&svm->gfns);
	spin_lock(&uv_lock);
	is_new = !uv_find(lpid);
	if (is_new)
		list_add(&svm->list, &uv_svms);
	spin_unlock(&uv_lock);
	if (!is_new)
		kfree(svm);

	rc = hcall(vcpu, true, H_SVM_INIT_START, args);
	if (rc && is_new)
		give_up(lpid);
	return rc;
}

static s64 done(struct kvm_vcpu *vcpu, const u64 *args)
{
	struct uv_svm *svm;
	s64 rc = hcall(vcpu, true, H_SVM_INIT_DONE, args);

	spin_lock(&uv_lock);
	svm = uv_find(vcpu->kvm->arch.lpid);
	if (svm && !rc)
		svm->secure = true;
	spin_unlock(&uv_lock);
	return rc;
}

static long stand_in_hcall(struct uv_stand_in_hcall __user *arg)
{
	struct uv_stand_in_hcall h;
	struct kvm_vcpu *vcpu;
	struct file *file;
	int state;

	if (copy_from_user(&h, arg, sizeof(h)))
		return -EFAULT;
	vcpu = vcpu_of(h.vcpu_fd, &file);
	if (IS_ERR(vcpu))
		return PTR_ERR(vcpu);

	mutex_lock(&vcpu->mutex);
	state = state_of(vcpu->kvm->arch.lpid, h.args[0]);
	if (h.who == UV_STAND_IN_GIVES_UP)
		give_up(vcpu->kvm->arch.lpid);
	if (h.who != UV_STAND_IN_UV)
		h.ret = hcall(vcpu, false, h.nr, h.args);
	else if (h.nr == H_SVM_INIT_START)
		h.ret = start(vcpu, h.args);
	else if (h.nr == H_SVM_INIT_DONE)
		h.ret = done(vcpu, h.args);
	else if (h.nr == H_SVM_PAGE_IN && h.args[1] == H_PAGE_IN_SHARED)
		h.ret = share(vcpu, h.args);
	else if (h.nr == H_SVM_PAGE_IN && !h.args[1] &&
		 (state == UV_STAND_IN_SHARED || state == UV_STAND_IN_SHARED_INV))
		h.ret = unshare(vcpu, h.args);
	else
		h.ret = hcall(vcpu, true, h.nr, h.args);
	mutex_unlock(&vcpu->mutex);
	fput(file);

	return copy_to_user(arg, &h, sizeof(h)) ? -EFAULT : 0;
}

static long stand_in_fail(struct uv_stand_in_fail __user *arg)
{
	struct uv_stand_in_fail fail;

	if (copy_from_user(&fail, arg, sizeof(fail)))
		return -EFAULT;
	spin_lock(&uv_lock);
	uv_fail = fail;
	spin_unlock(&uv_lock);
	return 0;
}

static long stand_in_pin(__u32 __user *arg)
{
	__u32 on;

	if (get_user(on, arg))
		return -EFAULT;
	spin_lock(&uv_lock);
	uv_pin = on;
	spin_unlock(&uv_lock);
	if (!on)
		unpin();
	return 0;
}

/* Secure memory is device memory of kvm-hv's. */
static int count_pages(struct resource *res, void *data)
{
	struct uv_stand_in_stats *stats = data;
	unsigned long pfn;
	struct page *page;

	for (pfn = PHYS_PFN(res->start); pfn <= PHYS_PFN(res->end); pfn++) {
		page = pfn_to_page(pfn);
		stats->device_pages++;
		stats->used_pages += glue_is_used(page);
		stats->locked_pages += PageLocked(page);
	}
	return 0;
}

static long stand_in_stats(struct uv_stand_in_stats __user *arg)
{
	struct uv_stand_in_stats stats;
	struct kvm_vcpu *vcpu;
	struct list_head *pos;
	struct uv_svm *svm;
	struct file *file;
	unsigned int i;
	int fd;

	if (get_user(fd, &arg->vcpu_fd))
		return -EFAULT;
	vcpu = vcpu_of(fd, &file);
	if (IS_ERR(vcpu))
		return PTR_ERR(vcpu);

	spin_lock(&uv_lock);
	stats = uv_count;
	list_for_each_entry(svm, &uv_svms, list) {
		stats.svms++;
		for (i = 0; i < UV_STAND_IN_SLOTS; i++)
			if (svm->lpid == vcpu->kvm->arch.lpid)
				stats.uv_slots += !!svm->size[i];
	}
	spin_unlock(&uv_lock);
	stats.seen = READ_ONCE(point_seen);
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

static long stand_in_gfn(struct uv_stand_in_gfn __user *arg, bool touch)
{
	struct uv_stand_in_gfn q;
	struct kvm_vcpu *vcpu;
	struct uv_svm *svm;
	struct uv_gfn *g = NULL;
	struct file *file;
	long rc = 0;
	int idx;

	if (copy_from_user(&q, arg, sizeof(q)))
		return -EFAULT;
	vcpu = vcpu_of(q.vcpu_fd, &file);
	if (IS_ERR(vcpu))
		return PTR_ERR(vcpu);

	if (touch) {
		mutex_lock(&vcpu->mutex);
		idx = srcu_read_lock(&vcpu->kvm->srcu);
		rc = send_page(vcpu->kvm, q.gpa >> PAGE_SHIFT);
		srcu_read_unlock(&vcpu->kvm->srcu, idx);
		mutex_unlock(&vcpu->mutex);
		fput(file);
		return rc;
	}

	q.word = 0;
	q.state = UV_STAND_IN_SECURE;
	spin_lock(&uv_lock);
	svm = uv_find(vcpu->kvm->arch.lpid);
	if (svm)
		g = xa_load(&svm->gfns, q.gpa >> PAGE_SHIFT);
	if (g) {
		q.state = g->state;
		if (g->state == UV_STAND_IN_SHARED)
			q.word = *(u64 *)__va(g->ra);
		else if (g->state == UV_STAND_IN_SECURE && g->data)
			q.word = *g->data;
	}
	spin_unlock(&uv_lock);
	fput(file);
	return copy_to_user(arg, &q, sizeof(q)) ? -EFAULT : 0;
}

static long stand_in_scribble(void)
{
	struct page *page, *pages = NULL;
	unsigned int i;

	for (i = 0; i < SCRIBBLED_PAGES; i++) {
		page = alloc_page(GFP_HIGHUSER);
		if (!page)
			break;
		memset(page_address(page), UV_STAND_IN_STALE, PAGE_SIZE);
		set_page_private(page, (unsigned long)pages);
		pages = page;
	}
	while (pages) {
		page = pages;
		pages = (struct page *)page_private(page);
		set_page_private(page, 0);
		__free_page(page);
	}
	return i == SCRIBBLED_PAGES ? 0 : -ENOMEM;
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
	if (pud_none(*pud) || pud_leaf(*pud))
		return NULL;
	*pmd = pmd_offset(pud, address);
	if (pmd_none(**pmd) || pmd_leaf(**pmd))
		return NULL;
	return pte_offset_kernel(*pmd, address);
}

/* The secure page there, with the entry that names it; NULL if there is none. */
static struct page *find_secure_page(unsigned long address, pte_t *pte)
{
	pte_t *ptep;
	pmd_t *pmd;

	ptep = find_pte(address & PAGE_MASK, &pmd);
	if (!ptep)
		return NULL;
	*pte = READ_ONCE(*ptep);
	return glue_device_private_page(*pte);
}

static long stand_in_fault_begin(__u64 __user *arg)
{
	__u64 address;
	long rc;

	if (get_user(address, arg))
		return -EFAULT;
	if (!access_ok((void __user *)address, 1))
		return -EFAULT;

	mutex_lock(&fault_lock);
	mmap_read_lock(current->mm);
	uv_fault.page = find_secure_page(address, &uv_fault.pte);
	uv_fault.address = address & PAGE_MASK;
	rc = uv_fault.page ? 0 : -ENOENT;
	mmap_read_unlock(current->mm);
	mutex_unlock(&fault_lock);
	return rc;
}

static long stand_in_pin_secure(__u64 __user *arg)
{
	struct page *page;
	__u64 address;
	pte_t pte;

	if (get_user(address, arg))
		return -EFAULT;
	if (!access_ok((void __user *)address, 1))
		return -EFAULT;

	mmap_read_lock(current->mm);
	page = find_secure_page(address, &pte);
	spin_lock(&uv_lock);
	if (page && uv_npinned < PINNED_PAGES) {
		get_page(page);
		uv_pinned[uv_npinned++] = page;
	}
	spin_unlock(&uv_lock);
	mmap_read_unlock(current->mm);
	return page ? 0 : -ENOENT;
}

static long stand_in_fault_end(void)
{
	struct vm_area_struct *vma;
	unsigned long address;
	struct page *page;
	long rc = -ENOENT;
	pmd_t *pmd;
	pte_t pte;

	/* Nothing of ours is held in a call that may not come back. */
	mutex_lock(&fault_lock);
	page = uv_fault.page;
	pte = uv_fault.pte;
	address = uv_fault.address;
	uv_fault.page = NULL;
	mutex_unlock(&fault_lock);
	if (!page)
		return rc;

	mmap_read_lock(current->mm);
	vma = find_vma_intersection(current->mm, address, address + 1);
	if (vma && find_pte(address, &pmd)) {
		struct vm_fault vmf = {
			.vma = vma,
			.address = address,
			.pmd = pmd,
			.page = page,
			.orig_pte = pte,
		};

		rc = glue_migrate_to_ram(&vmf);
	}
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
	case UV_STAND_IN_PIN_SECURE:
		return stand_in_pin_secure(p);
	case UV_STAND_IN_STATS:
		return stand_in_stats(p);
	case UV_STAND_IN_FAULT_BEGIN:
		return stand_in_fault_begin(p);
	case UV_STAND_IN_FAULT_END:
		return stand_in_fault_end();
	case UV_STAND_IN_POINT:
		return stand_in_point(p);
	case UV_STAND_IN_HELD:
		return stand_in_held();
	case UV_STAND_IN_RELEASE:
		return stand_in_release();
	case UV_STAND_IN_GFN:
		return stand_in_gfn(p, false);
	case UV_STAND_IN_TOUCH:
		return stand_in_gfn(p, true);
	case UV_STAND_IN_SCRIBBLE:
		return stand_in_scribble();
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

static int __init stand_in_init(void)
{
	int rc;

	/* Whoever is asked must not go away. */
	if (!kvmppc_hv_ops)
		return -ENODEV;
	kvm_hv = kvmppc_hv_ops->owner;
	if (!try_module_get(kvm_hv))
		return -ENODEV;
	/* Neither of them is exported. */
	do_hcall = find_entry("kvmppc_pseries_do_hcall");
	send_page = find_entry("kvmppc_send_page_to_uv");
	if (IS_ERR(do_hcall) || IS_ERR(send_page)) {
		rc = -ENOEXEC;
		goto put;
	}
	rc = take_trap_away();
	if (rc)
		goto put;
	rc = register_kprobe(&uv_probe);
	if (rc)
		goto put_back;
	rc = misc_register(&stand_in_dev);
	if (rc)
		goto unprobe;
	return 0;

unprobe:
	unregister_kprobe(&uv_probe);
put_back:
	put_trap_back();
put:
	module_put(kvm_hv);
	return rc;
}

static void __exit stand_in_exit(void)
{
	struct uv_svm *svm, *next;

	misc_deregister(&stand_in_dev);
	mutex_lock(&probe_lock);
	point_off();
	mutex_unlock(&probe_lock);
	unregister_kprobe(&uv_probe);
	put_trap_back();
	unpin();
	list_for_each_entry_safe(svm, next, &uv_svms, list)
		uv_forget(svm);
	module_put(kvm_hv);
}

module_init(stand_in_init);
module_exit(stand_in_exit);

MODULE_LICENSE("GPL v2");
MODULE_DESCRIPTION("A stand-in for the ultravisor, for the tests of KVM");
